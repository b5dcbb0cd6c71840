"""A relay, an inviter with a session to it, and newcomers who know no address of the inviter. On loopback."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support.membership_nodes import MembershipNode, Village, open_village
from tests.support.transport_nodes import wait_until

from shoal.identity.operations import Role
from shoal.identity.ticket import Ticket, TicketRelay, make_guest_pass
from shoal.transport.reach.guests import GuestPort
from shoal.transport.reach.relay import Relay
from shoal.transport.reach.relay_machine import RelayLimits
from shoal.transport.reach.service import ReachService

NOWHERE = "127.0.0.1:9"  # nobody listens there


@dataclass
class GuestWorld:
    """`relay` founded the network and relays; `inviter` is an admin whose tickets do not say where it is."""

    village: Village
    relay: MembershipNode
    inviter: MembershipNode
    reach: dict[bytes, ReachService] = field(default_factory=dict)

    @property
    def relaying(self) -> Relay:
        found = self.reach[self.relay.peer_id].relay
        assert found is not None
        return found

    def add_reach(self, node: MembershipNode, limits: RelayLimits | None = None) -> ReachService:
        """Give a node what it needs to be led to, or with limits to lead others."""
        clock, network, transport = node.clock, node.network, node.transport
        relay = None
        if limits is not None:
            relay = Relay(transport, limits, node.supervisor, clock.monotonic, node.seen.append)
        service = ReachService(
            transport,
            own_id=node.peer_id,
            relay=relay,
            is_member=network.is_active,
            addresses_of=lambda peer: [self.relay.address] if peer == self.relay.peer_id else [],
            relays_of=lambda peer: [self.relay.peer_id],
            own_addresses=lambda: [str(node.address)],
            on_standing=lambda: None,
            supervisor=node.supervisor,
            monotonic=clock.monotonic,
            observe=node.seen.append,
            rng=random.Random(1),
            guests=GuestPort(
                may_invite=lambda peer: network.role_of(peer) in (Role.OWNER, Role.ADMIN),
                log_bytes=lambda: sum(len(entry.data) for entry in network.log.entries()),
                passes_for=lambda peer: network.invites.guest_passes(network.network_id, peer),
                find_relays=lambda: [self.relay.peer_id],
            ),
        )
        transport.register(service)
        transport.attach_reach(service)
        self.reach[node.peer_id] = service
        return service

    async def ticket(self, expires_s: float = 3600.0) -> Ticket:
        """Return a ticket of the inviter that leads over the relay only, whose pass the relay has."""
        ticket = await self.inviter.ticket(expires_s=expires_s)
        assert await self.reach[self.inviter.peer_id].guests.leave_passes() == [self.relay.peer_id]
        relay = TicketRelay(self.relay.peer_id, (str(self.relay.address),))
        return replace(ticket, addresses=(NOWHERE,), relays=(relay,))

    def key(self, ticket: Ticket, relay: bytes | None = None) -> bytes:
        """Return the pass of a ticket for the relay, or for another one."""
        return make_guest_pass(ticket.secret, ticket.network_id, ticket.inviter, relay or self.relay.peer_id)

    async def open_way(self, newcomer: MembershipNode, key: bytes) -> socket.socket:
        """Return a guest's stream over the relay."""
        at = self.relay.address
        return await newcomer.transport.open_guest_way(self.relay.peer_id, at, key, 4.0)


@asynccontextmanager
async def guest_world(path: Path, limits: RelayLimits | None = None) -> AsyncIterator[GuestWorld]:
    """A founder that relays, and an admin with a session to it."""
    async with open_village(path) as village:
        relay = await village.founder()
        world = GuestWorld(village, relay, relay)
        try:
            world.add_reach(relay, limits or RelayLimits())
            ticket = await relay.ticket(Role.ADMIN)
            world.inviter = await village.stranger(ticket)
            world.add_reach(world.inviter)
            await world.inviter.join(ticket, "inviter")
            await world.inviter.dial(relay)
            yield world
        finally:
            for service in world.reach.values():
                service.close()


async def read_end(sock: socket.socket, timeout_s: float = 5.0) -> bytes:
    """Return all that comes until the other end closes; takes ownership of the socket."""
    said = b""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            while part := await loop.sock_recv(sock, 65536):
                said += part
    except ConnectionError:
        pass
    finally:
        sock.close()
    return said


async def wait_no_guests(world: GuestWorld) -> None:
    """Wait until the relay leads nobody."""
    await wait_until(lambda: world.relaying.status().guests == 0)
