"""Start: brings wired parts up in order, joins first where there is a ticket, and says how they end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

from shoal.core.clock import Clock
from shoal.core.errors import Refused, RemoteFault, ShoalError, Unavailable
from shoal.identity.code import TypedCode
from shoal.identity.ids import short_peer_id
from shoal.identity.keys import DeviceKeys
from shoal.identity.ticket import Ticket, TicketRelay
from shoal.membership.code_join import find_ticket
from shoal.membership.join import join_network
from shoal.node.config import NodeConfig
from shoal.node.parts import Parts
from shoal.storage.home import Home
from shoal.transport.address import Address
from shoal.transport.code_dial import CodeDialler

log = logging.getLogger("shoal.node")

FIRST_SESSION_TIMEOUT_S = 20.0  # after a join; the inviter has just answered


async def run_parts(
    stack: AsyncExitStack, parts: Parts, config: NodeConfig, home: Home, ticket: Ticket | None
) -> None:
    """Start every part, from the bottom up; leaving the stack ends them from the top down.

    With a ticket this returns once the device was admitted and a session is up.
    Raises: ConfigFault for addresses that are taken, StorageFault, and what joining raises.
    """
    await parts.network.load()
    parts.network.start()
    stack.push_async_callback(parts.transport.close)
    await parts.transport.start()
    stack.callback(parts.lanes.close)
    stack.callback(parts.reach.close)
    joined = None
    if ticket is not None:
        joined = await join_network(
            parts.network, parts.transport, ticket, name=config.name, user=config.user
        )
        home.mark_network(ticket.network_id)
        direct = [] if joined.address.is_way else [str(joined.address)]
        parts.overlay.add_contact(joined.inviter, [*direct, *ticket.addresses])
        for relay in ticket.relays:
            parts.overlay.add_contact(relay.peer_id, relay.addresses)
    stack.push_async_callback(parts.overlay.close)
    await parts.overlay.start()
    parts.reach.start()
    if parts.mapper is not None:
        stack.push_async_callback(parts.mapper.close)
        parts.base.supervisor.start("port mapping", parts.mapper.run)
    stack.push_async_callback(parts.swarm.close)
    await parts.limiter.start()
    stack.push_async_callback(parts.store.close)
    await parts.store.open()
    stack.push_async_callback(parts.files.close)
    await parts.files.start()
    stack.push_async_callback(parts.pins.close)
    await parts.pins.start()
    if parts.discovery is not None:
        stack.push_async_callback(parts.discovery.close)
        await parts.discovery.start()
    if joined is not None:
        try:
            if joined.relay is not None:  # this device is a member now: the relay takes it as one
                log.info("joined over the relay %s", short_peer_id(joined.relay.peer_id))
                await _dial_any(parts, joined.relay)
            await parts.transport.dial(joined.inviter, joined.address, FIRST_SESSION_TIMEOUT_S)
        except (Unavailable, Refused, RemoteFault) as error:
            log.warning("joined, but no session is up yet: %s", error)


async def _dial_any(parts: Parts, relay: TicketRelay) -> None:
    """Open a session with a relay at one of its addresses. Raises: Unavailable, Refused, RemoteFault."""
    failed: ShoalError | None = None
    for text in relay.addresses:
        try:
            await parts.transport.dial(relay.peer_id, Address.parse(text), FIRST_SESSION_TIMEOUT_S)
            return
        except (Unavailable, Refused, RemoteFault) as error:
            failed = error
    if failed is not None:
        raise failed


async def find_inviter(
    keys: DeviceKeys, code: TypedCode, at: Address | None, config: NodeConfig, clock: Clock
) -> Ticket:
    """Exchange a typed code for its ticket: with who is `at` an address, else with whoever is on the LAN.

    Raises: Refused, RemoteFault, Unavailable (nobody answers for its number).
    """
    dialler = CodeDialler(keys, clock.monotonic)
    if at is not None:
        return await find_ticket(dialler, code, keys.peer_id, _only(at))
    if not config.lan:
        raise Unavailable(
            "This device has not joined",
            cause="it may not look for the other one on the LAN",
            next_step="name the other device (--at HOST:PORT), or leave out --no-lan",
            code="lan_off",
        )
    from shoal.transport.lan_search import LanSearch  # zeroconf takes a while to import

    async with aclosing(LanSearch(config.interfaces or None).find()) as addresses:
        return await find_ticket(dialler, code, keys.peer_id, addresses)


async def _only(address: Address) -> AsyncIterator[Address]:
    yield address
