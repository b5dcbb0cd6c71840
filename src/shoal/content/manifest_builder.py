"""Builder: turns entries and chunks into a manifest and its sealed segments.

Where a segment ends is decided by the row at its end, not by a count, so that inserting a row moves only the
boundary next to it: a changed tree re-sends the segments that changed, the nodes above them and the root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from shoal.content.keys import SegmentKeys
from shoal.content.manifest import KEY_BYTES, Manifest, ManifestHeader
from shoal.content.manifest_segments import (
    CHUNK_SEGMENT_ROWS,
    FORMAT_VERSION,
    LEVEL_LIMIT,
    Reference,
    ReferenceSegment,
    Root,
    encode_segment,
    make_chunk_segment,
    make_entry_segment,
)
from shoal.content.seal import SealedObject, seal_object
from shoal.core.errors import LocalMisuse, MalformedMessage
from shoal.core.units import KIB

SEGMENT_MIN_BYTES: Final = 64 * KIB  # estimated, before a boundary counts
ENTRY_SEGMENT_MIN_BYTES: Final = 16 * KIB  # of entries: one of them is in each new version of a large tree
SEGMENT_MAX_BYTES: Final = 768 * KIB  # estimated; estimates are never too low
ROOT_REFERENCE_BYTES: Final = 384 * KIB  # for each of the two lists; beyond it a level is put between
ENTRY_ROW_BYTES: Final = 40  # of an entry row without path, target and extents, at most
REFERENCE_BYTES: Final = 96  # of a reference without its path, at most
ENTRY_MASK: Final = 2**9 - 1  # about 512 entries more
CHUNK_MASK: Final = 2**12 - 1  # about 4,096 chunks a segment, 2 GiB of data
REFERENCE_MASK: Final = 2**9 - 1


class BuiltManifest(NamedTuple):
    """A manifest with everything that has to be stored for others; the root is not among the segments."""

    manifest: Manifest
    segments: list[SealedObject]
    root: SealedObject


class ManifestBuilder:
    """Fill `manifest` with `add_entry` and `add_chunk` in order, then `build` once.

    A row that a reader would refuse is refused here: LocalMisuse.
    """

    def __init__(self, header: ManifestHeader, read_key: bytes) -> None:
        self.manifest = Manifest(header)
        self._keys = SegmentKeys(read_key)
        self._segments: list[SealedObject] = []

    def add_entry(
        self,
        path: bytes,
        kind: int,
        mode: int,
        mtime_ns: int,
        size: int = 0,
        extents: Sequence[tuple[int, int]] | None = None,
        target: bytes = b"",
    ) -> None:
        """Add the next entry in path order; see `Manifest.add_entry`."""
        try:
            self.manifest.add_entry(path, kind, mode, mtime_ns, size, extents, target)
        except MalformedMessage as error:
            raise LocalMisuse(f"This cannot be in a share: {error.message}", cause=error.cause) from error

    def add_chunk(self, length: int, key: bytes, generation: int) -> None:
        """Add the next chunk of the stream."""
        try:
            self.manifest.add_chunk(length, key, generation)
        except MalformedMessage as error:
            raise LocalMisuse("This cannot be a chunk", cause=error.cause) from error

    def seal_entries(self) -> list[SealedObject]:
        """Seal the entries alone, for a draft; `build` makes the same segments of the same entries."""
        first = len(self._segments)
        for _ in self._seal_entries():
            continue
        return self._segments[first:]

    def build(self) -> BuiltManifest:
        """Seal everything. Raises: LocalMisuse if chunks and entries do not add up."""
        manifest = self.manifest
        try:
            manifest.check_complete()
        except MalformedMessage as error:
            raise LocalMisuse("The chunks are not the data of the files", cause=error.cause) from error
        self._segments.clear()
        entry_level, entries = self._raise_levels(list(self._seal_entries()))
        chunk_level, chunks = self._raise_levels(list(self._seal_chunks()))
        header = manifest.header
        root = Root(
            FORMAT_VERSION,
            *header,
            entries=len(manifest),
            total_bytes=manifest.total_bytes,
            stream_bytes=manifest.stream_bytes,
            chunks=manifest.chunk_count,
            entry_level=entry_level,
            entry_references=entries,
            chunk_level=chunk_level,
            chunk_references=chunks,
        )
        plaintext = encode_segment(root)
        sealed = seal_object(self._keys.key(plaintext), plaintext)
        manifest.content_id = sealed.object_id
        return BuiltManifest(manifest, list(self._segments), sealed)

    def _seal_entries(self) -> Iterator[Reference]:
        manifest = self.manifest

        def estimate(index: int) -> int:
            entry = manifest.entry(index)
            return ENTRY_ROW_BYTES + len(entry.path) + len(entry.target) + 18 * len(entry.extents)

        for first, end in _cut_rows(
            len(manifest),
            estimate,
            lambda index: self._keys.boundary(manifest.path(index)) & ENTRY_MASK == 0,
            ENTRY_SEGMENT_MIN_BYTES,
        ):
            sealed = self._seal(encode_segment(make_entry_segment(manifest, first, end)))
            data = sum(manifest.data_bytes(index) for index in range(first, end))
            yield _refer(sealed, end - first, data, manifest.path(first))

    def _seal_chunks(self) -> Iterator[Reference]:
        manifest = self.manifest
        for first, end in _cut_rows(
            manifest.chunk_count,
            lambda _: SEGMENT_MAX_BYTES // CHUNK_SEGMENT_ROWS,
            lambda index: int.from_bytes(manifest.chunk_key(index)[:4], "big") & CHUNK_MASK == 0,
        ):
            lengths = [manifest.chunk_length(index) for index in range(first, end)]
            keys = b"".join(manifest.chunk_key(index) for index in range(first, end))
            generations = (manifest.chunk_generation(index) for index in range(first, end))
            sealed = self._seal(encode_segment(make_chunk_segment(lengths, keys, generations)))
            yield _refer(sealed, end - first, sum(lengths), b"")

    def _raise_levels(self, references: list[Reference]) -> tuple[int, list[Reference]]:
        """Put nodes between until the list fits into the root."""
        level = 0
        while sum(_reference_bytes(r) for r in references) > ROOT_REFERENCE_BYTES:
            level += 1
            if level > LEVEL_LIMIT:
                raise LocalMisuse("The share is too large for one manifest")
            below, references = references, []
            for first, end in _cut_rows(
                len(below),
                lambda index, below=below: _reference_bytes(below[index]),  # type: ignore[misc]
                lambda index, below=below: (  # type: ignore[misc]
                    int.from_bytes(below[index].key[:4], "big") & REFERENCE_MASK == 0
                ),
            ):
                part = below[first:end]
                sealed = self._seal(encode_segment(ReferenceSegment(level, part)))
                references.append(
                    _refer(
                        sealed,
                        sum(r.rows for r in part),
                        sum(r.stream_bytes for r in part),
                        part[0].first_path,
                    )
                )
        return level, references

    def _seal(self, plaintext: bytes) -> SealedObject:
        sealed = seal_object(self._keys.key(plaintext), plaintext)
        self._segments.append(sealed)
        return sealed


def _cut_rows(
    count: int, estimate: Callable[[int], int], is_boundary: Callable[[int], bool], enough: int | None = None
) -> Iterator[tuple[int, int]]:
    """Yield [first, end) of groups of rows: after a boundary row once there is enough (SEGMENT_MIN_BYTES if
    nothing else is said), before what is too much.
    """
    enough = SEGMENT_MIN_BYTES if enough is None else enough
    first, size = 0, 0
    for index in range(count):
        row = estimate(index)
        if size and size + row > SEGMENT_MAX_BYTES:
            yield first, index
            first, size = index, 0
        size += row
        if size >= enough and is_boundary(index):
            yield first, index + 1
            first, size = index + 1, 0
    if first < count:
        yield first, count


def _refer(sealed: SealedObject, rows: int, stream_bytes: int, first_path: bytes) -> Reference:
    return Reference(sealed.object_id, sealed.key, len(sealed.sealed), rows, stream_bytes, first_path)


def _reference_bytes(reference: Reference) -> int:
    return REFERENCE_BYTES + len(reference.first_path)


assert SEGMENT_MAX_BYTES // CHUNK_SEGMENT_ROWS >= KEY_BYTES + 4
