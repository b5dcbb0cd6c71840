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


class LossyLatency:
    """Another latency under loss: TCP sends again after a while, twice as long each time."""

    def __init__(self, inner: Latency, loss: float, chance: Chance) -> None:
        self._inner = inner
        self._loss = loss
        self._chance = chance

    def one_way_us(self, here: int, there: int) -> int:
        """See `Latency`."""
        under_way_us = self._inner.one_way_us(here, there)
        wait_us = RETRANSMIT_US + 2 * under_way_us
        for _ in range(RETRANSMITS):
            if self._chance.fraction() >= self._loss:
                break
            under_way_us += wait_us
            wait_us *= 2
        return under_way_us
