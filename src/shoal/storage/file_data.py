"""File data: what of an open file is data, as one run of bytes without the holes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from shoal.storage.extents import Extents


class FileData:
    """Where the data of one open file lies. `size` bytes of it. Any thread."""

    __slots__ = ("_extents", "_starts", "fd", "size")

    def __init__(self, fd: int, extents: Extents) -> None:
        self.fd = fd
        self._extents = extents
        self._starts = list(accumulate((length for _, length in extents), initial=0))
        self.size = self._starts.pop()

    def ranges(self, position: int, size_bytes: int) -> Iterator[tuple[int, int]]:
        """Yield (offset in the file, length) of what so many bytes from `position` on are."""
        index = bisect_right(self._starts, position) - 1
        while size_bytes > 0:
            offset, length = self._extents[index]
            skipped = position - self._starts[index]
            run = min(length - skipped, size_bytes)
            yield offset + skipped, run
            position += run
            size_bytes -= run
            index += 1
