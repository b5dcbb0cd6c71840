"""Idle: what an idle node costs in the simulator is what one costs on a real interface."""

from __future__ import annotations

import math

import pytest

from shoal.core.chance import Chance
from shoal.overlay.exchange import Exchange
from shoal.overlay.messages import OVERLAY_TABLE
from shoal.overlay.steps import Send as LocatorSend
from shoal.overlay.substrate.messages import Join
from shoal.overlay.substrate.steps import Connect, Effect, Input, Send, Started, Timer
from shoal.sim.idle_command import run_idle
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import SteadyLatency
from shoal.sim.network import Network
from shoal.sim.session_traffic import (
    DIGEST_BYTES,
    OPENING_BYTES,
    PACKET_BYTES,
    PING_BYTES,
    TICK_US,
    SessionTraffic,
)
from shoal.transport.config import SessionTiming
from shoal.transport.heartbeat import TURN
from shoal.transport.messages import Ping, Pong, SessionType
from shoal.wire.codec import Message, encode
from shoal.wire.frames import Frame, FrameKind, pack_frame
from shoal.wire.registry import ServiceNumber

LIVE_BYTES_S = 1324  # 24 real nodes, mean of five networks; docs/overlay, "Live"
TLS_BYTES = 22  # of a record: header, type, tag


def test_24_nodes_cost_what_24_real_ones_do() -> None:
    found = run_idle(24, 10.0, seed=2)
    assert found["bytes_s"]["mean"] == pytest.approx(LIVE_BYTES_S, rel=0.2)
    assert found["bytes_s"]["p99"] <= 2048
    assert 5 <= found["sessions"]["mean"] <= 12


def frame_bytes(number: SessionType, message: Message) -> int:
    frame = Frame(FrameKind.REQUEST, ServiceNumber.SESSION, number, 1, encode(message))
    return len(pack_frame(frame))


def test_heartbeats_and_digests_have_the_sizes_that_the_codec_gives_them() -> None:
    beat = frame_bytes(SessionType.PING, Ping(bytes(8))) + frame_bytes(
        SessionType.PONG, Pong(bytes(8), 1_800_000_000)
    )
    assert beat + 2 * (TLS_BYTES + 2 * PACKET_BYTES) == PING_BYTES
    (effect,) = Exchange(dict, lambda slot: None).begin(b"peer")
    assert isinstance(effect, LocatorSend)
    _, payload = OVERLAY_TABLE.encode(effect.message)
    frame = Frame(FrameKind.NOTICE, ServiceNumber.OVERLAY, 2, 0, payload)
    assert len(pack_frame(frame)) + TLS_BYTES + 2 * PACKET_BYTES == DIGEST_BYTES


class Silent:
    """A machine that does what it is told to at its start."""

    def __init__(self, own: bytes, chance: Chance) -> None:
        self.effects: list[Effect] = []

    def step(self, now: float, event: Input) -> list[Effect]:
        return self.effects if isinstance(event, Timer) else []


def make_pair(kept: bool) -> Network[Silent]:
    """Return two nodes with a session, over which nothing of the substrate goes any more."""
    network = Network(1, 2, Silent, SteadyLatency())
    for index in (0, 1):
        network.step(network.nodes[index], Started(()))
        network.nodes[index].alive = True
    peer = network.nodes[1].identifier
    network.nodes[0].machine.effects = [Send(peer, Join()), *([Connect(peer)] if kept else [])]
    network.step(network.nodes[0], Timer(("now",)))
    return network


def count_pings(network: Network[Silent], traffic: SessionTraffic, seconds: float) -> float:
    traffic._compares_s = [math.inf] * 2
    before = sum(traffic.bytes)
    end_us = network.kernel.now_us + int(seconds * SECOND_US)
    while network.kernel.now_us < end_us:
        network.kernel.run(network.kernel.now_us + TICK_US)
        traffic.tick()
    return (sum(traffic.bytes) - before) / 2 / PING_BYTES


@pytest.mark.parametrize("kept", [True, False])
def test_a_session_that_nobody_uses_has_fewer_heartbeats_than_a_link(kept: bool) -> None:
    network = make_pair(kept)
    traffic = SessionTraffic(network)
    traffic.tick()
    assert traffic.bytes == [OPENING_BYTES] * 2
    timing = SessionTiming()
    seconds = 80.0
    wait_s = timing.heartbeat_s if kept else timing.resting_s
    before_rest = 0 if kept else timing.rest_after_s / timing.heartbeat_s
    pings = count_pings(network, traffic, seconds)
    assert seconds / (wait_s * TURN + timing.tick_s) - 1 <= pings <= seconds / wait_s + before_rest + 1


def test_a_session_that_is_over_costs_nothing_any_more() -> None:
    network = make_pair(kept=False)
    traffic = SessionTraffic(network)
    assert count_pings(network, traffic, 400.0) > 0
    assert count_pings(network, traffic, 100.0) == 0
