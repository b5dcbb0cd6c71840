"""Hash room: how many shares are hashed at once, by the memory that it takes.

A small share has a place of its own, whatever large ones are hashed or wait. What must wait holds nothing
meanwhile: it is scanned again when there is room.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from shoal.core.units import MIB
from shoal.storage.hashing import HASH_THREADS
from shoal.storage.large_file import SPLIT_BYTES
from shoal.storage.scan import ScanResult
from shoal.storage.section_hasher import BUFFER_BYTES

SCANS: Final = 4  # at once
SMALL: Final = 4  # small shares at once: a buffer each, and one thread
SMALL_BYTES: Final = SPLIT_BYTES  # less is read by one thread
SMALL_ENTRIES: Final = 20_000
ROOM_BYTES: Final = 64 * MIB  # of the others together; one alone may take more
ENTRY_BYTES: Final = 600  # while 100,000 files are hashed: make bench ARGS="--only memory"
PASSES: Final = 8  # so many smaller ones go before one that waits; wild guess


class HashRoom:
    """Lets shares in to be hashed. Loop thread only."""

    def __init__(self) -> None:
        self._scans = asyncio.Semaphore(SCANS)
        self._small = _Places(SMALL)
        self._large = _Places(ROOM_BYTES)

    @asynccontextmanager
    async def enter(self, scan: Callable[[], Awaitable[ScanResult]]) -> AsyncIterator[ScanResult]:
        """Scan, wait for a place and have it within the context. Raises: what `scan` does."""
        async with self._scans:
            scanned = await scan()
        size = scanned.data_bytes
        places, need = self._small, 1
        if not is_small(scanned):
            places = self._large
            need = HASH_THREADS * BUFFER_BYTES + ENTRY_BYTES * len(scanned.entries)
        waits = not places.has_room(need)
        if waits:
            scanned = ScanResult()
        await places.take(need, size)
        try:
            if waits:
                scanned = await scan()
            yield scanned
        finally:
            places.give_back(need)


def is_small(scanned: ScanResult) -> bool:
    """Whether one thread and one buffer are enough for a share."""
    return scanned.data_bytes < SMALL_BYTES and len(scanned.entries) <= SMALL_ENTRIES


class _Waiter:
    def __init__(self, need: int, size: int) -> None:
        self.need = need
        self.size = size
        self.passed = 0
        self.let_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Places:
    """A number of places; the smallest share is let in first, but nobody is passed for ever."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: list[_Waiter] = []  # who waits longest is first

    def has_room(self, need: int) -> bool:
        """Whether somebody would be let in at once."""
        return not self._waiting and self._fits(need)

    async def take(self, need: int, size: int) -> None:
        """Wait for `need` places. Safe to cancel."""
        waiter = _Waiter(need, size)
        self._waiting.append(waiter)
        self._let_in()
        try:
            await waiter.let_in
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:
                self._used -= need
            self._let_in()
            raise

    def give_back(self, need: int) -> None:
        """Let others in."""
        self._used -= need
        self._let_in()

    def _fits(self, need: int) -> bool:
        return not self._used or self._used + need <= self._limit

    def _let_in(self) -> None:
        while self._waiting:
            chosen = min(self._waiting, key=lambda waiter: (waiter.passed < PASSES, waiter.size))
            if not self._fits(chosen.need):
                return
            for waiter in self._waiting[: self._waiting.index(chosen)]:
                waiter.passed += 1
            self._waiting.remove(chosen)
            self._used += chosen.need
            chosen.let_in.set_result(None)
