"""Target: where the chunks of one version go, and from where they are served at the same time.

The receiving threads verify and write through it, the serving threads read through it; the place changes from
part files to final names while both may be at work.
"""

from __future__ import annotations

import threading
from typing import Protocol

from shoal.apps.files.journal import ReceiptJournal
from shoal.content.keys import ChunkKeys
from shoal.content.manifest import Manifest
from shoal.core.errors import StorageFault
from shoal.swarm.serve import ChunkSource

HOLD_S = 30.0  # longest a reader waits while files get their final names


class ChunkWriter(Protocol):
    """Writes a chunk to its part files; storage.tree_writer is one."""

    def write(self, ordinal: int, data: memoryview) -> None: ...


def is_chunk(manifest: Manifest, keys: dict[int, ChunkKeys], ordinal: int, data: memoryview) -> bool:
    """Whether these bytes are that chunk: its length, and its key under the keys of its generation."""
    if len(data) != manifest.chunk_length(ordinal):
        return False
    if len(keys) == 1:  # nearly always: the generation of each chunk need not be looked up
        (only,) = keys.values()
        return only.key(data) == manifest.chunk_key(ordinal)
    return keys[manifest.chunk_generation(ordinal)].key(data) == manifest.chunk_key(ordinal)


class VersionTarget:
    """The chunks of one version on their way to part files. Any thread."""

    def __init__(
        self,
        version: int,
        manifest: Manifest,
        keys: dict[int, ChunkKeys],
        writer: ChunkWriter,
        journal: ReceiptJournal,
        limit: int | None = None,
    ) -> None:
        """Of a draft there will be at most `limit` chunks."""
        self.version = version
        self.total = manifest.chunk_count
        self.written = bytearray(self.total if limit is None else limit)
        self._manifest = manifest
        self._keys = keys
        self._writer = writer
        self._journal = journal

    def grow(self) -> None:
        """Take the chunks too that the manifest of a draft got meanwhile."""
        self.total = self._manifest.chunk_count

    def is_valid(self, ordinal: int, data: memoryview) -> bool:
        """Whether these bytes are that chunk."""
        return is_chunk(self._manifest, self._keys, ordinal, data)

    def write(self, ordinal: int, data: memoryview) -> None:
        """Note the chunk in the journal and write it. Raises: StorageFault."""
        self._journal.note(ordinal)
        self._writer.write(ordinal, data)


class MovingSource:
    """A chunk source whose files may move: readers wait while they do. Any thread."""

    def __init__(self, source: ChunkSource) -> None:
        self._source = source
        self._state = threading.Condition()
        self._readers = 0
        self._held = False

    def read_into(self, ordinal: int, buffer: memoryview) -> int:
        """Read a chunk from where it is now. Raises: StorageFault."""
        with self._state:
            if not self._state.wait_for(lambda: not self._held, HOLD_S):
                raise StorageFault("The chunk was not read", cause="its file is being moved", code="busy")
            source = self._source
            self._readers += 1
        try:
            return source.read_into(ordinal, buffer)
        finally:
            with self._state:
                self._readers -= 1
                self._state.notify_all()

    def rest(self) -> None:
        """Nobody reads for now."""
        with self._state:
            source = self._source
        source.rest()

    def hold(self) -> None:
        """Let no reader in and wait until those inside are out; not on the loop's thread."""
        with self._state:
            self._held = True
            self._state.wait_for(lambda: not self._readers, HOLD_S)

    def switch(self, source: ChunkSource | None) -> None:
        """Let readers in again, to another source if one is given."""
        with self._state:
            if source is not None:
                self._source = source
            self._held = False
            self._state.notify_all()
