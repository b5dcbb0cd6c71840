"""For all manifests, bytes and buffers: what is written is read, other bytes raise only RemoteFaults."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.content.cut import CHUNK_MAX_BYTES, CHUNK_MIN_BYTES, Cutter
from shoal.content.feed import decode_payload
from shoal.content.feed_log import FeedReader
from shoal.content.keys import SegmentKeys
from shoal.content.manifest import EntryKind, Manifest, ManifestHeader
from shoal.content.manifest_builder import ManifestBuilder
from shoal.content.manifest_loader import load_manifest
from shoal.content.manifest_segments import (
    ChunkSegment,
    EntrySegment,
    ReferenceSegment,
    Root,
    add_chunk_rows,
    add_entry_rows,
    decode_segment,
)
from shoal.content.paths import order_key
from shoal.content.seal import open_object, seal_object
from shoal.content.stream import LARGE_FILE_BYTES, ExtentMap, iter_sections
from shoal.core.errors import RemoteFault

READ_KEY = b"r" * 32
HEADER = ManifestHeader(bytes(32), 0)

names = st.binary(min_size=1, max_size=8).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
times = st.integers(-(2**63), 2**63 - 1)


@st.composite
def extents(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]] | None]:
    """Return a size and its data extents."""
    if draw(st.booleans()):
        return draw(st.integers(0, 3 * LARGE_FILE_BYTES)), None
    found: list[tuple[int, int]] = []
    end = 0
    for hole, length in draw(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**5)), max_size=5)):
        found.append((end + hole, length))
        end += hole + length
    size = end + draw(st.integers(0, 100))
    return size, found if size else None


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Return entries in order: a tree of folders with anything in them."""
    entries: list[tuple[Any, ...]] = []

    def fill(prefix: bytes, depth: int) -> None:
        children = draw(st.lists(names, unique=True, max_size=5 if depth else 8))
        for name in sorted(children):
            path = prefix + name
            kind = draw(st.sampled_from(list(EntryKind)))
            mode, mtime = draw(st.integers(0, 0o777)), draw(times)
            if kind is EntryKind.DIR:
                entries.append((path, kind, mode, mtime))
                if depth < 3:
                    fill(path + b"/", depth + 1)
            elif kind is EntryKind.FILE:
                size, found = draw(extents())
                entries.append((path, kind, mode, mtime, size, found))
            else:
                target = draw(st.binary(min_size=1, max_size=9).filter(lambda t: b"\0" not in t))
                entries.append((path, kind, mode, mtime, 0, None, target))

    fill(b"", 0)
    return entries


@given(trees(), st.randoms(use_true_random=False))
def test_a_manifest_is_read_as_it_was_written(entries: list[tuple[Any, ...]], rng: random.Random) -> None:
    builder = ManifestBuilder(HEADER, READ_KEY)
    for entry in entries:
        builder.add_entry(*entry)
    manifest = builder.manifest
    while manifest.chunk_end < manifest.stream_bytes:
        length = rng.randint(1, min(CHUNK_MAX_BYTES, manifest.stream_bytes - manifest.chunk_end))
        builder.add_chunk(length, rng.randbytes(32), rng.randrange(3))
    built = builder.build()
    objects = {sealed.object_id: sealed.sealed for sealed in built.segments}
    loaded = load_manifest(built.root.sealed, built.root.key, objects.__getitem__)
    assert list(loaded.files) == list(manifest.files)
    assert [e.path for e in loaded.files] == sorted((e[0] for e in entries), key=order_key)
    assert loaded.total_bytes == manifest.total_bytes
    data: dict[tuple[int, int], int] = {}
    for ordinal in range(manifest.chunk_count):
        assert loaded.chunk(ordinal) == manifest.chunk(ordinal)
        assert loaded.chunk_generation(ordinal) == manifest.chunk_generation(ordinal)
        pieces = loaded.pieces(ordinal)
        assert sum(piece.length for piece in pieces) == loaded.chunk_length(ordinal)
        for index, offset, length in pieces:
            assert ordinal in loaded.chunks_of(index)
            assert (index, offset) not in data
            data[index, offset] = length
    for index, entry in enumerate(loaded.files):
        assert loaded.find_file(entry.path) == index
        covered = sorted((o, n) for (i, o), n in data.items() if i == index)
        assert sum(n for _, n in covered) == sum(extent[1] for extent in entry.extents)
        assert all(loaded.pieces(o) for o in loaded.chunks_of(index))


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=70)
    | st.text(max_size=5),
    lambda children: st.lists(children, max_size=6),
    max_leaves=30,
)
KINDS = [EntrySegment, ChunkSegment, ReferenceSegment, Root]


@given(st.sampled_from(range(4)), st.binary(max_size=200) | json_like.map(msgspec.msgpack.encode))
def test_any_bytes_as_a_segment_raise_remote_faults_only(kind: int, data: bytes) -> None:
    manifest = Manifest(HEADER)
    try:
        segment = decode_segment(KINDS[kind], bytes((kind + 1,)) + data)
        if isinstance(segment, EntrySegment):
            add_entry_rows(manifest, segment)
        elif isinstance(segment, ChunkSegment):
            add_chunk_rows(manifest, segment)
    except RemoteFault:
        pass


row_like = st.tuples(
    st.binary(max_size=6) | st.sampled_from([b"a", b"a/b", b"a/c", b"b"]),
    st.integers(-1, 4),
    st.integers(-1, 0o1000),
    st.integers(-(2**63), 2**64 - 1) | st.just(0),
    st.integers(0, 20) | st.integers(0, 2**63 - 1),
    st.none() | st.lists(st.integers(0, 20), max_size=6),
    st.binary(max_size=3),
)


