"""Section hasher: reads the files of one section, cuts and hashes them; the part of hashing that one thread
runs.

One buffer, run to completion: read into it, cut, hash, move the uncertain rest to its front. Measured on
tmpfs with two threads: see tools/measure_hashing.py.
"""

from __future__ import annotations

import os
import stat
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from shoal.content.cut import CHUNK_MAX_BYTES, Cutter
from shoal.content.keys import ChunkKeys
from shoal.content.manifest import EntryKind, permissions
from shoal.content.stream import LARGE_FILE_BYTES
from shoal.core.errors import Unavailable
from shoal.core.units import MIB
from shoal.storage.extents import Extents, find_extents
from shoal.storage.scan import ScannedEntry, reason_of
from shoal.storage.tree_handles import TreeHandles, read_exactly

BUFFER_BYTES: Final = 8 * MIB
REPORT_BYTES: Final = 16 * MIB  # between two calls of `progress`
CHANGED: Final = "it changed while it was read"


WaitTurn = Callable[[threading.Event], None]  # blocks while others go first; ends soon once the event is set


class HashedEntry(NamedTuple):
    """What goes into the manifest for an entry; `extents` None means that all of the file is data."""

    path: bytes
    kind: EntryKind
    mode: int
    mtime_ns: int
    size: int
    extents: Extents | None
    target: bytes


class Section:
    """What hashing a run of entries gave: rows of the manifest, in order.

    While it is hashed the rows that are there are right as long as `as_scanned`: all that was read so far is
    as the scan found it. That is set to False before rows come that are not so, or before some are taken out.
    """

    __slots__ = ("as_scanned", "entries", "generations", "keys", "lengths", "skipped")

    def __init__(self) -> None:
        self.entries: list[HashedEntry] = []
        self.skipped: list[tuple[bytes, str]] = []
        self.lengths = array("I")
        self.keys = bytearray()
        self.generations = array("I")  # the last column that a new row is put into
        self.as_scanned = True

    def skip(self, path: bytes, reason: str) -> None:
        """List a file as skipped."""
        self.as_scanned = False
        self.skipped.append((path, reason))


class SectionHasher:
    """Hashes sections one after the other. One a thread; `report(bytes, files)` is called with what was
    done since.

    A file is statted before and after it is read. If it changed it is read once more; if it changes again it
    is skipped.
    """

    def __init__(
        self,
        handles: TreeHandles,
        cut_seed: int,
        chunk_keys: ChunkKeys,
        generation: int,
        report: Callable[[int, int], None],
        cancelled: threading.Event,
        wait_turn: WaitTurn | None = None,
    ) -> None:
        self._handles = handles
        self._wait_turn = wait_turn
        self._cutter = Cutter(cut_seed)
        self._key = chunk_keys.key
        self._generation = generation
        self._report = report
        self._cancelled = cancelled
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._filled = 0
        self._bytes = 0
        self._files = 0
        self._section = Section()

    def hash_section(self, entries: Sequence[ScannedEntry], section: Section) -> None:
        """Put the rows of `entries` into `section`. Raises: Unavailable (code "cancelled")."""
        self._section = section
        self._filled = 0
        for entry in entries:
            if entry.kind is not EntryKind.FILE:
                section.entries.append(
                    HashedEntry(entry.path, entry.kind, entry.mode, entry.mtime_ns, 0, None, entry.target)
                )
                continue
            try:
                fd = self._handles.open(entry.path)
            except OSError as error:
                section.skip(entry.path, reason_of(error))
                continue
            try:
                self._add_file(entry, fd)
            except OSError as error:
                section.skip(entry.path, reason_of(error))
            finally:
                os.close(fd)
            self._files += 1
        self._cut(final=True)
        self._tell()

    def _add_file(self, entry: ScannedEntry, fd: int) -> None:
        path = entry.path
        for _ in range(2):
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                self._section.skip(path, CHANGED)
                return
            extents = find_extents(fd, before)
            if not _is_as_scanned(entry, before, extents):
                self._section.as_scanned = False
            data = before.st_size if _is_dense(extents, before.st_size) else sum(e[1] for e in extents)
            read = self._read_small if data < LARGE_FILE_BYTES else self._read_large
            if read(fd, extents, data, before):
                dense = _is_dense(extents, before.st_size)
                self._section.entries.append(
                    HashedEntry(
                        path,
                        EntryKind.FILE,
                        permissions(before.st_mode),
                        before.st_mtime_ns,
                        before.st_size,
                        None if dense else extents,
                        b"",
                    )
                )
                return
        self._section.skip(path, CHANGED)

    def _read_small(self, fd: int, extents: Extents, data: int, before: os.stat_result) -> bool:
        """Append a small file to the section; False, and nothing appended, if it changed."""
        if self._filled + data > BUFFER_BYTES:
            self._cut(final=False)
        start = end = self._filled
        for offset, length in extents:
            if not read_exactly(fd, self._buffer[end : end + length], offset):
                return False
            end += length
        self._filled = end
        if _changed(before, os.fstat(fd)):
            self._filled = start
            return False
        return True

    def _read_large(self, fd: int, extents: Extents, _data: int, before: os.stat_result) -> bool:
        """Make a large file a section of its own; False, and nothing appended, if it changed."""
        self._cut(final=True)
        section = self._section
        rows = len(section.lengths)
        for offset, length in extents:
            end = offset + length
            while offset < end:
                if self._filled == BUFFER_BYTES:
                    self._cut(final=False)
                run = min(BUFFER_BYTES - self._filled, end - offset)
                try:
                    is_there = read_exactly(fd, self._buffer[self._filled : self._filled + run], offset)
                except OSError:
                    self._drop_rows(rows)
                    raise
                if not is_there:
                    return self._drop_rows(rows)
                self._filled += run
                offset += run
        self._cut(final=True)
        if _changed(before, os.fstat(fd)):
            return self._drop_rows(rows)
        return True

    def _drop_rows(self, rows: int) -> bool:
        self._filled = 0
        self._section.as_scanned = False
        del self._section.lengths[rows:]
        del self._section.generations[rows:]
        del self._section.keys[32 * rows :]
        return False

    def _cut(self, *, final: bool) -> None:
        """Cut and hash what is certain in the buffer; what is not moves to its front (less than a chunk)."""
        if self._wait_turn is not None:
            self._wait_turn(self._cancelled)
        if self._cancelled.is_set():
            raise Unavailable("Hashing was stopped", code="cancelled")
        section, buffer, filled = self._section, self._buffer, self._filled
        position = 0
        for length in self._cutter.cut(buffer[:filled], final=final):
            section.keys += self._key(buffer[position : position + length])
            section.lengths.append(length)
            # from here on others may see the row
            section.generations.append(self._generation)
            position += length
        if position and position < filled:
            buffer[: filled - position] = buffer[position:filled]
        self._filled = filled - position
        self._bytes += position
        if self._bytes >= REPORT_BYTES:
            self._tell()

    def _tell(self) -> None:
        self._report(self._bytes, self._files)
        self._bytes = self._files = 0


def _is_dense(extents: Extents, size: int) -> bool:
    return not size or (len(extents) == 1 and extents[0] == (0, size))


def _is_as_scanned(entry: ScannedEntry, info: os.stat_result, extents: Extents) -> bool:
    scanned = [(0, entry.size)] if entry.extents is None and entry.size else entry.extents or []
    return (entry.size, entry.mtime_ns) == (info.st_size, info.st_mtime_ns) and scanned == extents


def _changed(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


assert BUFFER_BYTES >= 2 * CHUNK_MAX_BYTES + LARGE_FILE_BYTES  # room for a file behind an uncertain rest
