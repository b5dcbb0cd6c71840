"""Segments: how rows of a manifest lie in sealed objects. Layouts are in spec/manifest.md.

A plaintext is one byte that says what it is, then MessagePack. Rows hold nothing that depends on the rows
before them, so that a change in one place leaves the other segments, and their ids, as they are.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, TypeVar

import msgspec

from shoal.content.manifest import CHUNK_LIMIT, ENTRY_LIMIT, EXTENT_LIMIT, KEY_BYTES, SIZE_LIMIT, Manifest
from shoal.content.paths import TARGET_BYTES
from shoal.content.seal import PLAINTEXT_BYTES, SEALED_BYTES
from shoal.core.errors import MalformedMessage
from shoal.wire.codec import Message, decode, encode
from shoal.wire.limits import PATH_BYTES

KIND_ENTRIES: Final = 1
KIND_CHUNKS: Final = 2
KIND_REFERENCES: Final = 3
KIND_ROOT: Final = 4
FORMAT_VERSION: Final = 1
LEVEL_LIMIT: Final = 4  # nodes of references above a leaf
CHUNK_SEGMENT_ROWS: Final = 12_288  # with ids still below PLAINTEXT_BYTES

Unsigned = Annotated[int, msgspec.Meta(ge=0, le=SIZE_LIMIT)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
PathBytes = Annotated[bytes, msgspec.Meta(max_length=PATH_BYTES)]
S = TypeVar("S", bound=Message)


class EntryRow(Message, frozen=True, gc=False):
    """One entry. `extents` = flat (offset, length, offset, length, ...) of the data; nil: all of it is
    data.
    """

    path: PathBytes
    kind: int
    mode: int
    mtime_ns: int
    size: Unsigned = 0
    extents: Annotated[list[Unsigned], msgspec.Meta(max_length=2 * EXTENT_LIMIT)] | None = None
    target: Annotated[bytes, msgspec.Meta(max_length=TARGET_BYTES)] = b""


class EntrySegment(Message, frozen=True):
    """Neighbouring entries. Invalid if empty."""

    rows: Annotated[list[EntryRow], msgspec.Meta(min_length=1)]


class ChunkSegment(Message, frozen=True):
    """Neighbouring chunks, by column: `lengths` u32 big endian, `keys` 32 bytes each, `generations` as flat
    runs (count, generation, ...), `ids` of sealed chunks 32 bytes each (zeros where there is none) or nil.
    Invalid if empty or if the columns differ in length.
    """

    lengths: bytes
    keys: bytes
    generations: Annotated[list[U32], msgspec.Meta(max_length=2 * CHUNK_SEGMENT_ROWS)]
    ids: bytes | None = None


class Reference(Message, frozen=True):
    """Points to a sealed object that holds rows, or references. `rows` and `stream_bytes` count what is below
    it; `first_path` (entries only) is the first path below it.
    """

    object_id: Hash
    key: Hash
    sealed_bytes: Annotated[int, msgspec.Meta(ge=1, le=SEALED_BYTES)]
    rows: Annotated[int, msgspec.Meta(ge=1, le=max(CHUNK_LIMIT, ENTRY_LIMIT))]
    stream_bytes: Unsigned
    first_path: PathBytes = b""


class ReferenceSegment(Message, frozen=True):
    """A node between root and rows. `level` is 1 if its references are rows, 2 if they are nodes of level
    1, ...
    """

    level: Annotated[int, msgspec.Meta(ge=1, le=LEVEL_LIMIT)]
    references: Annotated[list[Reference], msgspec.Meta(min_length=1)]


class Root(Message, frozen=True):
    """The top of a manifest; BLAKE3 of it, sealed, is the content id. An unknown version or an unknown
    number of chunker, seed rule, hash, seal or codec makes it unreadable for us; different counts below
    make it invalid.
    """

    version: U32
    space: Hash
    generation: U32
    chunker: U32
    seed_rule: U32
    hash: U32
    seal: U32
    codec: U32
    entries: Unsigned
    total_bytes: Unsigned
    stream_bytes: Unsigned
    chunks: Unsigned
    entry_level: Annotated[int, msgspec.Meta(ge=0, le=LEVEL_LIMIT)]
    entry_references: list[Reference]
    chunk_level: Annotated[int, msgspec.Meta(ge=0, le=LEVEL_LIMIT)]
    chunk_references: list[Reference]


_KINDS: dict[type[Message], int] = {
    EntrySegment: KIND_ENTRIES,
    ChunkSegment: KIND_CHUNKS,
    ReferenceSegment: KIND_REFERENCES,
    Root: KIND_ROOT,
}


def encode_segment(segment: Message) -> bytes:
    """Return a segment's plaintext. Raises: LocalMisuse beyond PLAINTEXT_BYTES."""
    return bytes((_KINDS[type(segment)],)) + encode(segment, PLAINTEXT_BYTES - 1)


