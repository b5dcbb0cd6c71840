"""Entry table: what was found at the paths of a share, in columns; makes an entry when it is asked for.

Lists of entries took 400 bytes of small objects a file, and gave little of it back: Python's arenas of a MiB
stay as long as one object lives in them (docs/decisions/0009-memory-of-many-files.md). Columns are large
buffers, whose memory goes back to the system at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, overload

import msgspec

from shoal.content.manifest import TIME_LIMIT, EntryKind
from shoal.content.manifest_builder import ManifestBuilder
from shoal.storage.extents import Extents

TIME_REASON: Final = "its time is out of range: before 1678 or after 2262"
_KINDS: Final = tuple(EntryKind)


class ScannedEntry(msgspec.Struct, frozen=True, gc=False):
    """What was found at a share path; `extents` are where a file has data, None: all of it is."""

    path: bytes
    kind: EntryKind
    mode: int
    mtime_ns: int
    size: int = 0
    target: bytes = b""
    extents: Extents | None = None

    @property
    def data_bytes(self) -> int:
        """The size without holes."""
        return self.size if self.extents is None else sum(length for _, length in self.extents)


class EntryTable(Sequence[ScannedEntry]):
    """Entries in the order in which they are appended; a path and 27 bytes each.

    A slice refers to the table: it shows entries as they are there, and copies nothing.
    """

    __slots__ = ("_extents", "_kinds", "_modes", "_mtimes", "_path_end", "_paths", "_sizes", "_targets")

    def __init__(self) -> None:
        self._paths = bytearray()
        self._path_end = array("Q", [0])
        self._kinds = bytearray()
        self._modes = array("H")
        self._mtimes = array("q")
        self._sizes = array("Q")
        self._targets: dict[int, bytes] = {}
        self._extents: dict[int, Extents] = {}  # of files with holes

    def append(self, entry: ScannedEntry) -> None:
        """Append an entry. Its time is within TIME_LIMIT (`is_time_in_range`), for it is 64 bits here."""
        index = len(self._kinds)
        self._paths += entry.path
        self._path_end.append(len(self._paths))
        self._modes.append(entry.mode)
        self._mtimes.append(entry.mtime_ns)
        self._sizes.append(entry.size)
        if entry.target:
            self._targets[index] = entry.target
        if entry.extents is not None:
            self._extents[index] = entry.extents
        self._kinds.append(entry.kind)

    def __len__(self) -> int:
        return len(self._kinds)

    @overload
    def __getitem__(self, index: int) -> ScannedEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ScannedEntry]: ...
    def __getitem__(self, index: int | slice) -> ScannedEntry | Sequence[ScannedEntry]:
        if isinstance(index, slice):
            return _Run(self, range(len(self))[index])
        number = range(len(self))[index]
        return ScannedEntry(
            bytes(self._paths[self._path_end[number] : self._path_end[number + 1]]),
            _KINDS[self._kinds[number]],
            self._modes[number],
            self._mtimes[number],
            self._sizes[number],
            self._targets.get(number, b""),
            self._extents.get(number),
        )

    def iter_data_bytes(self) -> Iterator[int]:
        """Yield how much of each entry is data."""
        for number, size in enumerate(self._sizes):
            extents = self._extents.get(number)
            yield size if extents is None else sum(length for _, length in extents)


class _Run(Sequence[ScannedEntry]):
    """Some entries of a table."""

    __slots__ = ("_range", "_table")

    def __init__(self, table: EntryTable, numbers: range) -> None:
        self._table = table
        self._range = numbers

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> ScannedEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ScannedEntry]: ...
    def __getitem__(self, index: int | slice) -> ScannedEntry | Sequence[ScannedEntry]:
        if isinstance(index, slice):
            return _Run(self._table, self._range[index])
        return self._table[self._range[index]]


def is_time_in_range(mtime_ns: int) -> bool:
    """Whether a time of last change can be written down; some filesystems know times that cannot."""
    return -TIME_LIMIT <= mtime_ns < TIME_LIMIT


def add_entries(builder: ManifestBuilder, entries: Iterable[ScannedEntry]) -> None:
    """Put entries into a manifest, in share order. Raises: LocalMisuse for what cannot stand there."""
    for entry in entries:
        builder.add_entry(
            entry.path,
            entry.kind,
            entry.mode,
            entry.mtime_ns,
            entry.size,
            entry.extents,
            entry.target,
        )
