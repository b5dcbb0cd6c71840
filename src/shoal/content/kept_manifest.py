"""Kept manifest: the manifest of a stored version, in memory while somebody uses it.

Who has called `get` holds the manifest as long as it refers to it; whoever asks meanwhile gets the same one.
Small ones that were used last stay, up to a number of bytes altogether; large ones are loaded again. So what
a node holds of its shares does not grow with their number.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol
from weakref import ref

from shoal.content.manifest import Manifest
from shoal.content.manifest_loader import load_chunk_rows, load_manifest
from shoal.core.errors import RemoteFault, StorageFault
from shoal.core.units import MIB

KEPT_BYTES: Final = 8 * MIB  # of manifests that nobody uses now: shares of 60,000 files altogether


class StoredVersion(Protocol):
    """What is known of a version without its manifest; content.feed.Closing is one."""

    @property
    def content_id(self) -> bytes: ...
    @property
    def root_key(self) -> bytes: ...
    @property
    def files(self) -> int: ...
    @property
    def chunks(self) -> int: ...


class ManifestKeep:
    """The manifests that stay although nobody uses them, the last used ones. For several threads.

    `on_let_go` is called, in any thread, when somebody has let go of a manifest that does not stay.
    """

    def __init__(self, limit_bytes: int = KEPT_BYTES, on_let_go: Callable[[], None] = lambda: None) -> None:
        self.on_let_go = on_let_go
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Manifest] = OrderedDict()  # by id, the last used one at the end
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """How much is kept."""
        return self._bytes

    def use(self, manifest: Manifest) -> None:
        """Keep a manifest, instead of those that were used longest ago; one that is too large alone is not
        kept.
        """
        size, key = manifest.held_bytes, id(manifest)
        if size > self.limit_bytes:
            return
        with self._lock:
            if key not in self._kept:
                self._bytes += size
            self._kept[key] = manifest
            self._kept.move_to_end(key)
            while self._bytes > self.limit_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].held_bytes

    def drop(self, manifest: Manifest) -> bool:
        """Keep a manifest no longer; returns whether it was kept."""
        with self._lock:
            there = self._kept.pop(id(manifest), None) is not None
            self._bytes -= manifest.held_bytes if there else 0
        return there

    def has(self, manifest: Manifest) -> bool:
        """Whether a manifest stays although nobody may use it."""
        with self._lock:
            return id(manifest) in self._kept


class KeptManifest:
    """One version's manifest. `get` may load it, 0.4 s for 100,000 files: not on the loop's thread."""

    def __init__(
        self,
        version: StoredVersion,
        space: bytes,
        find_object: Callable[[bytes], bytes | None],
        keep: ManifestKeep,
        manifest: Manifest | None = None,
    ) -> None:
        """`find_object` returns a stored sealed object, or None; what it raises passes through. `manifest` is
        the manifest, where it is at hand.
        """
        self.content_id = version.content_id
        self.space = space
        self.chunk_count = version.chunks
        self.file_count = version.files
        self._root_key = version.root_key
        self._find_object = find_object
        self._keep = keep
        self._loading = threading.Lock()
        self._found: ref[Manifest] | None = None
        if manifest is not None:
            self._found = ref(manifest)
            keep.use(manifest)

    def find(self) -> Manifest | None:
        """Return the manifest if it is in memory; does not load it."""
        return self._found() if self._found is not None else None

    def get(self) -> Manifest:
        """Return the manifest, loaded once whoever asks at the same time.

        Raises: StorageFault (code "corrupt") if it is not stored as it was, and what `find_object` raises.
        """
        manifest = self.find()
        if manifest is None:
            with self._loading:
                manifest = self.find()
                if manifest is None:
                    manifest = self._load(load_manifest)
                    self._found = ref(manifest)
        self._keep.use(manifest)
        return manifest

    def get_chunk_rows(self) -> Manifest:
        """Return a manifest with the chunks at least: what keys are looked for in. Raises: as `get`."""
        manifest = self.find()
        return manifest if manifest is not None else self._load(load_chunk_rows)

    def let_go(self) -> None:
        """Hear that somebody uses the manifest no longer who had got it."""
        manifest = self.find()
        if manifest is None or not self._keep.has(manifest):
            self._keep.on_let_go()

    def close(self) -> None:
        """Keep it no longer: its share is not served any more."""
        manifest = self.find()
        if manifest is not None:
            self._keep.drop(manifest)

    def _load(self, load: Callable[[bytes, bytes, Callable[[bytes], bytes]], Manifest]) -> Manifest:
        try:
            return load(self._get_object(self.content_id), self._root_key, self._get_object)
        except RemoteFault as error:
            raise _fault(error.cause or error.message) from error

    def _get_object(self, object_id: bytes) -> bytes:
        data = self._find_object(object_id)
        if data is None:
            raise _fault("a part of it is not in the database")
        return data


def _fault(cause: str) -> StorageFault:
    return StorageFault(
        "A share's description is not complete",
        cause=cause,
        next_step="share it again, or get it again",
        code="corrupt",
    )
