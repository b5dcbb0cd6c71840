"""Join ways: from a ticket to channels with its inviter: at its addresses, and over the relays that it names.

Each way ends in the same TLS with the inviter, whose key the ticket pins; a relay that leads to anybody else
is found out there, before this device has shown who it is.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Iterable
from typing import Protocol

from shoal.core.errors import LocalMisuse, Refused, RemoteFault, ShoalError, Unavailable
from shoal.identity.ticket import Ticket, TicketRelay, make_guest_pass
from shoal.membership.invites import join_knock
from shoal.overlay.ways import order_ways
from shoal.transport.address import Address
from shoal.transport.join_channel import JoinChannel

NONCE_BYTES = 16  # formats.md, Knock
DIAL_TIMEOUT_S = 4.0  # for each address of the ticket
RELAY_TIMEOUT_S = 6.0  # for the handshake over a relay: each way is twice as long


class JoinDialler(Protocol):
    """The part of transport that a joiner needs."""

    async def dial_join(
        self,
        inviter: bytes,
        address: Address,
        nonce: bytes,
        mac: bytes,
        timeout_s: float = 8.0,
        sock: socket.socket | None = None,
    ) -> JoinChannel:
        """Return a channel to the inviter, whose key is checked."""
        ...

    async def open_guest_way(
        self, relay: bytes, at: Address, guest_pass: bytes, timeout_s: float = 8.0
    ) -> socket.socket:
        """Return a socket that leads to the inviter over a relay."""
        ...


class JoinWays:
    """The ways of one ticket. `failures` says of those that led nowhere why; `knock_refused`: the inviter
    itself answered, and does not know the ticket; `relay_failed`: some relay did not lead to it.
    """

    def __init__(self, transport: JoinDialler, ticket: Ticket, own_addresses: Iterable[str]) -> None:
        """`own_addresses`: of this machine, to see which of the ticket's are of its own network."""
        self.failures: list[str] = []
        self.knock_refused = False
        self.relay_failed = False
        self._transport = transport
        self._ticket = ticket
        self._own = list(own_addresses)

    async def channels(self) -> AsyncGenerator[tuple[JoinChannel, TicketRelay | None], None]:
        """Try one way after the other; yield each channel with its relay. Whoever takes one closes it."""
        ticket = self._ticket
        relays = {str(Address.via(relay.peer_id)): relay for relay in ticket.relays}
        for text in order_ways(ticket.addresses, list(relays), self._own):
            relay = relays.get(text)
            channel = await (self._dial(text) if relay is None else self._dial_over(relay))
            if channel is not None:
                yield channel, relay

    async def _dial(self, text: str) -> JoinChannel | None:
        try:
            return await self._join(Address.parse(text), DIAL_TIMEOUT_S, None)
        except (Unavailable, Refused, RemoteFault, LocalMisuse) as error:
            self.knock_refused = self.knock_refused or error.code == "knock"
            self.failures.append(f"{text}: {error.cause or error.message}")
            return None

    async def _dial_over(self, relay: TicketRelay) -> JoinChannel | None:
        """Join over a relay, at the first of its addresses that leads to the inviter."""
        ticket = self._ticket
        key = make_guest_pass(ticket.secret, ticket.network_id, ticket.inviter, relay.peer_id)
        for text in relay.addresses:
            try:
                at = Address.parse(text)
                sock = await self._transport.open_guest_way(relay.peer_id, at, key, DIAL_TIMEOUT_S)
            except (Unavailable, Refused, RemoteFault, LocalMisuse) as error:
                self.relay_failed = True
                self.failures.append(f"relay {text}: {_explain(error)}")
                if error.code == "relay_refused":  # that was the relay, and it is the same elsewhere
                    return None
                continue
            try:
                return await self._join(Address.via(relay.peer_id), RELAY_TIMEOUT_S, sock)
            except (Unavailable, Refused, RemoteFault) as error:
                self.relay_failed = True
                why = "who it led to does not know the ticket" if error.code == "knock" else error.cause
                self.failures.append(f"over relay {text}: {why or error.message}")
                return None
        return None

    async def _join(self, address: Address, timeout_s: float, sock: socket.socket | None) -> JoinChannel:
        ticket = self._ticket
        nonce = os.urandom(NONCE_BYTES)
        mac = join_knock(ticket.secret, nonce, ticket.inviter)
        return await self._transport.dial_join(ticket.inviter, address, nonce, mac, timeout_s, sock)


def _explain(error: ShoalError) -> str:
    if error.code == "knock":
        return "it does not know this ticket now: the inviter has no session with it, or the ticket is over"
    return error.cause or error.message
