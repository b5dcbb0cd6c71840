"""Dial plan: which member is dialled when, at which address. Pure; a part of the full mesh machine.

Every active member without a session is dialled: all its addresses in turn make a round, after a round
without success comes a pause of 1 s, doubling to 60 s, with jitter. Both ends dial; to make simultaneous
dials rare the end with the higher peer id lets the other begin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from shoal.overlay.steps import Cancel, Connect, Effect, SetTimer

PAUSE_FIRST_S = 1.0
PAUSE_LAST_S = 60.0
GIVE_WAY_S = 1.0  # the end with the higher id begins this much later; some round trips
SPREAD_S = 0.2  # so that a node that starts does not dial all members in one tick
DIALS = 32  # at once; transport allows 64 in all
FULL_RETRY_S = 1.0
WAY_WAIT_S = 2.0  # for a relay that is being dialled, before an address at which nobody can be
QUIET_S = 5.0  # a contact that is found again and again resets the pause at most this often


@dataclass(slots=True)
class _Plan:
    """One member without a session."""

    queue: list[str] = field(default_factory=list)  # of this round, not tried yet
    dialling: str | None = None
    rounds: int = 0  # without success
    awaits_way: bool = False  # over a relay that is being dialled
    began_at: float = float("-inf")  # last round
    why: str = ""


class DialPlan:
    """The members without session. Adding and dropping one sets and cancels its timer."""

    def __init__(self, own_id: bytes, addresses: Callable[[bytes], list[str]], rng: Random) -> None:
        self._own_id = own_id
        self._addresses = addresses
        self._random = rng
        self._plans: dict[bytes, _Plan] = {}  # at most MEMBERS
        self._dials = 0

    def __contains__(self, peer: object) -> bool:
        return peer in self._plans

    def add(self, now: float, peer: bytes, at_once: bool = False, awaits_way: bool = False) -> list[Effect]:
        """Plan a member that has no session (any more); `at_once` where the other end does not dial too.

        `awaits_way`: a relay to it is being dialled, and its addresses promise less.
        """
        if peer in self._plans:
            return []
        self._plans[peer] = _Plan(awaits_way=awaits_way)
        if awaits_way:
            return [SetTimer(now + WAY_WAIT_S, ("dial", peer))]
        wait_s = 0.0 if at_once else self._random.uniform(0.0, SPREAD_S)
        if self._own_id > peer and not at_once:
            wait_s += GIVE_WAY_S
        return [SetTimer(now + wait_s, ("dial", peer))]

    def drop(self, peer: bytes) -> list[Effect]:
        """The peer has a session, or is no member: stop dialling. A dial under way ends by itself."""
        plan = self._plans.pop(peer, None)
        if plan is None:
            return []
        if plan.dialling is not None:
            self._dials -= 1
        return [Cancel(("dial", peer))]

    def hurry(self, now: float, peer: bytes, spread_s: float = SPREAD_S) -> list[Effect]:
        """Dial soon and with short pauses again: the network changed, or somebody needs the peer."""
        plan = self._plans.get(peer)
        if plan is None:
            return []
        plan.rounds = 0
        if plan.dialling is not None:
            return []
        plan.queue.clear()
        soon = max(now + self._random.uniform(0.0, spread_s), plan.began_at + QUIET_S)
        return [SetTimer(soon, ("dial", peer))]

    def offer(self, now: float, peer: bytes, addresses: list[str]) -> list[Effect]:
        """The peer has addresses we did not know: dial them now, or next in the round that is under way."""
        plan = self._plans.get(peer)
        if plan is None:
            return []
        plan.rounds = 0
        known = plan.queue if plan.dialling is not None else self._addresses(peer)
        new = [text for text in addresses if text != plan.dialling]
        plan.queue = [*new, *(text for text in known if text not in new and text != plan.dialling)]
        if plan.dialling is not None:
            return []
        plan.began_at = now
        return [SetTimer(now, ("dial", peer))]

    def offer_way(self, now: float, peer: bytes, way: str) -> list[Effect]:
        """There is a relay to the peer: next, unless no address was tried yet, which may make it needless."""
        plan = self._plans.get(peer)
        if plan is None or (plan.dialling is None and plan.rounds == 0 and not plan.awaits_way):
            return []
        return self.offer(now, peer, [way])

    def on_timer(self, now: float, peer: bytes) -> list[Effect]:
        """Begin a round or go on with it."""
        plan = self._plans.get(peer)
        if plan is None or plan.dialling is not None:
            return []
        plan.awaits_way = False
        if not plan.queue:
            plan.queue = self._addresses(peer)
            plan.began_at = now
        if not plan.queue:
            plan.why = plan.why or "no address is known"
            return self._pause(now, peer, plan)
        if self._dials >= DIALS:
            return [SetTimer(now + FULL_RETRY_S * self._random.uniform(0.5, 1.0), ("dial", peer))]
        plan.dialling = plan.queue.pop(0)
        self._dials += 1
        return [Connect(peer, plan.dialling)]

    def on_failed(self, now: float, peer: bytes, address: str, why: str) -> tuple[list[Effect], bool]:
        """A dial failed. Returns effects, and whether that was the last address of a round."""
        plan = self._plans.get(peer)
        if plan is None or plan.dialling != address:
            return [], False
        self._dials -= 1
        plan.dialling = None
        plan.why = f"{address}: {why}"
        if plan.queue:
            return self.on_timer(now, peer), False
        return self._pause(now, peer, plan), True

    def is_connecting(self, peer: bytes) -> bool:
        """Whether the peer is being dialled, or is going to be for the first time."""
        plan = self._plans.get(peer)
        return plan is not None and (plan.dialling is not None or bool(plan.queue) or plan.rounds == 0)

    def is_settling(self) -> bool:
        """Whether some member with known addresses was not tried once yet."""
        return any(plan.rounds == 0 and self._addresses(peer) for peer, plan in self._plans.items())

    def rounds_of(self, peer: bytes) -> int:
        """Return how many rounds ended without a session."""
        plan = self._plans.get(peer)
        return 0 if plan is None else plan.rounds

    def why(self, peer: bytes) -> str:
        """What the last dial failed by, or an empty text."""
        plan = self._plans.get(peer)
        return "" if plan is None else plan.why

    def peers(self) -> list[bytes]:
        """Return the planned members."""
        return list(self._plans)

    def _pause(self, now: float, peer: bytes, plan: _Plan) -> list[Effect]:
        longest = min(PAUSE_LAST_S, PAUSE_FIRST_S * 2.0 ** min(plan.rounds, 10))
        plan.rounds += 1
        return [SetTimer(now + longest * self._random.uniform(0.5, 1.0), ("dial", peer))]
