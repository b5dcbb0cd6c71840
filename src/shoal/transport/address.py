"""Address: where a peer listens, as text and as parts, and which addresses a node may dial."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from shoal.core.errors import LocalMisuse
from shoal.identity.ids import format_peer_id, parse_peer_id

VIA = "via "  # no host has a space: such an address comes out of no record, ticket or setting
HOST_CHARACTERS = 253  # RFC 1035: the longest name; literals are shorter
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")
_SCOPE = re.compile(r"[A-Za-z0-9_.-]{1,15}")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host (IPv4 or IPv6 literal, or a name) and a TCP port; port 0 means "pick one" when listening."""

    host: str
    port: int

    def __str__(self) -> str:
        if self.is_way:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port` or `[v6]:port`.

        Raises: LocalMisuse that says what is wrong with the text.
        """
        cleaned = text.strip()
        host, colon, port_text = cleaned.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            bracketed = True
        else:
            bracketed = False
        if not colon or (":" in host and not bracketed):
            raise _bad(cleaned, "a host and a port are expected")
        if not re.fullmatch(r"[0-9]{1,5}", port_text) or int(port_text) > 65535:
            raise _bad(cleaned, "the port is a number from 0 to 65535")
        return cls(_checked_host(host, cleaned), int(port_text))

    @classmethod
    def from_socket(cls, name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
        """Return the address in what getpeername or getsockname said; mapped IPv4 becomes plain IPv4."""
        host, port = name[0], name[1]
        bare, _, scope = host.partition("%")
        ip = ipaddress.ip_address(bare)
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            return cls(str(ip.ipv4_mapped), port)
        return cls(f"{ip}%{scope}" if scope else str(ip), port)

    @classmethod
    def via(cls, relay: bytes) -> Address:
        """Return the way to a peer over a relay: no address, but a dialler takes it for one."""
        return cls(VIA + format_peer_id(relay), 0)

    @property
    def relay(self) -> bytes | None:
        """The relay of `via`, else None."""
        try:
            return parse_peer_id(self.host[len(VIA) :]) if self.host.startswith(VIA) else None
        except LocalMisuse:
            return None

    @property
    def is_way(self) -> bool:
        """Whether this is no address, but a way that has to be made: over a relay, or PUNCHED."""
        return " " in self.host

    @property
    def ip(self) -> IpAddress | None:
        """The literal address without its scope, or None for a name."""
        try:
            ip = ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            return None
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        return ip

    @property
    def is_loopback(self) -> bool:
        """Whether it stays on this machine. `localhost` counts."""
        ip = self.ip
        return self.host.lower().rstrip(".") == "localhost" if ip is None else ip.is_loopback

    @property
    def budget_group(self) -> str:
        """What address budgets are kept by: an IPv4 address, the /64 of an IPv6 address."""
        ip = self.ip
        if isinstance(ip, ipaddress.IPv6Address) and not ip.is_loopback:
            return str(ipaddress.IPv6Network((ip, 64), strict=False))
        return self.host if ip is None else str(ip)


PUNCHED = Address("punched through", 0)  # the way to a peer behind a NAT, agreed on over its session


def may_dial(address: Address, learned_over_loopback: bool = False) -> bool:
    """Return whether an address out of a record may be dialled.

    Records come from other peers: they must not make a node talk to services on its own machine, to metadata
    services, to groups, or to nowhere. IPv6 link-local is allowed only with its scope, which no record can
    carry meaningfully but LAN discovery can.
    """
    ip = address.ip
    if address.port == 0:
        return False
    if address.is_loopback:
        return learned_over_loopback
    if ip is None:
        return True  # a name: what it resolves to is judged again when it is dialled
    if ip.is_multicast or ip.is_unspecified or str(ip) == "255.255.255.255":
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not (ip.is_link_local or ip in _RESERVED_V4 or ip in _THIS_NETWORK_V4)
    return "%" in address.host if ip.is_link_local else True


_RESERVED_V4 = ipaddress.IPv4Network("240.0.0.0/4")
_THIS_NETWORK_V4 = ipaddress.IPv4Network("0.0.0.0/8")


def _checked_host(host: str, text: str) -> str:
    bare, percent, scope = host.partition("%")
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError:
        ip = None
    if ip is not None:
        if percent and (ip.version == 4 or not _SCOPE.fullmatch(scope)):
            raise _bad(text, "only an IPv6 address can have a scope such as %eth0")
        return f"{ip}%{scope}" if percent else str(ip)
    if re.fullmatch(r"[0-9.]+", host):
        raise _bad(text, f"{host[:40]} is not an IPv4 address")
    if len(host) > HOST_CHARACTERS or not _NAME.fullmatch(host):
        raise _bad(text, "the host is neither an address nor a name")
    return host.lower()


def _bad(text: str, cause: str) -> LocalMisuse:
    return LocalMisuse(
        f"{text[:80]!r} is not an address",
        cause=cause,
        next_step="write it like 192.0.2.7:4711, [2001:db8::7]:4711 or name.example:4711",
    )
