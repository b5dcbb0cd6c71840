"""Merge command: how a network that was cut in two becomes one again. See docs/sim.md."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shoal.overlay.substrate.config import LIVE
from shoal.sim.graph import count_components, find_links
from shoal.sim.growth import grow, make_network, run_cycles
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import SteadyLatency

SETTLING_CYCLES = 10.0
LOOKS = 10  # a probe period
PERIODS = 20  # at most waited


def run_merge(nodes: int, split_s: float, seed: int) -> dict[str, Any]:
    """Cut the network into two halves for a while; heal it, and wait until it is one component."""
    config = replace(LIVE, detects=False, estimates=False)  # silence of sessions tells who is gone
    network = make_network(seed, nodes, config, SteadyLatency())
    kernel = network.kernel
    grow(network, nodes)
    run_cycles(network, SETTLING_CYCLES, config.views.shuffle_s)
    side = bytearray(nodes)
    for index in network.chance.sample(range(nodes), nodes // 2):
        side[index] = 1
    network.cut(side)
    kernel.run(kernel.now_us + int(split_s * SECOND_US))
    alive = list(range(nodes))
    before = find_links(network)
    parts = count_components(before, alive)
    network.heal()
    periods: float | None = None
    step_us = int(config.merge.period_s * SECOND_US) // LOOKS
    for look in range(1, PERIODS * LOOKS + 1):
        kernel.run(kernel.now_us + step_us)
        if count_components(find_links(network), alive) == 1:
            periods = look / LOOKS
            break
    kernel.run(kernel.now_us + 3 * LOOKS * step_us)
    after = [frozenset(view) for view in find_links(network)]
    gone = sum(peer not in after[node] for node, view in enumerate(before) for peer in view)
    return {
        "probe_periods_to_one": periods,
        "links_replaced": gone / max(1, sum(map(len, before))),
        "parts_before": parts,
        "links_across": sum(side[node] != side[peer] for node, view in enumerate(after) for peer in view),
    }
