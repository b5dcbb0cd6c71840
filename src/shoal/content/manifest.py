"""Manifest: what a share holds, compact in memory: entries in path order, and the chunks of their data.

Used by sharer and getter alike. It is filled row by row, by `ManifestBuilder` from a disk or by
`load_manifest` from a peer's segments, and every row is checked while it is added; afterwards it is only
read, which is safe from several threads. A small file costs its path and about 90 bytes, a chunk 44 bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple, overload

from shoal.content.cut import CHUNK_MAX_BYTES
from shoal.content.paths import TARGET_BYTES, display_path, find_path_problem, find_top_problem, order_key
from shoal.content.stream import ExtentMap, Piece
from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.wire.limits import PATH_BYTES

ENTRY_LIMIT: Final = 8 * 1024 * 1024  # files, folders and links of a share
CHUNK_LIMIT: Final = 16 * 1024 * 1024  # 8 TiB at the average length
EXTENT_LIMIT: Final = 16_384  # of one file; scanners fill small holes with zeros to stay below
SIZE_LIMIT: Final = 2**63 - 1
TIME_LIMIT: Final = 2**63
PERMISSIONS: Final = 0o777  # setuid, setgid and sticky bits are not carried
KEY_BYTES: Final = 32


class EntryKind(IntEnum):
    """What an entry is; the numbers are part of the format."""

    FILE = 0
    DIR = 1
    SYMLINK = 2


_PERMISSIONS: Final = tuple(range(PERMISSIONS + 1))
_KINDS: Final = tuple(EntryKind)  # by number; looking one up this way is five times as fast as EntryKind(n)


class FileEntry(NamedTuple):
    """One file, folder or symbolic link. `extents` are (file offset, length, stream offset) of its data."""

    path: bytes
    kind: EntryKind
    mode: int
    mtime_ns: int
    size: int = 0
    extents: tuple[tuple[int, int, int], ...] = ()
    target: bytes = b""


class ManifestHeader(NamedTuple):
    """What a reader has to know before it reads rows; the numbers' meanings are in spec/manifest.md."""

    space: bytes
    generation: int
    chunker: int = 1
    seed_rule: int = 1
    hash: int = 1
    seal: int = 1
    codec: int = 0


