"""Sync events: what goes into the synchronisation machine and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.errors import ShoalError
from shoal.identity.entry import Entry
from shoal.membership.messages import Fetch, LastWord, Page, VectorPage

Peer = bytes


# --- inputs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionUp:
    """A session with a member is open. `head8`: as in its hello."""

    peer: Peer
    head8: bytes = b""


@dataclass(frozen=True, slots=True)
class SessionDown:
    """The session with a peer ended; nothing more is asked of it or answered to it."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class PeerHead:
    """A heartbeat told the first 8 bytes of a peer's log head."""

    peer: Peer
    head8: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """A peer's request; it is answered in the same step, by one Reply or Fail."""

    peer: Peer
    message: VectorPage | Fetch


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to an Ask."""

    peer: Peer
    message: Page


@dataclass(frozen=True, slots=True)
class AskFailed:
    """An Ask ended without an answer: time-out, session over, refused."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Heard:
    """A neighbour sent a broadcast entry that fits the log, or follows what is not here."""

    peer: Peer
    entry: bytes


@dataclass(frozen=True, slots=True)
class HeardOf:
    """A neighbour has an entry that is too long to be broadcast."""

    peer: Peer
    entry_id: bytes


@dataclass(frozen=True, slots=True)
class Offered:
    """Entries from a hello, a join reply or a last word. `source` answers for them."""

    entries: tuple[bytes, ...]
    source: Peer | None


SyncInput = SessionUp | SessionDown | PeerHead | Asked | Answered | AskFailed | Heard | HeardOf | Offered


# --- effects --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request; the driver answers with exactly one Answered or AskFailed."""

    peer: Peer
    message: VectorPage | Fetch


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to the Asked of this step."""

    message: Page


@dataclass(frozen=True, slots=True)
class Fail:
    """The Asked of this step is refused by this error."""

    error: ShoalError


@dataclass(frozen=True, slots=True)
class Notify:
    """Send a notice, or drop it if the peer's buffer is full."""

    peer: Peer
    message: LastWord


@dataclass(frozen=True, slots=True)
class Spread:
    """Broadcast entries that are in the log; what was broadcast from here lately is not sent again."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Save:
    """Entries were added to the log: make them durable. `source`: who sent them."""

    entries: tuple[Entry, ...]
    source: Peer | None


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything that this peer had at the time is here now."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the session: the peer broke the protocol too often."""

    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class Observe:
    """Something a detector may want to know."""

    rule: str
    peer: Peer | None
    detail: str


SyncEffect = Ask | Reply | Fail | Notify | Spread | Save | Synced | Drop | Observe
