"""Selected chunks: which bytes of a chunk are written where only a part of a share is wanted.

Small files share chunks. Of a chunk that also holds files that are not selected only the selected pieces are
written, and the chunk's key does not tell any more whether they are right. So their own hash is noted beside
the transfer when the chunk, verified as a whole, is written. By it the chunk is recognised again, after a
crash or when the same files are fetched once more. Nothing is fsynced: a note that is lost costs a chunk.

File: records of 4 bytes ordinal (big endian) and 32 bytes BLAKE3; the first one has ordinal 2^32 - 1 and the
content id that the others are about.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Mapping
from functools import partial
from typing import Final

from blake3 import blake3

from shoal.content.keys import ChunkKeys
from shoal.content.manifest import Manifest
from shoal.content.selection import Selection
from shoal.content.stream import Piece
from shoal.core.errors import StorageFault
from shoal.core.undo import undone_on_failure
from shoal.storage.faults import fault_of_os_error

_RECORD: Final = struct.Struct(">I32s")
_HEAD: Final = 2**32 - 1


class SelectedChunks:
    """The chunks of one manifest as far as they are wanted; all of them without a selection.

    `open` first, then for several threads; `close` at the end. `path` is where the hashes are noted.
    """

    def __init__(
        self, manifest: Manifest, selection: Selection | None = None, path: bytes | None = None
    ) -> None:
        self.manifest = manifest
        self.selection = selection
        self._path = path
        self._fd = -1
        self._digests: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def has(self, index: int) -> bool:
        """Whether an entry is wanted."""
        return self.selection is None or self.selection.has(index)

    def is_partial(self, ordinal: int) -> bool:
        """Whether a chunk holds data of files that are not wanted."""
        return self.selection is not None and not self.selection.is_whole(ordinal)

    def pieces(self, ordinal: int) -> list[Piece]:
        """Return which bytes of which wanted files a chunk is, in order."""
        found = self.manifest.pieces(ordinal)
        if not self.is_partial(ordinal):
            return found
        return [piece for piece in found if self.has(piece.file_index)]

    def length(self, ordinal: int) -> int:
        """Return how many bytes of a chunk are wanted."""
        if not self.is_partial(ordinal):
            return self.manifest.chunk_length(ordinal)
        return sum(piece.length for piece in self.pieces(ordinal))

    def file_count(self) -> int:
        """Return how many files are wanted."""
        return self.manifest.file_count if self.selection is None else self.selection.files

    def take(self, ordinal: int, data: memoryview) -> memoryview:
        """Return the wanted bytes of a whole chunk, which was verified; note their hash.

        Raises: StorageFault.
        """
        if not self.is_partial(ordinal):
            return data
        parts: list[memoryview] = []
        position = 0
        for piece in self.manifest.pieces(ordinal):
            if self.has(piece.file_index):
                parts.append(data[position : position + piece.length])
            position += piece.length
        taken = b"".join(parts)
        digest = blake3(taken).digest()
        with self._lock:
            known = self._digests.get(ordinal) == digest
            self._digests[ordinal] = digest
        if not known and self._fd >= 0:
            try:
                os.write(self._fd, _RECORD.pack(ordinal, digest))
            except OSError as error:
                raise _fault(error, self._path) from error
        return memoryview(taken)

    def is_right(self, ordinal: int, data: memoryview, keys: Mapping[int, ChunkKeys]) -> bool:
        """Whether these are the wanted bytes of a chunk; False too if there is no way to tell."""
        if self.is_partial(ordinal):
            return self._digests.get(ordinal) == blake3(data).digest()
        generation = keys.get(self.manifest.chunk_generation(ordinal))
        return generation is not None and generation.key(data) == self.manifest.chunk_key(ordinal)

    def open(self) -> None:
        """Read the hashes that were noted for this version and go on noting; idempotent.

        Raises: StorageFault.
        """
        if self._path is None or self.selection is None or self._fd >= 0:
            return
        try:
            self._digests = self._read(self._path)
            self._fd = self._start(self._path)
        except OSError as error:
            raise _fault(error, self._path) from error

    def close(self) -> None:
        """Note nothing more; the file stays. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _start(self, path: bytes) -> int:
        """Write what is known to a new file in place of the old one, whose end may be damaged."""
        fresh = path + b".new"
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(fresh, flags, 0o600)
        with undone_on_failure(partial(os.close, fd)):
            records = [(_HEAD, self.manifest.content_id or bytes(32)), *self._digests.items()]
            os.write(fd, b"".join(_RECORD.pack(*record) for record in records))
            os.rename(fresh, path)
        return fd

    def _read(self, path: bytes) -> dict[int, bytes]:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return {}
        records = list(_RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]))
        if not records or records[0] != (_HEAD, self.manifest.content_id):
            return {}
        return {ordinal: digest for ordinal, digest in records[1:] if ordinal < self.manifest.chunk_count}


def _fault(error: OSError, path: bytes | None) -> StorageFault:
    return fault_of_os_error(error, "The notes of a selection were not written", os.fsdecode(path or b""))
