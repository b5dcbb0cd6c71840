"""Merge command: how a network that was cut in two becomes one again. See docs/sim.md."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shoal.overlay.substrate.config import LIVE
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.sim.graph import count_components, find_links
from shoal.sim.growth import grow, make_network, run_cycles
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import SteadyLatency
from shoal.sim.network import Network

SETTLING_CYCLES = 10.0
LOOKS = 10  # a probe period
PERIODS = 20  # at most waited for one component
SETTLED_PERIODS = 3  # after it is one component, until links are counted
LATER_PERIODS = (3, 10, 30)  # from then on: how well the halves have grown together


def run_merge(
    nodes: int, split_s: float, seed: int, watch_periods: float = SETTLED_PERIODS
) -> dict[str, Any]:
    """Cut the network into two halves for a while; heal it, and wait until it is one component.

    `watch_periods`: how long the links between the halves are looked at from then on.
    """
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
    for look in range(PERIODS * LOOKS + 1):
        if look:
            kernel.run(kernel.now_us + step_us)
        if count_components(find_links(network), alive) == 1:
            periods = look / LOOKS
            break
    one_us = kernel.now_us
    kernel.run(one_us + SETTLED_PERIODS * LOOKS * step_us)
    after = [frozenset(view) for view in find_links(network)]
    gone = sum(peer not in after[node] for node, view in enumerate(before) for peer in view)
    later = []
    for period in LATER_PERIODS:
        if period <= max(watch_periods, SETTLED_PERIODS):
            kernel.run(one_us + period * LOOKS * step_us)
            later.append({"periods": period, **_look_across(network, side)})
    return {
        "probe_periods_to_one": periods,
        "links_replaced": gone / max(1, sum(map(len, before))),
        "parts_before": parts,
        "links_across": later[-1]["links_across"],
        "later": later,
    }


def _look_across(network: Network[SubstrateMachine], side: bytearray) -> dict[str, float]:
    """Return how many ends of links lead to the other half, and which share of the passive views does."""
    links = find_links(network)
    known = [
        (node.index, network.number[peer]) for node in network.nodes for peer in node.machine.views.passive
    ]
    return {
        "links_across": sum(side[node] != side[peer] for node, view in enumerate(links) for peer in view),
        "known_across": sum(side[node] != side[peer] for node, peer in known) / max(1, len(known)),
    }
