"""Ports: what transport asks from above (who is a member, who answers messages) and beside (lanes).

Transport imports nothing of membership, overlay or swarm. The composition root gives it a `MembershipView`,
registers a `Service` for each number, and attaches the `LanePort`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shoal.core.errors import Refused
from shoal.wire.codec import Message
from shoal.wire.limits import MESSAGE_BYTES
from shoal.wire.registry import MessageTable, ServiceNumber

if TYPE_CHECKING:
    from shoal.identity.operations import Role
    from shoal.transport.address import Address
    from shoal.transport.join_channel import JoinChannel
    from shoal.transport.lane import Lane
    from shoal.transport.session import Session

DOOR_KEYS = 16  # accepted door keys, newest first; formats.md, Knock
HELLO_ENTRIES = 16  # formats.md, Session
HELLO_ENTRIES_BYTES = 63 * 1024  # in all: the hello is one control message, with 1 KiB for the rest of it


class MembershipView(Protocol):
    """What membership knows, asked on the loop thread; every answer but `learn` is immediate."""

    def is_active(self, peer_id: bytes) -> bool:
        """Whether this key is a member now. False for everybody while the node is blocked."""
        ...

    def role_of(self, peer_id: bytes) -> Role | None:
        """The role of an active member, else None."""
        ...

    def head(self) -> bytes:
        """BLAKE3 of the sorted tips of our membership log, 32 bytes."""
        ...

    def door_keys(self) -> list[bytes]:
        """Door keys, newest first, at most DOOR_KEYS."""
        ...

    def show_admission(self, peer_id: bytes, head: bytes) -> list[bytes]:
        """The signed entries that admit this device, parents first, for a peer whose hello said `head`
        (empty: it has said none yet).

        At most HELLO_ENTRIES of them and HELLO_ENTRIES_BYTES in all; empty when they do not fit, or when the
        peer has them, or probably has them: asked again without a session meanwhile, it shows them.
        """
        ...

    async def learn(self, entries: list[bytes]) -> None:
        """Verify entries out of a hello against the known log, make them durable, apply them.

        Raises: Unavailable (code `synchronise`) when parents are missing; RemoteFault for bad entries.
        """
        ...

    def open_invites(self) -> bool:
        """Whether a ticket of this device is answered now, if only by a no; else the join ALPN never is."""
        ...

    def match_join_knock(self, nonce: bytes, mac: bytes) -> bytes | None:
        """The id of the remembered invite whose ticket secret made `mac`, or None; in constant time."""
        ...

    def match_nameplate(self, nameplate: int) -> bytes | None:
        """The id of the invite whose typed code has this nameplate and is answered now, or None."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceBudget:
    """What one peer may ask of one service."""

    requests_in_flight: int = 16
    messages_per_s: float = 200.0
    burst: float = 400.0
    message_bytes: int = MESSAGE_BYTES


class Service(Protocol):
    """Who answers the control messages of one number. All calls are made on the loop thread."""

    number: ServiceNumber
    table: MessageTable
    budget: ServiceBudget

    async def on_request(self, session: Session, message: Message) -> Message:
        """Return the answer. A ShoalError goes back as an error frame; cancelled when the asker cancels
        or the session ends.
        """
        ...

    def on_notice(self, session: Session, message: Message) -> None:
        """Take a message that has no answer; must be short."""
        ...

    def on_session_up(self, session: Session) -> None:
        """A session is settled: it may be used for everything."""
        ...

    def on_session_down(self, session: Session, reason: str) -> None:
        """An up session ended. On replacement, `down` of the old comes right before `up` of the new."""
        ...

    def on_peer_head(self, session: Session, head8: bytes) -> None:
        """A heartbeat said the first 8 bytes of the peer's log head."""
        ...

    def may_open_lane(self, session: Session, purpose: bytes) -> bool:
        """Whether the peer may open a lane to this service for `purpose`."""
        ...

    def on_lane(self, session: Session, lane: Lane, purpose: bytes) -> None:
        """A lane the peer asked for is open; the service owns it from now on."""
        ...


class BaseService:
    """A service that answers nothing; subclasses override what they need and set the three attributes."""

    number: ServiceNumber
    table: MessageTable
    budget: ServiceBudget = ServiceBudget()

    async def on_request(self, session: Session, message: Message) -> Message:
        raise Refused(
            "This is not answered", cause=f"{type(message).__name__} is no request", code="no_request"
        )

    def on_notice(self, session: Session, message: Message) -> None:
        return

    def on_session_up(self, session: Session) -> None:
        return

    def on_session_down(self, session: Session, reason: str) -> None:
        return

    def on_peer_head(self, session: Session, head8: bytes) -> None:
        return

    def may_open_lane(self, session: Session, purpose: bytes) -> bool:
        return False

    def on_lane(self, session: Session, lane: Lane, purpose: bytes) -> None:
        lane.close()


class ReachPort(Protocol):
    """What transport needs from who makes ways to peers, attached with `Transport.attach_reach`."""

    preamble_first_byte: int  # neither 0x16 nor that of lanes
    preamble_bytes: int

    def match_guest_knock(self, nonce: bytes, mac: bytes) -> bytes | None:
        """The guest pass that made `mac`, or None; in constant time. None where nobody is relayed."""
        ...

    def take_guest(self, channel: JoinChannel, guest_pass: bytes) -> bool:
        """Serve who knocked with a pass; False: not now, and transport closes the channel."""
        ...

    def accept(self, sock: socket.socket, preamble: bytes, address: Address) -> bool:
        """Take an accepted socket whose preamble was read; as `LanePort.accept`."""
        ...

    async def open_socket(
        self, way: Address, peer_id: bytes, timeout_s: float, fall_back: bool
    ) -> socket.socket:
        """Return a socket that ends at a peer. `fall_back`: where a way fails, a relay will do.

        Cancelling closes it. Raises: Unavailable, Refused, RemoteFault.
        """
        ...


class LanePort(Protocol):
    """What transport needs from the lane broker, attached with `Transport.attach_lanes`.

    The broker's control messages live in service SESSION, types LANE_TYPES (see messages.py); transport
    hands them over after checking size and rate.
    """

    messages: dict[int, type[Message]]
    preamble_first_byte: int  # not 0x16, the first byte of a TLS handshake
    preamble_bytes: int  # fixed length, at most 256, first byte included

    async def on_request(self, session: Session, message: Message) -> Message:
        """Answer a lane control message."""
        ...

    def on_notice(self, session: Session, message: Message) -> None:
        """Take a lane control message that has no answer."""
        ...

    def accept(self, sock: socket.socket, preamble: bytes, address: Address) -> bool:
        """Take an accepted, non-blocking socket whose preamble was read.

        True: the preamble names a pending lane and the socket is the broker's now (the address's charge is
        given back). False: unknown; transport closes the socket.
        """
        ...

    async def open(self, session: Session, service: ServiceNumber, purpose: bytes, send: bool) -> Lane:
        """Open a lane over a settled session. Raises: Unavailable, Refused, RemoteFault."""
        ...

    def close_session(self, session: Session) -> None:
        """End every lane and pending token of a session at once."""
        ...
