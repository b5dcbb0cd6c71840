"""Idle command: what it costs a node to belong to a network in which nothing happens. See docs/sim.md."""

from __future__ import annotations

from typing import Any

from shoal.overlay.substrate.config import LIVE
from shoal.sim.cost import OVERHEAD_BYTES
from shoal.sim.growth import grow, make_network, run_cycles
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import SteadyLatency
from shoal.sim.network import HEARTBEAT_US

SETTLING_CYCLES = 10.0
HEARTBEAT_BYTES = 2 * OVERHEAD_BYTES + 12 + 17  # Ping and Pong with 8 bytes of the log head; spec/session.md


def run_idle(nodes: int, minutes: float, seed: int) -> dict[str, Any]:
    """Measure both directions of every node, heartbeats and handshakes included."""
    config = LIVE
    network = make_network(seed, nodes, config, SteadyLatency())
    kernel = network.kernel
    grow(network, nodes)
    run_cycles(network, SETTLING_CYCLES, config.views.shuffle_s)
    before = [out + back for out, back in zip(network.sent_bytes, network.received_bytes, strict=True)]
    messages = sum(network.sent)
    sessions: list[int] = []
    seconds = minutes * 60
    end_us = kernel.now_us + int(seconds * SECOND_US)
    heartbeats = [0.0] * nodes  # bytes, both directions
    while kernel.now_us < end_us:
        step_us = min(10 * SECOND_US, end_us - kernel.now_us)
        kernel.run(kernel.now_us + step_us)
        for node in network.nodes:
            count = network.count_sessions(node)
            sessions.append(count)
            heartbeats[node.index] += count * HEARTBEAT_BYTES * step_us / HEARTBEAT_US
    after = [out + back for out, back in zip(network.sent_bytes, network.received_bytes, strict=True)]
    rates = sorted(
        (now - then + beats) / seconds for now, then, beats in zip(after, before, heartbeats, strict=True)
    )
    return {
        "bytes_s": {"mean": sum(rates) / nodes, "p99": rates[min(nodes - 1, int(0.99 * nodes))]},
        "messages_s": (sum(network.sent) - messages) / nodes / seconds,
        "sessions": {"mean": sum(sessions) / len(sessions), "max": max(sessions)},
    }
