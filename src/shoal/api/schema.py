"""Schema: what goes into an operation and what comes out of it, as JSON.

Ids are texts (spec/text.md), sizes bytes, times RFC 3339 in UTC, durations seconds; unknown is null.
Fields marked `UNSET` are left out where they have nothing to say.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from shoal.api.paths import PathValue

WAIT_LIMIT_S = 30.0  # longest a request may ask to be held open; wild guess
PATHS_LIMIT = 256  # paths in one share; wild guess

RoleName = Literal["owner", "admin", "member", "storage"]
PeerStateName = Literal["connected", "relayed", "connecting", "known", "offline"]  # known: not needed now
ReachState = Literal["public", "local", "nat", "symmetric", "blocked", "unknown"]
TransferStateName = Literal[
    "queued", "finding", "fetching", "verifying", "finishing", "done", "failed", "paused", "cancelled"
]
InviteStateName = Literal["open", "used", "expired", "revoked"]
TransferVerb = Literal["pause", "resume", "cancel"]


class Request(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all requests: an unknown field is a mistake of the caller."""


class Nothing(Request, frozen=True):
    """No arguments."""


class ErrorBody(Struct, frozen=True):
    """What went wrong: what did not happen, why, what to do. `code` is a stable word."""

    code: str
    message: str
    cause: str = ""
    next_step: str = ""


class Reach(Struct, frozen=True, kw_only=True):
    """How this node can be reached, by what `asked` peers saw and dialled: `public` (one got through),
    `local` (likewise, but all asked are in its own network), `nat` (punching may work), `symmetric` (it
    cannot), `blocked` (a firewall, no NAT) or `unknown`.
    """

    state: ReachState
    asked: int
    reached_by: int
    observed: list[str]
    mapped: str | None = None  # by --upnp: the router's address and port
    next_step: str = ""


class RelayUse(Struct, frozen=True, kw_only=True):
    """What this node relays for others: streams now, bytes since its day began, and of how many it may.

    `guests`: streams of newcomers who are led to their inviter, counted in `streams` too.
    """

    streams: int
    streams_limit: int
    day_bytes: int
    day_limit_bytes: int | None
    rate_limit_bytes_s: int | None
    refused: int
    guests: int = 0
    guests_limit: int = 0


class Overlay(Struct, frozen=True, kw_only=True):
    """How this node keeps the network together. `mode`: a session with everybody, or a few neighbours that
    the views choose. `size`: how many nodes are here now, null until that is known.
    """

    mode: Literal["mesh", "views"]
    neighbours: int
    active: int
    passive: int
    size: float | None


class Status(Struct, frozen=True, kw_only=True):
    """The node itself. `reach` and `relay`: how it can be reached, and what it relays if it does.
    `notice` says what keeps it from working as it should, e.g. that it was removed.
    """

    peer_id: str
    network_id: str
    name: str
    pid: int
    listen: list[str]
    peers: int
    version: str
    overlay: Overlay | UnsetType = UNSET
    reach: Reach | UnsetType = UNSET
    relay: RelayUse | UnsetType = UNSET
    notice: str | UnsetType = UNSET
    recovery_key: str | UnsetType = UNSET


class InviteRequest(Request, frozen=True, kw_only=True):
    """Ask for an invite."""

    role: RoleName = "member"
    expires_s: float = 24 * 3600.0
    user: str | None = None


class Invite(Struct, frozen=True):
    """A single-use invite: a ticket, and a code that people can read out. Either ends both.

    `relays`: the members over which the ticket's holder can come who cannot dial this device. `notice`: why
    it may not get here at all.
    """

    ticket: str
    code: str | None
    expires_at: str
    relays: list[str] = []
    notice: str | UnsetType = UNSET


class InviteWaitRequest(Request, frozen=True, kw_only=True):
    """Ask what became of an invite; held open until it is no longer open or has other `failures`."""

    ticket: str
    failures: int = 0
    wait_s: float = 0.0


class InviteState(Struct, frozen=True, kw_only=True):
    """An invite. `failures`: tries of its code with wrong words; `name`: who has joined with it."""

    state: InviteStateName
    failures: int
    tries_left: int
    last_from: str | None
    name: str | None


class Peer(Struct, frozen=True):
    """Another member, seen from here. `addresses` are those that may be dialled, most promising first."""

    peer_id: str
    name: str
    state: PeerStateName
    addresses: list[str]
    rtt_ms: float | None
    path: str | UnsetType = UNSET  # punched or relay; absent where it is plain
    relay: str | UnsetType = UNSET  # the relay's name, where the path is one
    neighbour: bool = False  # broadcasts go over its session
    reason: str | UnsetType = UNSET  # why the last session with it ended, one word; absent while there is one
    address: str | UnsetType = UNSET  # the other end of its direct session
    incoming: bool = False  # it dialled: `address` is no place to be dialled


