"""Growth: how a network comes to be before something is measured in it."""

from __future__ import annotations

from shoal.overlay.substrate.config import SubstrateConfig
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import Latency
from shoal.sim.network import Network

JOIN_US = 20_000  # between two joins


def make_network(
    seed: int, count: int, config: SubstrateConfig, latency: Latency
) -> Network[SubstrateMachine]:
    """Make a network of nodes with the whole substrate; none of them is started."""
    return Network(seed, count, lambda own, chance: SubstrateMachine(own, config, chance), latency)


def grow(network: Network[SubstrateMachine], count: int) -> None:
    """Let nodes 0 .. count - 1 join one after the other, each by a random one that is there."""
    kernel = network.kernel
    begin_us = kernel.now_us
    network.start(0, ())
    for index in range(1, count):
        contact = network.chance.below(index)
        kernel.plan(begin_us + index * JOIN_US, lambda node, by: network.start(node, (by,)), index, contact)
    kernel.run(begin_us + count * JOIN_US)


def run_cycles(network: Network[SubstrateMachine], cycles: float, period_s: float) -> None:
    """Let `cycles` shuffle periods go by."""
    kernel = network.kernel
    kernel.run(kernel.now_us + int(cycles * period_s * SECOND_US))
