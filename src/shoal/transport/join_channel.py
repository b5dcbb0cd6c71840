"""Join channel: TLS to somebody who is not a member yet; membership speaks the join over it."""

from __future__ import annotations

import asyncio

from shoal.core.errors import MalformedMessage, Unavailable
from shoal.transport.address import Address
from shoal.transport.channel import TlsChannel
from shoal.transport.frame_pipe import FramePipe
from shoal.wire.codec import Message
from shoal.wire.frames import Frame, FrameKind, pack_frame
from shoal.wire.registry import MessageTable

CLOSE_TIMEOUT_S = 2.0  # last words of a join that failed


class JoinChannel:
    """Messages between a joiner and its inviter, in turns. `close` (or `async with`) ends it.

    The inviter's side is given to `Transport.on_join`; the joiner's comes from `Transport.dial_join`, which
    has checked that the other end holds the inviter key of the ticket, or from `CodeDialler`, where nobody
    knows yet who that is. Nothing here proves ticket or code: that is what the messages are for.
    """

    def __init__(
        self,
        pipe: FramePipe,
        own_id: bytes,
        address: Address,
        is_dialler: bool,
        invite_id: bytes | None,
    ) -> None:
        self.own_id = own_id
        self.address = address
        self.is_dialler = is_dialler
        self.invite_id = invite_id  # whose ticket or nameplate it was; None at the joiner
        self._pipe = pipe
        self._channel: TlsChannel = pipe.channel

    @property
    def peer_id(self) -> bytes:
        """The key at the other end, proved by TLS."""
        return self._channel.peer_id

    @property
    def nameplate(self) -> int:
        """The nameplate of the typed code that the joiner named, 0 for a ticket and at the joiner's end."""
        verdict = self._channel.verdict
        return 0 if verdict is None else verdict.nameplate

    @property
    def closed(self) -> bool:
        """Whether either end has closed it."""
        return self._channel.closed

    def exporter(self, label: bytes, context: bytes, length: int) -> bytes:
        """Return keying material that only the two ends of this channel know."""
        return self._channel.exporter(label, context, length)

    async def send(self, table: MessageTable, message: Message) -> None:
        """Send one message of at most 64 KiB and wait until the network took it. Cancelling may cut it short.

        Raises: Unavailable when the channel has ended; not while the other end's last words wait to be
        received, which say why.
        """
        number, payload = table.encode(message)
        if self.closed and self._pipe.has_frames:
            return
        if self.closed:
            raise Unavailable("The join was interrupted", cause="the connection ended", code="reset")
        self._channel.write(pack_frame(Frame(FrameKind.NOTICE, table.service, number, 0, payload)))
        await self._channel.drain()

    async def receive(self, table: MessageTable, timeout_s: float = 10.0) -> Message:
        """Return the next message. Cancelling is safe.

        Raises: Unavailable on time-out or when the channel ended, MalformedMessage, LimitExceeded.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    frame = await self._pipe.next_frame()
                    if frame.kind is not FrameKind.NOTICE or frame.service != table.service:
                        raise MalformedMessage("not a message of the join protocol")
                    message = table.decode(frame.message_type, frame.payload)
                    if message is not None:
                        return message
        except TimeoutError as error:
            raise Unavailable(
                "The join was interrupted", cause=f"no answer within {timeout_s:g} s", code="timeout"
            ) from error

    def close(self) -> None:
        """End the channel; what was sent is still delivered. Idempotent."""
        self._channel.close(CLOSE_TIMEOUT_S)

    async def __aenter__(self) -> JoinChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
