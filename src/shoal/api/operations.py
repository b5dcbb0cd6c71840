"""Operations: the complete list of what can be asked of a node.

The CLI, the Python client and later the dashboard use only this. `NodeApi` is the port that the node
implements; a method raises only `ShoalError`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from shoal.api import content_schema as c
from shoal.api import pin_schema as p
from shoal.api import schema as s
from shoal.api import store_schema as st

Q = TypeVar("Q", bound=Struct)
R = TypeVar("R", bound=Struct)


class ByteStream(Protocol):
    """Bytes in order, and a word about them at the end. `note`: what it waits for."""

    @property
    def note(self) -> str: ...

    def read(self) -> AsyncGenerator[bytes | c.StreamResult, None]:
        """Yield pieces, then the result. Whoever stops before closes the generator. Raises: ShoalError."""
        ...


class NodeApi(Protocol):
    """What a node answers. Cancelling a call never undoes what it has started."""

    async def status(self, request: s.Nothing) -> s.Status: ...
    async def invite(self, request: s.InviteRequest) -> s.Invite: ...
    async def invite_state(self, request: s.InviteWaitRequest) -> s.InviteState: ...
    async def peers(self, request: s.Nothing) -> s.Peers: ...
    async def members(self, request: s.Nothing) -> s.Members: ...
    async def remove(self, request: s.PeerRequest) -> s.Removal: ...
    async def leave(self, request: s.Nothing) -> s.Left: ...
    async def ping(self, request: s.PeerRequest) -> s.Ping: ...
    async def share(self, request: s.ShareRequest) -> s.Share: ...
    async def share_state(self, request: s.ShareWaitRequest) -> s.ShareDetail: ...
    async def shares(self, request: s.Nothing) -> s.Shares: ...
    async def unshare(self, request: s.UnshareRequest) -> s.Unshared: ...
    async def get(self, request: s.GetRequest) -> s.TransferDetail: ...
    async def ls(self, request: c.ListRequest) -> c.ListPage: ...
    async def share_stream(self, request: c.ShareStreamRequest, body: AsyncIterator[bytes]) -> s.Share: ...
    async def get_stream(self, request: c.GetStreamRequest) -> ByteStream: ...
    async def transfer(self, request: s.TransferRequest) -> s.TransferDetail: ...
    async def transfers(self, request: s.Nothing) -> s.Transfers: ...
    async def control_transfer(self, request: s.TransferControlRequest) -> s.TransferDetail: ...
    async def pin(self, request: p.PinRequest) -> p.Pin: ...
    async def pin_state(self, request: p.PinWaitRequest) -> p.Pin: ...
    async def pins(self, request: s.Nothing) -> p.Pins: ...
    async def unpin(self, request: p.UnpinRequest) -> p.Pins: ...
    async def store(self, request: s.Nothing) -> st.StoreState: ...
    async def store_work(self, request: st.StoreWorkRequest) -> st.StoreWork: ...
    async def limits(self, request: s.LimitsRequest) -> s.Limits: ...
    async def follow(self, request: s.FollowRequest) -> s.Follow: ...
    async def follows(self, request: s.Nothing) -> s.Follows: ...
    async def unfollow(self, request: s.UnfollowRequest) -> s.Follow: ...
    async def settings(self, request: s.Nothing) -> s.NodeSettings: ...
    async def diagnose(self, request: s.Nothing) -> s.Report: ...
    async def down(self, request: s.Nothing) -> s.Stopping: ...


@dataclass(frozen=True)
class Operation(Generic[Q, R]):
    """One thing that can be asked."""

    name: str
    request: type[Q]
    response: type[R]
    summary: str
    call: Callable[[NodeApi, Q], Awaitable[R]]


@dataclass(frozen=True)
class StreamIn(Generic[Q, R]):
    """One thing that can be asked with a stream of bytes."""

    name: str
    request: type[Q]
    response: type[R]
    summary: str
    call: Callable[[NodeApi, Q, AsyncIterator[bytes]], Awaitable[R]]


@dataclass(frozen=True)
class StreamOut(Generic[Q]):
    """One thing that is answered with a stream of bytes, in frames (frames.py)."""

    name: str
    request: type[Q]
    summary: str
    call: Callable[[NodeApi, Q], Awaitable[ByteStream]]


STATUS = Operation("status", s.Nothing, s.Status, "Who this node is.", lambda a, q: a.status(q))
INVITE = Operation("invite", s.InviteRequest, s.Invite, "Make a single-use invite.", lambda a, q: a.invite(q))
INVITE_STATE = Operation(
    "invite_state",
    s.InviteWaitRequest,
    s.InviteState,
    "One invite, long polling.",
    lambda a, q: a.invite_state(q),
)
PEERS = Operation("peers", s.Nothing, s.Peers, "The other members.", lambda a, q: a.peers(q))
MEMBERS = Operation("members", s.Nothing, s.Members, "Who belongs to it.", lambda a, q: a.members(q))
REMOVE = Operation(
    "remove", s.PeerRequest, s.Removal, "Expel a device; waits up to 10 s.", lambda a, q: a.remove(q)
)
LEAVE = Operation("leave", s.Nothing, s.Left, "Leave the network.", lambda a, q: a.leave(q))
PING = Operation("ping", s.PeerRequest, s.Ping, "How a peer is reached.", lambda a, q: a.ping(q))
SHARE = Operation("share", s.ShareRequest, s.Share, "Share paths; returns at once.", lambda a, q: a.share(q))
SHARE_STATE = Operation(
    "share_state",
    s.ShareWaitRequest,
    s.ShareDetail,
    "One share, long polling.",
    lambda a, q: a.share_state(q),
)
SHARES = Operation("shares", s.Nothing, s.Shares, "What this node serves.", lambda a, q: a.shares(q))
UNSHARE = Operation("unshare", s.UnshareRequest, s.Unshared, "Stop serving.", lambda a, q: a.unshare(q))
GET = Operation(
    "get", s.GetRequest, s.TransferDetail, "Start or attach to a transfer.", lambda a, q: a.get(q)
)
LS = Operation("ls", c.ListRequest, c.ListPage, "What a link names, no content.", lambda a, q: a.ls(q))
TRANSFER = Operation(
    "transfer", s.TransferRequest, s.TransferDetail, "One transfer, long polling.", lambda a, q: a.transfer(q)
)
TRANSFERS = Operation("transfers", s.Nothing, s.Transfers, "All transfers.", lambda a, q: a.transfers(q))
CONTROL_TRANSFER = Operation(
    "control_transfer",
    s.TransferControlRequest,
    s.TransferDetail,
    "Pause, resume or cancel a transfer.",
    lambda a, q: a.control_transfer(q),
)
PIN = Operation("pin", p.PinRequest, p.Pin, "Keep a copy of a share.", lambda a, q: a.pin(q))
PIN_STATE = Operation(
    "pin_state", p.PinWaitRequest, p.Pin, "One kept copy, long polling.", lambda a, q: a.pin_state(q)
)
PINS = Operation("pins", s.Nothing, p.Pins, "The copies this node keeps.", lambda a, q: a.pins(q))
UNPIN = Operation("unpin", p.UnpinRequest, p.Pins, "Keep a copy no longer.", lambda a, q: a.unpin(q))
STORE = Operation("store", s.Nothing, st.StoreState, "What the store holds.", lambda a, q: a.store(q))
STORE_WORK = Operation(
    "store_work",
    st.StoreWorkRequest,
    st.StoreWork,
    "Check the store, or give space back; long polling.",
    lambda a, q: a.store_work(q),
)
LIMITS = Operation(
    "limits", s.LimitsRequest, s.Limits, "Show and change what bulk data may take.", lambda a, q: a.limits(q)
)
FOLLOW = Operation("follow", s.FollowRequest, s.Follow, "Keep a copy current.", lambda a, q: a.follow(q))
FOLLOWS = Operation("follows", s.Nothing, s.Follows, "Copies that follow.", lambda a, q: a.follows(q))
UNFOLLOW = Operation("unfollow", s.UnfollowRequest, s.Follow, "End a follow.", lambda a, q: a.unfollow(q))
SETTINGS = Operation(
    "settings",
    s.Nothing,
    s.NodeSettings,
    "The settings that the node was started with.",
    lambda a, q: a.settings(q),
)
DIAGNOSE = Operation(
    "diagnose", s.Nothing, s.Report, "Findings only the running node has.", lambda a, q: a.diagnose(q)
)
DOWN = Operation("down", s.Nothing, s.Stopping, "Stop the node.", lambda a, q: a.down(q))

SHARE_STREAM = StreamIn(
    "share_stream",
    c.ShareStreamRequest,
    s.Share,
    "Share the body as one file.",
    lambda a, q, body: a.share_stream(q, body),
)
GET_STREAM = StreamOut(
    "get_stream", c.GetStreamRequest, "One file, in order, in frames.", lambda a, q: a.get_stream(q)
)

OPERATIONS: tuple[Operation[Any, Any], ...] = (
    STATUS,
    INVITE,
    INVITE_STATE,
    PEERS,
    MEMBERS,
    REMOVE,
    LEAVE,
    PING,
    SHARE,
    SHARE_STATE,
    SHARES,
    UNSHARE,
    GET,
    LS,
    TRANSFER,
    TRANSFERS,
    CONTROL_TRANSFER,
    PIN,
    PIN_STATE,
    PINS,
    UNPIN,
    STORE,
    STORE_WORK,
    LIMITS,
    FOLLOW,
    FOLLOWS,
    UNFOLLOW,
    SETTINGS,
    DIAGNOSE,
    DOWN,
)
STREAMS_IN: tuple[StreamIn[Any, Any], ...] = (SHARE_STREAM,)
STREAMS_OUT: tuple[StreamOut[Any], ...] = (GET_STREAM,)
