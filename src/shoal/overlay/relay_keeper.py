"""Relay keeper: with which relays a node that cannot be dialled keeps a session. Pure (core.machine).

Only in a large network: in a small one everybody has a session with everybody. Each node begins with the
relays whose ids are nearest to its own, so that a network's nodes spread over its relays; a relay that could
not be reached, or had no place, is left alone for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.budget import BoundedMap

KEPT = 2  # so that one may go: the other is named in the record already
PAUSE_FIRST_S = 30.0  # after a relay could not be reached or had no place; doubles
PAUSE_LAST_S = 600.0
PROVEN_S = 30.0  # a relay that kept us so long has a place for us: its earlier failures are forgotten
WAIT_S = 15.0  # for a session that was wished for
REMEMBERED = 256  # relays that failed


@dataclass(frozen=True, slots=True)
class Look:
    """Now and then, and when sessions or records changed.

    `needed`: this node cannot be dialled, and its network is large. `relays`: members that relay, `direct`:
    those of them with a session that is not relayed itself.
    """

    needed: bool
    relays: tuple[bytes, ...]
    direct: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Failed:
    """A relay could not be reached, or ended its session for want of a place."""

    relay: bytes


@dataclass(frozen=True, slots=True)
class Want:
    """Make a session with this relay; who cannot be reached is answered by Failed."""

    relay: bytes


@dataclass(slots=True)
class _Failure:
    count: int
    until: float


class RelayKeeper:
    """The relays of one node. `kept` are to be named in its record, and their sessions not to be let go."""

    def __init__(self, own_id: bytes) -> None:
        self._own = int.from_bytes(own_id, "big")
        self._kept: tuple[bytes, ...] = ()
        self._kept_since: dict[bytes, float] = {}  # of the same
        self._wanted: dict[bytes, float] = {}  # until when they are waited for; at most KEPT
        self._failures: BoundedMap[bytes, _Failure] = BoundedMap(REMEMBERED)

    @property
    def kept(self) -> tuple[bytes, ...]:
        """The relays that this node has a session with and wants to keep, the longest kept first."""
        return self._kept

    def step(self, now: float, event: Look | Failed) -> list[Want]:
        """Take one input, return which relays to dial."""
        match event:
            case Failed(relay):
                before = self._failures.find(relay)
                count = 1 if before is None else before.count + 1
                pause_s = min(PAUSE_LAST_S, PAUSE_FIRST_S * 2.0 ** min(count - 1, 10))
                self._failures.put(relay, _Failure(count, now + pause_s))
                self._wanted.pop(relay, None)
                return []
            case Look(needed, relays, direct):
                return self._look(now, needed, relays, direct)

    def _look(
        self, now: float, needed: bool, relays: Sequence[bytes], direct: frozenset[bytes]
    ) -> list[Want]:
        if not needed:
            self._kept = ()
            self._kept_since.clear()
            self._wanted.clear()
            return []
        ranked = sorted(relays, key=lambda relay: int.from_bytes(relay, "big") ^ self._own)
        kept = [relay for relay in self._kept if relay in direct and relay in ranked]
        kept += [relay for relay in ranked if relay in direct and relay not in kept and self._may(now, relay)]
        self._kept = tuple(kept[:KEPT])
        self._kept_since = {relay: self._kept_since.get(relay, now) for relay in self._kept}
        for relay, since in self._kept_since.items():
            if (
                now - since >= PROVEN_S
            ):  # not at once: who takes us and evicts us again would be asked for ever
                self._failures.pop(relay)
        for relay, until in list(self._wanted.items()):
            if relay in direct:
                del self._wanted[relay]
            elif until <= now:
                self.step(now, Failed(relay))
        places = KEPT - len(self._kept) - len(self._wanted)
        free = [r for r in ranked if r not in direct and r not in self._wanted and self._may(now, r)]
        chosen = free[: max(0, places)]
        for relay in chosen:
            self._wanted[relay] = now + WAIT_S
        return [Want(relay) for relay in chosen]

    def _may(self, now: float, relay: bytes) -> bool:
        failure = self._failures.find(relay)
        return failure is None or failure.until <= now
