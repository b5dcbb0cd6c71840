"""Who of several hashings goes on: the least left first, nobody waits for ever; and how many at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shoal.apps.files.hash_room import ENTRY_BYTES, PASSES, ROOM_BYTES, SMALL, SMALL_BYTES, HashRoom
from shoal.apps.files.hash_turns import LONGEST_EVERY, HashJob, HashTurns
from shoal.content.manifest import EntryKind
from shoal.storage.scan import ScannedEntry, ScanResult

NEVER = threading.Event()
GENEROUS_S = 30.0
TOO_MANY = ROOM_BYTES // ENTRY_BYTES + 1  # entries: more than there is room for


@contextmanager
def waiting_thread(turns: HashTurns, job: HashJob, name: str, order: list[str]) -> Iterator[None]:
    """Run a thread that takes one turn, notes it, and gives it back; started once it waits."""

    def run() -> None:
        job.take(NEVER)
        order.append(name)
        job.rest()

    before = turns.waiting
    thread = threading.Thread(target=run)
    thread.start()
    look = threading.Event()
    while turns.waiting == before:
        look.wait(0.001)
    yield
    thread.join(GENEROUS_S)


def test_the_least_left_goes_first_and_a_quarter_is_for_who_waits_longest() -> None:
    turns = HashTurns(1)
    own = HashJob(turns, 0)
    own.take(NEVER)
    own.take(NEVER)  # nobody waits: the same turn goes on
    order: list[str] = []
    left = {"huge": 100, "large": 50, "b": 2, "c": 3, "a": 1, "d": 4}
    with contextmanager(_all_waiting)(turns, left, order):
        own.rest()
    # turn 1 was our own
    assert LONGEST_EVERY == 4
    assert order == ["a", "b", "huge", "c", "d", "large"]


def _all_waiting(turns: HashTurns, left: dict[str, int], order: list[str]) -> Iterator[None]:
    if not left:
        yield
        return
    (name, size), *rest = left.items()
    with waiting_thread(turns, HashJob(turns, size), name, order):
        yield from _all_waiting(turns, dict(rest), order)


def test_who_has_a_turn_gives_it_up_only_if_another_goes_first() -> None:
    turns = HashTurns(1)
    order: list[str] = []
    large, small = HashJob(turns, 100), HashJob(turns, 1)
    large.take(NEVER)
    with waiting_thread(turns, small, "small", order):
        large.take(NEVER)
        assert order == ["small"]
        order.append("large")
    large.rest()
    large.rest()  # again does nothing
    other = HashJob(turns, 5)
    other.take(NEVER)
    assert turns.waiting == 0


def test_a_thread_that_waits_ends_when_it_is_cancelled() -> None:
    turns = HashTurns(1)
    HashJob(turns, 1).take(NEVER)
    cancelled = threading.Event()
    thread = threading.Thread(target=lambda: HashJob(turns, 1).take(cancelled))
    thread.start()
    cancelled.set()
    thread.join(GENEROUS_S)
    assert not thread.is_alive()
    assert turns.waiting == 0


def test_in_the_background_no_turn_is_kept_while_others_go_first() -> None:
    turns = HashTurns(1)
    order: list[str] = []

    def stand_back(cancelled: threading.Event) -> None:
        front = HashJob(turns, 100)
        thread = threading.Thread(target=lambda: (front.take(NEVER), order.append("front"), front.rest()))
        thread.start()
        thread.join(GENEROUS_S)

    behind = HashJob(turns, 1, stand_back)
    for _ in range(2):
        behind.take(NEVER)
        order.append("behind")
    assert order == ["front", "behind", "front", "behind"]


def found(size: int, entries: int = 1) -> ScanResult:
    one = ScannedEntry(b"x", EntryKind.FILE, 0o644, 0, size, size)
    return ScanResult(entries=[one] * entries, data_bytes=size)


class Scanned:
    """One share that wants in: how often it was scanned, and whether it is in."""

    def __init__(self, room: HashRoom, size: int, entries: int = 1) -> None:
        self.scans = 0
        self.is_in = False
        self.leave = asyncio.Event()
        self._result = found(size, entries)
        self.task = asyncio.ensure_future(self._run(room))

    async def _run(self, room: HashRoom) -> None:
        async with room.enter(self._scan) as scanned:
            assert scanned is self._result
            self.is_in = True
            await self.leave.wait()
        self.is_in = False

    async def _scan(self) -> ScanResult:
        self.scans += 1
        return self._result


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_small_shares_have_places_of_their_own_and_large_ones_as_many_as_memory_allows() -> None:
    room = HashRoom()
    large = [Scanned(room, SMALL_BYTES + number) for number in range(6)]
    await settle()
    inside = [one.is_in for one in large]
    assert inside == [True] * 3 + [False] * 3
    many = Scanned(room, 1, TOO_MANY)  # alone it may take more than there is
    small = [Scanned(room, 1000) for _ in range(SMALL + 1)]
    await settle()
    assert [one.is_in for one in small] == [True] * SMALL + [False]
    assert not many.is_in
    small[0].leave.set()
    await settle()
    assert small[-1].is_in
    assert small[-1].scans == 2  # while it waited nothing was held
    large[5].task.cancel()  # who waits may go
    large[0].leave.set()
    large[1].leave.set()
    large[2].leave.set()
    await settle()
    assert many.is_in  # the smallest by bytes goes first
    many.leave.set()
    await settle()
    assert [one.is_in for one in large[3:]] == [True, True, False]
    for one in (*large, *small):
        one.leave.set()
    await asyncio.gather(*(one.task for one in (*large, *small, many)), return_exceptions=True)


async def test_a_large_share_is_not_passed_for_ever() -> None:
    room = HashRoom()
    first = Scanned(room, SMALL_BYTES, TOO_MANY)  # has all the room
    await settle()
    huge = Scanned(room, 10**12)
    await settle()
    order: list[Scanned] = []
    others = [Scanned(room, SMALL_BYTES + 1, TOO_MANY) for _ in range(PASSES + 2)]
    await settle()
    inside = first
    while not huge.is_in:
        inside.leave.set()
        await settle()
        inside = next(one for one in (huge, *others) if one.is_in)
        order.append(inside)
    assert order.index(huge) == PASSES
    for one in (huge, *others):
        one.leave.set()
    await asyncio.gather(*(one.task for one in (first, huge, *others)))