def decode_segment(kind: type[S], plaintext: bytes) -> S:
    """Return the segment in `plaintext`. Raises: MalformedMessage, LimitExceeded."""
    if not plaintext or plaintext[0] != _KINDS[kind]:
        raise MalformedMessage("a manifest segment of another kind", cause=f"{kind.__name__} was expected")
    return decode(kind, memoryview(plaintext)[1:], PLAINTEXT_BYTES)


def make_entry_segment(manifest: Manifest, first: int, end: int) -> EntrySegment:
    """Return entries [first, end) as a segment."""
    rows: list[EntryRow] = []
    for index in range(first, end):
        entry = manifest.entry(index)
        extents: list[int] | None = None
        if entry.size and (len(entry.extents) != 1 or entry.extents[0][1] != entry.size):
            extents = [number for extent in entry.extents for number in extent[:2]]
        rows.append(
            EntryRow(
                entry.path, int(entry.kind), entry.mode, entry.mtime_ns, entry.size, extents, entry.target
            )
        )
    return EntrySegment(rows)


def make_chunk_segment(lengths: Iterable[int], keys: bytes, generations: Iterable[int]) -> ChunkSegment:
    """Return chunks as a segment."""
    column = array("I", lengths)
    if sys.byteorder == "little":
        column.byteswap()
    runs: list[int] = []
    for generation in generations:
        if runs and runs[-1] == generation:
            runs[-2] += 1
        else:
            runs += (1, generation)
    return ChunkSegment(column.tobytes(), keys, runs)


def add_entry_rows(manifest: Manifest, segment: EntrySegment) -> None:
    """Add a segment's entries to a manifest. Raises: MalformedMessage, LimitExceeded."""
    for row in segment.rows:
        extents: Sequence[tuple[int, int]] | None = None
        if row.extents is not None:
            flat = row.extents
            if len(flat) % 2:
                raise MalformedMessage("a manifest entry with half an extent")
            extents = list(zip(flat[::2], flat[1::2], strict=True))
            if not row.size or (len(extents) == 1 and extents[0] == (0, row.size)):
                raise MalformedMessage("a manifest entry whose extents say nothing")
        manifest.add_entry(row.path, row.kind, row.mode, row.mtime_ns, row.size, extents, row.target)


def add_chunk_rows(manifest: Manifest, segment: ChunkSegment) -> None:
    """Add a segment's chunks to a manifest. Raises: MalformedMessage, LimitExceeded."""
    count, rest = divmod(len(segment.lengths), 4)
    keys = segment.keys
    if rest or not 0 < count <= CHUNK_SEGMENT_ROWS or len(keys) != KEY_BYTES * count:
        raise MalformedMessage("a chunk segment whose columns differ in length")
    if segment.ids is not None and len(segment.ids) != 32 * count:
        raise MalformedMessage("a chunk segment whose columns differ in length")
    runs = segment.generations
    if len(runs) % 2 or sum(runs[::2]) != count:
        raise MalformedMessage("a chunk segment whose generations do not fit")
    lengths = array("I", segment.lengths)
    if sys.byteorder == "little":
        lengths.byteswap()
    row = 0
    for run, generation in zip(runs[::2], runs[1::2], strict=True):
        for index in range(row, row + run):
            manifest.add_chunk(lengths[index], keys[KEY_BYTES * index : KEY_BYTES * (index + 1)], generation)
        row += run
