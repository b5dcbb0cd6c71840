"""Idle command: what it costs a node to belong to a network in which nothing happens. See docs/sim.md."""

from __future__ import annotations

from typing import Any

from shoal.overlay.substrate.config import LIVE
from shoal.sim.growth import grow, make_network, run_cycles
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import SteadyLatency
from shoal.sim.network import Network
from shoal.sim.session_traffic import MESSAGE_BYTES, TICK_US, SessionTraffic

SETTLING_CYCLES = 10.0
SAMPLE_TICKS = 20  # between two looks at how many sessions there are


def run_idle(nodes: int, minutes: float, seed: int) -> dict[str, Any]:
    """Measure both directions of every node, as its interface would count them."""
    config = LIVE
    network = make_network(seed, nodes, config, SteadyLatency())
    kernel = network.kernel
    grow(network, nodes)
    run_cycles(network, SETTLING_CYCLES, config.views.shuffle_s)
    traffic = SessionTraffic(network)
    traffic.tick()  # sessions that are there already cost nothing to open
    before = _count_bytes(network, traffic)
    messages = sum(network.sent)
    sessions: list[int] = []
    seconds = minutes * 60
    end_us = kernel.now_us + int(seconds * SECOND_US)
    ticks = 0
    while kernel.now_us < end_us:
        kernel.run(min(kernel.now_us + TICK_US, end_us))
        traffic.tick()
        ticks += 1
        if ticks % SAMPLE_TICKS == 0 or kernel.now_us >= end_us:
            sessions += [network.count_sessions(node) for node in network.nodes]
    after = _count_bytes(network, traffic)
    rates = sorted((now - then) / seconds for now, then in zip(after, before, strict=True))
    return {
        "bytes_s": {"mean": sum(rates) / nodes, "p99": rates[min(nodes - 1, int(0.99 * nodes))]},
        "messages_s": (sum(network.sent) - messages) / nodes / seconds,
        "sessions": {"mean": sum(sessions) / len(sessions), "max": max(sessions)},
    }


def _count_bytes(network: Network[Any], traffic: SessionTraffic) -> list[int]:
    """Return what every node has sent and received so far."""
    return [
        network.sent_bytes[index]
        + network.received_bytes[index]
        + MESSAGE_BYTES * (network.sent[index] + network.received[index])
        + traffic.bytes[index]
        for index in range(len(network.nodes))
    ]