class Manifest:
    """Entries and chunks of one version of a share. `files` are all entries, folders and links too."""

    def __init__(self, header: ManifestHeader) -> None:
        self.header = header
        self.content_id: bytes | None = None  # set once the root is known
        self.total_bytes = 0  # sum of file sizes, holes included: what people see
        self.dir_count = 0
        self._paths = bytearray()
        self._path_end = array("Q")
        self._kinds = bytearray()
        self._modes = array("H")
        self._mtimes = array("q")
        self._sizes = array("Q")
        self._targets: dict[int, bytes] = {}
        self._map = ExtentMap()
        self._chunk_start = array("Q", [0])
        self._chunk_keys = bytearray()
        self._generations = array("I")
        self._last_key = b""
        self._open_dirs: list[bytes] = []  # the folders that the next entry can be in
        self._parent = b""  # the folder of the last entry

    # -- reading -----------------------------------------------------------------------------------------

    @property
    def files(self) -> FileTable:
        """All entries, as a sequence that makes them when they are asked for."""
        return FileTable(self)

    @property
    def chunk_count(self) -> int:
        return len(self._chunk_start) - 1

    @property
    def file_count(self) -> int:
        """How many entries are files (not folders, not links)."""
        return len(self._kinds) - self.dir_count - len(self._targets)

    @property
    def stream_bytes(self) -> int:
        """How many bytes have to be fetched: the data of all files, without holes."""
        return self._map.stream_bytes

    @property
    def held_bytes(self) -> int:
        """How much memory this takes, without the targets of links."""
        columns = (
            self._path_end,
            self._modes,
            self._mtimes,
            self._sizes,
            self._chunk_start,
            self._generations,
        )
        rows = sum(len(column) * column.itemsize for column in columns)
        return rows + len(self._paths) + len(self._kinds) + len(self._chunk_keys) + self._map.held_bytes

    def __len__(self) -> int:
        return len(self._kinds)

    def entry(self, index: int) -> FileEntry:
        """Return an entry. Raises: IndexError."""
        return FileEntry(
            self.path(index),
            _KINDS[self._kinds[index]],
            self._modes[index],
            self._mtimes[index],
            self._sizes[index],
            self._map.extents(index),
            self._targets.get(index, b""),
        )

    def path(self, index: int) -> bytes:
        """Return an entry's path."""
        return bytes(self._paths[self._path_end[index - 1] if index else 0 : self._path_end[index]])

    def kind(self, index: int) -> EntryKind:
        """Return what an entry is."""
        return _KINDS[self._kinds[index]]

    def iter_kind(self, kind: EntryKind) -> Iterator[int]:
        """Yield the indices of all entries of one kind, ascending; those of other kinds cost nothing."""
        kinds = self._kinds
        index = kinds.find(kind)
        while index >= 0:
            yield index
            index = kinds.find(kind, index + 1)

    def mode(self, index: int) -> int:
        """Return an entry's permissions."""
        return self._modes[index]

    def size(self, index: int) -> int:
        """Return a file's size, holes included; 0 for others."""
        return self._sizes[index]

    def mtime_ns(self, index: int) -> int:
        """Return an entry's time of last change."""
        return self._mtimes[index]

    def data_bytes(self, index: int) -> int:
        """Return how much of a file is data."""
        return self._map.data_bytes(index)

    def find_file(self, path: bytes) -> int | None:
        """Return the index of the entry at `path`, or None."""
        index = self.find_first(path)
        return index if index < len(self) and self.path(index) == path else None

    def find_first(self, path: bytes) -> int:
        """Return the index of the first entry that is not before `path`; the number of entries if all are."""
        wanted, low, high = order_key(path), 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if order_key(self.path(middle)) < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def find_end(self, prefix: bytes, first: int) -> int:
        """Return where the run of paths ends that begin with `prefix`, which begins at `first` if at all."""
        low, high = first, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.path(middle).startswith(prefix):
                low = middle + 1
            else:
                high = middle
        return low

    def chunk(self, ordinal: int) -> tuple[int, int, bytes]:
        """Return a chunk's (stream offset, length, key). Raises: IndexError."""
        if not 0 <= ordinal < self.chunk_count:
            raise IndexError(ordinal)
        start = self._chunk_start[ordinal]
        return start, self._chunk_start[ordinal + 1] - start, self.chunk_key(ordinal)

    @property
    def chunk_end(self) -> int:
        """How much of the stream all chunks added so far are."""
        return self._chunk_start[-1]

    def chunk_length(self, ordinal: int) -> int:
        """Return a chunk's length in bytes."""
        return self._chunk_start[ordinal + 1] - self._chunk_start[ordinal]

    def chunk_stop(self, ordinal: int) -> int:
        """Return where a chunk ends in the stream."""
        return self._chunk_start[ordinal + 1]

    def chunk_key(self, ordinal: int) -> bytes:
        """Return a chunk's key, which is the keyed hash of its plaintext."""
        return bytes(self._chunk_keys[KEY_BYTES * ordinal : KEY_BYTES * (ordinal + 1)])

    def key_words(self) -> memoryview:
        """Return the first 8 bytes of each chunk's key as a number in this machine's byte order; no copy.

        Only once the manifest is complete.
        """
        return memoryview(self._chunk_keys).toreadonly().cast("Q")[:: KEY_BYTES // 8]

    def chunk_generation(self, ordinal: int) -> int:
        """Return the generation of the content secret that a chunk's key was made with."""
        return self._generations[ordinal]

    def generations(self) -> set[int]:
        """Return all generations that chunks were made with."""
        return set(self._generations)

    def pieces(self, ordinal: int) -> list[Piece]:
        """Return which bytes of which files a chunk is: (file index, file offset, length), in order."""
        start, length, _ = self.chunk(ordinal)
        return self._map.pieces(start, length)

    def chunks_of(self, file_index: int) -> range:
        """Return the ordinals of the chunks that hold a file's data; empty for what has none."""
        return self.chunks_between(self._map.stream_start(file_index), self._map.stream_end(file_index))

    def stream_range(self, file_index: int) -> tuple[int, int]:
        """Return where a file's data begins and ends in the stream."""
        return self._map.stream_start(file_index), self._map.stream_end(file_index)

    def chunks_between(self, start: int, end: int) -> range:
        """Return the ordinals of the chunks that overlap [start, end) of the stream."""
        if start >= end:
            return range(0)
        first = bisect_right(self._chunk_start, start) - 1
        last = bisect_right(self._chunk_start, end - 1) - 1
        return range(first, last + 1)

    def find_below(self, index: int) -> int:
        """Return where what lies below a folder ends: the first index behind it. For others the next one."""
        if self._kinds[index] != EntryKind.DIR:
            return index + 1
        return self.find_end(self.path(index) + b"/", index + 1)

    def iter_tops(self) -> Iterator[int]:
        """Yield the indices of the entries at the top, ascending."""
        index = 0
        while index < len(self):
            yield index
            index = self.find_below(index)

    def top_names(self) -> list[bytes]:
        """Return the first components of all paths, each once, in order."""
        return [self.path(index) for index in self.iter_tops()]

    # -- filling -----------------------------------------------------------------------------------------

    def add_entry(
        self,
        path: bytes,
        kind: int,
        mode: int,
        mtime_ns: int,
        size: int = 0,
        extents: Sequence[tuple[int, int]] | None = None,
        target: bytes = b"",
    ) -> None:
        """Add the next entry. `extents` are a file's data as (offset, length); None means all of it is data.

        Raises: MalformedMessage if it cannot stand here, LimitExceeded by number.
        """
        if len(self._kinds) >= ENTRY_LIMIT:
            raise LimitExceeded("a manifest with too many entries", cause=f"at most {ENTRY_LIMIT}")
        order = order_key(path)
        problem = self._find_entry_problem(path, order, kind, mode, mtime_ns, size, target)
        if extents is None:
            extents = ((0, size),) if size else ()
        elif problem is None:
            problem = _find_extent_problem(size, extents)
        if problem is None and self.total_bytes + size > SIZE_LIMIT:  # data is never more than that
            problem = "all files together are too large"
        if problem is not None:
            raise MalformedMessage(f"a manifest entry {display_path(path[:200])}", cause=problem)
        index = len(self._kinds)
        self._paths += path
        self._path_end.append(len(self._paths))
        self._kinds.append(kind)
        self._modes.append(mode)
        self._mtimes.append(mtime_ns)
        self._sizes.append(size)
        self._map.append(extents)
        self.total_bytes += size
        if kind == EntryKind.SYMLINK:
            self._targets[index] = target
        elif kind == EntryKind.DIR:
            self._open_dirs.append(path)
            self.dir_count += 1
        self._last_key = order

    def add_chunk(self, length: int, key: bytes, generation: int) -> None:
        """Add the next chunk. Raises: MalformedMessage, LimitExceeded."""
        if self.chunk_count >= CHUNK_LIMIT:
            raise LimitExceeded("a manifest with too many chunks", cause=f"at most {CHUNK_LIMIT}")
        if not 0 < length <= CHUNK_MAX_BYTES or len(key) != KEY_BYTES:
            raise MalformedMessage("a manifest chunk", cause=f"a length of {length} or a wrong key")
        self._chunk_start.append(self._chunk_start[-1] + length)
        self._chunk_keys += key
        self._generations.append(generation)

    def check_complete(self) -> None:
        """Check that the chunks are exactly the data. Raises: MalformedMessage."""
        if self._chunk_start[-1] != self._map.stream_bytes:
            raise MalformedMessage(
                "a manifest whose chunks and files differ",
                cause=f"{self._chunk_start[-1]} bytes in chunks, {self._map.stream_bytes} in files",
            )

    def _find_entry_problem(
        self, path: bytes, order: bytes, kind: int, mode: int, mtime_ns: int, size: int, target: bytes
    ) -> str | None:
        parent, _, name = path.rpartition(b"/")
        if parent != self._parent or not parent or find_path_problem(name) is not None:
            if (problem := find_path_problem(path)) is not None:
                return problem
            if not parent and (problem := find_top_problem(path)) is not None:
                return problem
        elif len(path) > PATH_BYTES:  # its folder is known to be fine
            return find_path_problem(path)
        if order <= self._last_key:
            return "it is not after the entry before it, or stands twice"
        open_dirs = self._open_dirs
        while open_dirs and open_dirs[-1] != parent:
            open_dirs.pop()
        if parent and not open_dirs:
            return "what it lies in is not a folder of this share"
        self._parent = parent
        if not 0 <= mode <= PERMISSIONS or not -TIME_LIMIT <= mtime_ns < TIME_LIMIT:
            return "its mode or time is out of range"
        if kind == EntryKind.FILE:
            return None if 0 <= size <= SIZE_LIMIT and not target else "its size is out of range"
        if size:
            return "it has a size and is not a file"
        if kind == EntryKind.SYMLINK:
            fine = 0 < len(target) <= TARGET_BYTES and b"\x00" not in target
            return None if fine else "its target is not usable"
        return None if kind == EntryKind.DIR and not target else "its kind is unknown"


def _find_extent_problem(size: int, extents: Sequence[tuple[int, int]]) -> str | None:
    if len(extents) > EXTENT_LIMIT:
        return f"it has more than {EXTENT_LIMIT} extents"
    end = 0
    for offset, length in extents:
        if offset < end or length <= 0 or offset + length > size:
            return "its data extents overlap, are empty or lie outside of it"
        end = offset + length
    return None


class FileTable(Sequence[FileEntry]):
    """The entries of a manifest as a sequence; makes each entry when it is asked for."""

    __slots__ = ("_manifest",)

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def __len__(self) -> int:
        return len(self._manifest)

    @overload
    def __getitem__(self, index: int) -> FileEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[FileEntry]: ...
    def __getitem__(self, index: int | slice) -> FileEntry | list[FileEntry]:
        if isinstance(index, slice):
            return [self._manifest.entry(i) for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._manifest.entry(index)

    def paths(self) -> Iterator[bytes]:
        """Yield all paths, in order."""
        for index in range(len(self)):
            yield self._manifest.path(index)


def permissions(mode: int) -> int:
    """Return the part of an `st_mode` that a manifest carries; the same number object each time."""
    return _PERMISSIONS[mode & PERMISSIONS]
