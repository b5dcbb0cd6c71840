"""Averaging: the laws of epidemics that the simulator's randomness has to obey.

Averaging runs the node's own SizeEstimate, everybody meeting everybody; the epidemic is the plain push of the
law, without a machine: no part of a node pushes like that.
"""

from __future__ import annotations

from collections import deque

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import SizeConfig
from shoal.overlay.substrate.messages import SizePull, SizePush
from shoal.overlay.substrate.size import SizeEstimate
from shoal.overlay.substrate.steps import Effect, Send

CYCLES = 10
RUNS = 100  # the mean of 5 spreads by 0.6 rounds: three of eight seeds were outside the 1.5 that are allowed
LEADER = b"leader.."


def measure_push(nodes: int, chance: Chance) -> float:
    """Return the mean rounds in which one who knows tells all, each telling one random other a round."""
    total = 0
    for _ in range(RUNS):
        knows = bytearray(nodes)
        knows[0] = 1
        informed = [0]
        while len(informed) < nodes:
            for _ in range(len(informed)):
                other = chance.below(nodes)
                if not knows[other]:
                    knows[other] = 1
                    informed.append(other)
            total += 1
    return total / RUNS


def measure_averaging(nodes: int, chance: Chance) -> float:
    """Return by what the variance of all values shrinks in one cycle, geometric mean of CYCLES."""
    peers = [index.to_bytes(32, "big") for index in range(nodes)]
    config = SizeConfig(leaders=0.0)
    estimates = [SizeEstimate(peer, config, chance, peers) for peer in peers]
    for estimate in estimates:
        estimate.start(0.0, [])
        estimate.values[LEADER] = chance.fraction()  # what a machine may have, and tell
    first = _find_variance(estimates)
    for cycle in range(CYCLES):
        for index in chance.sample(range(nodes), nodes):
            out: list[Effect] = []
            estimates[index].on_timer(float(cycle), out)
            _settle(peers[index], out, estimates)
    return float((_find_variance(estimates) / first) ** (1 / CYCLES))


def _settle(sender: bytes, out: list[Effect], estimates: list[SizeEstimate]) -> None:
    """Carry messages until there are none: the paper's exchanges are without delay."""
    waiting = deque((sender, effect) for effect in out if type(effect) is Send)
    while waiting:
        source, effect = waiting.popleft()
        receiver = estimates[int.from_bytes(effect.peer, "big")]
        answers: list[Effect] = []
        if type(effect.message) is SizePush:
            receiver.on_push(source, effect.message, answers)
        elif type(effect.message) is SizePull:
            receiver.on_pull(source, effect.message)
        waiting.extend((effect.peer, answer) for answer in answers if type(answer) is Send)


def _find_variance(estimates: list[SizeEstimate]) -> float:
    values = [estimate.values.get(LEADER, 0.0) for estimate in estimates]
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)
