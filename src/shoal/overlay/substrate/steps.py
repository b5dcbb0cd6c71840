"""Steps: what goes into the substrate's machines and what comes out (overlay.md, "The interface").

They are structs rather than dataclasses because a simulation makes millions of them.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from shoal.wire.codec import Message

Token = tuple[Hashable, ...]


class Step(msgspec.Struct, frozen=True, gc=False):
    """Base of inputs and effects."""


# -- inputs ------------------------------------------------------------------------------------------------


class Started(Step, frozen=True, gc=False):
    """The driver is ready. `contacts` are peers that can be reached, most promising first."""

    contacts: tuple[bytes, ...] = ()


class Received(Step, frozen=True, gc=False):
    """A message of a peer, checked by `messages.check`."""

    peer: bytes
    message: Message


class SessionDown(Step, frozen=True, gc=False):
    """A session ended, or one that was needed did not come to be (`unreachable`)."""

    peer: bytes
    reason: str  # reset | idle | unreachable | evicted | left | banned


class SessionUp(Step, frozen=True, gc=False):
    """A session is settled: told only while the network is small (UseMesh)."""

    peer: bytes


class UseMesh(Step, frozen=True, gc=False):
    """The network is small: every session is a link, and the views rest. `sessions`: those there are."""

    sessions: tuple[bytes, ...] = ()


class UseViews(Step, frozen=True, gc=False):
    """The network is large (again): the views choose the links. `contacts`: peers that can be reached."""

    contacts: tuple[bytes, ...] = ()


class Timer(Step, frozen=True, gc=False):
    """A timer that was set ran out."""

    token: Token


class Broadcast(Step, frozen=True, gc=False):
    """Send a payload to everybody."""

    identifier: bytes
    topic: int
    payload: bytes


Input = Started | Received | SessionUp | SessionDown | UseMesh | UseViews | Timer | Broadcast


# -- effects -----------------------------------------------------------------------------------------------


class Send(Step, frozen=True, gc=False):
    """Send a message over the session to a peer; without one, dial it. May be lost: SessionDown tells."""

    peer: bytes
    message: Message


class Connect(Step, frozen=True, gc=False):
    """The peer is a neighbour now: keep a session with it, with heartbeats, and tell when it ends."""

    peer: bytes


class Disconnect(Step, frozen=True, gc=False):
    """The peer is no neighbour any more: its session may end when it is idle."""

    peer: bytes
    reason: str


class SetTimer(Step, frozen=True, gc=False):
    """Answer with Timer(token) at a time; a timer of the same token is moved."""

    at: float
    token: Token


class Cancel(Step, frozen=True, gc=False):
    """Forget a timer."""

    token: Token


class Deliver(Step, frozen=True, gc=False):
    """A broadcast has arrived; for the first time, unless it is to be judged later. `hops`: how many
    sessions it came over, `sender`: the last one's peer.
    """

    identifier: bytes
    topic: int
    payload: bytes
    hops: int
    sender: bytes = b""


class Found(Step, frozen=True, gc=False):
    """The detector holds something else of a member now."""

    peer: bytes
    standing: int  # detector.Standing


class Observe(Step, frozen=True, gc=False):
    """Report something seen of a peer."""

    rule: str
    peer: bytes
    detail: str = ""


Effect = Send | Connect | Disconnect | SetTimer | Cancel | Deliver | Found | Observe
