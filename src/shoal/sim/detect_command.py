"""Detect command: how fast SWIM finds who is gone, and how often it is wrong. See docs/sim.md."""

from __future__ import annotations

import math
from typing import Any

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import DetectorConfig
from shoal.overlay.substrate.detector import Roster, Standing
from shoal.overlay.substrate.detector_machine import DetectorMachine
from shoal.overlay.substrate.messages import Probe
from shoal.overlay.substrate.steps import Found, Send, Started
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import SteadyLatency
from shoal.sim.network import Network, SimNode

ONE_WAY_US = 1_000  # a local network, as Lifeguard's experiments
QUIET_PERIODS = 10  # in which messages are counted
MARKED_SHARE = 0.5  # of the members at a time while first detection is measured
TRIALS = 5000  # the mean is then known to 0.9 %
HEALTHY_S = 1.0  # between two anomalies of a member; Lifeguard section V varies it
CRASHES = 20  # real ones, for the time to detect

_Node = SimNode[DetectorMachine]


class _Watcher:
    """Looks at probes and verdicts as they happen."""

    def __init__(self, network: Network[DetectorMachine]) -> None:
        self._network = network
        self.away: dict[int, int] = {}  # member -> since when
        self.probed: dict[int, int] = {}  # member that is away -> when it was first probed
        self.found: dict[int, int] = {}  # member that is away -> when it was first held for gone
        self.anomalous: frozenset[int] = frozenset()
        self.false_positives = 0
        self.false_at_healthy = 0
        network.on_send, network.on_found = self.on_send, self.on_found

    def on_send(self, node: _Node, effect: Send) -> None:
        if type(effect.message) is Probe and self.away:
            target = self._network.number[effect.peer]
            if target in self.away and target not in self.probed:
                self.probed[target] = self._network.kernel.now_us

    def on_found(self, node: _Node, event: Found) -> None:
        if event.standing != Standing.GONE:
            return
        about = self._network.number[event.peer]
        if about in self.away:
            self.found.setdefault(about, self._network.kernel.now_us)
        elif about not in self.anomalous:
            self.false_positives += 1
            self.false_at_healthy += node.index not in self.anomalous


def run_detect(
    nodes: int, plain: bool, anomalous: int, anomaly_s: float, minutes: float, seed: int
) -> dict[str, Any]:
    """Let `nodes` watch each other.

    First a quiet time (messages), then how soon somebody is probed (first detection), then
    `minutes` in which `anomalous` members stall for `anomaly_s` again and again (false positives), then real
    crashes (time to detect).
    """
    config = DetectorConfig(lifeguard=not plain)
    first, messages = measure_detection(nodes, seed, config)
    network = _make_network(nodes, config, seed)
    watcher = _Watcher(network)
    network.kernel.run(2 * SECOND_US)
    _stall(network, watcher, anomalous, anomaly_s, minutes)
    detect_s = _measure_crashes(nodes, config, seed)
    return {
        "first_detection_periods": first,
        "false_positives": watcher.false_positives,
        "false_positives_at_healthy": watcher.false_at_healthy,
        "detect_s": {"p50": _quantile(detect_s, 0.5), "p99": _quantile(detect_s, 0.99)},
        "messages_per_member_period": messages,
    }


def measure_detection(nodes: int, seed: int, config: DetectorConfig | None = None) -> tuple[float, float]:
    """Return after how many periods somebody who is gone is first probed, and messages a member a period."""
    config = config or DetectorConfig()
    period_us = int(config.period_s * SECOND_US)
    network = _make_network(nodes, config, seed)
    kernel, watcher = network.kernel, _Watcher(network)
    kernel.run(2 * period_us)
    before = sum(network.sent)
    kernel.run(kernel.now_us + QUIET_PERIODS * period_us)
    messages = (sum(network.sent) - before) / nodes / QUIET_PERIODS
    return _measure_first(network, watcher, period_us), messages


def _make_network(nodes: int, config: DetectorConfig, seed: int) -> Network[DetectorMachine]:
    roster = Roster(index.to_bytes(32, "big") for index in range(nodes))

    def make(own: bytes, chance: Chance) -> DetectorMachine:
        return DetectorMachine(own, config, chance, roster)

    network = Network(seed, nodes, make, SteadyLatency(ONE_WAY_US))
    for node in network.nodes:
        node.alive = True
        network.step(node, Started())
    return network


def _measure_first(network: Network[DetectorMachine], watcher: _Watcher, period_us: int) -> float:
    """Return after how many periods, begun ones counted whole, a member is first probed.

    Members are marked at some time instead of being taken away: whom others choose does not depend on whether
    it is there, and many can be looked at together. All of a lot are waited for: the slow ones count too.
    """
    kernel, chance = network.kernel, network.chance
    everybody = range(len(network.nodes))
    lot = max(1, int(MARKED_SHARE * len(network.nodes)))
    total = count = 0
    while count < TRIALS:
        kernel.run(kernel.now_us + int(chance.fraction() * period_us))
        watcher.away = dict.fromkeys(chance.sample(everybody, lot), kernel.now_us)
        while len(watcher.probed) < lot:
            kernel.run(kernel.now_us + period_us)
        for member, at_us in watcher.probed.items():
            total += math.ceil((at_us - watcher.away[member]) / period_us)
        count += lot
        watcher.away, watcher.probed = {}, {}
    return total / max(1, count)


def _stall(
    network: Network[DetectorMachine], watcher: _Watcher, anomalous: int, anomaly_s: float, minutes: float
) -> None:
    """Let the same members stall together again and again."""
    kernel = network.kernel
    stalled = network.chance.sample(range(len(network.nodes)), anomalous)
    watcher.anomalous = frozenset(stalled)
    end_us = kernel.now_us + int(minutes * 60 * SECOND_US)
    while kernel.now_us < end_us:
        until_us = kernel.now_us + int(anomaly_s * SECOND_US)
        for member in stalled:
            network.stall(member, until_us)
        kernel.run(until_us + int(HEALTHY_S * SECOND_US))


def _measure_crashes(nodes: int, config: DetectorConfig, seed: int) -> list[float]:
    """Return the seconds from each of some crashes until the first member holds it for gone."""
    network = _make_network(nodes, config, seed + 1)
    watcher = _Watcher(network)
    kernel = network.kernel
    kernel.run(2 * SECOND_US)
    crashed = network.chance.sample(range(nodes), min(CRASHES, nodes // 4))
    for member in crashed:
        watcher.away[member] = kernel.now_us
        network.crash(member)
        kernel.run(kernel.now_us + int(network.chance.fraction() * SECOND_US))
    limit_s = 4 * config.suspicion_max * config.suspicion_min * max(1.0, math.log10(nodes))
    end_us = kernel.now_us + int(limit_s * SECOND_US)
    while kernel.now_us < end_us and len(watcher.found) < len(crashed):
        kernel.run(kernel.now_us + SECOND_US)
    return sorted((at - watcher.away[member]) / SECOND_US for member, at in watcher.found.items())


def _quantile(values: list[float], share: float) -> float | None:
    return values[min(len(values) - 1, int(share * len(values)))] if values else None