@given(st.lists(row_like, min_size=1, max_size=6), st.lists(st.integers(0, 2**21), max_size=4))
@settings(max_examples=300)
def test_hostile_manifests_raise_remote_faults_only(rows: list[Any], lengths: list[int]) -> None:
    keys = SegmentKeys(READ_KEY)
    objects: dict[bytes, bytes] = {}

    def refer(kind: int, value: Any, count: int, data: int, first: bytes) -> list[Any]:
        plaintext = bytes((kind,)) + msgspec.msgpack.encode(value)
        sealed = seal_object(keys.key(plaintext), plaintext)
        objects[sealed.object_id] = sealed.sealed
        return [sealed.object_id, sealed.key, len(sealed.sealed), count, data, first]

    data = sum(row[4] if row[5] is None else sum(row[5][1::2]) for row in rows if row[1] == 0)
    columns = [b"".join(n.to_bytes(4, "big") for n in lengths), bytes(32 * len(lengths)), [len(lengths), 0]]
    root = [1, bytes(32), 0, 1, 1, 1, 1, 0, len(rows), sum(r[4] for r in rows), data, len(lengths)]
    root += [0, [refer(1, [rows], len(rows), data, rows[0][0])]]
    root += [0, [refer(2, columns, len(lengths), data, b"")] if lengths else []]
    try:
        plaintext = b"\x04" + msgspec.msgpack.encode(root)
    except OverflowError:
        return
    sealed = seal_object(keys.key(plaintext), plaintext)
    try:
        manifest = load_manifest(sealed.sealed, sealed.key, objects.__getitem__)
    except RemoteFault:
        return
    assert sum(lengths) == manifest.stream_bytes  # what was accepted is consistent
    paths = list(manifest.files.paths())
    assert paths == sorted(set(paths), key=order_key)
    for ordinal in range(manifest.chunk_count):
        for index, offset, length in manifest.pieces(ordinal):
            assert offset + length <= manifest.size(index)


@given(st.binary(max_size=300))
def test_any_bytes_as_object_or_feed_raise_remote_faults_only(data: bytes) -> None:
    for read in (
        lambda: open_object(b"k" * 32, data),
        lambda: FeedReader(b"n" * 32, b"s" * 32, READ_KEY).add(data),
    ):
        with pytest.raises(RemoteFault):
            read()
    try:
        decode_payload(data)
    except RemoteFault:
        pass


STREAM = random.Random(11).randbytes(3_000_000) + bytes(1_500_000) + random.Random(12).randbytes(700_000)


@given(
    st.integers(0, len(STREAM)),
    st.lists(st.integers(100_000, 1_200_000), min_size=1, max_size=10),
    st.integers(1, 2**63 - 1),
)
@settings(max_examples=40, deadline=None)
def test_cuts_do_not_depend_on_how_the_bytes_came(start: int, steps: list[int], seed: int) -> None:
    section = memoryview(STREAM)[start:]
    whole = Cutter(seed).cut_whole(bytes(section))
    assert sum(whole) == len(section)
    assert all(CHUNK_MIN_BYTES <= n <= CHUNK_MAX_BYTES for n in whole[:-1])
    cutter, held, position, found, turn = Cutter(seed), b"", 0, [], 0
    while position < len(section):
        step = steps[turn % len(steps)]
        turn += 1
        held += bytes(section[position : position + step + turn % 3])  # odd lengths too
        position += step + turn % 3
        lengths = list(cutter.cut(memoryview(held), final=position >= len(section)))
        found += lengths
        held = held[sum(lengths) :]
    assert found == whole


@given(st.lists(st.integers(0, 3) | st.integers(0, 2 * LARGE_FILE_BYTES), max_size=30))
def test_sections_cover_all_data_and_large_files_stand_alone(sizes: list[int]) -> None:
    sections = list(iter_sections(sizes))
    assert sum(section.data_bytes for section in sections) == sum(sizes)
    for section in sections:
        part = sizes[section.first : section.end]
        assert sum(part) == section.data_bytes > 0
        assert len(part) == 1 or max(part) < LARGE_FILE_BYTES
    for left, right in pairwise(sections):
        assert left.end <= right.first
        assert not any(sizes[left.end : right.first])
        assert max(left.data_bytes, right.data_bytes) >= LARGE_FILE_BYTES


@given(st.lists(extents(), max_size=6), st.data())
def test_pieces_are_the_same_bytes_as_the_stream(files: list[Any], data: st.DataObject) -> None:
    extent_map = ExtentMap()
    expected: list[tuple[int, int, int]] = []
    for index, (size, found) in enumerate(files):
        runs = ([(0, size)] if size else []) if found is None else found
        extent_map.append(runs)
        expected += [(index, offset, length) for offset, length in runs]
    total = extent_map.stream_bytes
    start = data.draw(st.integers(0, total))
    end = data.draw(st.integers(start, total))
    joined = (
        extent_map.pieces(0, start)
        + extent_map.pieces(start, end - start)
        + extent_map.pieces(end, total - end)
    )
    merged: list[tuple[int, int, int]] = []
    for piece in joined:
        last = merged[-1] if merged else None
        if (
            last
            and last[0] == piece[0]
            and last[1] + last[2] == piece[1]
            and (last[0], last[1]) in {e[:2] for e in expected}
        ):
            merged[-1] = (last[0], last[1], last[2] + piece[2])
        else:
            merged.append(tuple(piece))
    assert merged == expected