class Peers(Struct, frozen=True):
    """All other active members."""

    peers: list[Peer]


class Member(Struct, frozen=True):
    """A device that is or was admitted."""

    peer_id: str
    name: str
    user: str
    role: RoleName
    state: Literal["active", "removed"]
    since: str


class Members(Struct, frozen=True):
    """The membership log's result; equal heads mean equal lists."""

    members: list[Member]
    head: str


class ShareRequest(Request, frozen=True, kw_only=True):
    """Share files and folders as one share. The same paths give the same share again.

    `watch`: whether it becomes a new version whenever they change; null leaves that as it is, and false for
    what is shared already ends the watching and nothing else, also where the files are gone. `background`:
    reading and sending them gives way to whatever else the node does. `accept_removals`: the next version of
    a watched share may lack nearly all files of the one before, which is held back otherwise.
    """

    paths: list[PathValue]
    watch: bool | None = None
    background: bool = False
    accept_removals: bool = False


class ShareWaitRequest(Request, frozen=True, kw_only=True):
    """Ask for a share's state, held open until it is complete or differs from `done_bytes`."""

    share_id: str
    done_bytes: int | None = None
    wait_s: float = 0.0


class Share(Struct, frozen=True):
    """A share. Nulls until it is complete."""

    link: str
    share_id: str
    complete: bool
    content_id: str | None
    files: int | None
    bytes: int | None


class ShareDetail(Struct, frozen=True, kw_only=True):
    """A share as the node that serves it knows it. `only`: the part of a fetched one that is here.
    `skipped_why`: the reason for each of `skipped`, if there are some.
    """

    link: str
    share_id: str
    complete: bool
    content_id: str | None
    files: int | None
    bytes: int | None
    name: str
    paths: list[str]
    state: str
    version: int
    own: bool
    done_bytes: int
    skipped: list[str]
    error: ErrorBody | None
    fault: str | None = None
    watching: bool = False
    note: str = ""
    only: list[str] = []
    ignored: int = 0
    background: bool = False
    skipped_why: list[str] | UnsetType = UNSET


class Shares(Struct, frozen=True):
    """Everything this node serves."""

    shares: list[ShareDetail]


class UnshareRequest(Request, frozen=True, kw_only=True):
    """Stop serving: a share id or its beginning, a link, a name, or a shared path. Files are left alone."""

    share: str | None = None
    path: PathValue | None = None


class Unshared(Struct, frozen=True):
    """What is no longer served. `own`: this device shared it, and its link ends with it."""

    share_id: str
    name: str
    own: bool = False


class GetRequest(Request, frozen=True, kw_only=True):
    """Fetch what a link names into a folder; the same request again attaches to the running transfer.

    `wait_s`: how long to wait for absent providers; null waits for ever, 0 as long as a search takes. `only`:
    gitignore-like patterns for the part that is wanted; another part is another transfer. `background`: it
    moves what other transfers leave.
    """

    link: str
    dest: PathValue
    overwrite: bool = False
    wait_s: float | None = 0.0
    only: list[PathValue] = []
    background: bool = False


class GetResult(Struct, frozen=True):
    """What a finished transfer did. `unmatched` are patterns that selected nothing, if there are some;
    `skipped_why` is the reason for each of `skipped`.
    """

    files: int
    bytes: int
    seconds: float
    fetched_bytes: int
    refetched_bytes: int
    reused_bytes: int
    resumed: bool
    skipped: list[str]
    providers: dict[str, int]
    manifest_bytes: int = 0
    unmatched: list[str] | UnsetType = UNSET
    skipped_why: list[str] | UnsetType = UNSET


class Transfer(Struct, frozen=True):
    """A transfer in short."""

    id: str
    share_id: str
    state: TransferStateName
    bytes: int | None
    done_bytes: int
    rate_bytes_s: float
    providers: dict[str, int]


class TransferDetail(Struct, frozen=True, kw_only=True):
    """A transfer in full. `revision` grows with every change; `result` is there once it is done."""

    id: str
    share_id: str
    state: TransferStateName
    bytes: int | None
    done_bytes: int
    rate_bytes_s: float
    providers: dict[str, int]
    name: str
    dest: str
    revision: int
    note: str
    error: ErrorBody | None
    fault: str | None
    result: GetResult | None
    only: list[str] = []
    background: bool = False


