"""Work in the background: it waits for others, but not for ever, and its threads stand back."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from shoal.apps.files import courtesy as courtesy_module
from shoal.apps.files.courtesy import Courtesy
from shoal.apps.files.places import ACTIVE_TRANSFERS, BACKGROUND_TRANSFERS, Place, Places
from shoal.core.thread_priority import NICE, lower_thread_priority
from shoal.core.units import MIB
from shoal.storage.hashing import hash_share
from shoal.storage.scan import scan
from shoal.swarm.activity import BUSY_BYTES_S, QUIET_S, SAMPLE_S, Activity
from shoal.testing.clock import ManualClock


def test_only_the_thread_itself_stands_back() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("threads have priorities of their own on Linux")
    seen: list[int] = []

    def run() -> None:
        lower_thread_priority()
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [max(before, NICE)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_hashing_asks_for_its_turn_before_each_buffer(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(os.urandom(20 * MIB))
    turns: list[int] = []
    hashing: list[int] = []  # the threads that report progress: those that people wait for stand back too

    class Asked:
        def take(self, cancelled: threading.Event) -> None:
            assert not cancelled.is_set()
            turns.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

        def rest(self) -> None:
            pass

    def report(size_bytes: int, files: int) -> None:
        hashing.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def make(behind: bool) -> bytes:
        return hash_share(
            scan([os.fsencode(tmp_path / "data")]),
            read_key=b"r" * 32,
            content_secret=b"c" * 32,
            generation=0,
            space=bytes(32),
            cut_seed=7,
            turns=Asked() if behind else None,
            background=behind,
            progress=report,
        ).built.root.object_id

    assert make(True) == make(False)
    assert len(turns) >= 3
    if sys.platform.startswith("linux"):
        assert set(turns) == set(hashing) == {NICE}


def test_background_waits_its_turn_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    busy = [True]
    courtesy = Courtesy(lambda: busy[0])

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            looks.append(timeout or 0.0)
            busy[0] = busy[0] and len(looks) != stop_after
            return self.is_set()

    stop_after = 7
    courtesy.wait_turn(Event())
    assert len(looks) == 7
    stop_after, busy[0] = -1, True
    looks.clear()
    courtesy.wait_turn(Event())
    assert sum(looks) == pytest.approx(courtesy_module.PATIENCE_S)
    busy[0] = False
    looks.clear()
    with courtesy.foreground():
        assert courtesy.is_busy()
        with courtesy.foreground():
            pass
        assert courtesy.is_busy()
        cancelled = Event()
        cancelled.set()
        courtesy.wait_turn(cancelled)
        assert len(looks) == 1
    assert not courtesy.is_busy()


def test_activity_is_what_moves_fast_and_lasts_a_moment() -> None:
    clock = ManualClock()
    count = [0]
    activity = Activity(lambda: count[0], clock.monotonic)
    assert not activity.is_busy()
    clock.advance(SAMPLE_S)
    count[0] += int(BUSY_BYTES_S * SAMPLE_S / 2)
    assert not activity.is_busy()
    clock.advance(SAMPLE_S)
    count[0] += int(BUSY_BYTES_S * SAMPLE_S * 2)
    assert activity.is_busy()
    clock.advance(QUIET_S / 2)
    assert activity.is_busy()
    clock.advance(QUIET_S)
    assert not activity.is_busy()


async def test_transfers_in_the_background_take_no_place_of_others() -> None:
    places = Places()
    behind = [Place(places, background=True) for _ in range(BACKGROUND_TRANSFERS)]
    for place in behind:
        await place.take()
    waiting = asyncio.ensure_future(Place(places, background=True).take())
    for _ in range(ACTIVE_TRANSFERS):
        await asyncio.wait_for(Place(places).take(), 1.0)
    await asyncio.sleep(0)
    assert not waiting.done()
    behind[0].stand_aside()
    await asyncio.wait_for(waiting, 1.0)
