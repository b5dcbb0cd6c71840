"""Relay keeper: with which relays a node that cannot be dialled keeps a session. Pure (core.machine).

Only in a large network: in a small one everybody has a session with everybody. Each node begins with the
relays whose ids are nearest to its own, so that a network's nodes spread over its relays; a relay that could
not be reached, had no place, or did not bring us a call of our own, is left alone for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.overlay.relay_failures import PROVEN_S, RelayFailures

KEPT = 2  # so that one may go: the other is named in the record already
WAIT_S = 15.0  # for a session that was wished for
CHECK_FIRST_S = 2.0  # from the session until we call ourselves over it
CHECK_S = 600.0  # and again after so long
CHECK_AGAIN_S = 30.0  # or where nothing came of it either way, as when the session was replaced


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
    """A relay could not be reached, had no place, or passed nothing on; it is kept no longer."""

    relay: bytes


@dataclass(frozen=True, slots=True)
class Passed:
    """A relay brought us our own call."""

    relay: bytes


@dataclass(frozen=True, slots=True)
class Want:
    """Make a session with this relay; who cannot be reached is answered by Failed."""

    relay: bytes


@dataclass(frozen=True, slots=True)
class Check:
    """Call ourselves over this relay; answer with Passed or Failed, if it can be told."""

    relay: bytes


class RelayKeeper:
    """The relays of one node. `kept` are to be named in its record, and their sessions not to be let go."""

    def __init__(self, own_id: bytes) -> None:
        self._own = int.from_bytes(own_id, "big")
        self._kept: tuple[bytes, ...] = ()
        self._kept_since: dict[bytes, float] = {}  # of the same
        self._check_at: dict[bytes, float] = {}  # likewise
        self._wanted: dict[bytes, float] = {}  # until when they are waited for; at most KEPT
        self._failures = RelayFailures()

    @property
    def kept(self) -> tuple[bytes, ...]:
        """The relays that this node has a session with and wants to keep, the longest kept first."""
        return self._kept

    def step(self, now: float, event: Look | Failed | Passed) -> list[Want | Check]:
        """Take one input, return which relays to dial, and which to call ourselves over."""
        match event:
            case Failed(relay):
                self._failures.note(now, relay)
                self._wanted.pop(relay, None)
                self._kept = tuple(kept for kept in self._kept if kept != relay)
                return []
            case Passed(relay):
                if relay in self._check_at:
                    self._check_at[relay] = now + CHECK_S
                return []
            case Look(needed, relays, direct):
                return self._look(now, needed, relays, direct)

    def _look(
        self, now: float, needed: bool, relays: Sequence[bytes], direct: frozenset[bytes]
    ) -> list[Want | Check]:
        if not needed:
            self._kept = ()
            self._kept_since.clear()
            self._check_at.clear()
            self._wanted.clear()
            return []
        for relay in self._kept:
            if relay not in direct and now - self._kept_since[relay] < PROVEN_S:
                self._failures.note(now, relay)  # who takes us and drops us would be asked for ever
        ranked = sorted(relays, key=lambda relay: int.from_bytes(relay, "big") ^ self._own)
        here = [relay for relay in ranked if relay in direct]
        good = [relay for relay in here if self._may(now, relay)]
        kept = [relay for relay in self._kept if relay in good]
        kept += [relay for relay in good if relay not in kept]
        kept = (
            kept or here[:1]
        )  # one that failed is better than none: its session may just have been replaced
        self._kept = tuple(kept[:KEPT])
        self._kept_since = {relay: self._kept_since.get(relay, now) for relay in self._kept}
        self._check_at = {r: self._check_at.get(r, now + CHECK_FIRST_S) for r in self._kept}
        for relay, since in self._kept_since.items():
            if now - since >= PROVEN_S:
                self._failures.forgive(relay)
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
        due = [relay for relay, at in self._check_at.items() if at <= now]
        for relay in due:
            self._check_at[relay] = now + CHECK_AGAIN_S
        return [*(Want(relay) for relay in chosen), *(Check(relay) for relay in due)]

    def _may(self, now: float, relay: bytes) -> bool:
        return not self._failures.is_paused(now, relay)
