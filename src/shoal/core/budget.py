"""Budget: bounded rates and bounded maps, so that no peer decides how much we keep or do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TokenBucket:
    """A rate with a burst. `now` is given, so that machines can hold one."""

    __slots__ = ("_at", "_level", "burst", "rate_s")

    def __init__(self, rate_s: float, burst: float, now: float) -> None:
        self.rate_s = rate_s
        self.burst = burst
        self._level = burst
        self._at = now

    def try_take(self, now: float, amount: float = 1.0) -> bool:
        """Take `amount` if there is that much; return whether it was taken."""
        self._refill(now)
        if self._level < amount:
            return False
        self._level -= amount
        return True

    def refund(self, amount: float = 1.0) -> None:
        """Give back what was taken in error, up to the burst."""
        self._level = min(self.burst, self._level + amount)

    def wait_s(self, now: float, amount: float = 1.0) -> float:
        """Seconds until `amount` (at most the burst) can be taken."""
        self._refill(now)
        return max(0.0, (min(amount, self.burst) - self._level) / self.rate_s)

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._level = min(self.burst, self._level + (now - self._at) * self.rate_s)
            self._at = now


class BoundedMap(Generic[K, V]):
    """A map that forgets its least recently used key beyond `limit`."""

    __slots__ = ("_items", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: OrderedDict[K, V] = OrderedDict()

    def find(self, key: K) -> V | None:
        """Return the value and mark it used, or None."""
        value = self._items.get(key)
        if key in self._items:
            self._items.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> tuple[K, V] | None:
        """Store a value; return the pair that was forgotten for it, if any."""
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self.limit:
            return self._items.popitem(last=False)
        return None

    def pop(self, key: K) -> V | None:
        """Remove a key and return its value, or None."""
        return self._items.pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._items))

    def items(self) -> list[tuple[K, V]]:
        """Return a copy of the pairs, least recently used first."""
        return list(self._items.items())
