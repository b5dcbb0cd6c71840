"""Extents: which parts of a file are data and which are holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from shoal.content.manifest import EXTENT_LIMIT

Extents = list[tuple[int, int]]  # (offset, length), sorted, apart, none empty


def find_extents(fd: int, info: os.stat_result) -> Extents:
    """Return the data extents of an open file. A hole is only what the file system calls one.

    Files with more than EXTENT_LIMIT extents get their smallest holes treated as data. Raises: OSError.
    """
    size = info.st_size
    if size == 0:
        return []
    if info.st_blocks * 512 >= size or not hasattr(os, "SEEK_DATA"):
        return [(0, size)]
    extents: Extents = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            if error.errno in (errno.EINVAL, errno.ENOTSUP):  # the file system cannot tell
                return [(0, size)]
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start >= size or end <= start:
            break
        if extents and extents[-1][0] + extents[-1][1] == start:
            extents[-1] = (extents[-1][0], end - extents[-1][0])
        else:
            extents.append((start, end - start))
        position = end
        if len(extents) > 2 * EXTENT_LIMIT:
            extents = _fill_small_holes(extents, EXTENT_LIMIT)
    return _fill_small_holes(extents, EXTENT_LIMIT) if len(extents) > EXTENT_LIMIT else extents


def find_holes(size: int, extents: Sequence[tuple[int, int, int]] | Sequence[tuple[int, int]]) -> Extents:
    """Return what of a file of `size` bytes is not in `extents`."""
    holes: Extents = []
    end = 0
    for extent in extents:
        if extent[0] > end:
            holes.append((end, extent[0] - end))
        end = extent[0] + extent[1]
    if size > end:
        holes.append((end, size - end))
    return holes


def _fill_small_holes(extents: Extents, limit: int) -> Extents:
    """Join neighbours over holes of a size that doubles until at most half of `limit` are left."""
    hole = 4096
    while len(extents) > limit // 2:
        joined = [extents[0]]
        for offset, length in extents[1:]:
            last_offset, last_length = joined[-1]
            if offset - (last_offset + last_length) <= hole:
                joined[-1] = (last_offset, offset + length - last_offset)
            else:
                joined.append((offset, length))
        extents = joined
        hole *= 2
    return extents
