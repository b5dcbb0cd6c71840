"""Tree reader: serves chunks of a share straight from the files where they lie.

Nothing was copied when the tree was shared, so a file may have changed since: after every read its size and
time are compared with the manifest's. Receivers verify every chunk anyway; this is how the owner learns of
it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from shoal.content.kept_manifest import KeptManifest
from shoal.content.manifest import Manifest
from shoal.content.paths import display_path
from shoal.core.errors import LocalMisuse, StorageFault
from shoal.storage.folder_runs import FileRun, FolderRun, iter_folder_runs
from shoal.storage.tree_handles import READ_FLAGS, HandleCache, TreeHandles, read_exactly

_SECOND_NS = 1_000_000_000
_COARSE_NS = 2 * _SECOND_NS  # FAT keeps even seconds
_NOT_THE_SAME = "its size or time of last change is not what it was"


class TreeReader:
    """Reads chunks by ordinal. For several threads; at most 64 files and 64 folders are kept open."""

    def __init__(self, roots: Mapping[bytes, bytes], manifest: Manifest | KeptManifest) -> None:
        """`roots` = for each top name of the manifest the absolute path where it lies, without links.

        A kept manifest is held from the first read until `rest`.
        """
        self._kept = manifest if isinstance(manifest, KeptManifest) else None
        self._manifest = manifest if isinstance(manifest, Manifest) else None
        self._handles = TreeHandles(roots=roots)
        self._files = HandleCache(self._handles.open)

    def read_into(self, ordinal: int, buffer: memoryview) -> int:
        """Read a chunk to the front of `buffer`, return its length.

        Raises: StorageFault, with code "changed" if the tree is not what was shared any more; LocalMisuse
        for a buffer that is too small; IndexError for an ordinal that the manifest does not have.
        """
        manifest = self._get_manifest()
        length = manifest.chunk(ordinal)[1]
        if len(buffer) < length:
            raise LocalMisuse(f"a chunk of {length} bytes does not fit into {len(buffer)}")
        position = 0
        for run in iter_folder_runs(manifest, manifest.pieces(ordinal)):
            view = buffer[position : position + run.length]
            position += run.length
            if run.is_large:
                self._read_large(manifest, run, view)
            else:
                self._read_small(manifest, run, view)
        return length

    def rest(self) -> None:
        """Nobody reads for now: hold no file and no manifest, so that a thousand idle shares hold nothing."""
        if self._kept is not None and self._manifest is not None:
            self._manifest = None
            self._kept.let_go()
        self._files.rest()
        self._handles.rest()

    def close(self) -> None:
        """Close all files; idempotent. Reads that are under way end well."""
        if self._kept is not None:
            self._manifest = None
        self._files.close()
        self._handles.close()

    def _get_manifest(self) -> Manifest:
        manifest = self._manifest
        if manifest is None:
            assert self._kept is not None
            manifest = self._manifest = self._kept.get()
        return manifest

    def _read_large(self, manifest: Manifest, run: FolderRun, view: memoryview) -> None:
        file = run.files[0]
        path = manifest.path(file.file_index)
        try:
            with self._files.borrow(path) as fd:
                fine = self._read_open(manifest, fd, file, view)
            if not fine:
                self._files.forget(path)  # another file may lie there by now
        except OSError as error:
            raise _changed(path, error.strerror or str(error)) from error
        if not fine:
            raise _changed(path, _NOT_THE_SAME)

    def _read_small(self, manifest: Manifest, run: FolderRun, view: memoryview) -> None:
        """Read the files of one folder, each opened for this alone."""
        index = run.files[0].file_index
        handles, position = self._handles, 0
        try:
            with handles.opened(run.folder) as folder:
                for file in run.files:
                    index = file.file_index
                    name = file.name if run.folder else handles.top(file.name)
                    end = position + file.length
                    fd = os.open(name, READ_FLAGS, dir_fd=folder)
                    try:
                        fine = self._read_open(manifest, fd, file, view[position:end])
                    finally:
                        os.close(fd)
                    if not fine:
                        raise _changed(manifest.path(index), _NOT_THE_SAME)
                    position = end
        except OSError as error:
            raise _changed(manifest.path(index), error.strerror or str(error)) from error

    def _read_open(self, manifest: Manifest, fd: int, file: FileRun, view: memoryview) -> bool:
        position = 0
        for piece in file.pieces:
            part = view if piece.length == file.length else view[position : position + piece.length]
            if not read_exactly(fd, part, piece.file_offset):
                return False
            position += piece.length
        info = os.fstat(fd)  # afterwards: if it is as it was, so were the bytes
        return info.st_size == manifest.size(file.file_index) and is_same_time(
            info.st_mtime_ns, manifest.mtime_ns(file.file_index)
        )


def is_same_time(found_ns: int, expected_ns: int) -> bool:
    """Tell whether a file has the time that was set, also on a file system that keeps only (even) seconds."""
    if found_ns == expected_ns:
        return True
    return found_ns % _SECOND_NS == 0 and abs(found_ns - expected_ns) < _COARSE_NS


def _changed(path: bytes, cause: str) -> StorageFault:
    return StorageFault(
        f"{display_path(path)} is not what was shared any more",
        cause=cause,
        next_step="if it lies on a disk that was unplugged, plug that in; else share it again as it is now",
        code="changed",
    )
