"""Kernel: a virtual clock in whole microseconds and what happens when.

Events of one time happen in the order in which they were planned, so that two runs of a seed are equal. They
lie in buckets of about a millisecond: planning one costs the same however many there are (a heap of a million
events is several times slower).
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

SECOND_US = 1_000_000
_BUCKET_BITS = 10

Action = Callable[[Any, Any], None]
_Event = tuple[int, int, Action, Any, Any]


class Kernel:
    """The clock of one simulation. `now_us` never goes back."""

    __slots__ = ("_buckets", "_count", "_current", "_key", "_keys", "events", "now_us")

    def __init__(self) -> None:
        self.now_us = 0
        self.events = 0  # that have happened
        self._count = 0
        self._key = -1  # of the current bucket
        self._current: list[_Event] = []
        self._buckets: dict[int, list[_Event]] = {}
        self._keys: list[int] = []

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return self.now_us / SECOND_US

    def plan(self, at_us: int, action: Action, first: Any = None, second: Any = None) -> None:
        """Call `action(first, second)` at a time that is not over yet."""
        self._count += 1
        event = (at_us, self._count, action, first, second)
        key = at_us >> _BUCKET_BITS
        if key <= self._key:
            heappush(self._current, event)
            return
        bucket = self._buckets.get(key)
        if bucket is None:
            self._buckets[key] = [event]
            heappush(self._keys, key)
        else:
            bucket.append(event)

    def find_planned(self, action: Action, first: Any) -> list[tuple[int, Any]]:
        """Return when `action(first, ...)` will be called, and with what; looks at everything planned."""
        everything = [self._current, *self._buckets.values()]
        return [
            (at_us, second)
            for bucket in everything
            for at_us, _, planned, whose, second in bucket
            if whose is first and planned == action
        ]

    def run(self, until_us: int) -> None:
        """Let everything happen that is planned up to a time, that time included."""
        while True:
            current = self._current
            while current and current[0][0] <= until_us:
                at_us, _, action, first, second = heappop(current)
                self.now_us = at_us
                self.events += 1
                action(first, second)
            if current or not self._keys or (self._keys[0] << _BUCKET_BITS) > until_us:
                break
            self._key = heappop(self._keys)
            self._current = self._buckets.pop(self._key)
            heapify(self._current)
        self.now_us = max(self.now_us, until_us)
