"""Finding chunks of one manifest in others, and comparing two manifests."""

from __future__ import annotations

import random

import pytest

from shoal.content import chunk_places
from shoal.content.chunk_places import ChunkPlace, find_places
from shoal.content.comparison import NO_ENTRY, is_same_data, iter_gone, pair_entries
from shoal.content.manifest import EntryKind, Manifest, ManifestHeader
from shoal.content.paths import order_key

SPACE = bytes(32)


def make_manifest(files: dict[bytes, int], chunks: list[tuple[int, bytes]], generation: int = 0) -> Manifest:
    """Return a manifest of files with these sizes and these (length, key) chunks."""
    manifest = Manifest(ManifestHeader(SPACE, 0))
    for path in sorted(files, key=order_key):
        manifest.add_entry(path, EntryKind.FILE, 0o644, 7, files[path])
    for length, key in chunks:
        manifest.add_chunk(length, key, generation)
    manifest.check_complete()
    return manifest


def keys(rng: random.Random, count: int) -> list[bytes]:
    return [rng.randbytes(32) for _ in range(count)]


def test_chunks_are_found_in_the_first_source_that_has_them() -> None:
    rng = random.Random(1)
    a, b, new = keys(rng, 5), keys(rng, 5), keys(rng, 3)
    wanted = [new[0], a[3], b[0], a[3], new[1], b[4], a[0], new[2]]
    manifest = make_manifest({b"f": 80}, [(10, key) for key in wanted])
    first = make_manifest({b"x": 50}, [(10, key) for key in a])
    second = make_manifest({b"y": 60}, [(10, key) for key in [*b, a[0]]])
    places = find_places(manifest, range(8), [first, second])
    found = [places.find(ordinal) for ordinal in range(8)]
    p = ChunkPlace
    assert found == [None, p(0, 3), p(1, 0), p(0, 3), None, p(1, 4), p(0, 0), None]
    assert places.count == 5
    assert places.in_reading_order() == [6, 1, 3, 2, 5]
    assert find_places(manifest, [1], [second]).count == 0


def test_only_what_is_wanted_is_looked_for() -> None:
    rng = random.Random(2)
    a = keys(rng, 4)
    manifest = make_manifest({b"f": 40}, [(10, key) for key in a])
    places = find_places(manifest, [1, 2], [manifest])
    assert [places.find(o) is not None for o in range(4)] == [False, True, True, False]


def test_a_chunk_of_another_generation_or_length_is_another_chunk() -> None:
    key = bytes(range(32))
    manifest = make_manifest({b"f": 10}, [(10, key)])
    assert find_places(manifest, [0], [make_manifest({b"g": 10}, [(10, key)], generation=1)]).count == 0
    assert find_places(manifest, [0], [make_manifest({b"g": 11}, [(11, key)])]).count == 0
    assert find_places(manifest, [0], [make_manifest({b"g": 11}, [(1, bytes(32)), (10, key)])]).count == 1


def test_keys_that_begin_alike_are_told_apart() -> None:
    wanted, other = bytes(8) + b"a" * 24, bytes(8) + b"b" * 24
    manifest = make_manifest({b"f": 10}, [(10, wanted)])
    assert find_places(manifest, [0], [make_manifest({b"g": 10}, [(10, other)])]).count == 0


def test_batches_and_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    pool = keys(rng, 200)
    manifest = make_manifest({b"f": 300}, [(1, rng.choice(pool)) for _ in range(300)])
    sources = [make_manifest({b"g": 40}, [(1, key) for key in rng.sample(pool, 40)]) for _ in range(3)]
    whole = find_places(manifest, range(300), sources)
    monkeypatch.setattr(chunk_places, "WANTED_CHUNKS", 7)
    monkeypatch.setattr(chunk_places, "SOURCE_CHUNKS", 5)
    parts = find_places(manifest, range(300), sources)
    assert [whole.find(o) for o in range(300)] == [parts.find(o) for o in range(300)]
    for ordinal in range(300):
        held = [
            n for n, s in enumerate(sources) if manifest.chunk_key(ordinal) in map(s.chunk_key, range(40))
        ]
        place = whole.find(ordinal)
        assert (place.source if place is not None else None) == (held[0] if held else None)


def test_entries_are_paired_by_path_in_path_order() -> None:
    one = make_manifest({b"a": 1, b"a.txt": 1, b"b": 1, b"d": 1}, [(4, bytes(32))])
    two = make_manifest({b"a.txt": 2, b"b": 1, b"c": 1}, [(4, bytes(32))])
    assert list(pair_entries(one, two)) == [NO_ENTRY, 0, 1, NO_ENTRY]
    assert list(pair_entries(two, one)) == [1, 2, NO_ENTRY]
    assert [one.path(i) for i in iter_gone(one, two)] == [b"d", b"a"]
    empty = Manifest(ManifestHeader(SPACE, 0))
    assert list(pair_entries(one, empty)) == [NO_ENTRY] * 4
    assert list(pair_entries(empty, one)) == []


def test_files_have_the_same_data_if_their_chunks_say_so() -> None:
    x, y, z = bytes(32), b"y" * 32, b"z" * 32
    one = make_manifest({b"a": 10, b"b": 10, b"c": 20}, [(20, x), (20, y)])
    two = make_manifest({b"a": 10, b"b": 10, b"c": 20}, [(20, x), (20, z)])
    moved = make_manifest({b"a": 20, b"b": 10, b"c": 10}, [(20, y), (20, x)])
    assert is_same_data(one, 0, two, 0)
    assert is_same_data(one, 1, two, 1)
    assert not is_same_data(one, 2, two, 2)
    assert not is_same_data(one, 0, two, 1)  # the same chunk, another part of it
    assert is_same_data(one, 2, moved, 0)
    assert not is_same_data(one, 0, moved, 0)
