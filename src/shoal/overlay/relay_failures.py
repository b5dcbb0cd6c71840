"""Relay failures: which relays failed lately, and how long they are left alone for it. Pure; time is given.

For who keeps relays, and for who is told several relays to one peer: those that failed are tried last, and
never left out, so that nobody can take a relay from a peer by failing over it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.core.budget import BoundedMap

PAUSE_FIRST_S = 30.0  # doubles
PAUSE_LAST_S = 600.0
REMEMBERED = 256  # relays that failed
PROVEN_S = 30.0  # what lasted so long over a relay, or with it, was no failure


@dataclass(frozen=True, slots=True)
class _Failure:
    count: int
    until: float


class RelayFailures:
    """The relays that failed one node. At most REMEMBERED; the one that failed longest ago gives way."""

    def __init__(self) -> None:
        self._failures: BoundedMap[bytes, _Failure] = BoundedMap(REMEMBERED)

    def note(self, now: float, relay: bytes) -> None:
        """A relay failed: leave it alone, twice as long as the last time. More of one pause count once."""
        before = self._failures.find(relay)
        if before is not None and before.until > now:
            return
        count = 1 if before is None else before.count + 1
        pause_s = min(PAUSE_LAST_S, PAUSE_FIRST_S * 2.0 ** min(count - 1, 10))
        self._failures.put(relay, _Failure(count, now + pause_s))

    def forgive(self, relay: bytes) -> None:
        """A relay did what it is for: its earlier failures are forgotten."""
        self._failures.pop(relay)

    def on_ended(self, now: float, relay: bytes, began: float, broke: bool) -> None:
        """A session over a relay ended: of itself, or because nothing got through any more."""
        if broke:
            self.note(now, relay)
        elif now - began >= PROVEN_S:
            self.forgive(relay)

    def is_paused(self, now: float, relay: bytes) -> bool:
        """Whether a relay is left alone now."""
        failure = self._failures.find(relay)
        return failure is not None and failure.until > now

    def order(self, now: float, relays: Iterable[bytes]) -> list[bytes]:
        """Return the same relays, those that are left alone now last."""
        return sorted(relays, key=lambda relay: self.is_paused(now, relay))
