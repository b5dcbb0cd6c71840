"""Session table: one session a peer, and the rules when there are two.

Only the accepting end decides; the dialling end waits for its word (Settled or GoingAway). So both ends hold
the same session without asking each other again:

- The dialler asks for a replacement, or was restarted (another instance): the new session stays.
- There is a session older than any handshake can take: the dialler would not have dialled if it still had
  it: the new one stays.
- Otherwise both may have dialled at once: the session whose TLS client has the lower peer id stays.
- While our own dial to the same peer has its TCP connection and would win, the new one waits for its end.
"""

from __future__ import annotations

from enum import Enum, auto

from shoal.transport.session import Session
from shoal.wire.limits import MEMBERS


class Verdict(Enum):
    """What becomes of a session that was just accepted."""

    STAY = auto()
    WAIT = auto()
    REFUSE = auto()


class SessionTable:
    """The settled session of each peer, and accepted ones that wait for the end of our own dial."""

    def __init__(self, own_id: bytes, simultaneous_s: float) -> None:
        self._own_id = own_id
        self._simultaneous_s = simultaneous_s
        self._sessions: dict[bytes, Session] = {}  # at most MEMBERS: only members get here
        self._waiting: dict[bytes, Session] = {}  # likewise, one a peer

    def __len__(self) -> int:
        return len(self._sessions)

    def sessions(self) -> list[Session]:
        """Return the settled sessions."""
        return list(self._sessions.values())

    def find(self, peer_id: bytes) -> Session | None:
        """Return the settled session to a peer."""
        return self._sessions.get(peer_id)

    def judge_accepted(
        self, peer_id: bytes, instance: bytes, replaces: bool, now: float, dialling: bool
    ) -> Verdict:
        """Judge a session accepted from `peer_id`; `dialling`: our own dial to it has its connection."""
        current = self._sessions.get(peer_id)
        peer_wins = peer_id < self._own_id
        if current is None:
            if len(self._sessions) >= MEMBERS:
                return Verdict.REFUSE
            return Verdict.WAIT if dialling and not peer_wins else Verdict.STAY
        if replaces or current.instance != instance:
            return Verdict.STAY
        if now - current.established_at >= self._simultaneous_s or not current.is_dialler:
            return Verdict.STAY
        return Verdict.STAY if peer_wins else Verdict.REFUSE

    def put(self, session: Session) -> Session | None:
        """Make a session the one to its peer; return the one it replaces."""
        old = self._sessions.get(session.peer_id)
        self._sessions[session.peer_id] = session
        return old

    def remove(self, session: Session) -> bool:
        """Forget a session; return whether it was the one to its peer."""
        if self._waiting.get(session.peer_id) is session:
            del self._waiting[session.peer_id]
        if self._sessions.get(session.peer_id) is session:
            del self._sessions[session.peer_id]
            return True
        return False

    def wait(self, session: Session) -> Session | None:
        """Keep an accepted session until our own dial ended; return one that waited before it."""
        old = self._waiting.get(session.peer_id)
        self._waiting[session.peer_id] = session
        return old

    def take_waiting(self, peer_id: bytes) -> Session | None:
        """Return and forget the session that waits for the end of our dial."""
        return self._waiting.pop(peer_id, None)
