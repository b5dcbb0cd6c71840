"""Playbooks of the pacer, and whole minutes of it on a virtual clock with records as lanes send them."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping

import pytest

from shoal.core.units import KIB, MIB
from shoal.swarm.pacer import (
    BURST_S,
    LANE_MIN_BYTES_S,
    SLICE_MAX_BYTES,
    SLICE_MIN_BYTES,
    SLICE_S,
    YIELD_S,
    Pacer,
)
from shoal.swarm.pacer_events import AddLane, Ask, DropLane, Effect, Grant, Moved, SetLimits, Tick, Wake

A, B = b"a" * 32, b"b" * 32
MB = 1_000_000


def make(total: float | None = None, peers: Mapping[bytes, float] | None = None, lanes: int = 1) -> Pacer:
    pacer = Pacer()
    assert pacer.step(0.0, SetLimits(total, peers or {})) == []
    for number in range(lanes):
        assert pacer.step(0.0, AddLane(number, A)) == []
    return pacer


def granted(effects: list[Effect]) -> list[int]:
    return [effect.lane for effect in effects if isinstance(effect, Grant)]


def test_without_a_limit_lanes_need_not_ask_and_are_granted_if_they_do() -> None:
    pacer = make()
    assert pacer.is_open(0)
    assert pacer.share_bytes_s(0.0, A) is None
    assert pacer.step(0.0, Ask(0, 1000)) == [Grant(0, 1000)]
    assert not pacer.is_open(99)


def test_a_grant_is_a_slice_and_the_next_one_waits_for_its_debt() -> None:
    pacer = make(MB)
    assert not pacer.is_open(0)
    assert pacer.step(0.0, Ask(0, MIB)) == [Grant(0, int(MB * SLICE_S))]
    now = 100.0
    assert pacer.step(now, Ask(0, MIB)) == [Grant(0, int(MB * (SLICE_S + BURST_S)))]
    (wake,) = pacer.step(now, Ask(0, MIB))
    assert isinstance(wake, Wake)
    assert now < wake.at <= now + SLICE_S
    assert pacer.step((now + wake.at) / 2, Tick()) == [wake]
    assert granted(pacer.step(wake.at, Tick())) == [0]


def test_slices_are_neither_tiny_nor_large() -> None:
    assert make(10_000.0).step(9.0, Ask(0, MIB))[0] == Grant(0, SLICE_MIN_BYTES)
    assert make(1000.0 * MB).step(9.0, Ask(0, MIB))[0] == Grant(0, SLICE_MAX_BYTES)
    assert make(MB).step(9.0, Ask(0, 7))[0] == Grant(0, 7)


def test_who_was_served_least_is_next() -> None:
    pacer = make(MB, lanes=3)
    order: list[int] = []
    asking = [0, 1, 2]
    for turn in range(60):
        now = turn * SLICE_S
        effects = pacer.step(now, Tick())
        for lane in asking:
            effects += pacer.step(now, Ask(lane, MIB))
        asking = granted(effects)
        order += asking
    counts = [order.count(lane) for lane in range(3)]
    assert min(counts) > 15
    assert max(counts) - min(counts) <= 2


def test_a_pause_saves_nothing_up_but_a_burst() -> None:
    pacer = make(MB)
    pacer.step(0.0, Ask(0, 1))
    moved = 0
    while grants := [e for e in pacer.step(3600.0, Ask(0, MIB)) if isinstance(e, Grant)]:
        moved += sum(e.size_bytes for e in grants)
    assert moved <= MB * (BURST_S + SLICE_S)


def test_a_limit_of_one_peer_leaves_the_others_alone() -> None:
    pacer = make(None, {A: float(MB)}, lanes=1)
    pacer.step(0.0, AddLane(7, B))
    assert not pacer.is_open(0)
    assert pacer.is_open(7)
    while granted(pacer.step(1.0, Ask(0, MIB))):
        pass
    assert pacer.step(1.0, Ask(7, 500))[0] == Grant(7, 500)
    assert pacer.share_bytes_s(1.0, A) == MB
    assert pacer.share_bytes_s(1.0, B) is None


def test_both_limits_hold_for_a_peer() -> None:
    pacer = make(4.0 * MB, {A: float(MB)}, lanes=2)
    assert pacer.share_bytes_s(0.0, A) == MB
    pacer.step(0.0, AddLane(2, B))
    for lane in range(3):
        pacer.step(0.0, Ask(lane, MIB))
    assert pacer.share_bytes_s(0.5, A) == MB / 2
    assert pacer.share_bytes_s(0.5, B) == pytest.approx(4 * MB / 3)


@pytest.mark.parametrize(("before", "after"), [(50 * MB, 10_000), (10_000, 50 * MB)])
def test_another_limit_counts_at_once_without_old_debt(before: float, after: float) -> None:
    pacer = make(float(before))
    while granted(effects := pacer.step(10.0, Ask(0, MIB))):
        pass
    effects = pacer.step(10.0, SetLimits(float(after)))
    (wake,) = effects
    assert isinstance(wake, Wake)
    assert wake.at <= 10.0 + max(SLICE_S, SLICE_MIN_BYTES / before) + 1e-6
    assert granted(pacer.step(10.0, SetLimits(None))) == [0], "no limit lets everybody go"


def test_lanes_have_room_until_each_would_get_too_little() -> None:
    pacer = make(LANE_MIN_BYTES_S * 3.0, lanes=2)
    assert pacer.has_room(A)
    pacer.step(0.0, AddLane(2, B))
    assert not pacer.has_room(A)
    pacer.step(0.0, SetLimits(None, {A: LANE_MIN_BYTES_S * 2.0}))
    assert pacer.has_room(B)
    assert not pacer.has_room(A)


def test_a_lane_that_ended_is_forgotten() -> None:
    pacer = make(MB, lanes=2)
    while granted(pacer.step(1.0, Ask(0, MIB))):
        pass
    pacer.step(1.0, Ask(1, MIB))
    pacer.step(1.0, DropLane(0))
    assert granted(pacer.step(9.0, Tick())) == [1]
    assert pacer.step(9.0, DropLane(1)) == []
    assert pacer.step(9.0, Ask(1, MIB)) == []


def test_background_waits_while_others_move_and_gets_a_trickle() -> None:
    pacer = make()
    pacer.step(0.0, AddLane(5, B, background=True))
    assert not pacer.is_open(5)
    pacer.step(10.0, Moved())
    assert pacer.step(10.0, Ask(5, MIB)) == [Grant(5, SLICE_MIN_BYTES)]
    (wake,) = pacer.step(10.0, Ask(5, MIB))
    assert wake == Wake(10.0 + YIELD_S)
    moved = 0
    for tenth in range(101, 201):
        now = tenth / 10
        for effect in pacer.step(now, Moved()):
            if isinstance(effect, Grant):
                moved += effect.size_bytes
                pacer.step(now, Ask(5, MIB))
    assert moved == pytest.approx(10 * LANE_MIN_BYTES_S, rel=0.2)
    assert pacer.share_bytes_s(20.0, B, background=True) == LANE_MIN_BYTES_S
    assert pacer.step(20.0 + YIELD_S, Tick()) == [Grant(5, SLICE_MAX_BYTES)]
    assert pacer.share_bytes_s(21.0, B, background=True) is None


def test_background_that_ran_freely_is_not_starved_afterwards() -> None:
    pacer = make()
    pacer.step(0.0, AddLane(5, B, background=True))
    for _ in range(1000):
        assert granted(pacer.step(1.0, Ask(5, MIB))) == [5]
    pacer.step(1.0, Moved())
    assert granted(pacer.step(1.0, Ask(5, MIB))) == []
    assert granted(pacer.step(2.0, Moved())) == [5]


class Line:
    """Lanes that send records over a pacer, on a virtual clock; what moved is kept with its time."""

    def __init__(self, pacer: Pacer, lanes: Mapping[int, bytes], seed: int, late_s: float) -> None:
        self.pacer = pacer
        self.random = random.Random(seed)
        self.late_s = late_s
        self.left = dict.fromkeys(lanes, 0)
        self.moved: list[tuple[float, int, int]] = []
        self.events: list[tuple[float, int]] = [(0.0, lane) for lane in lanes]  # -1: a tick
        self.wake_at = float("inf")

    def run(self, until_s: float) -> None:
        while self.events[0][0] < until_s:
            now, lane = heapq.heappop(self.events)
            if lane < 0:
                if now >= self.wake_at:
                    self.take(now, self.pacer.step(now, Tick()))
                continue
            if not self.left[lane]:
                self.left[lane] = self.random.randrange(128 * KIB, MIB)
            self.take(now, self.pacer.step(now, Ask(lane, self.left[lane])))

    def take(self, now: float, effects: list[Effect]) -> None:
        self.wake_at = float("inf")
        for effect in effects:
            match effect:
                case Grant(lane, size):
                    self.moved.append((now, lane, size))
                    self.left[lane] -= size
                    heapq.heappush(self.events, (now + self.random.random() * self.late_s, lane))
                case Wake(at):
                    self.wake_at = at
                    heapq.heappush(self.events, (at + self.random.random() * self.late_s, -1))

    def rates(self, window_s: float, lane: int | None = None) -> list[float]:
        """Return the bytes a second of all windows after the first 5 s, one each tenth of a second."""
        times = [(at, size) for at, number, size in self.moved if lane is None or number == lane]
        end = self.moved[-1][0]
        found = []
        start = 5.0
        while start + window_s < end:
            found.append(sum(size for at, size in times if start <= at < start + window_s) / window_s)
            start += 0.1
        return found


@pytest.mark.parametrize("rate", [100_000, MB, 10 * MB, 50 * MB])
@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_any_window_is_within_two_percent(rate: int, lanes: int) -> None:
    line = Line(make(float(rate), lanes=lanes), dict.fromkeys(range(lanes), A), seed=lanes, late_s=0.01)
    line.run(20.0)
    rates = line.rates(10.0)
    assert len(rates) > 40
    assert 0.98 * rate < min(rates) <= max(rates) < 1.02 * rate
    for lane in range(lanes):
        assert line.rates(10.0, lane)[0] == pytest.approx(rate / lanes, rel=0.05)


def test_a_stalled_machine_catches_up_only_a_little() -> None:
    line = Line(make(float(MB), lanes=2), dict.fromkeys(range(2), A), seed=4, late_s=0.15)
    line.run(30.0)
    assert 0.95 * MB < min(line.rates(10.0)) <= max(line.rates(10.0)) < 1.03 * MB
