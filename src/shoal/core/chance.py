"""Chance: random numbers that depend on (seed, node, stream, counter) alone.

A generator that counts instead of keeping a state costs 56 bytes, against 2.5 KiB of `random.Random`, and
what one node draws does not move what another one draws. Not for secrets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15  # of splitmix64 (Steele, Lea, Flood 2014), as the two factors below
_UNIT = 2.0**-53


class Chance:
    """The numbers of one stream. Not for several threads."""

    __slots__ = ("_at",)

    def __init__(self, seed: int, node: int = 0, stream: int = 0) -> None:
        self._at = _mix(_mix(_mix(seed & _MASK) ^ (node & _MASK)) ^ (stream & _MASK))

    def draw(self) -> int:
        """Return 64 random bits."""
        self._at = at = (self._at + _STEP) & _MASK
        at = ((at ^ (at >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        at = ((at ^ (at >> 27)) * 0x94D049BB133111EB) & _MASK
        return at ^ (at >> 31)

    def below(self, limit: int) -> int:
        """Return a number of 0 .. limit - 1; `limit` is at most 2^32, so that none is favoured by 2^-32."""
        return (self.draw() * limit) >> 64

    def fraction(self) -> float:
        """Return a number of 0 <= x < 1."""
        return (self.draw() >> 11) * _UNIT

    def between(self, low: float, high: float) -> float:
        """Return a number of low <= x < high."""
        return low + (high - low) * self.fraction()

    def exponential(self, mean: float) -> float:
        """Return a waiting time of a process without memory."""
        return -mean * math.log(1.0 - self.fraction())

    def normal(self) -> float:
        """Return a number of the normal distribution, mean 0 and deviation 1 (Box, Muller 1958)."""
        return math.sqrt(-2.0 * math.log(1.0 - self.fraction())) * math.cos(2 * math.pi * self.fraction())

    def pick(self, items: Sequence[T]) -> T:
        """Return one of `items`, of which there is at least one."""
        return items[(self.draw() * len(items)) >> 64]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Return `count` of the items, or all if there are fewer, in random order."""
        rest = list(items)
        count = min(count, len(rest))
        for place in range(count):
            other = place + ((self.draw() * (len(rest) - place)) >> 64)
            rest[place], rest[other] = rest[other], rest[place]
        return rest[:count]

    def shuffle(self, items: list[T]) -> None:
        """Put `items` into random order, in place."""
        items[:] = self.sample(items, len(items))


def _mix(bits: int) -> int:
    bits = (bits + _STEP) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)
