"""Tree reader: serves chunks of a share straight from the files where they lie.

Nothing was copied when the tree was shared, so a file may have changed since: after every read its size and
time are compared with the manifest's. Receivers verify every chunk anyway; this is how the owner learns of
it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from shoal.content.manifest import Manifest
from shoal.content.paths import display_path
from shoal.content.stream import LARGE_FILE_BYTES, Piece
from shoal.core.errors import LocalMisuse, StorageFault
from shoal.storage.tree_handles import HandleCache, TreeHandles, read_exactly

_SECOND_NS = 1_000_000_000
_COARSE_NS = 2 * _SECOND_NS  # FAT keeps even seconds


class TreeReader:
    """Reads chunks by ordinal. For several threads; at most 64 files and 64 folders are kept open."""

    def __init__(self, roots: Mapping[bytes, bytes], manifest: Manifest) -> None:
        """`roots` = for each top name of the manifest the absolute path where it lies, without links."""
        self.manifest = manifest
        self._handles = TreeHandles(roots=roots)
        self._files = HandleCache(self._handles.open)

    def read_into(self, ordinal: int, buffer: memoryview) -> int:
        """Read a chunk to the front of `buffer`, return its length.

        Raises: StorageFault, with code "changed" if the tree is not what was shared any more; LocalMisuse
        for a buffer that is too small; IndexError for an ordinal that the manifest does not have.
        """
        length = self.manifest.chunk(ordinal)[1]
        if len(buffer) < length:
            raise LocalMisuse(f"a chunk of {length} bytes does not fit into {len(buffer)}")
        position = 0
        for piece in self.manifest.pieces(ordinal):
            self._read(piece, buffer[position : position + piece.length])
            position += piece.length
        return length

    def rest(self) -> None:
        """Nobody reads for now: keep no file open, so that a thousand idle shares hold nothing."""
        self._files.rest()
        self._handles.rest()

    def close(self) -> None:
        """Close all files; idempotent. Reads that are under way end well."""
        self._files.close()
        self._handles.close()

    def _read(self, piece: Piece, view: memoryview) -> None:
        path = self.manifest.path(piece.file_index)
        try:
            if self.manifest.data_bytes(piece.file_index) >= LARGE_FILE_BYTES:
                with self._files.borrow(path) as fd:
                    fine = self._read_open(fd, piece, view)
                if not fine:
                    self._files.forget(path)  # another file may lie there by now
            else:
                fd = self._handles.open(path)
                try:
                    fine = self._read_open(fd, piece, view)
                finally:
                    os.close(fd)
        except OSError as error:
            raise _changed(path, error.strerror or str(error)) from error
        if not fine:
            raise _changed(path, "its size or time of last change is not what it was")

    def _read_open(self, fd: int, piece: Piece, view: memoryview) -> bool:
        if not read_exactly(fd, view, piece.file_offset):
            return False
        info = os.fstat(fd)  # afterwards: if it is as it was, so were the bytes
        return info.st_size == self.manifest.size(piece.file_index) and is_same_time(
            info.st_mtime_ns, self.manifest.mtime_ns(piece.file_index)
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
        next_step="share it again to publish what it is now",
        code="changed",
    )
