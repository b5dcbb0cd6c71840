"""Throttle: limits hold over real lanes and threads, change while they run, and never outlive a lane."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from shoal.core.errors import ShoalError, Unavailable
from shoal.core.units import KIB, MIB
from shoal.swarm.throttle import Throttle
from shoal.testing.lanes import make_lane_pair
from shoal.transport.lane import Lane

MB = 1_000_000
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
    assert rate(lanes, 1.0) == pytest.approx(8 * MB, rel=0.1)
    assert throttle.share_bytes_s(A) == pytest.approx(8 * MB / 3)
    assert throttle.moved_bytes == pytest.approx(sum(lane.moved_bytes for lane in lanes), rel=0.05)
    throttle.set_limits(1.0 * MB, {})
    time.sleep(0.3)
    assert rate(lanes, 1.0) == pytest.approx(MB, rel=0.2)
    throttle.set_limits(None, {})
    time.sleep(0.3)
    assert rate(lanes, 0.3) > 30 * MB


def test_a_limit_of_a_peer_is_its_own(flows: list[Flow]) -> None:
    throttle = Throttle(time.monotonic)
    throttle.set_limits(None, {A: 2.0 * MB})
    flows += [Flow(), Flow()]
    throttle.join(flows[0].sender, A)
    throttle.join(flows[1].sender, B)
    for flow in flows:
        flow.start()
    time.sleep(0.3)
    before = flows[1].sender.moved_bytes
    assert rate([flows[0].sender], 0.7) == pytest.approx(2 * MB, rel=0.15)
    assert flows[1].sender.moved_bytes - before > 20 * MB


def test_background_yields_and_comes_back(flows: list[Flow]) -> None:
    throttle = Throttle(time.monotonic)
    flows += [Flow(), Flow()]
    throttle.join(flows[0].sender, A)
    throttle.join(flows[1].sender, B, background=True)
    back = flows[1].start().sender
    time.sleep(0.2)
    assert rate([back], 0.3) > 20 * MB
    flows[0].start()
    time.sleep(0.3)
    assert rate([back], 0.7) < 100 * KIB
    assert throttle.share_bytes_s(B, background=True) is not None
    flows[0].close()
    time.sleep(0.9)
    assert rate([back], 0.3) > 20 * MB


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
    assert time.monotonic() - began < 0.5
    assert [e.code for e in flows[0].errors if isinstance(e, Unavailable)]
    assert rate([lanes[1]], 0.7) == pytest.approx(100_000, rel=0.4)
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
