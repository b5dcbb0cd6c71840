"""Comparison: two manifests side by side: which entries have the same path, which files the same data."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from shoal.content.manifest import Manifest
from shoal.content.paths import order_key

NO_ENTRY = -1


def pair_entries(manifest: Manifest, other: Manifest) -> array[int]:
    """Return for each entry of `manifest` the index of the entry of `other` at the same path, or NO_ENTRY.

    Walks both once, in path order.
    """
    pairs = array("i", [NO_ENTRY]) * len(manifest)
    others = enumerate(other.files.paths())
    there, path = next(others, (0, None))
    key = order_key(path) if path is not None else None
    for here, own in enumerate(manifest.files.paths()):
        own_key = order_key(own)
        while key is not None and key < own_key:
            there, path = next(others, (0, None))
            key = order_key(path) if path is not None else None
        if key == own_key:
            pairs[here] = there
    return pairs


def iter_gone(before: Manifest, after: Manifest) -> Iterator[int]:
    """Yield the entries of `before` whose path is not in `after`, deepest first."""
    pairs = pair_entries(before, after)
    return (index for index in reversed(range(len(before))) if pairs[index] == NO_ENTRY)


def is_same_data(manifest: Manifest, index: int, other: Manifest, there: int) -> bool:
    """Whether two files have the same bytes, as far as keys tell without reading: the same chunks, the same
    place in them. False for a file that only shares its chunks with other neighbours than before.
    """
    one, two = manifest.entry(index), other.entry(there)
    if (one.kind, one.size, len(one.extents)) != (two.kind, two.size, len(two.extents)):
        return False
    if any(a[:2] != b[:2] for a, b in zip(one.extents, two.extents, strict=True)):
        return False
    if not one.extents:
        return True
    chunks, chunks_there = manifest.chunks_of(index), other.chunks_of(there)
    into = one.extents[0][2] - manifest.chunk(chunks[0])[0]
    into_there = two.extents[0][2] - other.chunk(chunks_there[0])[0]
    return (
        into == into_there
        and len(chunks) == len(chunks_there)
        and all(
            manifest.chunk_key(a) == other.chunk_key(b) and manifest.chunk_length(a) == other.chunk_length(b)
            for a, b in zip(chunks, chunks_there, strict=True)
        )
    )
