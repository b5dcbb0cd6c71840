"""Throttle: limits hold over real lanes and threads, change while they run, and never outlive a lane."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator

import pytest

from shoal.core.errors import ShoalError, Unavailable
from shoal.core.units import KIB, MIB
from shoal.swarm.pacer import BURST_S
from shoal.swarm.throttle import Throttle
from shoal.testing.lanes import make_lane_pair
from shoal.transport.lane import Lane

MB = 1_000_000
WINDOW_S = 1.0  # a rate is measured over
WINDOWS = 20  # in which it has to be reached
A, B = b"a" * 32, b"b" * 32


class Flow:
    """A lane on which one thread sends records and another one takes them, until it is closed."""

    def __init__(self, record_bytes: int = 512 * KIB) -> None:
        self.sender, self.receiver = make_lane_pair()
        self.errors: list[ShoalError] = []
        self._record_bytes = record_bytes
        self._threads = [threading.Thread(target=run) for run in (self._send, self._receive)]

    def start(self) -> Flow:
        for thread in self._threads:
            thread.start()
        return self

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()
        for thread in self._threads:
            thread.join(2.0)
            assert not thread.is_alive()

    def _send(self) -> None:
        self.sender.plaintext[: self._record_bytes] = os.urandom(self._record_bytes)
        try:
            while True:
                self.sender.send(self._record_bytes)
        except ShoalError as error:
            self.errors.append(error)

    def _receive(self) -> None:
        try:
            while self.receiver.receive() is not None:
                pass
        except ShoalError as error:
            self.errors.append(error)


@pytest.fixture
def flows() -> Iterator[list[Flow]]:
    made: list[Flow] = []
    yield made
    for flow in made:
        flow.close()


def rate(lanes: list[Lane], seconds: float) -> float:
    """Return what the lanes moved together, in bytes a second."""
    before, began = sum(lane.moved_bytes for lane in lanes), time.monotonic()
    time.sleep(seconds)
    return (sum(lane.moved_bytes for lane in lanes) - before) / (time.monotonic() - began)


def wait_rate(lanes: list[Lane], low: float, high: float = math.inf) -> None:
    """Wait until the lanes move more than `low`, which beside other work may not be so in every window; they
    must never move `high`.
    """
    seen: list[float] = []
    while not seen or seen[-1] <= low:
        assert len(seen) < WINDOWS, seen
        seen.append(rate(lanes, WINDOW_S))
        assert seen[-1] < high, seen


def wait_limited(lanes: list[Lane], limit_bytes_s: float) -> None:
    """Wait until the lanes move what they may; what they missed before is caught up for BURST_S at most."""
    wait_rate(lanes, 0.85 * limit_bytes_s, (1.15 + BURST_S / WINDOW_S) * limit_bytes_s)


@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_a_limit_holds_over_all_lanes_and_changes_at_once(flows: list[Flow], end: str) -> None:
    throttle = Throttle(time.monotonic)
    throttle.set_limits(8.0 * MB, {})
    flows += [Flow() for _ in range(3)]
    lanes = [getattr(flow, end) for flow in flows]
    for lane in lanes:
        throttle.join(lane, A)
    for flow in flows:
        flow.start()
    time.sleep(0.4)
    wait_limited(lanes, 8 * MB)
    assert throttle.share_bytes_s(A) == pytest.approx(8 * MB / 3)
    assert throttle.moved_bytes == pytest.approx(sum(lane.moved_bytes for lane in lanes), rel=0.05)
    throttle.set_limits(1.0 * MB, {})
    time.sleep(0.3)
    wait_limited(lanes, MB)
    throttle.set_limits(None, {})
    wait_rate(lanes, 30 * MB)


def test_a_limit_of_a_peer_is_its_own(flows: list[Flow]) -> None:
    throttle = Throttle(time.monotonic)
    throttle.set_limits(None, {A: 2.0 * MB})
    flows += [Flow(), Flow()]
    throttle.join(flows[0].sender, A)
    throttle.join(flows[1].sender, B)
    for flow in flows:
        flow.start()
    time.sleep(0.3)
    wait_limited([flows[0].sender], 2 * MB)
    wait_rate([flows[1].sender], 25 * MB)


def test_background_yields_and_comes_back(flows: list[Flow]) -> None:
    throttle = Throttle(time.monotonic)
    flows += [Flow(), Flow()]
    throttle.join(flows[0].sender, A)
    throttle.join(flows[1].sender, B, background=True)
    back = flows[1].start().sender
    wait_rate([back], 20 * MB)
    flows[0].start()
    time.sleep(0.3)
    assert any(rate([back], WINDOW_S) < 100 * KIB for _ in range(WINDOWS))  # the other one may lack a core
    assert throttle.share_bytes_s(B, background=True) is not None
    flows[0].close()
    wait_rate([back], 20 * MB)


@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_closing_a_lane_wakes_its_thread_and_leaves_the_others(flows: list[Flow], end: str) -> None:
    throttle = Throttle(time.monotonic)
    throttle.set_limits(100_000.0, {})
    flows += [Flow(MIB), Flow(MIB)]
    lanes = [getattr(flow, end) for flow in flows]
    for flow, lane in zip(flows, lanes, strict=True):
        throttle.join(lane, A)
        flow.start()
    time.sleep(0.3)
    began = time.monotonic()
    flows[0].close()
    assert time.monotonic() - began < 2.0  # `close` waits for its threads
    assert [e.code for e in flows[0].errors if isinstance(e, Unavailable)]
    wait_limited([lanes[1]], 100_000)
    with pytest.raises(Unavailable):
        lanes[0].send(1)


def test_a_lane_that_is_closed_already_takes_no_place() -> None:
    throttle = Throttle(time.monotonic)
    throttle.set_limits(100_000.0, {})
    sender, receiver = make_lane_pair()
    sender.close()
    place = throttle.join(sender, A)
    assert place.take(1000) == 0
    assert throttle.has_room(A)
    receiver.close()
