"""Local chunks: takes chunks that lie on this disk already from where they lie, instead of the network.

The places are trees that this node serves, an older version of the same share first. What is read is verified
by its key like a received chunk; a file that changed meanwhile costs its chunks, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import Event
from typing import NamedTuple, Protocol

from shoal.content.chunk_places import SOURCE_LIMIT, find_places
from shoal.content.kept_manifest import KeptManifest
from shoal.content.keys import ChunkKeys
from shoal.content.manifest import Manifest
from shoal.content.seal import PLAINTEXT_BYTES
from shoal.core.errors import StorageFault, Unavailable
from shoal.storage.tree_reader import TreeReader

SEARCH_FACTOR = 1024  # chunks of other shares that are looked at for each one that is missing: a millisecond


class LocalTree(NamedTuple):
    """A version of a share that lies on this disk: what it holds, and where its top names are. Of a part
    `only` says which one.
    """

    manifest: KeptManifest
    roots: Mapping[bytes, bytes]
    only: Sequence[bytes] = ()


class ChunkSink(Protocol):
    """Where chunks go; storage.tree_writer is one."""

    def write(self, ordinal: int, data: memoryview) -> None: ...


def choose_trees(manifest: Manifest, trees: Sequence[LocalTree], missing: int) -> list[LocalTree]:
    """Return those trees, in order, in which looking for `missing` chunks is worth while."""
    chosen: list[LocalTree] = []
    room = missing * SEARCH_FACTOR
    for number, tree in enumerate(trees[:SOURCE_LIMIT]):
        room -= tree.manifest.chunk_count
        if room < 0 and number:  # the first is the share's own older version
            break
        if tree.manifest.space == manifest.header.space:
            chosen.append(tree)
    return chosen


def copy_local_chunks(
    manifest: Manifest,
    missing: Iterable[int],
    trees: Sequence[LocalTree],
    keys: Mapping[int, ChunkKeys],
    sink: ChunkSink,
    cancelled: Event | None = None,
) -> set[int]:
    """Write those chunks of `missing` that lie in `trees`; return which. Use a thread.

    Raises: StorageFault where they cannot be written, Unavailable (code "cancelled").
    """
    wanted = list(missing)
    chosen: list[LocalTree] = []
    sources: list[Manifest] = []
    for tree in choose_trees(manifest, trees, len(wanted)):
        try:
            sources.append(tree.manifest.get_chunk_rows())
        except StorageFault:
            continue  # it is damaged: whoever serves it says so
        chosen.append(tree)
    places = find_places(manifest, wanted, sources)
    readers = [TreeReader(tree.roots, tree.manifest) for tree in chosen]
    buffer = memoryview(bytearray(PLAINTEXT_BYTES))
    copied: set[int] = set()
    try:
        for ordinal in places.in_reading_order():
            if cancelled is not None and cancelled.is_set():
                raise Unavailable("The transfer was stopped", code="cancelled")
            place = places.find(ordinal)
            key = keys.get(manifest.chunk_generation(ordinal))
            if place is None or key is None:
                continue
            try:
                length = readers[place.source].read_into(place.ordinal, buffer)
            except StorageFault:
                continue  # it changed, or is gone
            view = buffer[:length]
            if length == manifest.chunk_length(ordinal) and key.key(view) == manifest.chunk_key(ordinal):
                sink.write(ordinal, view)
                copied.add(ordinal)
    finally:
        for reader in readers:
            reader.close()
    return copied
