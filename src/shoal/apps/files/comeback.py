"""Comeback: chunks of a share that could not be read, and are offered again once they can.

A disk may be unplugged under a share, and a copy in the store may take the place of files that are gone. Who
was told that a chunk is missing asks for it no more, until it hears that it is there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import islice
from typing import Final

from shoal.apps.files.context import FilesContext
from shoal.content.seal import PLAINTEXT_BYTES
from shoal.core.errors import ShoalError
from shoal.swarm.chunk_set import bits
from shoal.swarm.serve import ChunkSource

FIRST_LOOK_S: Final = 1.0
LAST_LOOK_S: Final = 30.0  # looks become rarer: most files that changed stay so
TRIED: Final = 16  # chunks read before all are offered again; one that is not there is found missing again


class Comeback:
    """The missing chunks of one share, as a set for each version. Loop thread only.

    `on_back(source)` is called when what was missing can be read again, with where it is read.
    """

    def __init__(
        self, context: FilesContext, share_id: bytes, on_back: Callable[[ChunkSource], None]
    ) -> None:
        self._context = context
        self._share_id = share_id
        self._on_back = on_back
        self._missing: dict[int, int] = {}  # of versions that are offered: two at most
        self._task: asyncio.Task[None] | None = None

    def note(self, version: int, ordinal: int) -> None:
        """A chunk could not be read: look after it."""
        self._missing[version] = self._missing.get(version, 0) | 1 << ordinal
        if self._task is None:
            self._task = self._context.supervisor.spawn("missing chunks", self._look_after())

    def stop(self) -> None:
        """Look no longer; idempotent."""
        if self._task is not None:
            self._task.cancel()
        self._task = None
        self._missing.clear()

    async def _look_after(self) -> None:
        pause_s = FIRST_LOOK_S
        while self._missing:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_LOOK_S)
            for version in list(self._missing):
                await self._look(version)
        self._task = None

    async def _look(self, version: int) -> None:
        """Offer what is missing of a version again, if it can be read; forget it if it is offered no more."""
        swarm = self._context.swarm
        offer = swarm.find_offer(self._share_id)
        offered = offer.versions.get(version) if offer is not None else None
        if offered is None:
            self._missing.pop(version, None)
            return
        source, missing = offered.source, self._missing[version]
        tried = list(islice(bits(missing), TRIED))

        def is_back(cancelled: threading.Event) -> bool:
            buffer = memoryview(bytearray(PLAINTEXT_BYTES))
            try:
                return not any(
                    cancelled.is_set() or source.read_into(ordinal, buffer) == 0 for ordinal in tried
                )
            except ShoalError:
                return False
            finally:
                source.rest()

        if await self._context.run(is_back):
            left = self._missing.pop(version, 0) & ~missing  # more may have gone meanwhile
            if left:
                self._missing[version] = left
            swarm.add_chunks(self._share_id, version, list(bits(missing)))
            self._on_back(source)