class TransferRequest(Request, frozen=True, kw_only=True):
    """Ask for one transfer, held open until its revision differs from the given one."""

    id: str
    revision: int | None = None
    wait_s: float = 0.0


class Transfers(Struct, frozen=True):
    """All transfers of this home, newest last."""

    transfers: list[Transfer]


class TransferControlRequest(Request, frozen=True, kw_only=True):
    """Pause, resume or cancel a transfer."""

    id: str
    verb: TransferVerb


class FollowRequest(Request, frozen=True, kw_only=True):
    """Keep a copy of a share at its newest version. What the copy replaces or removes is kept in
    DEST/.shoal-versions for `keep_s`, and at most `keep_count` times. Asked again it changes these bounds.
    """

    link: str
    dest: PathValue
    overwrite: bool = False
    keep_s: float = 30 * 86400.0
    keep_count: int = 100


class Follow(Struct, frozen=True, kw_only=True):
    """A copy that follows its share. `version` lies at DEST, `newest` was heard of; `lag_s`: how long there
    has been a newer one; `why`: what keeps it from going on, and `error` the same as an error.
    """

    share_id: str
    name: str
    dest: str
    state: Literal["current", "fetching", "waiting", "failed", "refused"]
    version: int
    newest: int
    lag_s: float
    why: str
    error: ErrorBody | None = None
    fault: str | None = None


class Follows(Struct, frozen=True):
    """All copies that follow."""

    follows: list[Follow]


class UnfollowRequest(Request, frozen=True, kw_only=True):
    """End a follow: a share id or its beginning, a link, a name, or the folder it was told to write into."""

    follow: str | None = None
    path: PathValue | None = None


class PeerRequest(Request, frozen=True, kw_only=True):
    """Name a member: its peer id, the beginning of it, or its name where only one has it."""

    peer: str


class Removal(Struct, frozen=True):
    """A removal, and which peers have said that they carried it out."""

    op: str
    confirmed: list[str]
    pending: list[str]


class Left(Struct, frozen=True):
    """This device is no longer a member."""

    op: str


class Ping(Struct, frozen=True, kw_only=True):
    """How a peer is reached. `path` and `rtt_ms` are null where it is not; `why` says what was tried.

    `address` is the other end of a direct session; `relay` the name of who relays another one.
    """

    peer_id: str
    name: str
    state: PeerStateName
    path: str | None
    address: str | None
    rtt_ms: float | None
    why: str
    relay: str | UnsetType = UNSET


class LimitsRequest(Request, frozen=True, kw_only=True):
    """Ask for the limits in force, after changing some: a rate (`10 MB/s`), `unlimited`, or `default`, which
    gives one back to settings and schedule. With `peer` they are that peer's own.
    """

    upload: str | None = None
    download: str | None = None
    peer: str | None = None


class Limit(Struct, frozen=True):
    """A limit in force in bytes a second, null for none, and where it comes from."""

    rate_bytes_s: int | None
    source: Literal["default", "config", "schedule", "command"]
    why: str


class PeerLimits(Struct, frozen=True):
    """What is in force for one peer, beside what is for all; a name of the settings that no member has comes
    without an id.
    """

    peer_id: str | None
    name: str
    upload: Limit
    download: Limit


class Limits(Struct, frozen=True, kw_only=True):
    """Limits in force now. `changes_at`: day and local time at which the schedule says something else.
    `sent_bytes` and `received_bytes` count bulk data on the wire since the node started.
    """

    upload: Limit
    download: Limit
    peers: list[PeerLimits]
    changes_at: str | None
    sent_bytes: int
    received_bytes: int


class Check(Struct, frozen=True):
    """One finding of the doctor."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    next_step: str = ""


class Report(Struct, frozen=True, kw_only=True):
    """All findings, and for measurements the CPU seconds that bulk data took by stage, and the memory that
    the buffers of all lanes hold, of how much they may.
    """

    checks: list[Check]
    stages: dict[str, float] = {}
    lane_buffer_bytes: int = 0
    lane_buffer_limit_bytes: int = 0


class Setting(Struct, frozen=True):
    """One setting: its value and where that came from, a flag, the environment, the file or the default."""

    key: str
    value: str | bool | int | list[str]
    origin: str


class NodeSettings(Struct, frozen=True):
    """All settings that a node was started with."""

    settings: list[Setting]


class Stopping(Struct, frozen=True):
    """The node ends within 5 s."""

    pid: int
