"""Tree writer: where a getter puts verified chunks, and what becomes of them at the end.

    writer = TreeWriter(dest, part_name, manifest)   or a part of it: TreeWriter(..., chunks)
    writer.prepare(overwrite=False)              conflicts, part folder, all folders
    here = writer.reuse_existing(keys)           chunks that lie at DEST already
    here |= writer.verify(recorded, keys)        without those of `find_trusted`
    writer.check_space(all - here)
    writer.write(ordinal, data) ...              from several threads
    tree = writer.finish(overwrite=False)

All calls block: use threads. Chunks can be served by `read_into` from the first one on, also after `finish`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Condition, Event
from unicodedata import normalize

from shoal.content.keys import ChunkKeys
from shoal.content.manifest import Manifest
from shoal.content.paths import display_path
from shoal.content.seal import PLAINTEXT_BYTES
from shoal.content.selection import Selection
from shoal.content.stream import LARGE_FILE_BYTES
from shoal.core.errors import LocalMisuse, StorageFault, Unavailable
from shoal.storage.boot import read_disk_id
from shoal.storage.destination import Destination, Place
from shoal.storage.disk_space import block_bytes, check_free_space, has_room
from shoal.storage.faults import fault_of_os_error
from shoal.storage.folder_runs import FolderRun, iter_folder_runs
from shoal.storage.part_tree import PartTree
from shoal.storage.placement import SYNC_EACH_LIMIT, Placement
from shoal.storage.scan import Skipped
from shoal.storage.selected_chunks import SelectedChunks
from shoal.storage.tree_reader import TreeReader
from shoal.storage.versions_folder import VersionsFolder

NEW_DEST_MODE = 0o755  # at most: nobody but its owner ever writes to a folder that a get made


@dataclass(frozen=True)
class WrittenTree:
    """A finished transfer. `roots` is what a `TreeReader` needs to go on serving it."""

    roots: dict[bytes, bytes]
    skipped: list[Skipped]


class TreeWriter:
    """Writes one version of a share into DEST. See the module for the order of calls.

    `write` and `read_into` are for several threads at once, the other calls for one at a time and not while
    chunks are written. Every call raises StorageFault for what the disk cannot do: code "disk_full" leaves
    everything as it is, to be resumed.
    """

    def __init__(
        self,
        dest: bytes,
        part_name: bytes,
        manifest: Manifest,
        chunks: SelectedChunks | None = None,
        owned: Manifest | None = None,
        versions_at: float | None = None,
        owned_part: Selection | None = None,
    ) -> None:
        """`dest` is an absolute path; `part_name` the name of our folder in it, begins with PART_PREFIX.

        `chunks` says which entries are wanted; without it all of them are. `owned` is an older version that a
        get put there, all of it or `owned_part`: files that are as it left them are replaced, or kept without
        being read. With
        `versions_at` (the wall time) DEST is made what the share is: what is replaced or removed moves to its
        versions folder, whoever wrote it.
        """
        self.manifest = manifest
        self._chunks = chunks or SelectedChunks(manifest)
        self._owned = owned
        self._owned_part = owned_part
        self._versions_at = versions_at
        self._dest = dest
        self._part_name = part_name
        self._where = display_path(dest)
        self._base = -1
        self._made_dest = False
        self._part: PartTree | None = None
        self._destination: Destination | None = None
        self._reader: TreeReader | None = None
        self._idle = Condition()
        self._users = 0

    def prepare(self, *, overwrite: bool = False) -> None:
        """Open DEST (made if its parent is there), look for conflicts, make part folder and folders.

        Raises: Refused (code "exists") for files that would have to be replaced, StorageFault.
        """
        with self._faults():
            self.close()
            try:
                os.mkdir(self._dest)
                # the node's umask closes all it makes; this folder is the person's: as open as where it lies
                around = os.stat(os.path.dirname(self._dest)).st_mode
                os.chmod(self._dest, around & NEW_DEST_MODE | 0o700)
                self._made_dest = True
            except FileExistsError:
                pass
            except FileNotFoundError as error:
                raise StorageFault(
                    f"Nothing was written to {self._where}",
                    cause="neither it nor the folder above it is there",
                    next_step="make the folder above it first, or choose another folder",
                    code="not_found",
                ) from error
            self._base = os.open(self._dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._chunks.open()
            self._destination = Destination(
                self._base, self._chunks, self._where, self._owned, self._owned_part
            )
            self._destination.survey(overwrite=overwrite, displace=self._versions_at is not None)
            self._part = PartTree(self._base, self._part_name, self.manifest)
            self._check_names()
            self._part.remove_strangers()
            self._part.make_folders(self._chunks.has)

    def read_disk_id(self) -> bytes:
        """Return what tells whether the part folder still lies on the disk as it was plugged in."""
        with self._faults():
            return read_disk_id(self._get_part().fd)

    @property
    def trusts_records(self) -> bool:
        """Whether chunks recorded as written in this boot can be here: the part folder was there, and nothing
        of them can lie at DEST. Otherwise all records have to go through `verify`.
        """
        return self._get_part().existed and self._get_destination().is_empty

    def find_trusted(self, recorded: set[int], since_ns: int) -> set[int]:
        """Return those chunks, recorded as written in this boot, that are surely here: nobody touched their
        part files after `since_ns`, when we did last. The others have to go through `verify`.
        """
        if not self.trusts_records:
            return set()
        with self._faults():
            touched = self._get_part().find_touched(since_ns, self._chunks.has)
        return recorded.difference(*(self.manifest.chunks_of(index) for index in touched))

    def reuse_existing(self, keys: Mapping[int, ChunkKeys], cancelled: Event | None = None) -> set[int]:
        """Return the chunks that lie at DEST already, verified; files that are the same as the share's are
        kept.

        `keys` by generation. Chunks of files that will be replaced are copied. Raises: StorageFault.
        """
        destination = self._get_destination()
        if destination.is_empty:
            return set()
        buffer = memoryview(bytearray(PLAINTEXT_BYTES))
        with self._faults():
            kept = destination.find_kept()
            present = destination.find_present(keys, buffer)
            for ordinal in sorted(present):
                _check(cancelled)
                pieces = self._chunks.pieces(ordinal)
                if all(destination.places[piece.file_index] == Place.SAME for piece in pieces):
                    continue
                view = destination.read_chunk(ordinal, keys, buffer)  # it may have changed since it was found
                if view is not None:
                    self._put(ordinal, view)
                else:
                    present.discard(ordinal)
        return present | kept

    def verify(
        self, ordinals: Iterable[int], keys: Mapping[int, ChunkKeys], cancelled: Event | None = None
    ) -> set[int]:
        """Return those of `ordinals` whose bytes are here and right. Call `reuse_existing` before.

        Bytes of files at DEST that will be replaced are copied, as those would be gone with them. Raises:
        StorageFault where they cannot be.
        """
        buffer = memoryview(bytearray(PLAINTEXT_BYTES))
        good: set[int] = set()
        for ordinal in ordinals:
            _check(cancelled)
            try:
                with self._faults(), self._trees() as trees:
                    if trees is None:
                        raise LocalMisuse("A finished tree was asked to verify its chunks")
                    length, is_borrowed = self._read_growing(ordinal, buffer, *trees)
            except StorageFault:
                continue
            if self._chunks.is_right(ordinal, buffer[:length], keys):
                if is_borrowed:
                    with self._faults():
                        self._put(ordinal, buffer[:length])
                good.add(ordinal)
        return good

    def check_space(self, missing: Iterable[int]) -> None:
        """Raises: StorageFault (code "disk_full") if the chunks `missing` do not fit on the disk. Of a draft
        what no chunk describes yet is missing too.
        """
        destination, part = self._get_destination(), self._get_part()
        large: set[int] = set()
        small: set[int] = set()
        needed = 0
        with self._faults():
            if self._has_room_for_all():
                return
            for index, length in self._missing_runs(missing):
                if destination.places[index] == Place.SAME:
                    continue
                if self.manifest.data_bytes(index) >= LARGE_FILE_BYTES:
                    large.add(index)
                else:
                    small.add(index)
                    needed += length
            for index in large:  # what was reserved for a file is not needed again
                needed += max(0, self.manifest.data_bytes(index) - part.allocated_bytes(index))
            needed += len(small) * block_bytes(self._base) // 2
            check_free_space(self._base, needed, self._where)

    def _missing_runs(self, missing: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Yield files with how many bytes of them are missing, some more than once."""
        for ordinal in missing:
            for piece in self._chunks.pieces(ordinal):
                yield piece.file_index, piece.length
        described = self.manifest.chunk_end
        if described < self.manifest.stream_bytes:
            for index in range(len(self.manifest)):
                start, end = self.manifest.stream_range(index)
                if end > described:
                    yield index, end - max(start, described)

    def _has_room_for_all(self) -> bool:
        """Whether even the whole share would fit, whatever of it is here: nothing has to be counted then."""
        most = self.manifest.total_bytes + self.manifest.file_count * block_bytes(self._base)
        return has_room(self._base, most)

    def write(self, ordinal: int, data: bytes | memoryview) -> None:
        """Write a verified chunk to its files. It may be written again. Raises: StorageFault."""
        view = memoryview(data)
        if len(view) != self.manifest.chunk_length(ordinal):
            raise LocalMisuse(f"chunk {ordinal} has another length than {len(view)} bytes")
        try:
            self._put(ordinal, self._chunks.take(ordinal, view))
        except OSError as error:
            raise self._fault(error) from error

    def _put(self, ordinal: int, view: memoryview) -> None:
        """Write the wanted bytes of a chunk. Raises: OSError, StorageFault."""
        early = self._chunks.file_count() > SYNC_EACH_LIMIT
        position = 0
        trees = self._enter_trees()
        try:
            if trees is None:
                return  # all is there already
            destination, part = trees
            for run in iter_folder_runs(self.manifest, self._chunks.pieces(ordinal)):
                data = view[position : position + run.length]
                position += run.length
                if run.is_large:
                    if destination.places[run.files[0].file_index] != Place.SAME:
                        part.write(run, data, early=early)
                    continue
                for wanted, offset in _without_same(run, destination):
                    part.write(wanted, data[offset : offset + wanted.length], early=early)
        finally:
            self._leave_trees()

    def read_into(self, ordinal: int, buffer: memoryview) -> int:
        """Read a chunk that was written, as far as it is wanted, to the front of `buffer`; return how long
        that is.

        Raises: StorageFault (code "changed") if it is not here.
        """
        with self._faults(), self._trees() as trees:
            if trees is not None:
                return self._read_growing(ordinal, buffer, *trees)[0]
        return self._get_reader().read_into(ordinal, buffer)

    def rest(self) -> None:
        """Nobody reads for now: a finished tree keeps no file open; a growing one needs what it has."""
        reader = self._reader
        if reader is not None:
            reader.rest()

    def _read_growing(
        self, ordinal: int, buffer: memoryview, destination: Destination, part: PartTree
    ) -> tuple[int, bool]:
        """Read a chunk; return its length, and whether files gave of it that will be replaced at the end."""
        position = 0
        is_borrowed = False
        for piece in self._chunks.pieces(ordinal):
            view = buffer[position : position + piece.length]
            position += piece.length
            same = destination.places[piece.file_index] == Place.SAME
            if not same and part.read(piece, view):
                continue
            is_borrowed = is_borrowed or not same
            if not destination.read_piece(piece.file_index, piece.file_offset, view):
                raise StorageFault(
                    f"{display_path(self.manifest.path(piece.file_index))} is not there any more",
                    cause="it was moved or removed",
                    code="changed",
                )
        return position, is_borrowed

    def finish(self, *, overwrite: bool = False) -> WrittenTree:
        """Give everything its final name. All chunks must have been written; may be called again after an
        error.

        Raises: Refused (code "exists") before anything is renamed, if that would replace a file;
        StorageFault.
        """
        destination, part = self._get_destination(), self._get_part()
        with self._faults():
            versions = None
            if self._versions_at is not None:
                versions = VersionsFolder(self._base, self._versions_at)
            placement = Placement(self._chunks, part, destination, self._base, versions, self._owned)
            try:
                placement.run(overwrite=overwrite)
            finally:
                if versions is not None:
                    versions.close()
            real = os.path.realpath(self._dest)
            names = [self.manifest.path(i) for i in self.manifest.iter_tops() if self._chunks.has(i)]
            roots = {name: os.path.join(real, name) for name in names}
            self._reader = TreeReader(roots, self.manifest)
            self._close_trees()
            self._remove_part()
        return WrittenTree(roots, placement.skipped)

    def discard(self) -> None:
        """Remove the part folder with all that is in it, and close; DEST too if `prepare` made it and nothing
        else is in it.

        Raises: StorageFault.
        """
        with self._faults():
            self._close_trees()
            if self._base < 0:
                try:
                    self._base = os.open(self._dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except (FileNotFoundError, NotADirectoryError):
                    return  # nothing of ours can be there
            self._remove_part()
            if self._made_dest:
                with suppress(OSError):  # something else is in it by now
                    os.rmdir(self._dest)
                self._made_dest = False
        self.close()

    def close(self) -> None:
        """Close all files and folders; the part folder stays, to be resumed. Idempotent."""
        self._close_trees()
        self._chunks.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._base >= 0:
            os.close(self._base)
            self._base = -1

    @contextmanager
    def _trees(self) -> Iterator[tuple[Destination, PartTree] | None]:
        """Yield both trees, which stay open meanwhile; None after `finish`."""
        trees = self._enter_trees()
        try:
            yield trees
        finally:
            self._leave_trees()

    def _enter_trees(self) -> tuple[Destination, PartTree] | None:
        """Return what `_trees` yields; `_leave_trees` has to follow. By itself: done for every chunk."""
        with self._idle:
            trees = None if self._reader is not None else (self._get_destination(), self._get_part())
            self._users += 1
        return trees

    def _leave_trees(self) -> None:
        with self._idle:
            self._users -= 1
            if not self._users:
                self._idle.notify_all()

    def _close_trees(self) -> None:
        with self._idle:
            part, destination = self._part, self._destination
            self._part = self._destination = None
            self._idle.wait_for(lambda: self._users == 0)  # each is one chunk: soon
        if part is not None:
            part.close()
        if destination is not None:
            destination.close()

    def _remove_part(self) -> None:
        try:
            shutil.rmtree(self._part_name, dir_fd=self._base)
        except FileNotFoundError:
            pass

    def _check_names(self) -> None:
        """Raises: StorageFault if DEST would take two names of the share for one."""
        try:
            os.stat(self._part_name.swapcase(), dir_fd=self._base, follow_symlinks=False)
        except FileNotFoundError:
            return
        seen: set[str] = set()
        for index, path in enumerate(self.manifest.files.paths()):
            if not self._chunks.has(index):
                continue
            folded = normalize("NFD", path.decode("utf-8", "surrogateescape").casefold())
            if folded in seen:
                raise StorageFault(
                    f"The share cannot be written to {self._where}",
                    cause=f"that disk takes {display_path(path)} and another of its names for the same",
                    next_step="choose a folder on a disk that tells capitals from small letters",
                    code="names",
                )
            seen.add(folded)

    def _get_reader(self) -> TreeReader:
        if self._reader is None:
            raise LocalMisuse("A tree writer was used before `prepare` or after it was closed")
        return self._reader

    def _get_part(self) -> PartTree:
        if self._part is None:
            raise LocalMisuse("A tree writer was used before `prepare` or after it was closed")
        return self._part

    def _get_destination(self) -> Destination:
        if self._destination is None:
            raise LocalMisuse("A tree writer was used before `prepare` or after it was closed")
        return self._destination

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._fault(error) from error

    def _fault(self, error: OSError) -> StorageFault:
        return fault_of_os_error(error, f"Writing to {self._where} failed", self._where)


def _without_same(run: FolderRun, destination: Destination) -> Iterator[tuple[FolderRun, int]]:
    """Yield the files of a run that do not lie at DEST already, with where their data begins in the run's."""
    places = destination.places
    if not any(places[file.file_index] == Place.SAME for file in run.files):
        yield run, 0
        return
    position = 0
    for file in run.files:
        if places[file.file_index] != Place.SAME:
            yield run._replace(files=[file], length=file.length), position
        position += file.length


def _check(cancelled: Event | None) -> None:
    if cancelled is not None and cancelled.is_set():
        raise Unavailable("The transfer was stopped", code="cancelled")
