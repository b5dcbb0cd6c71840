"""Part tree: where a share grows before it gets its final names.

A folder of ours (mode 0700) inside DEST, with the share's paths below it. Chunks are written to their
places in the files at once; a file is never readable under its final name before all of it was verified.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from shoal.content.manifest import EntryKind, FileEntry, Manifest
from shoal.content.stream import LARGE_FILE_BYTES, Piece
from shoal.core.errors import StorageFault
from shoal.core.undo import undone_on_failure
from shoal.core.units import MIB
from shoal.storage.disk_space import reserve
from shoal.storage.extents import find_extents, find_holes
from shoal.storage.folder_runs import FileRun, FolderRun
from shoal.storage.tree_handles import (
    DIRECTORY_FLAGS,
    READ_FLAGS,
    HandleCache,
    TreeHandles,
    read_exactly,
    write_fully,
)

OWN_DIRECTORY: Final = 0o700
OWN_FILE: Final = 0o600
CLEAR_BYTES: Final = MIB  # read at a time of what may have to be zeros
_CREATE: Final = os.O_CREAT | os.O_NONBLOCK
_CREATE_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPES: Final = {
    EntryKind.FILE: stat.S_IFREG,
    EntryKind.DIR: stat.S_IFDIR,
    EntryKind.SYMLINK: stat.S_IFLNK,
}


class PartTree:
    """Creates, writes and reads files below the part folder. For several threads."""

    def __init__(self, dest: int, name: bytes, manifest: Manifest) -> None:
        """Open or create the part folder `name` in the open folder `dest`.

        Raises: OSError; StorageFault if something else lies there.
        """
        self.manifest = manifest
        self.existed = False
        try:
            os.mkdir(name, OWN_DIRECTORY, dir_fd=dest)
        except FileExistsError:
            self.existed = True
        try:
            self.fd = os.open(name, DIRECTORY_FLAGS, dir_fd=dest)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise planted(name, "it is a link or a file, not the folder of this transfer") from error
            raise
        info = os.fstat(self.fd)
        if info.st_uid != os.geteuid() or info.st_mode & 0o077:
            os.close(self.fd)
            raise planted(name, "the folder belongs to another user or is open to others")
        self.handles = TreeHandles(base=self.fd)
        self._large = HandleCache(self._open_large)
        self._finished = bytearray(len(manifest))  # entries that need nothing more: files with mode and time
        for index in manifest.iter_kind(EntryKind.DIR):
            self._finished[index] = True  # they are dressed by whoever places the tree
        self._lock = threading.Lock()
        self._closed = False

    def make_folders(self, is_wanted: Callable[[int], bool]) -> None:
        """Create all wanted folders, for us alone. Raises: OSError, StorageFault."""
        for index in self.manifest.iter_kind(EntryKind.DIR):
            if is_wanted(index):
                path = self.manifest.path(index)
                with self.handles.parent_of(path) as (fd, name):
                    try:
                        os.mkdir(name, OWN_DIRECTORY, dir_fd=fd)
                    except FileExistsError:
                        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        if not stat.S_ISDIR(info.st_mode):
                            raise planted(path, "it is not a folder") from None

    def remove_strangers(self) -> None:
        """Remove what an earlier version of the share left here: it would be renamed with the rest.

        Raises: OSError.
        """
        if not self.existed:
            return
        folders = [b""]
        while folders:
            folder = folders.pop()
            with self._opened(folder) as fd:
                with os.scandir(fd) as found:
                    children = [os.fsencode(child.name) for child in found]
                for name in children:
                    path = folder + b"/" + name if folder else name
                    mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
                    index = self.manifest.find_file(path)
                    if index is None or stat.S_IFMT(mode) != _TYPES[self.manifest.kind(index)]:
                        _remove(name, mode, fd)
                    elif stat.S_ISDIR(mode):
                        folders.append(path)

    @contextmanager
    def _opened(self, folder: bytes) -> Iterator[int]:
        if not folder:
            yield self.fd
            return
        fd = self.handles.open(folder, DIRECTORY_FLAGS)
        try:
            yield fd
        finally:
            os.close(fd)

    def write(self, run: FolderRun, data: memoryview, *, early: bool) -> None:
        """Write consecutive files of one folder, as far as they are in a chunk. `early`: give a file mode and
        time if that is all of it.

        Raises: OSError, StorageFault.
        """
        if run.is_large:
            file = run.files[0]
            with self._large.borrow(self.manifest.path(file.file_index)) as fd:
                _write_pieces(fd, file, data)
            return
        position = 0
        with self.handles.opened(run.folder) as folder:
            for file in run.files:
                end = position + file.length
                self._write_small(folder, file, data[position:end], early=early)
                position = end

    def _write_small(self, folder: int | None, file: FileRun, data: memoryview, *, early: bool) -> None:
        manifest, index = self.manifest, file.file_index
        try:
            fd = os.open(file.name, _CREATE_NEW, OWN_FILE, dir_fd=folder)
            is_new = True
        except FileExistsError:  # another chunk has a part of it, or it was written before
            fd = self._open_own(manifest.path(index), os.O_WRONLY | _CREATE)
            is_new = False
        try:
            _write_pieces(fd, file, data)
            if early and file.length == manifest.data_bytes(index):
                last = file.pieces[-1]
                size = manifest.size(index)
                if not (is_new and last.file_offset + last.length == size) and os.fstat(fd).st_size != size:
                    os.ftruncate(fd, size)  # a hole at the end, or an older version was longer
                mode, mtime_ns = manifest.mode(index), manifest.mtime_ns(index)
                os.fchmod(fd, mode | OWN_FILE)
                os.utime(fd, ns=(mtime_ns, mtime_ns))
                if mode & OWN_FILE == OWN_FILE and (is_new or file.length == size):
                    self._finished[index] = True  # else `complete` looks into its holes
        finally:
            os.close(fd)

    def read(self, piece: Piece, view: memoryview) -> bool:
        """Read a piece; False if the file does not reach that far or is not there. Raises: OSError."""
        path = self.manifest.path(piece.file_index)
        if self.manifest.data_bytes(piece.file_index) >= LARGE_FILE_BYTES:
            if self.handles.lstat(path) is None:
                return False
            with self._large.borrow(path) as fd:
                return read_exactly(fd, view, piece.file_offset)
        try:
            fd = self._open_own(path, READ_FLAGS)
        except FileNotFoundError:
            return False
        try:
            return read_exactly(fd, view, piece.file_offset)
        finally:
            os.close(fd)

    def iter_unfinished(self) -> Iterator[int]:
        """Yield the indices of files and links that `write` has not given their mode and time, ascending."""
        index = self._finished.find(0)
        while index >= 0:
            yield index
            index = self._finished.find(0, index + 1)

    def complete(self, index: int, *, sync: bool) -> None:
        """Give a file its size, mode and time; create it if it has no data.

        Raises: OSError; StorageFault if its data is not all there.
        """
        if self._finished[index]:
            return
        entry = self.manifest.entry(index)
        has_data = bool(entry.extents)
        fd = self._open_own(entry.path, READ_FLAGS if has_data else os.O_WRONLY | _CREATE)
        try:
            if has_data and os.fstat(fd).st_size < entry.extents[-1][0] + entry.extents[-1][1]:
                raise planted(entry.path, "it is shorter than what was written to it")
            if os.fstat(fd).st_size != entry.size:
                self._truncate(entry)
            if self.existed and self.manifest.data_bytes(index) < entry.size:
                self._clear_holes(entry)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
            if sync:
                with sync_faults():
                    os.fsync(fd)
        finally:
            os.close(fd)
        self._finished[index] = True

    def make_link(self, entry: FileEntry) -> None:
        """Create a symbolic link. Raises: OSError, StorageFault."""
        with self.handles.parent_of(entry.path) as (fd, name):
            try:
                os.symlink(entry.target, name, dir_fd=fd)
            except FileExistsError:
                if not stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    raise planted(entry.path, "it is not a link") from None
                os.unlink(name, dir_fd=fd)
                os.symlink(entry.target, name, dir_fd=fd)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=fd, follow_symlinks=False)

    def find_touched(self, since_ns: int, is_wanted: Callable[[int], bool]) -> list[int]:
        """Return the wanted files that are not here, or were changed after `since_ns`. Raises: OSError."""
        touched: list[int] = []
        for index in range(len(self.manifest)):
            if self.manifest.data_bytes(index) and is_wanted(index):
                info = self.handles.lstat(self.manifest.path(index))
                if info is None or not stat.S_ISREG(info.st_mode) or info.st_ctime_ns > since_ns:
                    touched.append(index)
        return touched

    def allocated_bytes(self, index: int) -> int:
        """Return how many bytes of disk a file holds now. Raises: OSError."""
        info = self.handles.lstat(self.manifest.path(index))
        return info.st_blocks * 512 if info is not None else 0

    def close(self) -> None:
        """Close all descriptors; idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._large.close()
        self.handles.close()
        os.close(self.fd)

    def _open_own(self, path: bytes, flags: int) -> int:
        try:
            return self.handles.open(path, flags, OWN_FILE)
        except PermissionError:  # it has its final mode already and we run again after a crash
            with self.handles.parent_of(path) as (fd, name):
                if not stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    raise
                os.chmod(name, OWN_FILE, dir_fd=fd)
            return self.handles.open(path, flags, OWN_FILE)

    def _open_large(self, path: bytes) -> int:
        fd = self._open_own(path, os.O_RDWR | _CREATE)
        with undone_on_failure(partial(os.close, fd)):
            index = self.manifest.find_file(path)
            if index is None or not stat.S_ISREG(os.fstat(fd).st_mode):
                raise planted(path, "it is not a file of this transfer")
            if os.fstat(fd).st_blocks * 512 < self.manifest.data_bytes(index):
                entry = self.manifest.entry(index)
                reserve(fd, entry.size, entry.extents)
        return fd

    def _clear_holes(self, entry: FileEntry) -> None:
        """Make zeros of what an earlier version, or a draft, put where this one has no data: no chunk is ever
        written there.
        """
        fd = self._open_own(entry.path, os.O_RDWR | os.O_NONBLOCK)
        try:
            holes = iter(find_holes(entry.size, entry.extents))
            hole_end = -1
            for position, length in find_extents(fd, os.fstat(fd)):  # both are sorted
                data_end = position + length
                while position < data_end:
                    while hole_end <= position:
                        start, length = next(holes, (entry.size, entry.size))
                        hole_end = start + length
                    position = max(position, start)
                    stop = min(hole_end, data_end)
                    while position < stop:
                        found = os.pread(fd, min(CLEAR_BYTES, stop - position), position)
                        if not found:
                            return
                        if found.count(0) != len(found):
                            write_fully(fd, memoryview(bytes(len(found))), position)
                        position += len(found)
        finally:
            os.close(fd)

    def _truncate(self, entry: FileEntry) -> None:
        fd = self._open_own(entry.path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.ftruncate(fd, entry.size)
        finally:
            os.close(fd)


def planted(path: bytes, cause: str) -> StorageFault:
    """Return the fault for something in our way that we did not put there."""
    return StorageFault(
        "The transfer cannot be written",
        cause=f"{os.fsdecode(path)!a}: {cause}",
        next_step="remove it, or choose another folder",
        code="planted",
    )


@contextmanager
def sync_faults() -> Iterator[None]:
    """Turn a failed sync into a StorageFault of code "sync": what was written before it must not be trusted.

    The system reports it once and forgets the pages; a second sync would call what is lost saved.
    """
    try:
        yield
    except OSError as error:
        raise StorageFault(
            "The disk did not save what was written to it",
            cause=error.strerror or str(error),
            next_step="check that disk or choose another, and run the same command again: it starts over",
            code="sync",
        ) from error


def _remove(name: bytes, mode: int, parent: int) -> None:
    if stat.S_ISDIR(mode):
        shutil.rmtree(name, dir_fd=parent)
    else:
        os.unlink(name, dir_fd=parent)


def _write_pieces(fd: int, file: FileRun, data: memoryview) -> None:
    position = 0
    for piece in file.pieces:
        part = data if piece.length == file.length else data[position : position + piece.length]
        write_fully(fd, part, piece.file_offset)
        position += piece.length
