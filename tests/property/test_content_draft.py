"""Drafts: whatever arrives when, what is read is a prefix of what was told; what is carried over is there."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.content.draft import (
    DraftChunk,
    DraftReader,
    carry_over,
    find_row_limit,
    make_gap,
    refer,
    seal_chunks,
)
from shoal.content.feed import Draft, SegmentReference
from shoal.content.feed_log import AnnouncedDraft
from shoal.content.manifest import EntryKind, Manifest, ManifestHeader
from shoal.content.manifest_builder import ManifestBuilder
from shoal.content.manifest_segments import KIND_CHUNKS, KIND_ENTRIES
from shoal.content.seal import object_id, seal_object
from shoal.core.errors import RemoteFault
from shoal.core.units import KIB, MIB

READ_KEY = b"r" * 32
HEADER = ManifestHeader(bytes(32), 3)
SIZES = [0, 1, 100 * KIB, 255 * KIB, 256 * KIB, 3 * MIB, 9 * MIB]
seeds = st.integers(0, 2**32)


def make_entries(rng: random.Random) -> list[tuple[bytes, int]]:
    return [(b"%04d" % number, rng.choice(SIZES)) for number in range(rng.randint(1, 40))]


def build(entries: list[tuple[bytes, int]]) -> ManifestBuilder:
    builder = ManifestBuilder(HEADER, READ_KEY)
    for path, size in entries:
        builder.add_entry(path, EntryKind.FILE, 0o644, 5, size)
    return builder


def make_rows(rng: random.Random, size_bytes: int, keys: list[bytes]) -> list[DraftChunk]:
    """Return rows for a stream, each with one of `keys`, as long as the cut makes them or in gaps."""
    rows: list[DraftChunk] = []
    while size_bytes:
        length = min(size_bytes, rng.randint(256 * KIB, MIB))
        rows += make_gap(length, 3) if not rng.randint(0, 9) else [DraftChunk(length, rng.choice(keys), 3)]
        size_bytes -= length
    return rows


def announce(builder: ManifestBuilder) -> AnnouncedDraft:
    manifest = builder.manifest
    said = Draft(1, len(manifest), manifest.file_count, manifest.total_bytes, manifest.stream_bytes)
    return AnnouncedDraft(2**31 + 1, said)


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_whatever_is_stored_the_rows_read_are_the_first_ones(seed: int) -> None:
    rng = random.Random(seed)
    builder = build(make_entries(rng))
    sealed_entries = builder.seal_entries()
    rows = make_rows(rng, builder.manifest.stream_bytes, [rng.randbytes(32) for _ in range(30)])
    announced = announce(builder)
    announced.add(refer(sealed_entries, KIND_ENTRIES))
    reader = DraftReader(announced, HEADER)
    stored: dict[bytes, bytes] = {}
    waiting = {o.object_id: o.sealed for o in sealed_entries}
    left = list(rows)
    while left or waiting:
        if left and rng.randint(0, 1):
            count = rng.randint(1, len(left))
            sealed = seal_chunks(READ_KEY, left[:count])
            del left[:count]
            announced.add(refer(sealed, KIND_CHUNKS))
            waiting.update((o.object_id, o.sealed) for o in sealed)
        missing = reader.find_missing(lambda ids: [i for i in ids if i not in stored])
        assert set(missing) <= waiting.keys()
        for name in rng.sample(sorted(waiting), rng.randint(0, len(waiting))):
            stored[name] = waiting.pop(name)
        reader.read(stored.get)
        manifest = reader.manifest
        known = [manifest.chunk(i)[1:] for i in range(manifest.chunk_count)]
        assert known == [(row.length, row.key) for row in rows[: len(known)]]
        assert manifest.chunk_count <= reader.limit or not reader.is_described
    if rows:
        assert reader.manifest.chunk_count == len(rows)
        assert not reader.find_missing(lambda ids: [i for i in ids if i not in stored])
        assert reader.limit == find_row_limit(builder.manifest)
        reader.manifest.check_complete()
        assert list(reader.manifest.files) == list(builder.manifest.files)
    # what a draft says of its entries is what the version's segments say, if nothing changed
    for row in rows:
        builder.add_chunk(*row)
    assert sealed_entries == builder.build().segments[: len(sealed_entries)]


@settings(max_examples=100, deadline=None)
@given(seeds, st.binary(max_size=300), st.sampled_from([KIND_ENTRIES, KIND_CHUNKS]), st.booleans())
def test_other_bytes_are_refused(seed: int, data: bytes, kind: int, as_kind: bool) -> None:
    """Well sealed nonsense, rows that do not fit, entries that are not as was said."""
    rng = random.Random(seed)
    builder = build(make_entries(rng))
    sealed = builder.seal_entries()
    announced = announce(builder)
    plaintext = bytes((kind,)) + data if as_kind else data + b"x"
    nonsense = seal_object(bytes(32), plaintext)
    chunks = seal_chunks(
        READ_KEY, make_rows(rng, builder.manifest.stream_bytes + rng.randint(1, MIB), [b"k" * 32])
    )
    if kind == KIND_ENTRIES:
        announced.add(refer([*sealed, nonsense], KIND_ENTRIES))
    announced.add(refer(sealed, KIND_ENTRIES))
    announced.add(refer([nonsense] if rng.randint(0, 1) else chunks, KIND_CHUNKS))
    stored = {o.object_id: o.sealed for o in (*sealed, nonsense, *chunks)}
    reader = DraftReader(announced, HEADER)
    try:
        reader.read(stored.get)
    except RemoteFault:
        pass
    else:
        raise AssertionError("it was believed")
    assert reader.manifest.chunk_end <= reader.manifest.stream_bytes or not reader.is_described


@settings(max_examples=80, deadline=None)
@given(seeds)
def test_what_is_carried_over_lies_where_it_is_wanted(seed: int) -> None:
    rng = random.Random(seed)
    keys = [rng.randbytes(32) for _ in range(12)]
    entries = make_entries(rng)
    before = fill(build(entries), rng, keys)
    done = set(rng.sample(range(before.chunk_count), rng.randint(0, before.chunk_count)))
    if rng.randint(0, 1):
        number = rng.randrange(len(entries))
        entries[number] = (entries[number][0], rng.choice(SIZES))
    if rng.randint(0, 1):
        del entries[rng.randrange(len(entries))]
    after = fill(build(entries), random.Random(rng.randint(0, 3) and seed), keys)
    written = {place(before, i): before.chunk_key(i) for i in done}
    first = rng.randint(0, after.chunk_count)
    found = carry_over(before, done, after, first)
    assert not found.same & found.maybe
    for ordinal in found.same:
        assert ordinal >= first
        assert written[place(after, ordinal)] == after.chunk_key(ordinal)
    told = {before.chunk_key(i) for i in done}
    expected = {i for i in range(first, after.chunk_count) if after.chunk_key(i) in told}
    assert found.same | found.maybe == expected
    assert carry_over(before, done, before).same == done


def fill(builder: ManifestBuilder, rng: random.Random, keys: list[bytes]) -> Manifest:
    for row in make_rows(rng, builder.manifest.stream_bytes, keys):
        builder.add_chunk(*row)
    return builder.manifest


def place(manifest: Manifest, ordinal: int) -> tuple[tuple[bytes, int, int], ...]:
    return tuple((manifest.path(p.file_index), p.file_offset, p.length) for p in manifest.pieces(ordinal))


def test_an_announcement_is_bounded() -> None:
    announced = announce(build([(b"a", 1)]))
    reference = SegmentReference(bytes(32), bytes(32), KIND_CHUNKS, 100)
    for _ in range(200):
        announced.add([reference] * 512)
    assert len(announced.chunks) == 65_536
    assert object_id(b"") != bytes(32)
