"""Overlay commands: what views look like, what a broadcast costs and whom it reaches. See docs/sim.md."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import BroadcastConfig, MergeConfig, SubstrateConfig, ViewsConfig
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.overlay.substrate.messages import Gossip, Graft, IHave, Prune
from shoal.overlay.substrate.steps import Broadcast, Deliver, Send
from shoal.sim.graph import count_components, find_links, measure_clustering, measure_paths, measure_symmetry
from shoal.sim.growth import grow, make_network, run_cycles
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import LossyLatency, SteadyLatency
from shoal.sim.network import Network, SimNode

GRAPH = 7  # stream of chance
JOINED_US = SECOND_US  # until the last walk of the last one to join has ended: about 0.4 s
SETTLING_CYCLES = 10.0  # before the first broadcast
INTERVAL_S = 5.0  # between two broadcasts
TOPIC = 1
PAYLOAD = b"x" * 100
HEAL_CYCLES = 10  # at most waited for one component
VIEWS = ViewsConfig()


def run_views(nodes: int, cycles: float, seed: int, active: int = VIEWS.active) -> dict[str, Any]:
    """Let `nodes` join one by one, shuffle for some cycles, and describe the graph of active views."""
    config = replace(_make_paper_config(BroadcastConfig()), views=ViewsConfig(active=active))
    network = make_network(seed, nodes, config, SteadyLatency())
    grow(network, nodes)
    network.kernel.run(network.kernel.now_us + JOINED_US)
    run_cycles(network, cycles, config.views.shuffle_s)
    links = find_links(network)
    alive = list(range(nodes))
    paths = measure_paths(links, alive, Chance(seed, 0, GRAPH))
    places = min(config.views.active, nodes - 1)
    return {
        "mean_path": paths.mean,
        "clustering": measure_clustering(links, alive),
        "symmetric": measure_symmetry(links),
        "degree_deviation": _find_deviation([len(view) for view in links]),
        "full": sum(len(view) >= places for view in links) / nodes,
        "max_hops": paths.hops,
        "reached": paths.reached,
        "steps": network.steps,
    }


def _find_deviation(values: list[int]) -> float:
    """Return the standard deviation."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def _make_paper_config(broadcast: BroadcastConfig) -> SubstrateConfig:
    """Return what the papers have: views and broadcast, nothing else that speaks."""
    return SubstrateConfig(
        broadcast=broadcast, merge=MergeConfig(beacons=0.0), detects=False, estimates=False
    )


class _Count:
    """What became of each message."""

    def __init__(self, messages: int) -> None:
        self.delivered = [0] * messages
        self.payload = [0] * messages
        self.control = [0] * messages
        self.last_hop = [0] * messages
        self.current = 0

    def on_deliver(self, node: SimNode[SubstrateMachine], event: Deliver) -> None:
        if event.topic == TOPIC:
            number = int.from_bytes(event.identifier, "big")
            self.delivered[number] += 1
            self.last_hop[number] = max(self.last_hop[number], event.hops)

    def on_send(self, node: SimNode[SubstrateMachine], effect: Send) -> None:
        message = effect.message
        kind = type(message)
        if kind is Gossip:
            self._count(self.payload, message.identifier)  # type: ignore[attr-defined]
        elif kind is IHave:
            self._count(self.control, message.identifiers[0])  # type: ignore[attr-defined]
        elif kind is Graft or kind is Prune:
            self.control[self.current] += 1

    def _count(self, counts: list[int], identifier: bytes) -> None:
        number = int.from_bytes(identifier, "big")
        if number < len(counts):  # others are beacons
            counts[number] += 1


def run_broadcast(
    nodes: int, messages: int, crash: float, loss: float, mode: str, seed: int
) -> dict[str, Any]:
    """Broadcast `messages` from a random node; after half of them a share `crash` of all nodes is gone."""
    config = _make_paper_config(BroadcastConfig(eager_only=mode == "eager"))
    latency = LossyLatency(SteadyLatency(), loss, Chance(seed, 2**32, 1)) if loss else SteadyLatency()
    network = make_network(seed, nodes, config, latency)
    grow(network, nodes)
    run_cycles(network, SETTLING_CYCLES, config.views.shuffle_s)
    count = _Count(messages)
    network.on_deliver, network.on_send = count.on_deliver, count.on_send
    alive = list(range(nodes))
    sharers: list[int] = []
    heal_cycles: float | None = None
    source = network.chance.pick(alive)
    for number in range(messages):
        if crash and number == messages // 2:
            for index in network.chance.sample(alive, min(nodes - 1, round(crash * nodes))):
                network.crash(index)
            alive = [node.index for node in network.nodes if node.alive]
            source = network.chance.pick(alive)
            heal_cycles = _heal(network, alive, config.views.shuffle_s)
        count.current = number
        sharers.append(len(alive) - 1)
        network.step(network.nodes[source], Broadcast(number.to_bytes(16, "big"), TOPIC, PAYLOAD))
        network.kernel.run(network.kernel.now_us + int(INTERVAL_S * SECOND_US))
    delivered = [done / of if of else 1.0 for done, of in zip(count.delivered, sharers, strict=True)]
    return {
        "delivered": {"mean": sum(delivered) / messages, "min": min(delivered), "by_message": delivered},
        "payload": {"by_message": count.payload},
        "control": {"by_message": count.control},
        "last_hop": count.last_hop[-1],
        "heal_cycles": heal_cycles,
        "steps": network.steps,
    }


def _heal(network: Network[SubstrateMachine], alive: list[int], period_s: float) -> float | None:
    """Wait until those who are left are one component; return after how many cycles, None: never."""
    for tenth in range(1, HEAL_CYCLES * 10 + 1):
        run_cycles(network, 0.1, period_s)
        if count_components(find_links(network), alive) == 1:
            return tenth / 10
    return None
