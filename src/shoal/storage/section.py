"""Section: what hashing a run of entries gives, rows of the manifest in order."""

from __future__ import annotations

import os
from array import array

from shoal.content.keys import KEY_BYTES
from shoal.content.manifest import EntryKind, permissions
from shoal.storage.entry_table import EntryTable, ScannedEntry
from shoal.storage.extents import Extents


class Section:
    """What hashing a run of entries gave: rows of the manifest, in order.

    While it is hashed the rows that are there are right as long as `as_scanned`: all that was read so far is
    as the scan found it. That is set to False before rows come that are not so, or before some are taken out.
    """

    __slots__ = ("as_scanned", "entries", "generations", "keys", "lengths", "skipped")

    def __init__(self) -> None:
        self.entries = EntryTable()
        self.skipped: list[tuple[bytes, str]] = []
        self.lengths = array("I")
        self.keys = bytearray()
        self.generations = array("I")  # the last column that a new row is put into
        self.as_scanned = True

    def skip(self, path: bytes, reason: str) -> None:
        """List a file as skipped."""
        self.as_scanned = False
        self.skipped.append((path, reason))

    def add_row(self, length: int, key: bytes, generation: int) -> None:
        """Append a chunk; from here on others may see it."""
        self.keys += key
        self.lengths.append(length)
        self.generations.append(generation)

    def add_rows(self, other: Section, first: int) -> None:
        """Append the chunks of another one from `first` on."""
        self.keys += other.keys[KEY_BYTES * first :]
        self.lengths += other.lengths[first:]
        self.generations += other.generations[first:]

    def drop_rows(self, first: int) -> None:
        """Take the chunks from `first` on out again."""
        self.as_scanned = False
        del self.lengths[first:]
        del self.generations[first:]
        del self.keys[KEY_BYTES * first :]


class FileEnded(Exception):
    """A file is shorter than it was."""


def _is_dense(extents: Extents, size: int) -> bool:
    return not size or (len(extents) == 1 and extents[0] == (0, size))


def make_file_entry(path: bytes, info: os.stat_result, extents: Extents) -> ScannedEntry:
    """Return the entry of a file that was read as `info` says."""
    return ScannedEntry(
        path,
        EntryKind.FILE,
        permissions(info.st_mode),
        info.st_mtime_ns,
        info.st_size,
        extents=None if _is_dense(extents, info.st_size) else extents,
    )


def is_as_scanned(entry: ScannedEntry, info: os.stat_result, extents: Extents) -> bool:
    """Whether an open file is what the scan found."""
    scanned = [(0, entry.size)] if entry.extents is None and entry.size else entry.extents or []
    return (entry.size, entry.mtime_ns) == (info.st_size, info.st_mtime_ns) and scanned == extents


def is_changed(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file was written to between two looks at it."""
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )
