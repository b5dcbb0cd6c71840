"""Receive: one thread a lane that takes records, verifies, writes; the loop hears of it in batches.

Run to completion with fixed buffers: receive (which decrypts), keyed BLAKE3, pwrite. A report to the loop is
an append to a deque; the loop is woken for it once half of what was owed has come, after REPORT_S at the
latest, at once when nothing more is owed, and looks by itself at every tick.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from shoal.core.errors import MalformedMessage, RemoteFault, ShoalError, StorageFault, Unavailable
from shoal.core.stages import StageClock
from shoal.core.thread_priority import lower_thread_priority
from shoal.swarm.lane_header import LANE_HEADER_BYTES, LaneKind, parse_header
from shoal.transport.lane import Lane
from shoal.transport.lane_record import BARE_RECORD_BYTES

log = logging.getLogger("shoal.swarm")

REPORT_S = 0.02  # each report costs both loops about half a millisecond of CPU


class ChunkTarget(Protocol):
    """What is expected of a version and where it goes; used by several threads at once."""

    version: int
    written: bytearray  # one byte a chunk, not 0 once it is at its place; only ever set

    @property
    def total(self) -> int:
        """How many chunks are known; of a draft it grows."""
        ...

    def is_valid(self, ordinal: int, data: memoryview) -> bool:
        """Whether these bytes are that chunk: right length, keyed hash equal to its key."""
        ...

    def write(self, ordinal: int, data: memoryview) -> None:
        """Put a valid chunk where it belongs. Raises: StorageFault."""
        ...


class ChunkReport(NamedTuple):  # the only one of which there are many
    """One chunk came: written, a duplicate of what was there, wrong (not `valid`), or the peer lacks it."""

    ordinal: int
    size_bytes: int
    valid: bool = True
    missing: bool = False
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class ObjectReport:
    """The answer to an object request; None: the peer does not have it."""

    number: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class EndReport:
    """The lane is over and the thread ends. None: by the peer's END, which is nobody's fault."""

    error: ShoalError | None


Report: TypeAlias = ChunkReport | ObjectReport | EndReport


class LaneReceiver:
    """A provider's lane for one share, getter's end. All but `_run` and below is for the loop.

    `target` is set once, before the first chunk is asked for. `on_reports` is called on the loop when `take`
    has something. After an EndReport the thread writes nothing any more.
    """

    def __init__(
        self,
        lane: Lane,
        loop: asyncio.AbstractEventLoop,
        on_reports: Callable[[LaneReceiver], None],
        *,
        background: bool = False,
    ) -> None:
        self.target: ChunkTarget | None = None
        self.expected = 0  # records that will have come when nothing is owed any more
        self.received = 0
        self._allowed = 0  # records that were asked for since the beginning; each is sent once at most
        self.ended = asyncio.Event()
        self.stages: StageClock | None = None
        self._lane = lane
        self._background = background
        self._taken_bytes = 0  # of the lane's bytes, those of records that `take` returned
        self._loop = loop
        self._on_reports = on_reports
        self._reports: deque[Report] = deque()  # bounded by what is asked: the window and the objects
        self._reported_at = 0.0
        self._reported = 0  # records that had come by then
        self._thread = threading.Thread(target=self._run, name="shoal-receive", daemon=True)

    def allow(self, records: int) -> None:
        """Let so many more come; before they are asked for."""
        self._allowed += records

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def take(self) -> list[Report]:
        """Return what came since the last call."""
        reports: list[Report] = []
        while self._reports:
            report = self._reports.popleft()
            reports.append(report)
            self._taken_bytes += _record_bytes(report)
        return reports

    @property
    def moved_bytes(self) -> int:
        """Bytes that came over the lane so far, those of an incomplete record included."""
        return self._lane.moved_bytes

    @property
    def arriving_bytes(self) -> int:
        """Those of them that `take` has not returned a report of yet."""
        return max(0, self._lane.moved_bytes - self._taken_bytes)

    def stage_seconds(self) -> dict[str, float]:
        """Return CPU seconds of the thread by stage so far."""
        return self.stages.seconds() if self.stages is not None else {}

    def close(self) -> None:
        """End the lane; the thread follows and sets `ended`. Idempotent."""
        self._lane.close()

    # The thread

    def _run(self) -> None:
        error: ShoalError | None = None
        if self._background:
            lower_thread_priority()
        self.stages = self._lane.stages = StageClock()
        try:
            while (record := self._lane.receive()) is not None:
                self._take_record(record)
        except (RemoteFault, Unavailable, StorageFault) as fault:
            error = fault
        finally:
            self._lane.close()
            self._reports.append(EndReport(error))
            self._tell(self._end)

    def _report(self) -> None:
        self._on_reports(self)

    def _end(self) -> None:
        self.ended.set()
        self._on_reports(self)

    def _take_record(self, record: memoryview) -> None:
        kind, version, ordinal = parse_header(record)
        if self.received >= self._allowed:  # it would take bandwidth, and memory where a reader takes chunks
            raise MalformedMessage("a record that was not asked for", cause=f"record {self.received + 1}")
        body = record[LANE_HEADER_BYTES:]
        urgent = False
        match kind:
            case LaneKind.OBJECT:
                self._reports.append(ObjectReport(ordinal, bytes(body)))
                urgent = True
            case LaneKind.OBJECT_MISSING:
                self._reports.append(ObjectReport(ordinal, None))
                urgent = True
            case LaneKind.CHUNK | LaneKind.CHUNK_MISSING:
                report = self._take_chunk(kind, version, ordinal, body)
                self._reports.append(report)
                urgent = report.missing or not report.valid
        self.received += 1
        now = time.monotonic()
        owed = self.expected - self.received
        if urgent or owed <= self.received - self._reported or now - self._reported_at >= REPORT_S:
            self._reported_at = now
            self._reported = self.received
            self._tell(self._report)
        self._mark("report")

    def _mark(self, stage: str) -> None:
        if self.stages is not None:
            self.stages.mark(stage)

    def _take_chunk(self, kind: LaneKind, version: int, ordinal: int, body: memoryview) -> ChunkReport:
        target = self.target
        if target is None or version != target.version or ordinal >= target.total:
            raise MalformedMessage("a chunk that was not asked for", cause=f"version {version}, {ordinal}")
        if kind is LaneKind.CHUNK_MISSING:
            return ChunkReport(ordinal, 0, missing=True)
        valid = target.is_valid(ordinal, body)
        self._mark("verify")
        if not valid:
            return ChunkReport(ordinal, len(body), valid=False)
        if target.written[ordinal]:
            return ChunkReport(ordinal, len(body), duplicate=True)
        target.write(ordinal, body)
        target.written[ordinal] = 1
        self._mark("write")
        return ChunkReport(ordinal, len(body))

    def _tell(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            log.debug("the loop was closed before a lane's thread ended")


def _record_bytes(report: Report) -> int:
    """Return how long the record of a report was on the lane."""
    match report:
        case ChunkReport(size_bytes=size):
            return BARE_RECORD_BYTES + LANE_HEADER_BYTES + size
        case ObjectReport(data=data):
            return BARE_RECORD_BYTES + LANE_HEADER_BYTES + len(data or b"")
        case EndReport():
            return 0
