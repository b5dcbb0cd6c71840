"""Kept manifests: loaded when they are needed, once, and let go of within a number of bytes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import NamedTuple

import pytest

from shoal.content.kept_manifest import KeptManifest, ManifestKeep
from shoal.content.manifest import EntryKind, Manifest, ManifestHeader
from shoal.content.manifest_builder import BuiltManifest, ManifestBuilder
from shoal.core.errors import StorageFault

SPACE = bytes(32)


class Version(NamedTuple):
    """What a closing entry says."""

    content_id: bytes
    root_key: bytes
    files: int
    chunks: int


class Store:
    """Sealed objects of some manifests; counts how often a root is asked for."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.loads = 0
        self.gate: threading.Event | None = None  # what a load waits for
        self._roots: set[bytes] = set()

    def make(self, keep: ManifestKeep, files: int, name: bytes = b"file") -> KeptManifest:
        built = build(files, name)
        for sealed in (*built.segments, built.root):
            self.objects[sealed.object_id] = sealed.sealed
        self._roots.add(built.root.object_id)
        version = Version(built.root.object_id, built.root.key, files, built.manifest.chunk_count)
        return KeptManifest(version, SPACE, self.find, keep)

    def find(self, object_id: bytes) -> bytes | None:
        if object_id in self._roots:
            self.loads += 1
            if self.gate is not None:
                assert self.gate.wait(10.0)
        return self.objects.get(object_id)


def build(files: int, name: bytes) -> BuiltManifest:
    builder = ManifestBuilder(ManifestHeader(SPACE, 0), bytes(32))
    for number in range(files):
        builder.add_entry(b"%s %06d" % (name, number), EntryKind.FILE, 0o644, number, 1000)
        builder.add_chunk(1000, b"%032d" % number, 0)
    return builder.build()


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_small_one_stays_and_a_large_one_is_loaded_again(store: Store) -> None:
    keep = ManifestKeep(limit_bytes=100_000)
    small, large = store.make(keep, 10), store.make(keep, 5000)
    for kept in (small, large):
        assert kept.find() is None
        assert len(kept.get()) == kept.file_count == kept.chunk_count
    gc.collect()
    assert small.find() is not None
    assert large.find() is None
    assert store.loads == 2
    assert large.get().path(4999) == b"file 004999"
    assert small.get().path(9) == b"file 000009"
    assert store.loads == 3


def test_who_uses_one_holds_it_and_shares_it(store: Store) -> None:
    kept = store.make(ManifestKeep(limit_bytes=0), 100)
    used = kept.get()
    assert kept.get() is used
    assert kept.find() is used
    assert store.loads == 1
    del used
    gc.collect()
    assert kept.find() is None


def test_all_that_is_kept_is_bounded_and_the_last_used_stay(store: Store) -> None:
    size = store.make(ManifestKeep(), 100, b"share 0").get().held_bytes
    limited = ManifestKeep(limit_bytes=3 * size)
    shares = [store.make(limited, 100, b"share %d" % number) for number in range(6)]
    for kept in shares[:3]:
        kept.get()
    shares[0].get()  # used again: the second one is the oldest now
    shares[3].get()
    gc.collect()
    assert [kept.find() is not None for kept in shares] == [True, False, True, True, False, False]
    assert 0 < limited.held_bytes <= 3 * size
    for kept in shares:
        kept.close()
    gc.collect()
    assert not any(kept.find() for kept in shares)
    assert limited.held_bytes == 0


def test_many_who_ask_at_once_load_it_once(store: Store) -> None:
    store.gate = threading.Event()
    kept = store.make(ManifestKeep(limit_bytes=0), 1000)
    found: list[Manifest] = []
    threads = [threading.Thread(target=lambda: found.append(kept.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    store.gate.set()
    for thread in threads:
        thread.join()
    assert store.loads == 1
    assert len(found) == 8
    assert all(manifest is found[0] for manifest in found)


def test_letting_go_is_told_only_of_what_does_not_stay(store: Store) -> None:
    told: list[int] = []
    keep = ManifestKeep(100_000, lambda: told.append(1))
    small, large = store.make(keep, 10), store.make(keep, 5000)
    small.get()
    small.let_go()
    assert not told
    large.get()
    large.let_go()
    assert told


def test_the_chunks_alone_are_enough_to_look_for_keys(store: Store) -> None:
    kept = store.make(ManifestKeep(limit_bytes=0), 300)
    rows = kept.get_chunk_rows()
    whole = kept.get()
    assert len(rows) == 0
    assert rows.chunk_count == whole.chunk_count == 300
    assert rows.key_words().tolist() == whole.key_words().tolist()
    assert all(rows.chunk(ordinal) == whole.chunk(ordinal) for ordinal in range(300))
    assert kept.get_chunk_rows() is whole  # it is there already


def lose(store: Store, kept: KeptManifest) -> None:
    for object_id in list(store.objects):
        if object_id != kept.content_id:
            del store.objects[object_id]


def spoil(store: Store, kept: KeptManifest) -> None:
    data = bytearray(store.objects[kept.content_id])
    data[-1] ^= 1
    store.objects[kept.content_id] = bytes(data)


@pytest.mark.parametrize("damage", [lose, spoil])
def test_a_damaged_one_is_a_fault_of_the_storage_each_time(
    store: Store, damage: Callable[[Store, KeptManifest], None]
) -> None:
    kept = store.make(ManifestKeep(), 300)
    right = dict(store.objects)
    damage(store, kept)
    for ask in (kept.get, kept.get_chunk_rows, kept.get):
        with pytest.raises(StorageFault) as caught:
            ask()
        assert caught.value.code == "corrupt"
        assert "share it again" in caught.value.next_step
    store.objects.update(right)
    assert len(kept.get()) == 300
