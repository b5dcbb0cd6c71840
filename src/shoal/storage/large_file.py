"""Large file: one file cut and hashed by several threads, with exactly the cuts of one.

Each takes the next slice and cuts it as if a chunk began where it begins. Where a chunk ends depends on its
own bytes alone, so from the first cut on that is one of the file's, all cuts of the slice are. What lies
before that is cut anew from the last right one: a chunk or two of a slice, or all of it in data that repeats
itself without end, where the work is done twice and no more.
"""

from __future__ import annotations

import math
import os
import threading
from itertools import accumulate
from typing import Final

from shoal.core.undo import undone_on_failure
from shoal.core.units import MIB
from shoal.storage.entry_table import ScannedEntry
from shoal.storage.extents import find_extents
from shoal.storage.file_data import FileData
from shoal.storage.section import (
    FileEnded,
    Section,
    is_as_scanned,
    is_changed,
    make_file_entry,
)
from shoal.storage.section_hasher import SectionHasher
from shoal.storage.tree_handles import TreeHandles

SLICE_BYTES: Final = 64 * MIB  # what is cut twice is about a 50th of it
SPLIT_BYTES: Final = 2 * SLICE_BYTES  # smaller files are for one thread
STEP_BYTES: Final = 2 * MIB  # read at a time while a cut is looked for that both have


class LargeFile:
    """One file as it was scanned, read by whoever takes slices. Any thread.

    Whoever `take`s a slice calls `hash_slice`, and `finish` if that says so; `close` in the end.
    """

    def __init__(
        self, handles: TreeHandles, entry: ScannedEntry, section: Section, slice_bytes: int = SLICE_BYTES
    ) -> None:
        """Open it; rows go to `section`. Raises: OSError, FileEnded if it is not what was scanned."""
        self._entry = entry
        self.section = section
        self._rows = len(section.lengths)
        self._fd = handles.open(entry.path)
        with undone_on_failure(self.close):
            self._before = os.fstat(self._fd)
            self._extents = find_extents(self._fd, self._before)
            if not is_as_scanned(entry, self._before, self._extents):
                raise FileEnded
        self._data = FileData(self._fd, self._extents)
        self._slice_bytes = slice_bytes
        self._count = math.ceil(self._data.size / slice_bytes)
        self._lock = threading.Lock()  # of the three counts
        self._taken = 0
        self._running = 0
        self._failed = False
        self._joining = threading.Lock()  # of what follows, and of `section`
        self._hashed: dict[int, Section] = {}
        self._joined = 0  # slices
        self._position = 0  # the last cut in `section`

    def take(self) -> int | None:
        """Return the next slice; None if there is none to be hashed."""
        with self._lock:
            if self._failed or self._taken == self._count:
                return None
            self._taken += 1
            self._running += 1
            return self._taken - 1

    def hash_slice(self, number: int, hasher: SectionHasher) -> bool:
        """Hash a slice; whether nobody is to hash any more: then the caller has to call `finish`.

        Raises: Unavailable (code "cancelled").
        """
        try:
            rows = Section()
            start, stop = self._bounds(number)
            hasher.cut_run(rows, self._data, start, stop)
            hasher.tell()
            hasher.rest()  # who has the lock may need the turn
            with self._joining:
                self._hashed[number] = rows
                while not self._failed and (next_rows := self._hashed.pop(self._joined, None)) is not None:
                    self._join(next_rows, hasher)
        except (OSError, FileEnded):
            with self._lock:
                self._failed = True
        with self._lock:
            self._running -= 1
            return not self._running and (self._failed or self._taken == self._count)

    def finish(self, hasher: SectionHasher) -> None:
        """Put the file's entry into its section; if it changed, hash it again as any other."""
        failed = self._failed or is_changed(self._before, os.fstat(self._fd))
        self.close()
        if failed:
            self.section.drop_rows(self._rows)
            hasher.hash_section([self._entry], self.section)
        else:
            self.section.entries.append(make_file_entry(self._entry.path, self._before, self._extents))
            hasher.tell(files=1)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _bounds(self, number: int) -> tuple[int, int]:
        start = number * self._slice_bytes
        return start, min(start + self._slice_bytes, self._data.size)

    def _join(self, rows: Section, hasher: SectionHasher) -> None:
        """Append the next slice, from the first cut on that is right."""
        start, stop = self._bounds(self._joined)
        cuts = list(accumulate(rows.lengths, initial=start))
        row_at = {cut: row for row, cut in enumerate(cuts)}
        position = hasher.cut_run(
            self.section, self._data, self._position, stop, known=row_at, step_bytes=STEP_BYTES, counted=False
        )
        if position in row_at:
            self.section.add_rows(rows, row_at[position])
            position = cuts[-1]
        self._position = position
        self._joined += 1
