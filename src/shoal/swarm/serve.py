"""Serve: one thread a lane that reads what a getter wants straight into the lane's buffer and sends it.

The loop puts wants into a bounded queue; the thread takes them one by one, run to completion: read, protect,
send. It touches nothing else of the node, and ends with the lane.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from shoal.core.errors import LimitExceeded, RemoteFault, ShoalError, StorageFault, Unavailable
from shoal.core.stages import StageClock
from shoal.core.thread_priority import lower_thread_priority
from shoal.core.units import KIB
from shoal.swarm.lane_header import LANE_HEADER_BYTES, LaneKind, pack_header_into
from shoal.swarm.upload_turns import LaneTurn
from shoal.transport.lane import Lane
from shoal.wire.limits import LANE_RECORD_PLAINTEXT_BYTES

log = logging.getLogger("shoal.swarm")

QUEUE_CHUNKS = 1024  # wants of one lane; an honest getter has 64 and some of the end game
QUEUE_OBJECTS = 256
IDLE_S = 120.0  # a lane on which nothing is wanted this long is ended; the getter opens another one
UNSENT_BYTES = (
    128 * KIB
)  # in the kernel, of a lane that shares the line: its turn ends when the chunk has left
BODY_BYTES = LANE_RECORD_PLAINTEXT_BYTES - LANE_HEADER_BYTES


class ChunkSource(Protocol):
    """Where the plaintext of a version's chunks is read from; used by several threads at once."""

    def read_into(self, ordinal: int, buffer: memoryview) -> int:
        """Write a chunk to the start of `buffer`, return its length.

        Raises: StorageFault when it cannot be read, is not what was hashed (code `changed`), or can only not
        be read now (code `busy`).
        """
        ...

    def rest(self) -> None:
        """Nobody reads for now: let go of files that are kept open."""
        ...


FaultReport: TypeAlias = Callable[[int, int, StorageFault], None]  # version, ordinal
FindObject: TypeAlias = Callable[[bytes], bytes | None]  # blocking; raises StorageFault, Unavailable


