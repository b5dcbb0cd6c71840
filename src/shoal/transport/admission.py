"""Admission: who may start a handshake, before anybody is known. Pure: the time is given.

A connection is charged to its address (IPv6: its /64). A right knock with the newest door key gives that
charge back and takes one of the knock budget; authentication gives that back too, so that many members behind
one address can live while strangers cannot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.transport.config import AdmissionLimits


class Admit(Enum):
    """Whether an accepted connection may go on; the value is the observation's rule."""

    YES = "yes"
    RATE = "handshake_flood"
    FULL = "handshakes_full"


@dataclass(eq=False, slots=True)
class Pending:
    """One connection between accept and authentication."""

    group: str
    opened_at: float
    knocked: bool = False
    knock_charged: bool = False
    handed_over: bool = False  # the socket belongs to a channel or a lane now


class Admission:
    """Keeps the budgets. Every `Pending` it hands out must be given to `close` once."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._pending: dict[Pending, None] = {}  # oldest first; at most limits.pending_handshakes
        self._connections: BoundedMap[str, TokenBucket] = BoundedMap(limits.groups)
        self._knocks: BoundedMap[str, TokenBucket] = BoundedMap(limits.groups)

    def __len__(self) -> int:
        return len(self._pending)

    def open(self, group: str, now: float) -> tuple[Admit, Pending | None, Pending | None]:
        """Charge a new connection. Return the verdict, its pending, and one that must end for it, if any."""
        limits = self._limits
        bucket = self._bucket(self._connections, group, limits.connections_s, limits.connections_burst, now)
        if not bucket.try_take(now):
            return Admit.RATE, None, None
        ours = [pending for pending in self._pending if pending.group == group]
        victim = None
        if len(ours) >= limits.pending_a_group or len(self._pending) >= limits.pending_handshakes:
            candidates = ours if len(ours) >= limits.pending_a_group else self._pending
            victim = self._find_victim(candidates, now)
            if victim is None:
                return Admit.FULL, None, None
            self.close(victim)
        pending = Pending(group, now)
        self._pending[pending] = None
        return Admit.YES, pending, victim

    def on_knock(self, pending: Pending, newest: bool, now: float) -> bool:
        """Take a right knock; return whether the connection may go on.

        A knock with an older door key is charged like none: the connection's charge stays.
        """
        pending.knocked = True
        if not newest:
            return True
        limits = self._limits
        knocks = self._bucket(self._knocks, pending.group, limits.knocks_s, limits.knocks_burst, now)
        if not knocks.try_take(now):
            return False
        pending.knock_charged = True
        self._refund(self._connections, pending.group)
        return True

    def on_authenticated(self, pending: Pending) -> None:
        """Give back the charge of a knock."""
        if pending.knock_charged:
            pending.knock_charged = False
            self._refund(self._knocks, pending.group)

    def on_lane(self, pending: Pending) -> None:
        """Give back the charge of a connection that turned out to be an expected lane."""
        self._refund(self._connections, pending.group)

    def close(self, pending: Pending) -> None:
        """Forget a connection, however it ended; idempotent."""
        self._pending.pop(pending, None)

    def _find_victim(self, candidates: Iterable[Pending], now: float) -> Pending | None:
        """Return the oldest that never knocked, if it had the time to."""
        for pending in candidates:
            if now - pending.opened_at < self._limits.evict_after_s:
                return None
            if not pending.knocked:
                return pending
        return None

    def _refund(self, buckets: BoundedMap[str, TokenBucket], group: str) -> None:
        bucket = buckets.find(group)
        if bucket is not None:
            bucket.refund()

    @staticmethod
    def _bucket(
        buckets: BoundedMap[str, TokenBucket], group: str, rate_s: float, burst: float, now: float
    ) -> TokenBucket:
        bucket = buckets.find(group)
        if bucket is None:
            bucket = TokenBucket(rate_s, burst, now)
            buckets.put(group, bucket)
        return bucket
