"""Growth: how a network comes to be before something is measured in it."""

from __future__ import annotations

from collections.abc import Callable

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import SubstrateConfig
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import Latency
from shoal.sim.network import Network

PICKS = 5  # stream of chance
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
    for node in network.nodes:
        node.machine.tell_members(count, make_picker(network.seed, node.index, count))
    network.start(0, ())
    for index in range(1, count):
        contact = network.chance.below(index)
        kernel.plan(begin_us + index * JOIN_US, lambda node, by: network.start(node, (by,)), index, contact)
    kernel.run(begin_us + count * JOIN_US)


def make_picker(seed: int, own: int, count: int) -> Callable[[], bytes]:
    """Return what gives a node a random other member, as its membership log does."""
    chance = Chance(seed, own, PICKS)

    def pick() -> bytes:
        other = chance.below(count - 1) if count > 1 else own
        return (other + (other >= own)).to_bytes(32, "big")

    return pick


def run_cycles(network: Network[SubstrateMachine], cycles: float, period_s: float) -> None:
    """Let `cycles` shuffle periods go by."""
    kernel = network.kernel
    kernel.run(kernel.now_us + int(cycles * period_s * SECOND_US))
