"""LAN link: one interface as discovery sees it, and which addresses in an answer are believed there."""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shoal.transport.address import Address, IpAddress, may_dial
from shoal.transport.interfaces import ADDRESSES, InterfaceAddress, is_on_link

LINKS = 16  # interfaces used at once; a host of many containers has hundreds
ANSWER_ADDRESSES = 64  # looked at in one answer, of which at most ADDRESSES are taken
_SCOPE = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # names that an Address can carry as a scope


@dataclass(frozen=True, slots=True)
class LanLink:
    """An interface with its usable addresses. Another set of addresses is another link."""

    name: str
    index: int
    addresses: tuple[InterfaceAddress, ...]
    multicast: tuple[str | int, ...]  # whose sockets: an IPv4 address, an IPv6 address or the index

    @property
    def is_loopback(self) -> bool:
        """Whether it leads nowhere but to this machine."""
        return all(own.literal.is_loopback for own in self.addresses)

    @property
    def packed(self) -> list[bytes]:
        """The addresses to announce here: those of this link, never another's. At most ADDRESSES."""
        return [own.literal.packed for own in self.addresses[:ADDRESSES]]


def find_links(
    addresses: Iterable[InterfaceAddress],
    names: Sequence[str] | None,
    is_usable: Callable[[InterfaceAddress], bool],
) -> list[LanLink]:
    """Return the links to use: the named interfaces, or all but loopback; at most LINKS.

    `is_usable` says whether a socket can be bound to an address: IPv6 addresses cannot in their first second,
    while the system looks for duplicates.
    """
    usable: dict[tuple[str, int], list[InterfaceAddress]] = {}
    everywhere = list(addresses)
    for own in everywhere:
        literal = own.literal
        wanted = own.interface in names if names else not literal.is_loopback
        if wanted and not literal.is_unspecified and not literal.is_multicast and is_usable(own):
            usable.setdefault((own.interface, own.index), []).append(own)
    links = [
        LanLink(name, index, tuple(sorted(found, key=_preference)), _multicast(found, index, everywhere))
        for (name, index), found in usable.items()
    ]
    links.sort(key=lambda link: (link.addresses[0].literal.is_link_local, link.name))
    return links[:LINKS]


def believe_addresses(
    link: LanLink, packed: Iterable[bytes], port: int, own_port: int
) -> tuple[Address, ...]:
    """Return what may be dialled of the addresses in an answer heard on `link`, the best first.

    Only addresses that the link reaches without a router: an answer must not make us dial elsewhere. Loopback
    only on the loopback link; never a group, a broadcast address or ourselves.
    """
    own = {address.literal for address in link.addresses}
    chosen: dict[Address, tuple[bool, int]] = {}
    for _, data in zip(range(ANSWER_ADDRESSES), packed, strict=False):
        try:
            ip = ipaddress.ip_address(data)
        except ValueError:
            continue
        if not is_on_link(ip, link.addresses) or _is_broadcast(ip, link) or (ip in own and port == own_port):
            continue
        scoped = isinstance(ip, ipaddress.IPv6Address) and ip.is_link_local
        address = Address(f"{ip}%{_scope(link)}" if scoped else str(ip), port)
        if may_dial(address, learned_over_loopback=link.is_loopback):
            chosen[address] = (ip.is_link_local, ip.version)
    return tuple(sorted(chosen, key=lambda address: chosen[address])[:ADDRESSES])


def can_bind(own: InterfaceAddress) -> bool:
    """Return whether the system lets a socket have this address now."""
    literal = own.literal
    try:
        if literal.version == 4:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind((own.ip, 0))
        else:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
                probe.bind((own.ip, 0, 0, own.index if literal.is_link_local else 0))
    except OSError:
        return False
    return True


def _preference(own: InterfaceAddress) -> tuple[bool, int, str]:
    return own.literal.is_link_local, own.literal.version, own.ip


def _multicast(
    own: Sequence[InterfaceAddress], index: int, everywhere: Sequence[InterfaceAddress]
) -> tuple[str | int, ...]:
    """Return what names the link to zeroconf: at most one address a family.

    IPv6 is best named by an address that no other interface has; zeroconf takes the first address of an
    index, which may be one that cannot be bound.
    """
    fours = [a.ip for a in own if a.literal.version == 4]
    sixes = sorted((a for a in own if a.literal.version == 6), key=lambda a: not a.literal.is_link_local)
    if not sixes or (fours and sixes[0].literal.is_loopback):
        return tuple(fours[:1])  # ::1 has no multicast
    texts = [a.ip for a in everywhere]
    unique = [a.ip for a in sixes if texts.count(a.ip) == 1]
    return (*fours[:1], unique[0] if unique else index)


def _is_broadcast(ip: IpAddress, link: LanLink) -> bool:
    networks = [own.network for own in link.addresses if own.literal.version == 4 and own.prefix < 31]
    return any(ip in (network.broadcast_address, network.network_address) for network in networks)


def _scope(link: LanLink) -> str:
    """The name where it can be one, because indexes change with every plug; Windows knows only indexes."""
    return link.name if sys.platform != "win32" and _SCOPE.fullmatch(link.name) else str(link.index)
