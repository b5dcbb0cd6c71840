"""Interfaces: which addresses this machine has now, and which of them peers should be told.

The kernel is asked through ifaddr; there is no portable notice of a change, so drivers ask every few seconds.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ifaddr

from shoal.transport.address import Address, IpAddress

ADDRESSES = 8  # in a record or a ticket; identity.record
POLL_S = 2.0  # how often drivers look for a change, in under a millisecond; re-dialling has 10 s in all
FARAWAY = ((socket.AF_INET, "198.18.0.1"), (socket.AF_INET6, "2001:2::1"))  # RFC 2544, 5180: nobody has them


@dataclass(frozen=True, slots=True, order=True)
class InterfaceAddress:
    """One address of one interface, with the length of its network's prefix."""

    interface: str
    ip: str  # literal without scope
    prefix: int
    index: int = 0  # of the interface; the scope of a link-local IPv6 address

    @property
    def literal(self) -> IpAddress:
        """The address itself."""
        return ipaddress.ip_address(self.ip)

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """The network whose addresses are reached without a router."""
        return ipaddress.ip_network((self.ip, self.prefix), strict=False)


@dataclass(frozen=True, slots=True)
class NetworkPicture:
    """What shows that this machine's network is another one. Two are equal while nothing changed."""

    addresses: tuple[InterfaceAddress, ...]
    sources: tuple[str, ...]  # which of them a packet to far away would bear now, one a family
    down: tuple[str, ...]  # interfaces without a carrier; Linux only


def describe_network() -> NetworkPicture:
    """Ask the kernel for all that; sends nothing."""
    addresses = tuple(list_interface_addresses())
    sources = tuple(find_source(family, host) for family, host in FARAWAY)
    names = dict.fromkeys(address.interface for address in addresses)
    return NetworkPicture(addresses, sources, tuple(name for name in names if _is_down(name)))


def find_source(family: socket.AddressFamily, host: str) -> str:
    """Return the address that packets to a host would bear now, or an empty text where there is no route."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((host, 9))
            return str(sock.getsockname()[0])
    except OSError:
        return ""


def _is_down(interface: str) -> bool:
    try:
        with open(os.path.join("/sys/class/net", interface, "operstate")) as file:
            return file.read().strip() == "down"
    except OSError:
        return False


def list_interface_addresses() -> list[InterfaceAddress]:
    """Ask the kernel. Takes well under a millisecond; returns an empty list when it cannot be asked."""
    found: list[InterfaceAddress] = []
    try:
        adapters = list(ifaddr.get_adapters())
    except OSError:
        return []
    for adapter in adapters:
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            try:
                literal = ipaddress.ip_address(text.partition("%")[0])
            except ValueError:
                continue
            name = str(getattr(adapter, "nice_name", adapter.name))
            found.append(InterfaceAddress(name, str(literal), ip.network_prefix, adapter.index or 0))
    return sorted(found)


def choose_addresses(
    listen: Iterable[Address], interfaces: Sequence[InterfaceAddress], limit: int = ADDRESSES
) -> list[Address]:
    """Return the addresses under which a node that listens on `listen` can be reached.

    A wildcard stands for all interface addresses of its family, except loopback and link-local ones, which
    mean something else on another machine; where a machine has nothing but loopback, that. What was
    named is taken as it is. IPv4 and IPv6 take turns, so that neither pushes the other out.
    """
    plain: list[Address] = []
    loopback: list[Address] = []
    for address in listen:
        ip = address.ip
        if ip is None or not ip.is_unspecified:
            plain.append(address)
            continue
        for own in interfaces:
            literal = own.literal
            if literal.version != ip.version or literal.is_link_local or literal.is_multicast:
                continue
            (loopback if literal.is_loopback else plain).append(Address(str(literal), address.port))
    chosen = list(dict.fromkeys(plain or loopback))
    fours = [a for a in chosen if a.ip is None or a.ip.version == 4]
    sixes = [a for a in chosen if a not in fours]
    turns: list[Address] = []
    for at in range(max(len(fours), len(sixes))):
        turns += [*fours[at : at + 1], *sixes[at : at + 1]]
    return turns[:limit]


def is_on_link(host: IpAddress, interfaces: Iterable[InterfaceAddress]) -> bool:
    """Whether an address is reached without a router: it lies in a network of one of our interfaces."""
    return any(own.literal.version == host.version and host in own.network for own in interfaces)
