"""Destination: what lies already where a share shall be written, compared with the share.

Nothing here changes the destination. Folders below it are opened one by one without following links: a link
where the share has a folder is a conflict, not a way out.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Final

from shoal.content.comparison import NO_ENTRY, is_same_data, pair_entries
from shoal.content.keys import ChunkKeys
from shoal.content.manifest import EntryKind, Manifest
from shoal.content.paths import display_path
from shoal.content.selection import Selection
from shoal.content.stream import Piece
from shoal.core.errors import Refused
from shoal.core.units import MIB
from shoal.storage.extents import find_holes
from shoal.storage.selected_chunks import SelectedChunks
from shoal.storage.tree_handles import TreeHandles, read_exactly
from shoal.storage.tree_reader import is_same_time

SHOWN_LIMIT: Final = 5  # conflicting paths that an error names
COMPARE_BYTES: Final = MIB
_MOVE_AWAY: Final = "move it away or choose another folder"
_OVERWRITE: Final = "add --overwrite, or choose another folder"
_LOOK_AGAIN: Final = "run the same command again: it looks at everything anew, and fetches nothing twice"


class Place(IntEnum):
    """What lies at an entry's path in the destination."""

    ABSENT = 0
    UNKNOWN = 1  # a file of the same size, content not compared yet
    SAME = 2  # exactly what the share has: it is kept
    DIFFERENT = 3  # something else that may be replaced if the person allows it
    OUT = 4  # not selected: it is none of our business what lies there


