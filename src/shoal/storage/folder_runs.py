"""Folder runs: a chunk's pieces, grouped by the folder that their files lie in.

A chunk holds dozens of small files, most of them neighbours: whoever reads or writes them opens their folder
once, and each file with one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from shoal.content.manifest import Manifest
from shoal.content.stream import LARGE_FILE_BYTES, Piece


class FileRun(NamedTuple):
    """Consecutive pieces of one file, `length` bytes together; `name` is the last component of its path."""

    file_index: int
    name: bytes
    pieces: list[Piece]
    length: int


class FolderRun(NamedTuple):
    """Consecutive files of a chunk in one folder: small ones, or a single large one. `length` is of all."""

    folder: bytes
    files: list[FileRun]
    is_large: bool
    length: int


def iter_folder_runs(manifest: Manifest, pieces: Sequence[Piece]) -> Iterable[FolderRun]:
    """Return the runs of a chunk's pieces, in order."""
    if len(pieces) == 1 and _is_large(manifest, pieces[0].file_index):  # most of what is moved fast
        index, _, length = pieces[0]
        folder, _, name = manifest.path(index).rpartition(b"/")
        return (FolderRun(folder, [FileRun(index, name, [pieces[0]], length)], True, length),)
    return _iter_runs(manifest, pieces)


def _is_large(manifest: Manifest, index: int) -> bool:
    return manifest.size(index) >= LARGE_FILE_BYTES and manifest.data_bytes(index) >= LARGE_FILE_BYTES


def _iter_runs(manifest: Manifest, pieces: Sequence[Piece]) -> Iterator[FolderRun]:
    folder, prefix = b"", b""
    files: list[FileRun] = []
    total = 0
    position, count = 0, len(pieces)
    while position < count:
        piece = pieces[position]
        index, _, length = piece
        of_file = [piece]
        position += 1
        while position < count and pieces[position].file_index == index:
            of_file.append(pieces[position])
            length += pieces[position].length
            position += 1
        path = manifest.path(index)
        large = _is_large(manifest, index)
        if large or not path.startswith(prefix) or b"/" in (name := path[len(prefix) :]):
            if files:
                yield FolderRun(folder, files, False, total)
                files, total = [], 0
            folder, slash, name = path.rpartition(b"/")
            prefix = folder + slash
        run = FileRun(index, name, of_file, length)
        if large:
            yield FolderRun(folder, [run], True, length)
        else:
            files.append(run)
            total += length
    if files:
        yield FolderRun(folder, files, False, total)
