"""Ways: in which order a peer's addresses, and the relays over which it is reached, are tried. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from shoal.overlay.peer_book import find_address
from shoal.transport.reach.standing import is_inner

NEAR_V4 = 16  # bits of an inner address that two machines of one place have in common; wild guess
NEAR_V6 = 48


def order_ways(addresses: Sequence[str], relays: Sequence[str], own: Iterable[str]) -> list[str]:
    """Return all ways, most promising first.

    Relays come second: where the best address is silent one is there before all others have been waited for.
    They come first where the best address is an inner one of another place, as behind a NAT: nothing answers.
    """
    if not addresses or not relays:
        return [*addresses, *relays]
    if is_elsewhere(addresses[0], own):
        return [*relays, *addresses]
    return [addresses[0], *relays, *addresses[1:]]


def is_elsewhere(text: str, own: Iterable[str]) -> bool:
    """Whether an address means something in its own network only, and none of `own` is near it."""
    address = find_address(text)
    ip = None if address is None else address.ip
    if ip is None or ip.is_loopback or not is_inner(str(ip)):
        return False
    bits = NEAR_V4 if ip.version == 4 else NEAR_V6
    near = ipaddress.ip_network((str(ip), bits), strict=False)
    for mine in own:
        found = find_address(mine)
        if found is not None and found.ip is not None and found.ip.version == ip.version and found.ip in near:
            return False
    return True
