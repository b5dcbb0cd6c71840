"""Segment log: the one segment that is written, and when the next one is begun.

A batch is appended, then made durable, then entered into the index by the store. What goes wrong before that
leaves nothing behind that anybody could take for a chunk: after a failed append the end is cut off again,
and after a failed fsync the segment is never written again, for nobody knows which of its pages are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal.core.errors import LocalMisuse
from shoal.storage.segment_disk import SegmentDisk
from shoal.storage.segment_format import (
    FILE_HEADER_BYTES,
    NUMBER_LIMIT,
    make_file_header,
    make_place,
    make_record_header,
    segment_name,
)

NEW = ".new"


class SegmentLog:
    """Where new records go. One caller at a time. All methods raise OSError for the disk."""

    def __init__(self, disk: SegmentDisk, segment_bytes: int, on_abandoned: Callable[[int], None]) -> None:
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._on_abandoned = on_abandoned
        self._next = 1
        self.number = 0  # of the segment that is written; 0 when the next append begins one
        self.end = 0  # of it, acknowledged or about to be

    def resume(self, number: int, end: int, next_number: int) -> None:
        """Go on in segment `number` at `end`; 0: begin segment `next_number` with the next append."""
        self.number, self.end, self._next = number, end, next_number

    def append(self, records: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """Write (id, sealed) records and make them durable; return their places.

        All of them lie in segment `number`, which ends at `end`. After an error none of them is there.
        """
        parts: list[bytes] = []
        for object_id, sealed in records:
            parts += (make_record_header(object_id, len(sealed)), sealed)
        size = sum(map(len, parts))
        if size > self._segment_bytes - FILE_HEADER_BYTES:
            raise LocalMisuse(f"a batch of {size} bytes does not fit into a segment")
        if self.number and self.end + size > self._segment_bytes:
            self.number = 0
        if not self.number:
            self._begin()
        name = segment_name(self.number)
        try:
            self._disk.append(name, self.end, parts)
        except OSError:
            self._cut()
            raise
        try:
            self._disk.fsync(name)
        except OSError:
            self.abandon()
            raise
        places = []
        for (_, sealed), header in zip(records, parts[::2], strict=True):
            places.append(make_place(self.number, self.end))
            self.end += len(header) + len(sealed)
        return places

    def abandon(self) -> None:
        """Never write this segment again; what was acknowledged of it stays readable."""
        number, self.number = self.number, 0
        if number:
            self._on_abandoned(number)

    def _begin(self) -> None:
        """Make the next segment: with its header under another name first, so that each one has it."""
        number = self._next
        if number > NUMBER_LIMIT:
            raise LocalMisuse("the store has used up its segment numbers")
        self._next = number + 1  # a name that failed once is left alone until the next start
        name = segment_name(number)
        self._disk.create(name + NEW)
        self._disk.append(name + NEW, 0, [make_file_header(number)])
        self._disk.fsync(name + NEW)
        self._disk.rename(name + NEW, name)
        self._disk.fsync_names()
        self.number, self.end = number, FILE_HEADER_BYTES

    def _cut(self) -> None:
        try:
            self._disk.truncate(segment_name(self.number), self.end)
        except OSError:
            self.abandon()
