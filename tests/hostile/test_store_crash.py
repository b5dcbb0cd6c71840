"""The store at its I/O port: every workload of up to three operations, cut or failing at every call."""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from blake3 import blake3

from shoal.core.errors import StorageFault
from shoal.storage import segment_index as sql
from shoal.storage.database import Connection
from shoal.storage.segment_collector import Collector
from shoal.storage.segment_format import KEY_BYTES
from shoal.storage.segment_store import NewChunk, SegmentStore
from shoal.testing.segment_disk import MemoryDisk, MemoryIndex, PowerCut

T = TypeVar("T")

SEGMENT_BYTES = 400  # three records or so: the next segment is begun within a workload


def make_sealed(name: str) -> bytes:
    return (name * 90).encode()[:90]


PUTS: dict[str, list[tuple[int, int, str]]] = {
    "put1": [(1, 0, "a")],
    "put2": [(1, 1, "b"), (2, 0, "a")],  # one chunk, two holders
    "put3": [(2, 1, "c"), (2, 2, "d")],
}
RELEASES = {"release1": 1, "release2": 2}
OPERATIONS = [*PUTS, *RELEASES, "collect", "reopen"]


class World:
    """A store on a disk in memory, and what it has acknowledged."""

    def __init__(self, files: dict[str, bytes] | None = None, image: bytes | None = None) -> None:
        self.disk = MemoryDisk(files)
        self.index = MemoryIndex(self.disk, image)
        self.kept: dict[tuple[int, int], str] = {}
        self.open()

    def open(self) -> None:
        self.store = SegmentStore(self.disk, self.index, segment_bytes=SEGMENT_BYTES)
        assert self.store.recover() == 0

    def run(self, operation: str) -> None:
        """Run one operation; `kept` changes when it was acknowledged."""
        if operation in PUTS:
            self.store.put([_chunk(*item) for item in PUTS[operation]])
        elif operation in RELEASES:
            while self.store.release(RELEASES[operation]):
                pass
        elif operation == "collect":
            collector = Collector(self.store)
            collector.close_written()
            for row in collector.candidates(1.0):
                for _ in collector.collect(row):
                    pass
        else:
            self.open()
        self.kept = after(self.kept, operation)

    def check(self, *allowed: dict[tuple[int, int], str]) -> None:
        """What is held is one of `allowed`, reads right, and the index agrees with itself."""
        rows = self.index.connection.execute("SELECT holder, ordinal, key FROM holds").fetchall()
        held = {(holder, ordinal): key for holder, ordinal, key in rows}
        assert held in [{place: _key(name) for place, name in kept.items()} for kept in allowed]
        for key in held.values():
            sealed = self.store.read(key)
            assert sealed is not None
            assert blake3(sealed).digest()[:KEY_BYTES] == key
        assert Collector(self.store).repair_counts() == 0
        assert self.store.use().lost == 0
        for row in self.index.read(sql.load_segments):
            assert row.live <= row.end


def after(kept: dict[tuple[int, int], str], operation: str) -> dict[tuple[int, int], str]:
    """Return what is held once an operation was carried out."""
    if operation in PUTS:
        return {**kept, **{(holder, ordinal): name for holder, ordinal, name in PUTS[operation]}}
    gone = RELEASES.get(operation)
    return {place: name for place, name in kept.items() if place[0] != gone}


def _key(name: str) -> bytes:
    return blake3(make_sealed(name)).digest()[:KEY_BYTES]


def _chunk(holder: int, ordinal: int, name: str) -> NewChunk:
    sealed = make_sealed(name)
    return NewChunk(holder, ordinal, blake3(sealed).digest(), sealed)


def workloads() -> Iterator[tuple[str, ...]]:
    for length in (1, 2, 3):
        yield from itertools.product(OPERATIONS, repeat=length)


