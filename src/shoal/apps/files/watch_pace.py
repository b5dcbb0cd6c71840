"""Watch pace: when a watched share is looked at again. A machine: notices in, `StartLook` out.

A look reads names, sizes and times of the whole tree and makes a version if something changed. It begins once
changes have settled, not too often, and after a while without any notice too: notices get lost, on network
disks they never come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

SETTLE_S = 0.3  # without a further change before a look begins
SETTLE_LIMIT_S = 1.0  # but no longer than this after the first change
INTERVAL_S = 2.0  # from one look to the next under constant change
LOAD = 3.0  # a look that took long is followed by a pause: at most a third of the time goes into looking
VERSIONS_BURST = 256  # so many versions at that pace (8 minutes), then VERSION_REFILL_S apart: a feed has
VERSION_REFILL_S = 60.0  # 65,536 entries, 45 days of change without an end
RESCAN_S = 600.0  # looks without a notice
BLIND_RESCAN_S = 30.0  # the same while the system gives no notices
RESCAN_LOAD = 50.0  # at most 2 % of the time for looks without a notice


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something changed."""


@dataclass(frozen=True, slots=True)
class Looked:
    """A look ended; `published` says whether it made a version."""

    published: bool


@dataclass(frozen=True, slots=True)
class Sight:
    """Whether notices can be relied on now."""

    blind: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class StartLook:
    """Look now; `Looked` is expected at its end."""


Input: TypeAlias = Noticed | Looked | Sight | Tick


class WatchPace:
    """Decides when to look. One look at a time; the first one is due at once."""

    def __init__(self) -> None:
        self.looking = False
        self._first: float | None = 0.0  # of the changes not looked at
        self._last = 0.0
        self._started_at: float | None = None
        self._took_s = 0.0
        self._ended_at = 0.0
        self._blind = False
        self._tokens = float(VERSIONS_BURST)
        self._filled_at = 0.0

    def step(self, now: float, event: Input) -> list[StartLook]:
        """Take one input; see `next_at` for when the next Tick is due."""
        match event:
            case Noticed():
                self._first = now if self._first is None else self._first
                self._last = now
            case Looked(published):
                self.looking = False
                self._ended_at = now
                self._took_s = now - self._started_at if self._started_at is not None else 0.0
                self._tokens = self._tokens_at(now) - published
                self._filled_at = now
            case Sight(blind):
                self._blind = blind
            case Tick():
                pass
        if self.looking or now < self.next_at:
            return []
        self.looking = True
        self._first = None
        self._started_at = now
        return [StartLook()]

    @property
    def next_at(self) -> float:
        """When the next look is due if nothing else happens."""
        if self._started_at is None:
            return 0.0
        rescan = BLIND_RESCAN_S if self._blind else RESCAN_S
        due = self._ended_at + max(rescan, RESCAN_LOAD * self._took_s)
        if self._first is not None:
            settled = min(self._last + SETTLE_S, self._first + SETTLE_LIMIT_S)
            paced = self._started_at + max(INTERVAL_S, LOAD * self._took_s)
            due = min(due, max(settled, paced))
        return max(due, self._filled_at + max(0.0, 1.0 - self._tokens) * VERSION_REFILL_S)

    def _tokens_at(self, now: float) -> float:
        return min(VERSIONS_BURST, self._tokens + (now - self._filled_at) / VERSION_REFILL_S)
