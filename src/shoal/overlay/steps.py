"""Steps: what goes into a locator machine and what comes out (overlay.md, "The interface").

Inputs are facts with no opinion; effects are orders to the driver, to be carried out in order. Times are the
driver's monotonic seconds; `wall` is only ever kept for display.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from shoal.identity.record import PeerRecord
from shoal.overlay.provision import Provision
from shoal.storage.peers import PeerRow
from shoal.wire.codec import Message

Token = tuple[Hashable, ...]


# -- inputs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The driver is ready. First input, once."""

    self_record: PeerRecord
    members: frozenset[bytes]  # active ones, ourselves included
    rows: tuple[PeerRow, ...] = ()  # the peer book as it was saved


@dataclass(frozen=True, slots=True)
class OwnRecord:
    """Our record was signed anew: other addresses, another name, or a higher seq."""

    record: PeerRecord


@dataclass(frozen=True, slots=True)
class Members:
    """The set of active members, after it changed."""

    members: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class ContactFound:
    """A ticket, a join or LAN discovery named addresses of a peer. They are trusted: loopback is allowed."""

    peer: bytes
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionUp:
    """A session to a peer is settled."""

    peer: bytes
    over_loopback: bool = False
    relay: bytes | None = None  # over which it goes


@dataclass(frozen=True, slots=True)
class SessionDown:
    """The session to a peer ended. `reason` is one of transport's words."""

    peer: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message of a peer, already checked by `messages.check`."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class DialEnded:
    """A `Connect` is over. `error` is empty when a session came of it; `code`: that of its error."""

    peer: bytes
    address: str
    error: str = ""
    wall: float = 0.0
    code: str = ""


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """Our own addresses changed, or the machine woke up: what could not be reached perhaps can be now."""


@dataclass(frozen=True, slots=True)
class Sparse:
    """From now on members are dialled when they are wanted (`on`), or all of them all the time."""

    on: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """A session with this member is needed soon; without one comes `Unreached`."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Delivered:
    """A broadcast of RECORD_TOPIC or PROVISION_TOPIC that `judge` found good."""

    topic: int
    payload: bytes
    sender: bytes = b""  # the neighbour that it came from


@dataclass(frozen=True, slots=True)
class OwnProvision:
    """A page of our keys was signed, as `PageChanged` asked for."""

    provision: Provision


@dataclass(frozen=True, slots=True)
class Publish:
    """We provide a key from now on. `entries`: of the feed that it stands for, if that is ours; only grow."""

    key: bytes
    entries: int = 0


@dataclass(frozen=True, slots=True)
class Withdraw:
    """We no longer provide a key."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Locate:
    """Find who provides a key; answered with one `Located` of the same `search`, at most `budget_s` later."""

    search: int
    key: bytes
    budget_s: float


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer that was set ran out."""

    token: Token


Input = (
    Started
    | OwnRecord
    | Members
    | ContactFound
    | SessionUp
    | SessionDown
    | Received
    | DialEnded
    | NetworkChanged
    | Sparse
    | Wanted
    | Delivered
    | OwnProvision
    | Publish
    | Withdraw
    | Locate
    | Timer
)


# -- effects -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a peer with a session; it may be lost."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class Connect:
    """Dial one address of a peer; answer with DialEnded."""

    peer: bytes
    address: str


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer with Timer(token) at a time; a timer of the same token is moved."""

    at: float
    token: Token


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget a timer."""

    token: Token


@dataclass(frozen=True, slots=True)
class Save:
    """Keep a row of the peer book, some seconds later at the latest."""

    row: PeerRow


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop a row of the peer book."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What a search came to."""

    hits: list[bytes]  # connected providers first
    asked: int  # peers, through what they announced or by Query
    answered: int
    messages: int
    elapsed_s: float
    guarantee: str  # what an empty answer means


@dataclass(frozen=True, slots=True)
class Located:
    """The end of a search."""

    search: int
    result: Result


@dataclass(frozen=True, slots=True)
class OwnRecordBehind:
    """Somebody has a record of ours with a seq we do not know of: sign a higher one."""

    seq: int


@dataclass(frozen=True, slots=True)
class Unreached:
    """A round of dials to a peer ended without a session."""

    peer: bytes
    why: str


@dataclass(frozen=True, slots=True)
class PageChanged:
    """Sign a page of our keys, with at least this seq; answer with OwnProvision."""

    page: int
    least_seq: int
    keys: tuple[bytes, ...]
    entries: tuple[int, ...] = ()  # of the feeds that the keys stand for, where they are ours


@dataclass(frozen=True, slots=True)
class HeadTold:
    """A member said how many entries its feed has now for which a key stands."""

    peer: bytes
    key: bytes
    entries: int


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell the driver a fact."""

    event: Located | OwnRecordBehind | Unreached | PageChanged | HeadTold


@dataclass(frozen=True, slots=True)
class Spread:
    """Broadcast a signed record or provision."""

    topic: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Observe:
    """Report something seen of a peer."""

    rule: str
    peer: bytes
    detail: str = ""


Effect = Send | Spread | Connect | SetTimer | Cancel | Save | Forget | Emit | Observe


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One other member, for people. `why`: what the last dial failed by, in words."""

    peer_id: bytes
    state: str  # connected | connecting | offline
    addresses: list[str] = field(default_factory=list)
    rtt_ms: float | None = None
    why: str = ""
    neighbour: bool = False  # broadcasts go over its session
    ended: str = ""  # why the last session with it went down, one word; empty while there is one
    denies_us: bool = False  # it answered our last dial that we are no member
