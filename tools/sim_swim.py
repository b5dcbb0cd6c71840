"""Sim swim: what SWIM's paper says of loss and of how fast word spreads, beside what the detector does.

Packets are lost here, not late, as over the paper's UDP: the detector's own commands charge loss as TCP does.
"""

from __future__ import annotations

import math
from statistics import mean

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import DetectorConfig
from shoal.overlay.substrate.detector import Roster, Standing
from shoal.overlay.substrate.detector_machine import DetectorMachine
from shoal.overlay.substrate.steps import Found, Send, Started
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import SteadyLatency
from shoal.sim.network import Network, SimNode

WAY_US = 1_000
LOSSES = 15  # stream of chance
MEMBERS = 64
PERIODS = 600  # in which suspicions are counted
CRASHES = 10

_Node = SimNode[DetectorMachine]


class _Network(Network[DetectorMachine]):
    """Members that all watch each other; a share of the messages never comes."""

    def __init__(self, seed: int, count: int, config: DetectorConfig, loss: float) -> None:
        roster = Roster(index.to_bytes(32, "big") for index in range(count))
        super().__init__(
            seed,
            count,
            lambda own, chance: DetectorMachine(own, config, chance, roster),
            SteadyLatency(WAY_US),
        )
        self._loss = loss
        self._luck = Chance(seed, 2**32, LOSSES)
        for node in self.nodes:
            node.alive = True
            self.step(node, Started())

    def send(self, node: _Node, effect: Send) -> None:
        """Send it, or lose it."""
        if self._luck.fraction() >= self._loss:
            super().send(node, effect)


def find_law(loss: float, helpers: int) -> float:
    """Return how likely one probe of a member that is there ends in suspicion: SWIM section 3.1."""
    way = 1.0 - loss
    return float((1.0 - way**2) * (1.0 - way**4) ** helpers)


def measure_suspicions(loss: float, helpers: int, seed: int) -> float:
    """Return the share of probes after which somebody who is there is suspected."""
    config = DetectorConfig(lifeguard=False, helpers=helpers)
    network = _Network(seed, MEMBERS, config, loss)
    suspicions = 0

    def on_found(node: _Node, event: Found) -> None:
        nonlocal suspicions
        suspicions += event.standing == Standing.SUSPECT and node.machine.detector.suspects(event.peer)

    network.on_found = on_found
    network.kernel.run(int(PERIODS * config.period_s * SECOND_US))
    return suspicions / MEMBERS / PERIODS


def measure_spread(members: int, seed: int) -> float:
    """Return the periods from the first suspicion of a member that crashed until all others hold it."""
    config = DetectorConfig(lifeguard=False)
    network = _Network(seed, members, config, 0.0)
    kernel = network.kernel
    known: dict[bytes, dict[int, int]] = {}

    def on_found(node: _Node, event: Found) -> None:
        if event.standing != Standing.THERE:
            known.setdefault(event.peer, {}).setdefault(node.index, kernel.now_us)

    network.on_found = on_found
    period_us = int(config.period_s * SECOND_US)
    kernel.run(2 * period_us)
    spreads = []
    for member in network.chance.sample(range(members), CRASHES):
        network.crash(member)
        crashed = network.nodes[member].identifier
        others = sum(node.alive for node in network.nodes)
        while len(known.get(crashed, ())) < others:
            kernel.run(kernel.now_us + period_us)
        at_us = known[crashed].values()
        spreads.append((max(at_us) - min(at_us)) / period_us)
    return mean(spreads)


def find_push_law(members: int) -> float:
    """Return the rounds of an epidemic that only pushes (Pittel 1987), one message a member and round."""
    return math.log2(members) + math.log(members)
