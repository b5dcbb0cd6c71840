"""Punch guard: at which hosts a node punches, so that nobody aims it at others. Pure; time is given.

Where to punch is what peers say, and what a relay told them: both can name a host that knows nothing of it.
A punch is some twenty SYNs, so each host gets a few that come to nothing, whoever names it, and then one now
and then. Whom it works with is not charged.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.core.errors import Unavailable
from shoal.transport.address import Address

FAILURES_S = 1 / 30  # punches at one host that come to nothing
FAILURES_BURST = 12.0  # a session and its lanes at once
HOSTS = 1024


class PunchGuard:
    """The hosts of one node's punches, at most HOSTS."""

    def __init__(self) -> None:
        self._buckets: BoundedMap[str, TokenBucket] = BoundedMap(HOSTS)

    def admit(self, now: float, candidates: Sequence[Address]) -> list[Address]:
        """Charge a punch to the host of each address; return those that have not failed too often.

        Raises: Unavailable when none is left.
        """
        hosts = {group: self._find(group, now) for group in {a.budget_group for a in candidates}}
        admitted = {group for group, bucket in hosts.items() if bucket.try_take(now)}
        if not admitted:
            cause = "punching there has failed too often lately"
            raise Unavailable("Nothing was punched", cause=cause, code="not_punched", retry_after_s=30.0)
        return [address for address in candidates if address.budget_group in admitted]

    def on_success(self, address: Address) -> None:
        """A connection came of it: give the charge back."""
        bucket = self._buckets.find(address.budget_group)
        if bucket is not None:
            bucket.refund()

    def _find(self, group: str, now: float) -> TokenBucket:
        bucket = self._buckets.find(group)
        if bucket is None:
            bucket = TokenBucket(FAILURES_S, FAILURES_BURST, now)
            self._buckets.put(group, bucket)
        return bucket
