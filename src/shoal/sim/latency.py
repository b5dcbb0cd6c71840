"""Latency: how long a message is under way."""

from __future__ import annotations

from typing import Protocol

from shoal.core.chance import Chance

RETRANSMIT_US = 200_000  # smallest time-out of TCP on Linux, beside a round trip
RETRANSMITS = 8


class Latency(Protocol):
    """One way between two nodes."""

    def one_way_us(self, here: int, there: int) -> int:
        """Return how long a message that is sent now takes."""
        ...


class SteadyLatency:
    """The same between all: the world of papers that count in hops."""

    def __init__(self, one_way_us: int = 10_000) -> None:
        self._one_way_us = one_way_us

    def one_way_us(self, here: int, there: int) -> int:
        """See `Latency`."""
        return self._one_way_us


def find_retransmission_us(under_way_us: int, loss: float, chance: Chance) -> int:
    """Return how much later a message comes because packets are lost: TCP waits twice as long each time."""
    late_us, wait_us = 0, RETRANSMIT_US + 2 * under_way_us
    for _ in range(RETRANSMITS):
        if chance.fraction() >= loss:
            break
        late_us += wait_us
        wait_us *= 2
    return late_us


class LossyLatency:
    """Another latency under loss."""

    def __init__(self, inner: Latency, loss: float, chance: Chance) -> None:
        self._inner = inner
        self._loss = loss
        self._chance = chance

    def one_way_us(self, here: int, there: int) -> int:
        """See `Latency`."""
        under_way_us = self._inner.one_way_us(here, there)
        return under_way_us + find_retransmission_us(under_way_us, self._loss, self._chance)
