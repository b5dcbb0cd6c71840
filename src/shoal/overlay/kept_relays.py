"""Kept relays: drives the relay keeper with a node's sessions, and says which sessions are not let go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shoal.core.clock import Clock
from shoal.overlay.mesh import MeshMachine
from shoal.overlay.relay_keeper import Check, Failed, Look, Passed, RelayKeeper, Want
from shoal.transport.session import Session

CLIENTS = 256  # members that name this relay, whose sessions it keeps; some 100 KiB each. Wild guess
NO_PLACE = frozenset({"idle", "evicted"})  # a relay that ends a session so has too many


class SessionsPort(Protocol):
    """What is needed of the transport."""

    def find_session(self, peer_id: bytes) -> Session | None: ...

    def sessions(self) -> list[Session]: ...


class KeptRelays:
    """One a node. `look` is called now and then, and soon after sessions or records have changed.

    `is_mesh`: everybody keeps a session with everybody; `want` dials a member; `needs_relay`: nobody outside
    can dial this node; `check` calls this node over a relay, and tells whether that came back.
    """

    def __init__(
        self,
        own_id: bytes,
        sessions: SessionsPort,
        machine: MeshMachine,
        clock: Clock,
        *,
        relays: bool,
        is_mesh: Callable[[], bool],
        want: Callable[[bytes], object],
    ) -> None:
        """`relays`: this node is a relay itself."""
        self.needs_relay: Callable[[], bool] = lambda: False
        self.check: Callable[[bytes, Callable[[bytes, bool], None]], None] = lambda relay, on_done: None
        self._own_id = own_id
        self._sessions = sessions
        self._machine = machine
        self._clock = clock
        self._relays = relays
        self._is_mesh = is_mesh
        self._want = want
        self._keeper = RelayKeeper(own_id)

    def look(self) -> None:
        """Keep a session with some relays while this node cannot be dialled and its network is large."""
        needed = not self._is_mesh() and self.needs_relay()
        known = self._machine.relays_known() if needed else []
        direct = frozenset(relay for relay in known if self._is_direct(relay))
        # over a relay nobody relays any further
        usable = tuple(r for r in known if r in direct or self._sessions.find_session(r) is None)
        for effect in self._keeper.step(self._clock.monotonic(), Look(needed, usable, direct)):
            match effect:
                case Want(relay):
                    self._want(relay)
                case Check(relay):
                    self.check(relay, self._on_checked)

    def find_relays(self) -> list[bytes]:
        """Return the relays over which this node can be reached: with a direct session, in views the kept."""
        near = self._machine.relays_near() if self._is_mesh() else self._keeper.kept
        return [relay for relay in near if self._is_direct(relay)]

    def find_kept(self) -> set[bytes]:
        """Return the peers whose sessions are not let go though nobody uses them.

        The relays that this node names in its record, those that carry a session of ours, and as a relay the
        first CLIENTS members that name it.
        """
        sessions = self._sessions.sessions()
        kept = {*self._keeper.kept, *(s.relay for s in sessions if s.relay is not None)}
        if self._relays:
            clients = [s for s in sessions if self._machine.names_as_relay(s.peer_id, self._own_id)]
            clients.sort(key=lambda session: session.established_at)
            kept.update(session.peer_id for session in clients[:CLIENTS])
        return kept

    def on_unreached(self, peer: bytes) -> None:
        """No address of a peer answered."""
        self._on_failed(peer)

    def on_session_down(self, session: Session, reason: str) -> None:
        """A session ended: a relay that had no place is left alone for a while."""
        if reason in NO_PLACE and session.closed_by == "peer" and session.peer_id in self._keeper.kept:
            self._on_failed(session.peer_id)

    def _on_checked(self, relay: bytes, brings_calls: bool) -> None:
        self._keeper.step(self._clock.monotonic(), Passed(relay) if brings_calls else Failed(relay))

    def _on_failed(self, relay: bytes) -> None:
        self._keeper.step(self._clock.monotonic(), Failed(relay))

    def _is_direct(self, peer_id: bytes) -> bool:
        session = self._sessions.find_session(peer_id)
        return session is not None and session.relay is None