def _calls(prefix: tuple[str, ...], last: str) -> tuple[int, int]:
    """Return between which numbers the last operation's calls are."""
    world = World()
    for operation in prefix:
        world.run(operation)
    first = world.disk.calls
    world.run(last)
    return first + 1, world.disk.calls


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_power_cut_at_every_call(length: int) -> None:
    seen: set[object] = set()
    images = 0
    for prefix in itertools.product(OPERATIONS, repeat=length - 1):
        for last in OPERATIONS:
            first, end = _calls(prefix, last)
            for cut_at in range(first, end + 2):  # the last one: right after the operation
                world = World()
                for operation in prefix:
                    world.run(operation)
                before = world.kept
                world.disk.cut_at = cut_at
                try:
                    world.run(last)
                except PowerCut:
                    allowed = [before, after(before, last)]
                else:
                    allowed = [world.kept]
                index = world.index.image()
                for image in world.disk.images():
                    state = (tuple(sorted(image.items())), index, str(allowed))
                    if state in seen:
                        continue
                    seen.add(state)
                    images += 1
                    again = World(image, index)
                    again.check(*allowed)
                    again.run("put3")  # and it can be used
                    again.run("collect")
                    again.open()
                    again.check(*(after(kept, "put3") for kept in allowed))
    print(f"{images} images")
    assert images > len(OPERATIONS) ** length


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_an_error_at_every_call(length: int, number: int) -> None:
    for prefix in itertools.product(OPERATIONS, repeat=length - 1):
        for last in OPERATIONS:
            first, end = _calls(prefix, last)
            for fail_at in range(first, end + 1):
                world = World()
                for operation in prefix:
                    world.run(operation)
                before = world.kept
                world.disk.fail_at, world.disk.errno = fail_at, number
                try:
                    world.run(last)
                except StorageFault:
                    allowed = [before, after(before, last)]
                else:
                    allowed = [after(before, last)]
                world.check(*allowed) if last != "reopen" else None
                for image in itertools.islice(world.disk.images(), 4):
                    again = World(image, world.index.image())
                    again.check(*allowed)
                world.open()
                world.run("put3")  # the disk is well again
                world.check(*(after(kept, "put3") for kept in allowed))


def test_after_a_failed_fsync_the_segment_is_not_written_again() -> None:
    world = World()
    world.run("put1")
    number = world.store.log.number
    world.disk.fail_at = world.disk.calls + 2  # append, fsync
    with pytest.raises(StorageFault):
        world.run("put3")
    world.run("put3")
    assert world.store.log.number > number
    world.open()
    assert world.store.log.number > number
    world.check(world.kept)


def test_a_segment_that_vanished_is_noticed() -> None:
    world = World()
    world.run("put1")
    world.run("put3")
    files = {name: file.cached for name, file in world.disk.files.items()}
    del files[min(files)]
    disk = MemoryDisk(files)
    store = SegmentStore(disk, MemoryIndex(disk, world.index.image()), segment_bytes=SEGMENT_BYTES)
    assert store.recover() >= 1
    assert store.read(_key("a")) is None
    store.put([_chunk(1, 0, "a")])  # fetched again
    assert store.read(_key("a")) == make_sealed("a")
    assert Collector(store).repair_counts() == 0