class Destination:
    """The tree at DEST as far as the share has paths there. Not for several threads until it is settled."""

    def __init__(
        self,
        base: int,
        chunks: SelectedChunks,
        where: str,
        owned: Manifest | None = None,
        owned_part: Selection | None = None,
    ) -> None:
        """`owned` is what an earlier get put here, or only `owned_part` of it: files that are as it left them
        may be replaced.
        """
        self.chunks = chunks
        self.ours = bytearray(len(chunks.manifest))  # they are as the earlier get left them
        self._owned = owned
        self._owned_part = owned_part
        self.manifest = manifest = chunks.manifest
        self.handles = TreeHandles(base=base)
        self.places = bytearray(len(manifest))
        self._changed_ns = array(
            "q", bytes(8 * len(manifest))
        )  # ctime of what lay there when it was looked at
        self.free_tops: set[bytes] = set()  # top names that nothing lies at: renamed as a whole
        self._where = where

    def survey(self, *, overwrite: bool, displace: bool = False) -> None:
        """Look at every path of the share once. `displace`: everything gives way, for it is kept elsewhere.

        Raises: Refused (code "exists") for a file that must not be replaced, or for a folder or link where
        a file belongs or the other way round, which is not replaced even with `overwrite`. OSError.
        """
        manifest, owned = self.manifest, self._owned
        earlier = pair_entries(manifest, owned) if owned is not None else None
        self.free_tops.clear()
        blocked: list[bytes] = []
        self.places[:] = bytes(len(manifest))  # ABSENT
        if self.chunks.selection is not None:
            for index in range(len(manifest)):
                if not self.chunks.has(index):
                    self.places[index] = Place.OUT
        next_index = 0
        while (index := next_index) < len(manifest):
            next_index = index + 1
            if self.places[index] == Place.OUT:
                continue
            path = manifest.path(index)
            info = self.handles.lstat(path)
            if info is None:
                next_index = manifest.find_below(index)
                if b"/" not in path:
                    self.free_tops.add(path)
                continue
            self._changed_ns[index] = info.st_ctime_ns
            place = self._judge(index, path, info)
            self.ours[index] = False
            if earlier is not None and owned is not None and self._was_put(earlier[index]):
                self.ours[index] = is_as_recorded(owned, earlier[index], info)
                if (
                    place == Place.UNKNOWN
                    and self.ours[index]
                    and is_same_data(manifest, index, owned, earlier[index])
                ):
                    place = Place.SAME
            if place is None and displace:
                self.places[index] = Place.DIFFERENT
                next_index = manifest.find_below(index)
            elif place is None:
                blocked.append(path)
                next_index = manifest.find_below(index)
            else:
                self.places[index] = place
        if blocked:
            raise self._refuse(
                blocked, "of another kind (file, folder or link) than in the share", next_step=_MOVE_AWAY
            )
        if not overwrite:
            self.refuse_different()

    def _was_put(self, earlier: int) -> bool:
        return earlier != NO_ENTRY and (self._owned_part is None or self._owned_part.has(earlier))

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the share lies there: then all its top names are renamed as a whole."""
        return self.places.count(Place.ABSENT) + self.places.count(Place.OUT) == len(self.places)

    def iter_at(self, place: Place) -> Iterator[int]:
        """Yield the indices of the entries at which this lies, ascending; `places` may change meanwhile."""
        index = self.places.find(place)
        while index >= 0:
            yield index
            index = self.places.find(place, index + 1)

    def refuse_different(self) -> None:
        """Raises: Refused if something lies there that would have to be replaced."""
        different = [
            self.manifest.path(index) for index in self.iter_at(Place.DIFFERENT) if not self.ours[index]
        ]
        if different:
            raise self._refuse(different, "different from the share", next_step=_OVERWRITE)

    def note(self, index: int) -> None:
        """Remember a file as it is now: it was just compared, or changed by us. Raises: OSError."""
        info = self.handles.lstat(self.manifest.path(index))
        self._changed_ns[index] = info.st_ctime_ns if info is not None else 0

    def refuse_changed(self) -> None:
        """Raises: Refused if a file that is kept, or replaced because an earlier get put it there, is not
        what it was when we looked. OSError.
        """
        changed: list[bytes] = []
        for index in self.iter_at(Place.SAME):
            if self.manifest.kind(index) is EntryKind.FILE and not self.is_untouched(index):
                changed.append(self.manifest.path(index))
        for index in self.iter_at(Place.DIFFERENT):
            if self.ours[index] and not self.is_untouched(index):
                changed.append(self.manifest.path(index))
        if changed:
            raise self._refuse(changed, "not what it was when this began", next_step=_LOOK_AGAIN)

    def is_untouched(self, index: int) -> bool:
        """Whether what lies there is still what we looked at. Raises: OSError."""
        info = self.handles.lstat(self.manifest.path(index))
        return info is not None and info.st_ctime_ns == self._changed_ns[index]

    def find_kept(self) -> set[int]:
        """Return the chunks all of whose files lie there as an earlier get left them: nothing has to be read.

        Call it before `find_present`.
        """
        kept: set[int] = set()
        if self._owned is None:
            return kept
        manifest = self.manifest
        for index, place in enumerate(self.places):
            if place == Place.SAME and self.ours[index]:
                kept.update(manifest.chunks_of(index))
        for index, place in enumerate(self.places):
            if place != Place.OUT and (place != Place.SAME or not self.ours[index]):
                kept.difference_update(manifest.chunks_of(index))
        return kept

    def find_present(self, keys: Mapping[int, ChunkKeys], buffer: memoryview) -> set[int]:
        """Hash the files of the right size; return the chunks that are there, mark files that are the same.

        A file that was proved different is marked so; where a chunk spans several files it stays unknown
        which of them differs, and `compare` tells at the end.
        """
        manifest = self.manifest
        present: set[int] = set()
        tried: set[int] = set()
        for index, place in enumerate(self.places):
            if place != Place.UNKNOWN:
                continue
            for ordinal in manifest.chunks_of(index):
                if ordinal not in tried:
                    tried.add(ordinal)
                    if self._has_chunk(ordinal, keys, buffer):
                        present.add(ordinal)
        for index, place in enumerate(self.places):
            if place != Place.UNKNOWN:
                continue
            chunks = manifest.chunks_of(index)
            if all(ordinal in present for ordinal in chunks):
                same = self._holes_are_zero(index, buffer)
                self.places[index] = Place.SAME if same else Place.DIFFERENT
            elif any(o not in present and self._is_alone(o) for o in chunks):
                self.places[index] = Place.DIFFERENT
        return present

    def read_chunk(
        self, ordinal: int, keys: Mapping[int, ChunkKeys], buffer: memoryview
    ) -> memoryview | None:
        """Return the wanted bytes of a chunk as they lie there, verified after they were read; None if they
        are not right. Raises: StorageFault where they cannot be noted.
        """
        chunks = self.chunks
        view = buffer[: chunks.length(ordinal)]
        if self.read_pieces(chunks.pieces(ordinal), view) and chunks.is_right(ordinal, view, keys):
            return view
        generation = keys.get(self.manifest.chunk_generation(ordinal))
        if generation is None or not chunks.is_partial(ordinal):
            return None
        view = buffer[: self.manifest.chunk_length(ordinal)]  # files that are not wanted may lie there too
        if not self.read_pieces(self.manifest.pieces(ordinal), view):
            return None
        return (
            chunks.take(ordinal, view) if generation.key(view) == self.manifest.chunk_key(ordinal) else None
        )

    def read_pieces(self, pieces: Iterable[Piece], buffer: memoryview) -> bool:
        """Read pieces one after the other from the destination alone; False if they are not all there."""
        position = 0
        for piece in pieces:
            if not self.read_piece(
                piece.file_index, piece.file_offset, buffer[position : position + piece.length]
            ):
                return False
            position += piece.length
        return True

    def read_piece(self, index: int, offset: int, view: memoryview) -> bool:
        """Read a part of a file that lies there; False if it does not."""
        try:
            fd = self.handles.open(self.manifest.path(index))
        except OSError:
            return False
        try:
            return read_exactly(fd, view, offset)
        except OSError:
            return False
        finally:
            os.close(fd)

    def compare(self, index: int, other: int) -> bool:
        """Tell whether the file that lies there has the bytes of the open file `other`. Raises: OSError."""
        size = self.manifest.size(index)
        fd = self.handles.open(self.manifest.path(index))
        try:
            if os.fstat(fd).st_size != size:
                return False
            for offset in range(0, size, COMPARE_BYTES):
                length = min(COMPARE_BYTES, size - offset)
                if os.pread(fd, length, offset) != os.pread(other, length, offset):
                    return False
            return True
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close all descriptors but the base; idempotent."""
        self.handles.close()

    def _judge(self, index: int, path: bytes, info: os.stat_result) -> Place | None:
        """Return what lies at an entry's path; None if it can never give way."""
        kind, found = self.manifest.kind(index), stat.S_IFMT(info.st_mode)
        if kind is EntryKind.DIR:
            return Place.SAME if found == stat.S_IFDIR else None
        if found == stat.S_IFDIR:
            return None
        if kind is EntryKind.SYMLINK:
            if found != stat.S_IFLNK:
                return Place.DIFFERENT
            with self.handles.parent_of(path) as (fd, name):
                target = os.readlink(name, dir_fd=fd)
            return Place.SAME if target == self.manifest.entry(index).target else Place.DIFFERENT
        if found != stat.S_IFREG or info.st_size != self.manifest.size(index):
            return Place.DIFFERENT
        return Place.UNKNOWN if info.st_size else Place.SAME

    def _has_chunk(self, ordinal: int, keys: Mapping[int, ChunkKeys], buffer: memoryview) -> bool:
        pieces = self.chunks.pieces(ordinal)
        if any(self.places[piece.file_index] not in (Place.UNKNOWN, Place.SAME) for piece in pieces):
            return False
        return self.read_chunk(ordinal, keys, buffer) is not None

    def _is_alone(self, ordinal: int) -> bool:
        return len({piece.file_index for piece in self.chunks.pieces(ordinal)}) == 1

    def _holes_are_zero(self, index: int, buffer: memoryview) -> bool:
        entry = self.manifest.entry(index)
        for offset, length in find_holes(entry.size, entry.extents):
            position, end = offset, offset + length
            while position < end:
                view = buffer[: min(len(buffer), end - position)]
                if not self.read_piece(index, position, view) or bytes(view).count(0) != len(view):
                    return False
                position += len(view)
        return True

    def _refuse(self, paths: list[bytes], how: str, *, next_step: str) -> Refused:
        shown = ", ".join(display_path(path) for path in paths[:SHOWN_LIMIT])
        more = f" and {len(paths) - SHOWN_LIMIT} more" if len(paths) > SHOWN_LIMIT else ""
        return Refused(
            f"Nothing was written to {self._where}",
            cause=f"what lies there is {how}: {shown}{more}",
            next_step=next_step,
            code="exists",
        )


def is_as_recorded(manifest: Manifest, index: int, info: os.stat_result) -> bool:
    """Whether what lies there is the file or link that a manifest says, by size and time."""
    kind, found = manifest.kind(index), stat.S_IFMT(info.st_mode)
    if not is_same_time(info.st_mtime_ns, manifest.mtime_ns(index)):
        return False
    if kind is EntryKind.SYMLINK:
        return found == stat.S_IFLNK
    return kind is EntryKind.FILE and found == stat.S_IFREG and info.st_size == manifest.size(index)