class LaneSender:
    """One getter's lane for one share. `want...`, `unwant`, `finish`, `close` are for the loop."""

    def __init__(
        self,
        lane: Lane,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[LaneSender], None],
        on_fault: FaultReport,
        *,
        turn: LaneTurn | None = None,
        background: bool = False,
    ) -> None:
        """Without a `turn` the lane sends whenever it can."""
        self._lane = lane
        self.turn = turn
        self._is_shallow = False
        self._background = background
        self._loop = loop
        self._on_end = on_end
        self._on_fault = on_fault
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._chunks: dict[tuple[int, int], ChunkSource | None] = {}
        self._objects: deque[tuple[int, bytes, FindObject]] = deque()
        self._finishing = False
        self.sent_bytes = 0
        self.ended = asyncio.Event()
        self.stages: StageClock | None = None
        self._thread = threading.Thread(target=self._run, name="shoal-serve", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def want(self, version: int, ordinals: list[int], source: ChunkSource | None) -> None:
        """Queue chunks; without a source they are answered as missing. Raises: LimitExceeded."""
        with self._wake:
            if len(self._chunks) + len(ordinals) > QUEUE_CHUNKS:
                raise LimitExceeded("more chunks wanted than a lane queues", cause=f"at most {QUEUE_CHUNKS}")
            for ordinal in ordinals:
                self._chunks[version, ordinal] = source
            self._wake.notify()

    def unwant(self, version: int, ordinals: list[int]) -> None:
        """Take chunks out of the queue that were not sent yet."""
        with self._wake:
            for ordinal in ordinals:
                self._chunks.pop((version, ordinal), None)

    def want_objects(self, first: int, ids: list[bytes], find: FindObject) -> None:
        """Queue sealed objects; the record of ids[i] has number `first` + i. Raises: LimitExceeded."""
        with self._wake:
            if len(self._objects) + len(ids) > QUEUE_OBJECTS:
                raise LimitExceeded(
                    "more objects wanted than a lane queues", cause=f"at most {QUEUE_OBJECTS}"
                )
            self._objects.extend((first + i, object_id, find) for i, object_id in enumerate(ids))
            self._wake.notify()

    def finish(self) -> None:
        """Drop what is queued and end the lane with an authenticated END."""
        with self._wake:
            self._finishing = True
            self._chunks.clear()
            self._objects.clear()
            self._wake.notify()

    def stage_seconds(self) -> dict[str, float]:
        """Return CPU seconds of the thread by stage so far."""
        return self.stages.seconds() if self.stages is not None else {}

    def close(self) -> None:
        """End at once, in the middle of a record if need be; idempotent."""
        self.finish()
        self._lane.close()
        if self.turn is not None:
            self.turn.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; return whether it ended. Not on the loop's thread."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The thread

    def _run(self) -> None:
        if self._background:
            lower_thread_priority()
        self.stages = self._lane.stages = StageClock()
        try:
            while self._send_next():
                pass
            self._lane.finish()
        except (RemoteFault, Unavailable) as error:
            log.debug("a lane ended: %s", error)
        finally:
            self._lane.close()
            if self.turn is not None:
                self.turn.close()
            self._tell(self._end)

    def _end(self) -> None:
        self.ended.set()
        self._on_end(self)

    def _send_next(self) -> bool:
        """Send one record; return False when the lane should be ended."""
        with self._lock:
            is_idle = not self._has_work()
        if is_idle and self.turn is not None:
            self.turn.rest()  # what it waits for its turn with was taken back
        with self._lock:
            if not self._has_work() and not self._wake.wait_for(self._has_work, IDLE_S):
                return False
            waits = bool(self._chunks) and not self._objects
        if waits:
            self._wait_turn()
        with self._lock:
            if self._finishing:
                return False
            if self._objects:
                number, object_id, find = self._objects.popleft()
                key = None
            elif self._chunks:
                key = next(iter(self._chunks))
                source = self._chunks.pop(key)
            else:  # taken back while the lane waited
                self._end_turn(0)
                return True
        if key is None:
            self._send_object(number, object_id, find)
        elif not self._send_chunk(key[0], key[1], source):
            return False
        return not self._lane.is_spent

    def _wait_turn(self) -> None:
        if self.turn is None:
            return
        self.turn.take()
        if self._is_shallow == self.turn.is_alone:
            self._is_shallow = not self._is_shallow
            self._lane.limit_unsent(UNSENT_BYTES if self._is_shallow else 0)

    def _end_turn(self, size_bytes: int) -> None:
        if self.turn is not None:
            self.turn.sent(size_bytes, bool(self._chunks))

    def _has_work(self) -> bool:
        return bool(self._finishing or self._objects or self._chunks)

    def _send_object(self, number: int, object_id: bytes, find: FindObject) -> None:
        buffer = self._lane.plaintext
        try:
            data = find(object_id)
        except (StorageFault, Unavailable) as error:
            log.warning("an object could not be read: %s", error)
            data = None
        self._end_turn(0)  # if it came while the lane waited with a chunk
        if data is None or len(data) > BODY_BYTES:
            pack_header_into(buffer, LaneKind.OBJECT_MISSING, 0, number)
            self._lane.send(LANE_HEADER_BYTES)
            return
        pack_header_into(buffer, LaneKind.OBJECT, 0, number)
        end = LANE_HEADER_BYTES + len(data)
        buffer[LANE_HEADER_BYTES:end] = data
        self._lane.send(end)
        self.sent_bytes += len(data)

    def _send_chunk(self, version: int, ordinal: int, source: ChunkSource | None) -> bool:
        """Send a chunk, or that it is missing; False if it can only not be read now.

        Then the lane ends and the getter comes again: what was called missing it would not ask for any more.
        """
        buffer = self._lane.plaintext
        length = 0
        if source is not None:
            try:
                length = source.read_into(ordinal, buffer[LANE_HEADER_BYTES:])
            except StorageFault as error:
                if error.code == "busy":
                    return False
                self._tell(self._on_fault, version, ordinal, error)
            except ShoalError as error:
                log.debug("a chunk was not read: %s", error)  # the share was just closed
            if self.stages is not None:
                self.stages.mark("read")
        if not length:
            pack_header_into(buffer, LaneKind.CHUNK_MISSING, version, ordinal)
            self._lane.send(LANE_HEADER_BYTES)
            self._end_turn(0)
            return True
        pack_header_into(buffer, LaneKind.CHUNK, version, ordinal)
        self._lane.send(LANE_HEADER_BYTES + length)
        self.sent_bytes += length
        self._end_turn(length)
        return True

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            log.debug("the loop was closed before a lane's thread ended")