@pytest.mark.parametrize("at", [3, 40, 90, 130])
def test_a_flipped_bit_is_found_and_never_served(at: int) -> None:
    world = World()
    world.run("put1")
    lost: list[bytes] = []
    world.store.on_lost = lost.extend
    file = next(iter(world.disk.files.values()))
    file.cached = file.cached[:at] + bytes([file.cached[at] ^ 4]) + file.cached[at + 1 :]
    checked = Collector(world.store).check()
    assert checked.next_key == b""
    if at < 32:  # the file's own header: the records are whole
        assert world.store.read(_key("a")) == make_sealed("a")
        return
    assert checked.lost == lost == [_key("a")]
    assert world.store.read(_key("a")) is None
    world.run("put1")
    assert world.store.read(_key("a")) == make_sealed("a")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE chunks SET place = place + 1",
        "UPDATE chunks SET size = size - 1",
        "UPDATE chunks SET key = zeroblob(16)",
        "UPDATE chunks SET refs = refs + 4",
        "UPDATE holds SET key = zeroblob(16)",
        "UPDATE segments SET live = live + 8",
    ],
)
def test_a_flipped_bit_in_the_index_is_found_and_never_served(damage: str) -> None:
    world = World()
    world.run("put1")
    world.index.connection.execute(damage)
    collector = Collector(world.store)
    sealed = None
    with contextlib.suppress(StorageFault):
        sealed = world.store.read(_key("a"))
    assert sealed in (None, make_sealed("a"))
    found = len(collector.check().lost) + collector.repair_counts() + (sealed is None)
    assert found
    world.run("put1")
    assert collector.check().lost == []
    collector.repair_counts()
    world.check(world.kept)


class StubbornDisk(MemoryDisk):
    """A disk that answers reads with an error for as long as `refusal` says so."""

    refusal = 0

    def read(self, name: str, offset: int, size: int) -> bytes:
        if self.refusal:
            raise OSError(self.refusal, "injected")
        return super().read(name, offset, size)


@pytest.mark.parametrize("refusal", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.ESTALE])
def test_what_can_only_not_be_read_now_is_not_lost(refusal: int) -> None:
    """A member who opens sockets until there are no descriptors left must not cost us the store."""
    disk = StubbornDisk()
    store = SegmentStore(disk, MemoryIndex(disk), segment_bytes=SEGMENT_BYTES)
    store.recover()
    store.put([_chunk(1, 0, "a")])
    store.put([_chunk(2, 0, "b")])
    while store.release(2):
        pass
    collector = Collector(store)
    collector.close_written()
    disk.refusal = refusal
    with pytest.raises(StorageFault) as caught:
        store.read(_key("a"))
    assert caught.value.code == "busy"
    with pytest.raises(StorageFault):
        collector.check()
    (row,) = collector.candidates(1.0)
    with pytest.raises(StorageFault):
        list(collector.collect(row))
    disk.refusal = 0
    assert store.use().lost == 0
    assert store.read(_key("a")) == make_sealed("a")


def test_what_the_disk_cannot_read_at_all_is_lost() -> None:
    disk = StubbornDisk()
    store = SegmentStore(disk, MemoryIndex(disk), segment_bytes=SEGMENT_BYTES)
    store.recover()
    store.put([_chunk(1, 0, "a")])
    disk.refusal = errno.EIO
    with pytest.raises(StorageFault) as caught:
        store.read(_key("a"))
    assert caught.value.code == "rot"
    assert store.use().lost == 1


class HurriedIndex(MemoryIndex):
    """An index after whose next read another thread has its turn, if nothing holds it back."""

    hurry: Callable[[], None] | None = None

    def read(self, run: Callable[[Connection], T]) -> T:
        found = super().read(run)
        hurry, self.hurry = self.hurry, None
        if hurry is not None:
            other = threading.Thread(target=hurry)
            other.start()
            other.join(0.2)
        return found


def test_a_segment_that_was_written_while_it_was_judged_is_not_collected() -> None:
    disk = MemoryDisk()
    index = HurriedIndex(disk)
    store = SegmentStore(disk, index, segment_bytes=SEGMENT_BYTES)
    store.recover()
    store.put([_chunk(9, 0, "x")])
    while store.release(9):
        pass
    written = threading.Event()

    def write() -> None:
        store.put([_chunk(1, 0, "a")])
        store.put([_chunk(1, 1, "b")])  # the next segment is begun with it
        written.set()

    index.hurry = write
    collector = Collector(store)
    for row in collector.candidates():
        list(collector.collect(row))
    assert written.wait(5.0)
    assert store.use().lost == 0
    assert store.read(_key("a")) == make_sealed("a")
