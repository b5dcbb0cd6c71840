"""Chunk ledger: which chunks of one transfer are in its part files, cheap to mark, kept across a crash.

A bit a chunk, in pages of 4096 chunks. Marking touches memory only; dirty pages go to the database with the
transfer's counters, after FLUSH_BYTES of content or FLUSH_INTERVAL_S, without fsync: the bits survive kill -9
like the file contents they stand for, and both are doubted after another boot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator

from shoal.core.errors import LocalMisuse, StorageFault, Unavailable
from shoal.core.units import MIB

PAGE_CHUNKS = 4096
PAGE_BYTES = PAGE_CHUNKS // 8
FLUSH_BYTES = 12 * MIB  # what kill -9 may make us fetch again; issue 2 allows 32 MiB with what is in flight
FLUSH_INTERVAL_S = 0.1  # a slow transfer is recorded this often

SavePages = Callable[[dict[int, bytes], dict[str, object]], "asyncio.Future[None]"]


class ChunkLedger:
    """The chunks one transfer has. Loop thread only, except that any thread may read `has`, `count`, `page`.

    Made by `Transfers.open_ledger`. Expects that a chunk's bytes were written before it is marked.
    `doubtful` are chunks recorded under another boot: verify them, then `mark` or drop them.
    """

    def __init__(
        self,
        chunk_count: int,
        pages: dict[int, bytes],
        doubtful: dict[int, bytes],
        save: SavePages,
    ) -> None:
        self.chunk_count = chunk_count
        self._save = save
        self._bits = bytearray((chunk_count + 7) // 8)
        _load(self._bits, pages, chunk_count)
        self.count = self._bits_set()
        old = bytearray(len(self._bits))
        _load(old, doubtful, chunk_count)
        self.doubtful = [i for i in _ordinals(old) if not self.has(i)]
        self._dirty: set[int] = set()
        self._counters: dict[str, object] = {}
        self._unsaved_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Future[None] | None = None
        self._closed = False
        self.fault: StorageFault | None = None  # why the last save failed; gone after one that did not
        self.saves = 0

    def has(self, ordinal: int) -> bool:
        """Say whether a chunk is there."""
        return bool(self._bits[ordinal >> 3] >> (ordinal & 7) & 1)

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return self.count == self.chunk_count

    def ordinals(self) -> Iterator[int]:
        """Return the ordinals that are there, ascending."""
        return _ordinals(self._bits)

    def missing(self) -> Iterator[int]:
        """Return the ordinals that are not there, ascending."""
        return (i for i in _ordinals(bytes(b ^ 0xFF for b in self._bits)) if i < self.chunk_count)

    def bits(self) -> bytes:
        """Return a copy of the whole bitmap: ordinal i is bit i % 8 of byte i / 8."""
        return bytes(self._bits)

    def page(self, number: int) -> bytes:
        """Return a copy of one page of the bitmap, short at the end."""
        return bytes(self._bits[number * PAGE_BYTES : (number + 1) * PAGE_BYTES])

    def mark(self, ordinals: Iterable[int], size_bytes: int = 0, **counters: object) -> None:
        """Note chunks as there, `size_bytes` of content in all; `counters` are columns of the transfer to
        save with them (the newest value of each wins). Saved soon, in the background.

        Raises: LocalMisuse for an ordinal outside, or after `close`.
        """
        for ordinal in ordinals:
            if not self.has(self._checked(ordinal)):
                self._bits[ordinal >> 3] |= 1 << (ordinal & 7)
                self.count += 1
                self._dirty.add(ordinal // PAGE_CHUNKS)
        self._counters.update(counters)
        self._unsaved_bytes += size_bytes
        self._schedule()

    def unmark(self, ordinals: Iterable[int]) -> None:
        """Note chunks as not there: what was recorded did not verify. Saved soon."""
        for ordinal in ordinals:
            if self.has(self._checked(ordinal)):
                self._bits[ordinal >> 3] &= ~(1 << (ordinal & 7))
                self.count -= 1
                self._dirty.add(ordinal // PAGE_CHUNKS)
        self._schedule()

    async def flush(self) -> None:
        """Save what is not saved yet; returns once it is. Safe to cancel: the save goes on.

        Raises: StorageFault, Unavailable while the database closes; the bits stay to be saved.
        """
        while self._saving is not None:
            await asyncio.wait([self._saving])
            await asyncio.sleep(0)  # `_on_saved` runs first
        saving = self._start_save()
        if saving is not None:
            await asyncio.shield(saving)

    async def close(self) -> None:
        """Save and end; idempotent. Raises: as `flush`."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.flush()

    def _checked(self, ordinal: int) -> int:
        if self._closed or not 0 <= ordinal < self.chunk_count:
            raise LocalMisuse(f"chunk {ordinal} of {self.chunk_count} cannot be recorded")
        return ordinal

    def _bits_set(self) -> int:
        return int.from_bytes(self._bits, "little").bit_count()

    def _schedule(self) -> None:
        if self._closed or self._saving is not None or not (self._dirty or self._counters):
            return  # a running save looks again when it ends
        if self._unsaved_bytes >= FLUSH_BYTES:
            self._try_save()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._saving is None:
            self._try_save()

    def _try_save(self) -> None:
        """Start a save in the background; none while the node stops: what is lost is fetched again."""
        with contextlib.suppress(Unavailable):
            self._start_save()

    def _start_save(self) -> asyncio.Future[None] | None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._dirty and not self._counters:
            return None
        dirty, self._dirty = self._dirty, set()
        counters, self._counters = self._counters, {}
        self._unsaved_bytes = 0
        try:
            saving = self._save({number: self.page(number) for number in dirty}, counters)
        except Unavailable:  # the database closes
            self._put_back(dirty, counters)
            raise
        self._saving = saving
        saving.add_done_callback(lambda done: self._on_saved(done, dirty, counters))
        return saving

    def _on_saved(self, done: asyncio.Future[None], dirty: set[int], counters: dict[str, object]) -> None:
        self._saving = None
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is not None:
            self._put_back(dirty, counters)
            self.fault = error if isinstance(error, StorageFault) else None
        else:
            self.saves += 1
            self.fault = None
        if not self._closed and error is None:
            self._schedule()
        elif not self._closed and self._timer is None:  # a full disk: try again at the slow rate
            self._timer = asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S * 10, self._on_timer)

    def _put_back(self, dirty: set[int], counters: dict[str, object]) -> None:
        self._dirty |= dirty
        self._counters = {**counters, **self._counters}


def _load(bits: bytearray, pages: dict[int, bytes], chunk_count: int) -> None:
    for number, page in pages.items():
        start = number * PAGE_BYTES
        room = max(0, len(bits) - start)
        bits[start : start + len(page)] = page[:room]
    if chunk_count % 8 and bits:
        bits[-1] &= (1 << chunk_count % 8) - 1  # a damaged row must not count chunks that do not exist


def _ordinals(bits: bytes | bytearray) -> Iterator[int]:
    for index, byte in enumerate(bits):
        while byte:
            low = byte & -byte
            yield index * 8 + low.bit_length() - 1
            byte ^= low
