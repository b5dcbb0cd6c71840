"""Draft: a version's chunks as they are told of while the author still hashes it (spec/feed.md).

A draft is a manifest without a root: all entries as they were found, and the first chunks of their stream.
It grows by chunk rows only. Nothing of it decides what a version is; it says early which bytes lie where, by
key. What differs in the end from what was found stands in a draft as *gaps*: rows with a key of zeros that
nobody has, so that the chunks behind them stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from shoal.content.cut import CHUNK_MAX_BYTES, CHUNK_MIN_BYTES
from shoal.content.feed import Draft, SegmentReference
from shoal.content.feed_log import AnnouncedDraft
from shoal.content.keys import SegmentKeys
from shoal.content.manifest import CHUNK_LIMIT, KEY_BYTES, Manifest, ManifestHeader
from shoal.content.manifest_segments import (
    CHUNK_SEGMENT_ROWS,
    ChunkSegment,
    EntrySegment,
    add_chunk_rows,
    add_entry_rows,
    decode_segment,
    encode_segment,
    make_chunk_segment,
)
from shoal.content.seal import SealedObject, open_object, seal_object
from shoal.content.stream import LARGE_FILE_BYTES
from shoal.core.errors import MalformedMessage
from shoal.core.units import KIB

GAP_KEY: Final = bytes(KEY_BYTES)
SMALL_ROW_BYTES: Final = 32 * KIB  # the shortest chunk within a run of small files


class DraftChunk(NamedTuple):
    """One row: a chunk that was hashed, or a gap (`key` is GAP_KEY)."""

    length: int
    key: bytes
    generation: int


def find_row_limit(manifest: Manifest) -> int:
    """Return how many chunk rows a draft of these entries can have at most.

    Chunks are as short as the cut allows only at the end of a section, and a gap may begin anywhere in one.
    """
    rows, small = 2, 0
    for index in range(len(manifest)):
        size = manifest.data_bytes(index)
        if size >= LARGE_FILE_BYTES:
            rows += size // CHUNK_MIN_BYTES + 4
        else:
            small += size
    return min(CHUNK_LIMIT, rows + small // SMALL_ROW_BYTES)


def make_gap(size_bytes: int, generation: int) -> list[DraftChunk]:
    """Return rows for so much of the stream that has no chunks."""
    rows = [DraftChunk(CHUNK_MAX_BYTES, GAP_KEY, generation)] * (size_bytes // CHUNK_MAX_BYTES)
    if rest := size_bytes % CHUNK_MAX_BYTES:
        rows.append(DraftChunk(rest, GAP_KEY, generation))
    return rows


def seal_chunks(read_key: bytes, rows: Sequence[DraftChunk]) -> list[SealedObject]:
    """Return the segments that announce these rows."""
    keys = SegmentKeys(read_key)
    sealed: list[SealedObject] = []
    for first in range(0, len(rows), CHUNK_SEGMENT_ROWS):
        part = rows[first : first + CHUNK_SEGMENT_ROWS]
        segment = make_chunk_segment(
            (row.length for row in part), b"".join(row.key for row in part), (row.generation for row in part)
        )
        plaintext = encode_segment(segment)
        sealed.append(seal_object(keys.key(plaintext), plaintext))
    return sealed


def refer(sealed: Iterable[SealedObject], kind: int) -> list[SegmentReference]:
    """Return how a feed announces these segments."""
    return [SegmentReference(o.object_id, o.key, kind, len(o.sealed)) for o in sealed]


class DraftReader:
    """Reads an announced draft into `manifest`, as far as its segments are there; for one thread at a time.

    Nothing in them is believed but that it is consistent in itself. `limit` is right once `is_described`.
    """

    def __init__(self, announced: AnnouncedDraft, header: ManifestHeader) -> None:
        self.announced = announced
        self.manifest = Manifest(header)
        self.limit = 0
        self._entries_read = 0
        self._chunks_read = 0

    @property
    def is_described(self) -> bool:
        """Whether all entries are read."""
        return self.limit > 0

    def find_missing(self, find_missing: Callable[[Sequence[bytes]], Sequence[bytes]]) -> list[bytes]:
        """Return the ids of announced segments that were not read yet and are not stored, each once.

        `find_missing` is asked once, which of them are not stored.
        """
        ahead = self.announced.entries[self._entries_read :] + self.announced.chunks[self._chunks_read :]
        return list(find_missing(list(dict.fromkeys(r.object_id for r in ahead)))) if ahead else []

    def read(self, find: Callable[[bytes], bytes | None]) -> None:
        """Take what is stored of the announced segments, in order.

        Raises: MalformedMessage, LimitExceeded.
        """
        announced = self.announced
        entries = list(announced.entries) if announced.chunks else []  # only then all of them are announced
        for reference in entries[self._entries_read :]:
            sealed = find(reference.object_id)
            if sealed is None:
                return
            add_entry_rows(self.manifest, decode_segment(EntrySegment, _open(reference, sealed)))
            if len(self.manifest) > announced.said.entries:
                raise MalformedMessage("a draft with more entries than it says")
            self._entries_read += 1
        if entries and not self.is_described:
            _check_entries(announced.said, self.manifest)
            self.limit = find_row_limit(self.manifest)
        for reference in announced.chunks[self._chunks_read :]:
            sealed = find(reference.object_id)
            if sealed is None:
                return
            self._add_chunks(decode_segment(ChunkSegment, _open(reference, sealed)))
            self._chunks_read += 1

    def _add_chunks(self, segment: ChunkSegment) -> None:
        """Add the rows of a segment, all or none: threads read the manifest meanwhile."""
        manifest = self.manifest
        trial = Manifest(manifest.header)
        add_chunk_rows(trial, segment)
        generation = manifest.header.generation
        if (
            manifest.chunk_count + trial.chunk_count > self.limit
            or manifest.chunk_end + trial.chunk_end > manifest.stream_bytes
            or trial.generations() != {generation}
        ):
            raise MalformedMessage("chunks of a draft that do not fit its entries")
        for row in range(trial.chunk_count):
            manifest.add_chunk(trial.chunk_length(row), trial.chunk_key(row), generation)


class CarryOver(NamedTuple):
    """What of the chunks of one manifest lies where another one wants it: `same` at the same place for sure,
    `maybe` if it verifies.
    """

    same: set[int]
    maybe: set[int]


def carry_over(before: Manifest, done: set[int], after: Manifest, first: int = 0) -> CarryOver:
    """Compare the chunks of `after` from `first` on with the chunks `done` of `before` in the same files.

    A chunk is the same if it has the same key and is the same bytes of the same files. Use a thread.
    """
    same: set[int] = set()
    maybe: set[int] = set()
    keys = {before.chunk_key(ordinal)[:8] for ordinal in done}
    for ordinal in range(first, after.chunk_count):
        key = after.chunk_key(ordinal)
        if key[:8] not in keys:
            continue
        if ordinal in done and key == before.chunk_key(ordinal) and _is_same(before, after, ordinal):
            same.add(ordinal)
        else:
            maybe.add(ordinal)
    return CarryOver(same, maybe)


def _is_same(before: Manifest, after: Manifest, ordinal: int) -> bool:
    there, here = before.pieces(ordinal), after.pieces(ordinal)
    return len(there) == len(here) and all(
        old[1:] == new[1:]
        and before.path(old.file_index) == after.path(new.file_index)
        and before.size(old.file_index) == after.size(new.file_index)
        for old, new in zip(there, here, strict=True)
    )


def _check_entries(said: Draft, manifest: Manifest) -> None:
    found = (len(manifest), manifest.file_count, manifest.total_bytes, manifest.stream_bytes)
    if found != (said.entries, said.files, said.total_bytes, said.stream_bytes):
        raise MalformedMessage("a draft whose entries are not as it says")


def _open(reference: SegmentReference, sealed: bytes) -> bytes:
    return open_object(reference.key, sealed, reference.object_id)
