"""Upgrade plan: when and by which end a relayed session is made a direct one. Pure (core.machine).

Both ends may dial the other's addresses; only the end with the lower peer id punches, as the TLS client of
what comes of it. The other end begins later, so that two new sessions rarely meet. After a try without
success come pauses that double; a changed network begins anew.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from random import Random

from shoal.core.errors import LocalMisuse

FIRST_S = 0.5  # after a relayed session came up: first messages go before
GIVE_WAY_S = 12.0  # the end with the higher id begins this much later: a try of the other takes up to 10 s
PAUSE_FIRST_S = 15.0
PAUSE_LAST_S = 600.0
TRIES = 4  # at once
FULL_RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class Relayed:
    """The session to a peer goes over a relay (now)."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class NotRelayed:
    """There is a direct session to that peer, or none."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """A `Try` is over; success shows as NotRelayed."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """Our addresses are others: what did not work may work now."""


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer that was set ran out."""

    peer: bytes


Input = Relayed | NotRelayed | Ended | NetworkChanged | Timer


@dataclass(frozen=True, slots=True)
class Try:
    """Dial the peer's addresses; with `punch` try that afterwards. Answer with Ended."""

    peer: bytes
    punch: bool


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer with Timer(peer) at a time; a timer of the same peer is moved."""

    at: float
    peer: Hashable


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget the timer of a peer."""

    peer: bytes


Effect = Try | SetTimer | Cancel


@dataclass(slots=True)
class _Plan:
    tries: int = 0
    trying: bool = False


class UpgradePlan:
    """The peers with a relayed session; as many as sessions."""

    def __init__(self, own_id: bytes, rng: Random) -> None:
        self._own_id = own_id
        self._random = rng
        self._plans: dict[bytes, _Plan] = {}

    def tries_of(self, peer: bytes) -> int:
        """Return how often a way around the relay was tried."""
        plan = self._plans.get(peer)
        return 0 if plan is None else plan.tries

    def step(self, now: float, event: Input) -> list[Effect]:
        """Take one input, return what the driver must do, in order."""
        match event:
            case Relayed(peer):
                if peer == self._own_id:
                    raise LocalMisuse("a node has no session with itself")
                if peer in self._plans:
                    return []
                self._plans[peer] = _Plan()
                return [self._soon(now, peer)]
            case NotRelayed(peer):
                return [] if self._plans.pop(peer, None) is None else [Cancel(peer)]
            case Ended(peer):
                return self._on_ended(now, peer)
            case NetworkChanged():
                waiting = sorted(peer for peer, plan in self._plans.items() if not plan.trying)
                for plan in self._plans.values():
                    plan.tries = 0
                return [self._soon(now, peer) for peer in waiting]
            case Timer(peer):
                return self._on_timer(now, peer)

    def _on_timer(self, now: float, peer: bytes) -> list[Effect]:
        plan = self._plans.get(peer)
        if plan is None or plan.trying:
            return []
        if sum(other.trying for other in self._plans.values()) >= TRIES:
            return [SetTimer(now + FULL_RETRY_S * self._random.uniform(0.5, 1.0), peer)]
        plan.trying = True
        plan.tries += 1
        return [Try(peer, punch=self._own_id < peer)]

    def _on_ended(self, now: float, peer: bytes) -> list[Effect]:
        plan = self._plans.get(peer)
        if plan is None or not plan.trying:
            return []
        plan.trying = False
        pause_s = min(PAUSE_LAST_S, PAUSE_FIRST_S * 2.0 ** min(plan.tries - 1, 10))
        return [SetTimer(now + pause_s * self._random.uniform(0.75, 1.0), peer)]

    def _soon(self, now: float, peer: bytes) -> Effect:
        wait_s = FIRST_S if self._own_id < peer else GIVE_WAY_S
        return SetTimer(now + wait_s * self._random.uniform(0.75, 1.0), peer)


def compute_wait_s(wait_ms: int, rtt_ms: float | None) -> float:
    """Return when the asker begins after PunchReady, so that both ends begin at one moment.

    The answerer began to wait half a round trip before.
    """
    return max(0.0, wait_ms / 1000.0 - (rtt_ms or 0.0) / 2000.0)
