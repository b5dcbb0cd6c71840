"""Guest book: whose newcomers a relay lets in, and how often each may ask. Pure: the time is given.

An inviter leaves a pass for every open invite with the relays that its tickets name. A pass opens one relay,
to one inviter, while that has a session with the relay and until the invite expires. Wrong knocks cost it
nothing, right ones come at a bounded rate and never burn it: that would be a way to delete others' invites.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.core.errors import Refused, Unavailable
from shoal.transport.knock import make_guest_mac
from shoal.transport.reach.messages import GuestPass

PASSES = 512  # of all inviters; each costs a knock 4 microseconds, measured
TRIES_S = 1 / 30  # with one pass; a join takes one, and one for each name that was taken
TRIES_BURST = 8.0
GROUP_S = 1 / 10  # of one address, whatever the pass; several newcomers may stand behind one NAT
GROUP_BURST = 12.0
GROUPS = 1024


@dataclass(slots=True)
class _Pass:
    inviter: bytes
    invite_id: bytes
    until: float
    tries: TokenBucket


class GuestBook:
    """The passes that one relay was given. `own_id` is in every right knock."""

    def __init__(self, own_id: bytes) -> None:
        self._own_id = own_id
        self._passes: dict[bytes, _Pass] = {}  # by key; at most PASSES
        self._groups: BoundedMap[str, TokenBucket] = BoundedMap(GROUPS)

    def __len__(self) -> int:
        return len(self._passes)

    def put(self, now: float, inviter: bytes, passes: Iterable[GuestPass]) -> None:
        """Know exactly these passes of an inviter. Raises: Unavailable when there is no room for them."""
        fresh = {row.key: row for row in passes}
        mine = {key for key, held in self._passes.items() if held.inviter == inviter}
        self._forget_old(now)
        others = sum(held.inviter != inviter for held in self._passes.values())
        if others + len(fresh) > PASSES:
            raise Unavailable(
                "The passes were not taken", cause="this relay has no room for more", code="guests_full"
            )
        for key in mine - fresh.keys():
            self._passes.pop(key, None)
        for key, row in fresh.items():
            held = self._passes.get(key)
            if held is None:
                tries = TokenBucket(TRIES_S, TRIES_BURST, now)
                self._passes[key] = _Pass(inviter, row.invite_id, now + row.seconds, tries)
            elif held.inviter == inviter:  # a pass that somebody else holds too stays with who came first
                held.until = now + row.seconds

    def drop(self, inviter: bytes) -> None:
        """An inviter has no session any more, or is no member."""
        for key in [key for key, held in self._passes.items() if held.inviter == inviter]:
            del self._passes[key]

    def match(self, now: float, nonce: bytes, mac: bytes) -> bytes | None:
        """Return the pass that made a knock, or None; compares with all of them."""
        found: bytes | None = None
        for key, held in self._passes.items():
            fits = hmac.compare_digest(make_guest_mac(key, nonce, self._own_id), mac)
            if fits and now < held.until:
                found = key
        return found

    def enter(self, now: float, key: bytes, group: str) -> tuple[bytes, bytes]:
        """Count a try with a pass; return its inviter and invite id. `group`: where the guest comes from.

        Raises: Refused (the pass is over by now), Unavailable (too often).
        """
        bucket = self._groups.find(group)
        if bucket is None:
            bucket = TokenBucket(GROUP_S, GROUP_BURST, now)
            self._groups.put(group, bucket)
        if not bucket.try_take(now):
            raise _too_often("newcomers from this address came too often", bucket.wait_s(now))
        held = self._passes.get(key)
        if held is None or now >= held.until:
            raise Refused("The guest was not let in", cause="the ticket is over", code="pass_over")
        if not held.tries.try_take(now):
            raise _too_often("this ticket was tried too often", held.tries.wait_s(now))
        return held.inviter, held.invite_id

    def _forget_old(self, now: float) -> None:
        for key in [key for key, held in self._passes.items() if now >= held.until]:
            del self._passes[key]


def _too_often(cause: str, wait_s: float) -> Unavailable:
    return Unavailable("The guest was not let in", cause=cause, code="too_often", retry_after_s=wait_s)
