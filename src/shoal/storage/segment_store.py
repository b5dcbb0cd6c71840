"""Segment store: sealed chunks in append-only files, by holder and ordinal; what it says is there survives.

Order of a put: append, fsync the segment, commit the index. So after a crash the index never names bytes that
were not durable, and bytes without an index row are cut off or deleted. Every read is verified against the
chunk's id: what rotted is never handed out, is noted as lost and reported.

Blocking; reads by any number of threads, everything else one at a time (a lock).
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from blake3 import blake3

from shoal.core.errors import StorageFault
from shoal.storage import segment_index as sql
from shoal.storage.database import Connection
from shoal.storage.faults import fault_of_os_error
from shoal.storage.segment_disk import SegmentDisk
from shoal.storage.segment_format import (
    FILE_HEADER_BYTES,
    KEY_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_BYTES,
    is_file_header,
    parse_place,
    parse_record_header,
    parse_segment_name,
    segment_name,
)
from shoal.storage.segment_index import CLOSED, Hold, IndexPort, SegmentRow
from shoal.storage.segment_log import NEW, SegmentLog

log = logging.getLogger("shoal.storage")

RELEASE_ROWS = 1000  # holds ended or copied in one transaction: bounds how long a put waits for it
LOOKS = 3  # a chunk may move between the look into the index and the read
# what says that the bytes are gone; after another error of a read (no descriptors, no memory, no permission,
# a server that does not answer) they may be there the next time
_GONE = {errno.EIO, errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.EBADMSG, errno.ENODATA} | {
    getattr(errno, name)
    for name in ("EUCLEAN", "EREMOTEIO")
    if hasattr(errno, name)  # Linux
}


class NewChunk(NamedTuple):
    """A sealed chunk, and who keeps it under which ordinal."""

    holder: int
    ordinal: int
    object_id: bytes
    sealed: bytes


class StoreUse(NamedTuple):
    """What the store holds and takes: `chunks` and `live_bytes` are kept, of `file_bytes` on the disk."""

    segments: int
    file_bytes: int
    live_bytes: int
    chunks: int
    lost: int


class SegmentStore:
    """The store's files and index. Expects `recover()` first, and puts of at most a segment's size."""

    def __init__(
        self, disk: SegmentDisk, index: IndexPort, *, segment_bytes: int = SEGMENT_BYTES, where: str = "store"
    ) -> None:
        self.disk = disk
        self.index = index
        self.where = where
        self.lock = threading.RLock()
        self.log = SegmentLog(disk, segment_bytes, self._on_abandoned)
        self.on_lost: Callable[[list[bytes]], None] = lambda keys: None  # any thread; chunks found rotten

    # Start

    def recover(self) -> int:
        """Bring files and index together after whatever happened; returns how many chunks were lost.

        Raises: StorageFault.
        """
        try:
            with self.lock:
                return self._recover()
        except OSError as error:
            raise self.fault(error, "The store was not opened") from error

    def _recover(self) -> int:
        rows = {row.number: row for row in self.index.read(sql.load_segments)}
        names = self.disk.list_names()
        numbers = {number for name in names if (number := parse_segment_name(name)) is not None}
        next_number = max([self.index.read(sql.last_number), *rows, *numbers], default=0) + 1
        for name in names:
            number = parse_segment_name(name)
            unfinished = name.endswith(NEW) and parse_segment_name(name.removesuffix(NEW)) is not None
            if unfinished or (number is not None and number not in rows):
                self.disk.unlink(name)  # nothing of it was ever acknowledged, or all of it was moved
        lost = 0
        for row in rows.values():
            lost += self._recover_segment(row, row.number in numbers)
        last = max((row for row in rows.values()), default=None)
        if last is not None and last.state != CLOSED and self._resume(last, next_number):
            return lost
        self.log.resume(0, 0, next_number)
        return lost

    def _recover_segment(self, row: SegmentRow, there: bool) -> int:
        size = self.disk.size(segment_name(row.number)) if there else 0
        if size >= row.end:
            return 0
        log.error("segment %s has %s of %s bytes: what is missing is lost", row.number, size, row.end)

        def run(connection: Connection) -> int:
            if not there:
                return sql.drop_segment(connection, row.number)
            sql.close_segment(connection, row.number, size)
            return sql.note_lost(connection, sql.find_between(connection, row.number, size))

        return self.index.write(run)

    def _resume(self, row: SegmentRow, next_number: int) -> bool:
        """Go on writing in the last segment, without what was never acknowledged."""
        name = segment_name(row.number)
        try:
            size = self.disk.size(name)
            if size < row.end or not is_file_header(self.disk.read(name, 0, FILE_HEADER_BYTES), row.number):
                return False
            if size > row.end:
                self.disk.truncate(name, row.end)
        except OSError as error:
            log.warning("segment %s is not written to any more: %s", row.number, error)
            return False
        self.log.resume(row.number, row.end, next_number)
        return True

    # Put and release

    def put(self, chunks: Sequence[NewChunk]) -> None:
        """Keep sealed chunks; durable on return. What is in the store already is only held once more.

        The caller has verified that each id is the hash of its bytes. Raises: StorageFault; then none of
        them is kept, and putting them again is safe.
        """
        by_key: dict[bytes, NewChunk] = {chunk.object_id[:KEY_BYTES]: chunk for chunk in chunks}
        holds = [Hold(c.holder, c.ordinal, c.object_id[:KEY_BYTES]) for c in chunks]
        with self.lock:
            stored = self.index.read(lambda connection: sql.find_stored(connection, by_key))
            fresh = [(key, chunk) for key, chunk in by_key.items() if key not in stored]
            places: dict[bytes, tuple[int, int]] = {}
            if fresh:
                found = self.append([(chunk.object_id, chunk.sealed) for _, chunk in fresh])
                places = {
                    key: (place, len(chunk.sealed)) for (key, chunk), place in zip(fresh, found, strict=True)
                }
            number, end = self.log.number, self.log.end
            self.index.write(lambda connection: sql.note_put(connection, holds, places, number, end))

    def append(self, records: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """Write records durably; the caller has the lock and enters them. Raises: StorageFault."""
        try:
            return self.log.append(records)
        except OSError as error:
            raise self.fault(error, "A chunk was not stored") from error

    def release(self, holder: int) -> int:
        """End some of a holder's holds; returns how many: call it until it is 0. Raises: StorageFault."""
        with self.lock:
            return self.index.write(lambda connection: sql.release(connection, holder, RELEASE_ROWS))

    def copy_holds(self, holder: int, other: int, pairs: Sequence[tuple[int, int]]) -> int:
        """Let a holder hold too what another one has, as (ordinal, the other's ordinal); nothing is written
        again. What the other does not have is left out; returns how many it were. Raises: StorageFault.
        """
        count = 0
        for start in range(0, len(pairs), RELEASE_ROWS):
            part = pairs[start : start + RELEASE_ROWS]
            with self.lock:
                count += self.index.write(lambda c, part=part: sql.copy_holds(c, holder, other, part))  # type: ignore[misc]
        return count

    # Reading

    def find_key(self, holder: int, ordinal: int) -> bytes | None:
        """Return the key of what a holder has under an ordinal, or None."""
        return self.index.read(lambda connection: sql.find_hold(connection, holder, ordinal))

    def ordinals(self, holder: int) -> list[int]:
        """Return which ordinals a holder has, without those known to be lost."""
        return self.index.read(lambda connection: sql.load_ordinals(connection, holder))

    def read(self, key: bytes) -> bytes | None:
        """Return a sealed chunk, verified; None if the store does not have it (any more).

        Raises: StorageFault; code `rot` where what lies there is not what was stored: it is lost then; code
        `busy` where it can only not be read now.
        """
        place = -1
        for _ in range(LOOKS):
            found = self.index.read(lambda connection: sql.find_chunk(connection, key))
            if found is None or not found[0]:
                return None
            if found[0] == place:
                break  # it has not moved: there is nothing else to hope for
            place, size = found
            sealed = self.read_at(place, size, key)
            if sealed is not None:
                return sealed
        self.lose([(key, place)])
        raise StorageFault(
            "A chunk was not read",
            cause=f"{self.where}: what lies there is not what was stored",
            next_step="it is fetched again from the network; if this happens often, the disk is failing",
            code="rot",
        )

    def read_at(self, place: int, size: int, key: bytes) -> bytes | None:
        """Return the sealed chunk at a place if it is there and whole, else None. Raises: as `read`."""
        found = self.read_record(place, size, key)
        return None if found is None else found[1]

    def read_record(self, place: int, size: int, key: bytes) -> tuple[bytes, bytes] | None:
        """`read_at` with the chunk's whole id. Raises: as `read`."""
        number, offset = parse_place(place)
        try:
            data = self.disk.read(segment_name(number), offset, RECORD_HEADER_BYTES + size)
        except OSError as error:
            if error.errno not in _GONE:
                raise StorageFault(
                    "A chunk was not read",
                    cause=f"{self.where}: {error.strerror or error}",
                    next_step="it is tried again; nothing is lost",
                    code="busy",
                ) from error
            log.warning("segment %s was not read at %s: %s", number, offset, error)
            return None
        if parse_record_header(data[:RECORD_HEADER_BYTES]) is None:
            return None  # not a place where a record begins
        sealed = data[RECORD_HEADER_BYTES:]
        object_id = blake3(sealed).digest()
        return (object_id, sealed) if len(sealed) == size and object_id[:KEY_BYTES] == key else None

    def lose(self, lost: list[tuple[bytes, int]]) -> None:
        """Note chunks, as (key, place), as lost and tell who wants to know. Raises: StorageFault."""
        if self.index.write(lambda connection: sql.note_lost(connection, lost)):
            log.error("%s chunks in the store are damaged", len(lost))
            self.on_lost([key for key, _ in lost])

    def use(self) -> StoreUse:
        """Return what the store holds."""

        def run(connection: Connection) -> StoreUse:
            rows = sql.load_segments(connection)
            count, lost = connection.execute(
                "SELECT count(*), coalesce(sum(place = 0), 0) FROM chunks"
            ).fetchone()
            files, live = sum(row.end for row in rows), sum(row.live for row in rows)
            return StoreUse(len(rows), files, live, count - lost, lost)

        return self.index.read(run)

    def fault(self, error: OSError, what: str) -> StorageFault:
        """Return an error of the disk in words."""
        return fault_of_os_error(error, what, self.where)

    def _on_abandoned(self, number: int) -> None:
        try:
            self.index.write(lambda connection: sql.close_segment(connection, number))
        except StorageFault as fault:  # after a restart it would be cut to what was acknowledged
            log.warning("segment %s is not marked as abandoned: %s", number, fault)
