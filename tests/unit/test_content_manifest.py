"""Manifests: rows, lookups, and what hostile peers put into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from shoal.content import manifest_loader
from shoal.content.keys import SegmentKeys
from shoal.content.manifest import (
    EXTENT_LIMIT,
    SIZE_LIMIT,
    EntryKind,
    Manifest,
    ManifestHeader,
)
from shoal.content.manifest_builder import ManifestBuilder
from shoal.content.manifest_loader import list_segments, load_manifest, missing_segments, open_root
from shoal.content.manifest_segments import (
    ChunkSegment,
    EntryRow,
    EntrySegment,
    Reference,
    ReferenceSegment,
    Root,
    encode_segment,
)
from shoal.content.seal import SealedObject, seal_object
from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.wire.codec import Message

READ_KEY = b"r" * 32
HEADER = ManifestHeader(bytes(32), 3)
KEY = b"k" * 32


def seal(segment: Message) -> SealedObject:
    plaintext = encode_segment(segment)
    return seal_object(SegmentKeys(READ_KEY).key(plaintext), plaintext)


class Hostile:
    """Makes manifests with any rows, with references that fit them."""

    def __init__(self, rows: list[EntryRow], chunks: ChunkSegment | None = None) -> None:
        self.objects: dict[bytes, bytes] = {}
        data = sum(
            row.size if row.extents is None else sum(row.extents[1::2]) for row in rows if row.kind == 0
        )
        self.root = Root(
            1,
            *HEADER,
            entries=len(rows),
            total_bytes=sum(row.size for row in rows),
            stream_bytes=data,
            chunks=0,
            entry_level=0,
            entry_references=[],
            chunk_level=0,
            chunk_references=[],
        )
        entries = [self.refer(EntrySegment(rows), len(rows), data, rows[0].path)]
        count = len(chunks.lengths) // 4 if chunks else 0
        chunk_references = [self.refer(chunks, count, data)] if chunks else []
        self.change(entry_references=entries, chunks=count, chunk_references=chunk_references)

    def refer(self, segment: Message, rows: int, data: int, first: bytes = b"") -> Reference:
        sealed = seal(segment)
        self.objects[sealed.object_id] = sealed.sealed
        return Reference(sealed.object_id, sealed.key, len(sealed.sealed), max(rows, 1), data, first)

    def change(self, **fields: object) -> Hostile:
        values = {name: getattr(self.root, name) for name in self.root.__struct_fields__}
        self.root = Root(**{**values, **fields})
        return self

    def load(self) -> Manifest:
        root = seal(self.root)
        return load_manifest(root.sealed, root.key, self.objects.__getitem__)


def chunks_of(length: int, count: int = 1) -> ChunkSegment:
    return ChunkSegment(length.to_bytes(4, "big") * count, KEY * count, [count, 3])


def file(path: bytes, size: int = 0, extents: list[int] | None = None) -> EntryRow:
    return EntryRow(path, 0, 0o644, 0, size, extents)


def folder(path: bytes) -> EntryRow:
    return EntryRow(path, 1, 0o755, 0)


def test_a_plain_hostile_manifest_loads() -> None:
    manifest = Hostile([folder(b"a"), file(b"a/b", 10)], chunks_of(10)).load()
    assert manifest.pieces(0) == [(1, 0, 10)]
    assert manifest.chunk(0) == (0, 10, KEY)
    assert manifest.generations() == {3}
    assert manifest.header == HEADER


@pytest.mark.parametrize(
    "rows",
    [
        [file(b"b"), file(b"a")],
        [file(b"a"), file(b"a")],
        [folder(b"a"), file(b"a")],
        [folder(b"a.txt"), folder(b"a")],
        [folder(b"a"), file(b"a.txt"), file(b"a/b")],
        [file(b"a"), file(b"a/b")],
        [file(b"a/b")],
        [EntryRow(b"a", 2, 0o777, 0, target=b"x"), file(b"a/b")],
        [folder(b"a"), file(b"a/../b")],
        [file(b"..")],
        [file(b"/etc/passwd")],
        [file(b"a\x00b")],
        [file(b"")],
        [EntryRow(b"a", 0, 0o4755, 0)],
        [EntryRow(b"a", 0, -1, 0)],
        [EntryRow(b"a", 3, 0o644, 0)],
        [EntryRow(b"a", -1, 0o644, 0)],
        [EntryRow(b"a", 0, 0o644, 2**63)],
        [EntryRow(b"a", 1, 0o755, 0, 5)],
        [EntryRow(b"a", 1, 0o755, 0, 0, None, b"target")],
        [EntryRow(b"a", 2, 0o777, 0)],
        [EntryRow(b"a", 2, 0o777, 0, target=b"a\x00")],
        [EntryRow(b"a", 0, 0o644, 0, target=b"a")],
        [file(b"a", 10, [0, 10])],
        [file(b"a", 10, [0])],
        [file(b"a", 10, [0, 0])],
        [file(b"a", 10, [0, 5, 4, 2])],
        [file(b"a", 10, [5, 2, 0, 2])],
        [file(b"a", 10, [5, 6])],
        [file(b"a", 0, [])],
        [file(b".shoal-versions", 1)],
        [EntryRow(b".Shoal-Versions", 1, 0o755, 0)],
        [EntryRow(b".shoal-part-1122", 2, 0o777, 0, target=b"a")],
        [file(b"a", SIZE_LIMIT), file(b"b", 1)],
    ],
)
def test_hostile_rows_are_refused(rows: list[EntryRow]) -> None:
    with pytest.raises((MalformedMessage, LimitExceeded, LocalMisuse)) as caught:
        Hostile(rows).load()
    if caught.type is LocalMisuse:  # sums that cannot even be written
        pytest.fail("the test made a manifest that is not one")


def test_names_that_a_getter_keeps_for_itself_may_stand_further_down() -> None:
    rows = [EntryRow(b"a", 1, 0o755, 0), file(b"a/.shoal-part-1"), file(b"a/.shoal-versions")]
    assert len(Hostile(rows).load()) == 3


@pytest.mark.parametrize(
    "chunks",
    [
        chunks_of(9),
        chunks_of(11),
        chunks_of(0),
        chunks_of(2**32 - 1),
        ChunkSegment(b"", b"", []),
        ChunkSegment(b"\0\0\0", KEY, [1, 0]),
        ChunkSegment(b"\0\0\0\x0a", KEY[:-1], [1, 0]),
        ChunkSegment(b"\0\0\0\x0a", KEY, [2, 0]),
        ChunkSegment(b"\0\0\0\x0a", KEY, [1]),
        ChunkSegment(b"\0\0\0\x0a", KEY, []),
        ChunkSegment(b"\0\0\0\x0a", KEY, [1, 0], b"short"),
    ],
)
def test_hostile_chunks_are_refused(chunks: ChunkSegment) -> None:
    with pytest.raises(MalformedMessage):
        Hostile([file(b"a", 10)], chunks).load()


def test_sums_that_do_not_add_up_are_refused() -> None:
    rows, chunks = [file(b"a", 10)], chunks_of(10)
    for name in ("entries", "total_bytes", "stream_bytes", "chunks"):
        with pytest.raises(MalformedMessage):
            Hostile(rows, chunks).change(**{name: 11}).load()
    with pytest.raises(LimitExceeded):
        Hostile(rows, chunks).change(entries=2**40).load()
    for name in ("version", "chunker", "seed_rule", "hash", "seal", "codec"):
        with pytest.raises(MalformedMessage) as caught:
            Hostile(rows, chunks).change(**{name: 9}).load()
        assert caught.value.code == "unsupported"
    for level in (1, 4):
        with pytest.raises(MalformedMessage):
            Hostile(rows, chunks).change(entry_level=level).load()


def test_references_that_lie_are_refused() -> None:
    good = Hostile([file(b"a", 10)], chunks_of(10))
    reference = good.root.entry_references[0]
    lies = [
        Reference(reference.object_id, reference.key, 9, 1, 10, b"b"),
        Reference(reference.object_id, b"x" * 32, 9, 1, 10, b"a"),
        good.root.chunk_references[0],
        good.refer(EntrySegment([file(b"a", 10), file(b"b")]), 1, 10, b"a"),
        good.refer(EntrySegment([file(b"a", 5)]), 1, 10, b"a"),
        good.refer(ReferenceSegment(1, [reference]), 1, 10, b"a"),
    ]
    for lie in lies:
        with pytest.raises(MalformedMessage):
            good.change(entry_references=[lie]).load()
    node = good.refer(ReferenceSegment(1, [reference]), 1, 10, b"a")
    assert len(good.change(entry_references=[node], entry_level=1).load()) == 1
    for lie in (
        good.refer(ReferenceSegment(2, [reference]), 1, 10, b"a"),
        good.refer(ReferenceSegment(1, [reference, reference]), 1, 10, b"a"),
        good.refer(ReferenceSegment(1, [reference]), 1, 10, b"b"),
    ):
        with pytest.raises(MalformedMessage):
            good.change(entry_references=[lie], entry_level=1).load()


def test_sealed_bytes_that_were_changed_are_refused() -> None:
    good = Hostile([file(b"a", 10)], chunks_of(10))
    root = seal(good.root)
    for position in (0, 40, len(root.sealed) - 1):
        changed = bytearray(root.sealed)
        changed[position] ^= 1
        with pytest.raises(MalformedMessage):
            open_root(bytes(changed), root.key)
    with pytest.raises(MalformedMessage):
        open_root(root.sealed, b"x" * 32)
    with pytest.raises(MalformedMessage):
        open_root(b"", root.key)
    with pytest.raises(LimitExceeded):
        open_root(bytes(2**20 + 100), root.key)


def test_a_builder_refuses_what_a_reader_would() -> None:
    builder = ManifestBuilder(HEADER, READ_KEY)
    with pytest.raises(LocalMisuse):
        builder.add_entry(b"../x", EntryKind.FILE, 0o644, 0)
    extents = [(2 * i, 1) for i in range(EXTENT_LIMIT + 1)]
    with pytest.raises(LocalMisuse):
        builder.add_entry(b"x", EntryKind.FILE, 0o644, 0, 10**6, extents)
    builder.add_entry(b"x", EntryKind.FILE, 0o644, 0, 10**6, extents[:-1])
    with pytest.raises(LocalMisuse):
        builder.build()
    with pytest.raises(LocalMisuse):
        builder.add_chunk(0, KEY, 0)
    builder.add_chunk(EXTENT_LIMIT, KEY, 0)
    built = builder.build()
    objects = {s.object_id: s.sealed for s in built.segments}
    loaded = load_manifest(built.root.sealed, built.root.key, objects.__getitem__)
    assert len(loaded.pieces(0)) == EXTENT_LIMIT


def build(paths: list[bytes], chunk: int = 1000) -> tuple[Manifest, dict[bytes, bytes], SealedObject]:
    builder = ManifestBuilder(HEADER, READ_KEY)
    for path in paths:
        builder.add_entry(path, EntryKind.FILE, 0o644, 0, 100)
    while builder.manifest.chunk_end < builder.manifest.stream_bytes:
        end = builder.manifest.chunk_end
        length = min(chunk, builder.manifest.stream_bytes - end)
        builder.add_chunk(length, SegmentKeys(READ_KEY).key(end.to_bytes(8, "big")), 0)
    built = builder.build()
    return built.manifest, {s.object_id: s.sealed for s in built.segments}, built.root


def not_in(stored: Mapping[bytes, bytes]) -> Callable[[Sequence[bytes]], list[bytes]]:
    """Return what says which ids are not in there."""
    return lambda ids: [object_id for object_id in ids if object_id not in stored]


def test_an_inserted_file_changes_few_segments() -> None:
    paths = [b"some/longer/name/of/a/file %06d" % number for number in range(20_000)]
    paths = [path.replace(b"/", b"-") for path in paths]
    _, before, _ = build(paths)
    _, after, root = build(sorted([*paths, paths[9000] + b"x"]))
    entry_like = set(after) - set(before)
    assert len(after) >= 8
    assert len(entry_like) <= 4  # one of the entries, the chunks behind it
    assert missing_segments(root.sealed, root.key, before.get, not_in(before)) == [
        i for i in after if i not in before
    ]


def test_a_large_manifest_has_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.content.manifest_builder.ROOT_REFERENCE_BYTES", 500)
    monkeypatch.setattr("shoal.content.manifest_builder.SEGMENT_MIN_BYTES", 1000)
    monkeypatch.setattr("shoal.content.manifest_builder.ENTRY_SEGMENT_MIN_BYTES", 1000)
    monkeypatch.setattr("shoal.content.manifest_builder.SEGMENT_MAX_BYTES", 2000)
    paths = [b"%08d" % number for number in range(3000)]
    manifest, objects, root = build(paths)
    assert open_root(root.sealed, root.key).entry_level >= 2
    stored: dict[bytes, bytes] = {}
    rounds = 0
    while missing := missing_segments(root.sealed, root.key, stored.get, not_in(stored)):
        stored.update((object_id, objects[object_id]) for object_id in missing)
        rounds += 1
    assert rounds >= 3
    assert stored == objects
    listed = list_segments(root.sealed, root.key, stored.get)
    assert set(listed) == set(objects)
    top = list_segments(
        root.sealed, root.key, lambda object_id: None
    )  # nodes that are not there have nothing
    assert 0 < len(top) < len(listed)
    loaded = load_manifest(root.sealed, root.key, stored.__getitem__)
    assert list(loaded.files) == list(manifest.files)
    assert loaded.content_id == root.object_id


def test_lookups() -> None:
    builder = ManifestBuilder(HEADER, READ_KEY)
    builder.add_entry(b"a", EntryKind.DIR, 0o755, 0)
    builder.add_entry(b"a/1", EntryKind.FILE, 0o644, 5, 700_000)
    builder.add_entry(b"a/2", EntryKind.FILE, 0o644, 6, 0)
    builder.add_entry(b"a/3", EntryKind.FILE, 0o644, 7, 900, [(100, 50), (800, 100)])
    builder.add_entry(b"a/4", EntryKind.SYMLINK, 0o777, 8, target=b"1")
    for length, generation in ((400_000, 1), (300_000, 2), (150, 2)):
        builder.add_chunk(length, KEY, generation)
    manifest = builder.build().manifest
    assert [manifest.find_file(p) for p in (b"a", b"a/3", b"a/9", b"", b"b")] == [0, 3, None, None, None]
    assert [list(manifest.chunks_of(i)) for i in range(5)] == [[], [0, 1], [], [2], []]
    assert manifest.pieces(2) == [(3, 100, 50), (3, 800, 100)]
    assert manifest.pieces(1) == [(1, 400_000, 300_000)]
    assert (manifest.file_count, manifest.dir_count, len(manifest)) == (3, 1, 5)
    assert (manifest.total_bytes, manifest.stream_bytes) == (700_900, 700_150)
    assert manifest.generations() == {1, 2}
    assert manifest.top_names() == [b"a"]
    assert manifest.files[-1].target == b"1"
    assert [entry.size for entry in manifest.files[1:4]] == [700_000, 0, 900]
    for ordinal in (-1, 3):
        with pytest.raises(IndexError):
            manifest.chunk(ordinal)
    with pytest.raises(IndexError):
        manifest.files[5]


def test_a_segment_that_is_named_again_and_again_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred bytes must not become 16 million chunks in a getter's memory."""
    monkeypatch.setattr(manifest_loader, "REPEATED_ROWS", 50)
    times = 6
    hostile = Hostile([file(b"a", 100 * times)])
    leaf = hostile.refer(chunks_of(10, 10), 10, 100)
    again = [leaf] * times
    hostile.change(chunks=10 * times, chunk_references=again)
    assert hostile.load().chunk_count == 10 * times  # data may repeat
    more = Hostile([file(b"a", 100 * (times + 1))])
    more.refer(chunks_of(10, 10), 10, 100)
    more.change(chunks=10 * (times + 1), chunk_references=[*again, leaf])
    with pytest.raises(LimitExceeded):
        more.load()


def test_a_segment_is_looked_for_once_however_often_it_is_named() -> None:
    times = 5000
    hostile = Hostile([file(b"a", 10 * times)])
    leaf = hostile.refer(chunks_of(10), 1, 10)
    node = hostile.refer(ReferenceSegment(1, [leaf] * times), times, 10 * times)
    hostile.change(chunks=times, chunk_references=[node], chunk_level=1)
    root = seal(hostile.root)
    asked: list[list[bytes]] = []
    loaded: list[bytes] = []

    def find(object_id: bytes) -> bytes | None:
        loaded.append(object_id)
        return hostile.objects[object_id]

    def find_missing(ids: Sequence[bytes]) -> list[bytes]:
        asked.append(list(ids))
        return [leaf.object_id]

    assert missing_segments(root.sealed, root.key, find, find_missing) == [leaf.object_id]
    assert loaded == [node.object_id]  # of leaves it is asked whether they are there, all at once
    (ids,) = asked
    assert ids.count(leaf.object_id) == 1
    assert len(ids) == 2
