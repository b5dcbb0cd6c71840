"""Pin source: the chunks of one pinned version in the store, sealed when they come, opened when they go."""

from __future__ import annotations

from shoal.apps.files.target import is_chunk
from shoal.content.keys import ChunkKeys
from shoal.content.manifest import Manifest
from shoal.content.seal import OVERHEAD_BYTES, open_object, seal_object
from shoal.core.errors import RemoteFault, StorageFault
from shoal.storage.segment_format import RECORD_HEADER_BYTES
from shoal.storage.segment_store import NewChunk
from shoal.storage.store import Store

STORED_OVERHEAD_BYTES = OVERHEAD_BYTES + RECORD_HEADER_BYTES  # a chunk takes so much more than its plaintext


class PinSource:
    """A ChunkSource over the store. Any thread."""

    def __init__(self, store: Store, holder: int, manifest: Manifest) -> None:
        self._store = store
        self._holder = holder
        self._manifest = manifest

    def read_into(self, ordinal: int, buffer: memoryview) -> int:
        """Write a chunk's plaintext to the start of `buffer`, return its length. Raises: StorageFault."""
        key = self._store.segments.find_key(self._holder, ordinal)
        sealed = self._store.read(key) if key is not None else None
        if sealed is None:
            raise StorageFault("A chunk was not read", cause="the store has lost it", code="rot")
        try:
            plaintext = open_object(self._manifest.chunk_key(ordinal), sealed)
        except RemoteFault as error:  # the index names another chunk
            raise StorageFault("A chunk was not read", cause=error.message, code="rot") from error
        buffer[: len(plaintext)] = plaintext
        return len(plaintext)

    def rest(self) -> None:
        """Nothing is kept open for it."""


class PinTarget:
    """A ChunkTarget into the store: what is written is durable on return. Any thread."""

    def __init__(
        self, store: Store, holder: int, version: int, manifest: Manifest, keys: dict[int, ChunkKeys]
    ) -> None:
        self.version = version
        self.total = manifest.chunk_count
        self.written = bytearray(self.total)
        self._store = store
        self._holder = holder
        self._manifest = manifest
        self._keys = keys

    def is_valid(self, ordinal: int, data: memoryview) -> bool:
        """Whether these bytes are that chunk."""
        return is_chunk(self._manifest, self._keys, ordinal, data)

    def write(self, ordinal: int, data: memoryview) -> None:
        """Seal a valid chunk and keep it. Raises: StorageFault, Unavailable while the node stops."""
        sealed = seal_object(self._manifest.chunk_key(ordinal), bytes(data))
        self._store.put_blocking([NewChunk(self._holder, ordinal, sealed.object_id, sealed.sealed)])
