"""Store: the node's sealed chunks, for many threads at once; puts share an fsync, care runs beside.

One thread writes: it takes what is queued, at most GROUP_BYTES, and puts it with one fsync and one commit.
Another one takes care, slowly: it collects mostly dead segments and reads everything again and again to find
what rotted before somebody needs it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from shoal.core.errors import ShoalError, StorageFault, Unavailable
from shoal.core.units import MIB
from shoal.storage.database import Database
from shoal.storage.segment_collector import Collector
from shoal.storage.segment_disk import SegmentDirectory
from shoal.storage.segment_format import SEGMENT_BYTES
from shoal.storage.segment_index import DatabaseIndex
from shoal.storage.segment_store import NewChunk, SegmentStore, StoreUse

log = logging.getLogger("shoal.storage")

T = TypeVar("T")

GROUP_BYTES = 8 * MIB  # put with one fsync; also what waits in memory
COLLECT_EVERY_S = 60.0
SCRUB_BYTES_S = 1 * MIB  # 100 GiB are read again in 28 hours; wild guess
SCRUB_STEP_S = 0.25  # at least between two steps
SCRUB_EVERY_S = 3600.0  # between the end of a round and the next one
REST = 1.0  # pause after a step of a collection, in its own time: half of the disk is left to others
CLOSE_TIMEOUT_S = 2.0


@dataclass(slots=True)
class _Put:
    """Chunks that wait for the writer, and who waits for them."""

    chunks: list[NewChunk]
    size_bytes: int
    done: threading.Event = field(default_factory=threading.Event)
    error: ShoalError | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection did."""

    segments: int
    moved_bytes: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of everything found: `lost` chunks rotten now, `missing` ones known before."""

    chunks: int
    size_bytes: int
    lost: int
    missing: int
    repaired_rows: int


class Store:
    """The chunk store of a node. Expects an open database; `open` first, `close` before the database's."""

    def __init__(
        self,
        database: Database,
        path: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        durable: bool = True,
        scrub_bytes_s: float = SCRUB_BYTES_S,
        quota_bytes: int | None = None,
    ) -> None:
        self.path = path
        self.quota_bytes = quota_bytes
        self._directory = SegmentDirectory(path)
        self._index = DatabaseIndex(database, durable=durable)
        self.segments = SegmentStore(self._directory, self._index, segment_bytes=segment_bytes, where=path)
        self._collector = Collector(self.segments)
        self._scrub_bytes_s = scrub_bytes_s
        self._queue: deque[_Put] = deque()
        self._queued_bytes = 0
        self._wake = threading.Condition()
        self._caring = threading.Lock()  # one collection at a time
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self.groups = 0
        self.scrubs = 0  # rounds through all chunks since the start

    async def open(self) -> int:
        """Bring files and index together, start the threads; returns how many chunks were lost.

        Raises: StorageFault.
        """
        return await asyncio.to_thread(self.open_blocking)

    def open_blocking(self) -> int:
        """`open` for a program without a loop."""
        try:
            self._directory.prepare()
        except OSError as error:
            raise self.segments.fault(error, "The store was not opened") from error
        lost = self.segments.recover()
        for run, name in ((self._write, "shoal-store-write"), (self._care, "shoal-store-care")):
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return lost

    async def close(self) -> None:
        """Put what is queued, end; idempotent; at most CLOSE_TIMEOUT_S a thread."""
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """`close` for a program without a loop."""
        self._closing.set()
        with self._wake:
            self._wake.notify_all()
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.join(CLOSE_TIMEOUT_S)
        self._directory.close()
        self._index.close()

    # For everybody

    def put_blocking(self, chunks: list[NewChunk]) -> None:
        """Keep sealed chunks; durable on return. Not on the loop's thread.

        Raises: StorageFault, then they are not kept; Unavailable while closing.
        """
        put = _Put(chunks, sum(len(chunk.sealed) for chunk in chunks))
        with self._wake:
            self._wake.wait_for(
                lambda: not self._queue or self._queued_bytes + put.size_bytes <= GROUP_BYTES or self._is_over
            )
            if self._is_over:
                raise Unavailable("The store is closed", cause="the node is stopping or not started")
            self._queue.append(put)
            self._queued_bytes += put.size_bytes
            self._wake.notify_all()
        put.done.wait()
        if put.error is not None:
            raise put.error

    def read(self, key: bytes) -> bytes | None:
        """Return a sealed chunk, verified, or None. Any thread. Raises: StorageFault (code rot)."""
        return self.segments.read(key)

    def release_blocking(self, holder: int) -> int:
        """End all holds of a holder; returns how many. Its bytes are given back by a collection."""
        total = 0
        while count := self.segments.release(holder):
            total += count
        return total

    async def use(self) -> StoreUse:
        """Return what the store holds. Raises: StorageFault."""
        return await asyncio.to_thread(self.segments.use)

    def collect_blocking(
        self, *, everything: bool = False, cancelled: threading.Event | None = None, rest: float = 0.0
    ) -> Collection:
        """Give space back; `everything`: also of segments that are hardly dead, and the one in use.

        Readers are never stopped, puts wait for a step at most. Raises: StorageFault, after the others, for a
        segment that could not be collected.
        """
        segments = moved = freed = 0
        fault: StorageFault | None = None
        with self._caring:
            if everything:
                self._collector.close_written()
            for row in self._collector.candidates(0.98 if everything else 0.5):
                try:
                    for step in self._paced(self._collector.collect(row), rest):
                        moved += step.size_bytes
                        freed += step.freed_bytes
                        if self._closing.is_set() or (cancelled is not None and cancelled.is_set()):
                            return Collection(segments, moved, freed)
                except (
                    StorageFault
                ) as error:  # the deadest comes first each time: it must not stand in the way
                    fault = fault or error
                    continue
                segments += 1
        if fault is not None:
            raise fault
        return Collection(segments, moved, freed)

    def verify_blocking(
        self,
        on_progress: Callable[[int], None] = lambda size: None,
        cancelled: threading.Event | None = None,
    ) -> Verification:
        """Read and check every chunk and the index; what is rotten is lost then. Raises: StorageFault."""
        missing = self.segments.use().lost
        after, chunks, size, lost = b"", 0, 0, 0
        while not self._closing.is_set() and not (cancelled is not None and cancelled.is_set()):
            checked = self._collector.check(after)
            chunks += checked.chunks
            size += checked.size_bytes
            lost += len(checked.lost)
            on_progress(size)
            after = checked.next_key
            if not after:
                break
        return Verification(chunks, size, lost, missing, self._collector.repair_counts())

    # Threads

    @property
    def _is_over(self) -> bool:
        return self._closing.is_set() or not self._threads

    def _write(self) -> None:
        puts: list[_Put] = []
        try:
            while puts := self._take():
                self._put_group(puts)
                puts = []  # or the last ones would stay in memory until others come
        finally:  # also when something ends it that no put may raise: nobody waits for ever
            with self._wake:
                self._closing.set()
                left = [put for put in (*puts, *self._queue) if not put.done.is_set()]
                self._queue.clear()
                self._wake.notify_all()
            for put in left:
                put.error = Unavailable("A chunk was not stored", cause="the store's writer has ended")
                put.done.set()

    def _take(self) -> list[_Put]:
        with self._wake:
            self._wake.wait_for(lambda: self._queue or self._closing.is_set())
            puts: list[_Put] = []
            size = 0
            while self._queue and (not puts or size + self._queue[0].size_bytes <= GROUP_BYTES):
                puts.append(self._queue.popleft())
                size += puts[-1].size_bytes
            self._queued_bytes -= size
            self._wake.notify_all()
        return puts

    def _put_group(self, puts: list[_Put]) -> None:
        """Put all of them at once; if that fails, each gets the error: none of them is kept."""
        self.groups += 1
        try:
            self.segments.put([chunk for put in puts for chunk in put.chunks])
        except ShoalError as error:
            for put in puts:
                put.error = error
        for put in puts:
            put.done.set()

    def _care(self) -> None:
        """The other thread: collect now and then, scrub all the time, slowly."""
        after = b""
        scrub_at = time.monotonic() + SCRUB_STEP_S
        collect_at = time.monotonic() + COLLECT_EVERY_S
        while not self._closing.wait(max(0.0, min(scrub_at, collect_at) - time.monotonic())):
            try:
                if time.monotonic() >= collect_at:
                    collect_at = time.monotonic() + COLLECT_EVERY_S
                    self.collect_blocking(rest=REST)
                if time.monotonic() >= scrub_at:
                    checked = self._collector.check(after)
                    after = checked.next_key
                    pause = max(SCRUB_STEP_S, checked.size_bytes / self._scrub_bytes_s)
                    if not after:
                        self.scrubs += 1
                        self._collector.repair_counts()
                        pause = SCRUB_EVERY_S
                    scrub_at = time.monotonic() + pause
            except (StorageFault, Unavailable) as error:
                log.warning("taking care of the store: %s", error)
                scrub_at = collect_at = time.monotonic() + COLLECT_EVERY_S

    def _paced(self, steps: Iterator[T], rest: float) -> Iterator[T]:
        """Pass steps on, with pauses in between."""
        while True:
            began = time.monotonic()
            step = next(steps, None)
            if step is None:
                return
            yield step
            if rest and self._closing.wait((time.monotonic() - began) * rest):
                return
