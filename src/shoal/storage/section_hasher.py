"""Section hasher: reads the files of one section, cuts and hashes them; the part of hashing that one thread
runs.

One buffer, run to completion: read into it, cut, hash, move the uncertain rest to its front. Measured on
tmpfs with two threads: see tools/measure_hashing.py.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Container, Sequence
from typing import Final, Protocol

from shoal.content.cut import CHUNK_MAX_BYTES, Cutter
from shoal.content.keys import ChunkKeys
from shoal.content.manifest import EntryKind
from shoal.content.stream import LARGE_FILE_BYTES
from shoal.core.errors import Unavailable
from shoal.core.units import MIB
from shoal.storage.entry_table import TIME_REASON, ScannedEntry, is_time_in_range
from shoal.storage.extents import Extents, find_extents
from shoal.storage.file_data import FileData
from shoal.storage.scan import reason_of
from shoal.storage.section import (
    FileEnded,
    Section,
    is_as_scanned,
    is_changed,
    make_file_entry,
)
from shoal.storage.tree_handles import TreeHandles, read_exactly

BUFFER_BYTES: Final = 8 * MIB
REPORT_BYTES: Final = 16 * MIB  # between two calls of `progress`
CHANGED: Final = "it changed while it was read"


class Turns(Protocol):
    """Who may go on of several hashing threads. Each calls it for itself."""

    def take(self, cancelled: threading.Event) -> None:
        """Block while others go first, before each buffer; end soon once `cancelled` is set."""
        ...

    def rest(self) -> None:
        """Let others go on: the thread waits for something else, or ends."""
        ...


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
        turns: Turns | None = None,
    ) -> None:
        self._handles = handles
        self._turns = turns
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
                section.entries.append(entry)
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
        self.tell()

    def _add_file(self, entry: ScannedEntry, fd: int) -> None:
        path = entry.path
        for _ in range(2):
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                self._section.skip(path, CHANGED)
                return
            if not is_time_in_range(before.st_mtime_ns):
                self._section.skip(path, TIME_REASON)
                return
            extents = find_extents(fd, before)
            if not is_as_scanned(entry, before, extents):
                self._section.as_scanned = False
            data = sum(length for _, length in extents)
            read = self._read_small if data < LARGE_FILE_BYTES else self._read_large
            if read(fd, extents, data, before):
                self._section.entries.append(make_file_entry(path, before, extents))
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
        if is_changed(before, os.fstat(fd)):
            self._filled = start
            return False
        return True

    def _read_large(self, fd: int, extents: Extents, _data: int, before: os.stat_result) -> bool:
        """Make a large file a section of its own; False, and nothing appended, if it changed."""
        self._cut(final=True)
        section, data = self._section, FileData(fd, extents)
        rows = len(section.lengths)
        try:
            self.cut_run(section, data, 0, data.size)
        except FileEnded:
            section.drop_rows(rows)
            return False
        except OSError:
            section.drop_rows(rows)
            raise
        if is_changed(before, os.fstat(fd)):
            section.drop_rows(rows)
            return False
        return True

    def cut_run(
        self,
        into: Section,
        data: FileData,
        start: int,
        stop: int,
        *,
        known: Container[int] = (),
        step_bytes: int = BUFFER_BYTES,
        counted: bool = True,
    ) -> int:
        """Cut and hash data from `start`, a cut, until a cut at or behind `stop`, or at one of `known`.

        Returns which cut that is. Reads `step_bytes` at a time; not `counted` is what is done again. Not
        within `hash_section`. Raises: OSError, FileEnded, Unavailable (code "cancelled"); rows are left.
        """
        buffer, limit = self._buffer, min(stop + CHUNK_MAX_BYTES, data.size)
        position = read_to = start
        while position < stop and position not in known:
            self._pause()
            filled = read_to - position
            run = min(BUFFER_BYTES - filled, limit - read_to, step_bytes)
            for offset, length in data.ranges(read_to, run):
                if not read_exactly(data.fd, buffer[filled : filled + length], offset):
                    raise FileEnded
                filled += length
            read_to += run
            before, first = position, 0
            for length in self._cutter.cut(buffer[:filled], final=read_to == data.size):
                into.add_row(length, self._key(buffer[first : first + length]), self._generation)
                first += length
                position += length
                if position >= stop or position in known:
                    break
            if first and first < filled:
                buffer[: filled - first] = buffer[first:filled]
            if counted:
                self._count(min(position, stop) - before)
        return position

    def rest(self) -> None:
        """Let others go on, before this thread waits for something else than its turn, or ends."""
        if self._turns is not None:
            self._turns.rest()

    def tell(self, files: int = 0) -> None:
        """Report what was done; `files` whose data was counted run by run are done too."""
        self._report(self._bytes, self._files + files)
        self._bytes = self._files = 0

    def _cut(self, *, final: bool) -> None:
        """Cut and hash what is certain in the buffer; what is not moves to its front (less than a chunk)."""
        self._pause()
        section, buffer, filled = self._section, self._buffer, self._filled
        position = 0
        for length in self._cutter.cut(buffer[:filled], final=final):
            section.add_row(length, self._key(buffer[position : position + length]), self._generation)
            position += length
        if position and position < filled:
            buffer[: filled - position] = buffer[position:filled]
        self._filled = filled - position
        self._count(position)

    def _pause(self) -> None:
        """Let others go first. Raises: Unavailable (code "cancelled")."""
        if self._turns is not None:
            self._turns.take(self._cancelled)
        if self._cancelled.is_set():
            raise Unavailable("Hashing was stopped", code="cancelled")

    def _count(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        if self._bytes >= REPORT_BYTES:
            self.tell()


assert BUFFER_BYTES >= 2 * CHUNK_MAX_BYTES + LARGE_FILE_BYTES  # room for a file behind an uncertain rest
