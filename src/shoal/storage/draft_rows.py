"""Draft rows: the chunks of a share in stream order, seen while hashing still goes on.

Sections are hashed side by side; what can be told is the run of finished ones at the front and what is there
of the next. Where a section comes out differently from what the scan found, the rest of it is a gap.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from shoal.content.draft import DraftChunk, make_gap
from shoal.content.manifest import KEY_BYTES
from shoal.storage.entry_table import ScannedEntry
from shoal.storage.section import Section


class DraftRows:
    """Collects rows from hashing threads (`begin`, `end`) for one other thread (`take`)."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._lock = threading.Lock()
        self._running: dict[int, tuple[int, Section]] = {}  # number -> data as scanned; only what is not told
        self._ended: set[int] = set()
        self._number = 0  # the section that rows are taken from now
        self._taken = 0  # rows of it
        self._taken_bytes = 0

    def begin(self, number: int, entries: Sequence[ScannedEntry], section: Section) -> None:
        """Note a section that is being hashed from now on."""
        with self._lock:
            self._running[number] = (sum(entry.data_bytes for entry in entries), section)

    def end(self, number: int) -> None:
        """Note that a section has all its rows."""
        with self._lock:
            self._ended.add(number)

    def take(self) -> list[DraftChunk]:
        """Return the rows that can be told since the last call."""
        rows: list[DraftChunk] = []
        while True:
            with self._lock:
                found = self._running.get(self._number)
                has_ended = self._number in self._ended
            if found is None:
                return rows
            data_bytes, section = found
            new = self._read(section, data_bytes)
            self._taken += len(new)
            self._taken_bytes += sum(row.length for row in new)
            rows += new
            if not has_ended:
                return rows
            rows += make_gap(data_bytes - self._taken_bytes, self._generation)
            with self._lock:
                del self._running[self._number]
                self._ended.discard(self._number)
            self._number += 1
            self._taken = self._taken_bytes = 0

    def _read(self, section: Section, data_bytes: int) -> list[DraftChunk]:
        first, end = self._taken, len(section.generations)
        lengths = section.lengths[first:end]
        keys = bytes(section.keys[KEY_BYTES * first : KEY_BYTES * end])
        generations = section.generations[first:end]
        if not section.as_scanned or self._taken_bytes + sum(lengths) > data_bytes:
            return []  # looked at last: what was copied is right if nothing had changed by then
        return [
            DraftChunk(length, keys[KEY_BYTES * row : KEY_BYTES * (row + 1)], generation)
            for row, (length, generation) in enumerate(zip(lengths, generations, strict=True))
        ]
