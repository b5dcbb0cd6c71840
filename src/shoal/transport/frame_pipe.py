"""Frame pipe: one frame after the other for a coroutine, where there is no session yet (hello, join)."""

from __future__ import annotations

import asyncio
from collections import deque

from shoal.core.errors import LimitExceeded, RemoteFault, ShoalError
from shoal.transport.channel import TlsChannel
from shoal.wire.frames import Frame, FrameReader

PIPE_FRAMES = 64  # waiting to be read; who sends more before we answer has not read the protocol


class FramePipe:
    """Reads frames from an open channel. `channel.start` is called at construction."""

    def __init__(self, channel: TlsChannel) -> None:
        self.channel = channel
        self.reader = FrameReader()
        self._frames: deque[Frame] = deque()
        self._wake = asyncio.Event()
        self._error: ShoalError | None = None
        channel.start(self._on_data, self._on_lost)

    async def next_frame(self) -> Frame:
        """Return the next frame. Cancelling is safe: the frame stays. One reader at a time.

        Raises: the error by which the channel ended, MalformedMessage, LimitExceeded.
        """
        while not self._frames:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        return self._frames.popleft()

    @property
    def has_frames(self) -> bool:
        """Whether a frame came that nobody has read yet."""
        return bool(self._frames)

    def take_frames(self) -> list[Frame]:
        """Return what waits, for the session that reads from now on with `reader`."""
        frames = list(self._frames)
        self._frames.clear()
        return frames

    def _on_data(self, data: bytes) -> None:
        try:
            self._frames.extend(self.reader.feed(data))
        except RemoteFault as error:
            self._stop(error)
        else:
            if len(self._frames) > PIPE_FRAMES:
                self._stop(LimitExceeded("too many messages before an answer"))
        self._wake.set()

    def _on_lost(self, error: ShoalError) -> None:
        if self._error is None:
            self._error = error
        self._wake.set()

    def _stop(self, error: RemoteFault) -> None:
        self._error = error
        self.channel.abort()
