"""Stream: a share as one logical byte stream, and the map from its positions to files.

The data of all files lies in the stream in path order, holes are left out. A cut is forced before and after
every file with LARGE_FILE_BYTES of data or more; between two forced cuts lies a *section*, cut for itself.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shoal.core.errors import LocalMisuse
from shoal.core.units import KIB

LARGE_FILE_BYTES = 256 * KIB


class Section(NamedTuple):
    """Files [first, end) whose data is cut without a break; `data_bytes` together."""

    first: int
    end: int
    data_bytes: int


class Piece(NamedTuple):
    """A run of bytes of one file."""

    file_index: int
    file_offset: int
    length: int


def iter_sections(data_sizes: Iterable[int]) -> Iterator[Section]:
    """Yield the sections of files with these amounts of data, in path order. Sections without data are left
    out.
    """
    first, total, index = 0, 0, -1
    for index, size in enumerate(data_sizes):
        if size >= LARGE_FILE_BYTES:
            if total:
                yield Section(first, index, total)
            yield Section(index, index + 1, size)
            first, total = index + 1, 0
        else:
            total += size
    if total:
        yield Section(first, index + 1, total)


class ExtentMap:
    """Which bytes of which file lie where in the stream; 24 bytes a file and 20 an extent.

    Filled once, in path order, then only read: reading is safe from several threads.
    """

    __slots__ = ("_file", "_file_offset", "_first", "_start", "stream_bytes")

    def __init__(self) -> None:
        self._first = array("Q", [0])  # for each file its first extent, and one more
        self._start = array("Q")  # where an extent begins in the stream
        self._file_offset = array("Q")
        self._file = array("I")
        self.stream_bytes = 0

    def __len__(self) -> int:
        return len(self._first) - 1

    @property
    def held_bytes(self) -> int:
        """How much memory this takes."""
        columns = (self._first, self._start, self._file_offset, self._file)
        return sum(len(column) * column.itemsize for column in columns)

    def append(self, extents: Iterable[tuple[int, int]]) -> None:
        """Add the next file by its data extents (file offset, length), sorted, none of them empty."""
        index = len(self._first) - 1
        for offset, length in extents:
            self._start.append(self.stream_bytes)
            self._file_offset.append(offset)
            self._file.append(index)
            self.stream_bytes += length
        self._first.append(len(self._start))

    def extents(self, file_index: int) -> tuple[tuple[int, int, int], ...]:
        """Return a file's data extents as (file offset, length, stream offset)."""
        first, end = self._first[file_index], self._first[file_index + 1]
        return tuple((self._file_offset[i], self._length(i), self._start[i]) for i in range(first, end))

    def data_bytes(self, file_index: int) -> int:
        """Return how much of a file is data."""
        return self.stream_end(file_index) - self.stream_start(file_index)

    def stream_start(self, file_index: int) -> int:
        """Return where a file's data begins in the stream (for a file without data: would begin)."""
        return self._position(self._first[file_index])

    def stream_end(self, file_index: int) -> int:
        """Return where a file's data ends in the stream."""
        return self._position(self._first[file_index + 1])

    def pieces(self, offset: int, length: int) -> list[Piece]:
        """Return what [offset, offset + length) of the stream is, in order; neighbouring runs are not joined.

        Raises: LocalMisuse outside the stream.
        """
        if offset < 0 or length < 0 or offset + length > self.stream_bytes:
            raise LocalMisuse("A range outside the stream was asked for")
        pieces: list[Piece] = []
        starts, last = self._start, len(self._start) - 1
        extent = bisect_right(starts, offset) - 1
        while length:
            start = starts[extent]
            end = starts[extent + 1] if extent < last else self.stream_bytes
            run = min(end - offset, length)
            pieces.append(Piece(self._file[extent], self._file_offset[extent] + offset - start, run))
            offset += run
            length -= run
            extent += 1
        return pieces

    def _position(self, extent: int) -> int:
        return self._start[extent] if extent < len(self._start) else self.stream_bytes

    def _length(self, extent: int) -> int:
        return self._position(extent + 1) - self._start[extent]
