"""Ticket relays: which relays a ticket names, and where it says that they are."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.identity.ticket import RELAY_ADDRESSES_LIMIT, RELAYS_LIMIT, TicketRelay
from shoal.node.parts import Parts
from shoal.transport.address import Address
from shoal.transport.reach.standing import is_inner

ADDRESSES_BESIDE = 3  # of this device in a ticket that names relays: it is a QR code too


async def find_ticket_relays(parts: Parts, invite_id: bytes) -> tuple[TicketRelay, ...]:
    """Return relays that lead who has this invite's ticket here; none where all can dial this device.

    Leaves the passes with them first, which takes at most 5 s: what a ticket promises was true once.
    """
    if parts.reach.prober.standing().state == "public":
        return ()
    left_with = await parts.reach.guests.leave_passes()
    network = parts.network
    found = []
    for relay in left_with:
        known = {row.invite_id for row in network.invites.guest_passes(network.network_id, relay)}
        session = parts.transport.find_session(relay)
        if invite_id not in known or session is None:
            continue
        used = [session.dial_address] if session.dial_address is not None else []
        addresses = choose_relay_addresses([*used, *parts.overlay.direct_addresses(relay)])
        if addresses:
            found.append(TicketRelay(relay, addresses))
    found.sort(key=lambda relay: is_inner(Address.parse(relay.addresses[0]).host))  # else as they come
    return tuple(found[:RELAYS_LIMIT])


def choose_relay_addresses(known: Iterable[Address]) -> tuple[str, ...]:
    """Return what somebody elsewhere should dial: outer addresses, inner ones only if there is none."""
    found = [a for a in dict.fromkeys(known) if a.port and not a.is_way and not a.is_loopback]
    outer = [a for a in found if not is_inner(a.host)]
    return tuple(str(a) for a in (outer or found)[:RELAY_ADDRESSES_LIMIT])
