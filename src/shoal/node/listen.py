"""Listen: which addresses a node takes, decided before it starts.

What a person named is taken as it is, or the node does not start. The default gives way: another node on
this machine may have its port, and not every machine has IPv6. Where a free port is to be picked, the one of
the last run is preferred, so that peers find a node that was restarted where they knew it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable

from shoal.core.errors import LocalMisuse
from shoal.transport.address import Address

_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


def find_fault(address: Address) -> OSError | None:
    """Try to listen and stop again; return why it does not work, or None. Blocking, but never waits long."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, where = found[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            sock.listen(1)
    except OSError as error:
        return error
    return None


def choose_listen(wanted: Iterable[Address], is_default: bool, last: Iterable[Address] = ()) -> list[Address]:
    """Return where to listen: `wanted`, or what of the default can be had. `last` is of the run before."""
    chosen = []
    for address in wanted:
        fault = find_fault(address) if is_default else None
        if fault is None:
            chosen.append(address)
        elif fault.errno not in _NO_SUCH_FAMILY and not isinstance(fault, socket.gaierror):
            chosen.append(Address(address.host, 0))
    free = [address for address in last if find_fault(address) is None]
    for i, address in enumerate(chosen):
        before = next((a for a in free if a.host == address.host and a not in chosen), None)
        if address.port == 0 and before is not None:
            chosen[i] = before
    return chosen


def pack_addresses(addresses: Iterable[Address]) -> bytes:
    """Write where a node listens, for its next start."""
    return ",".join(map(str, addresses)).encode()


def unpack_addresses(data: bytes | None) -> list[Address]:
    """Read it again; damaged or absent is nothing."""
    try:
        return [Address.parse(text) for text in (data or b"").decode("ascii", "replace").split(",") if text]
    except LocalMisuse:
        return []


def describe_fault(fault: OSError) -> str:
    """Say in words why an address cannot be listened on."""
    if fault.errno == errno.EADDRINUSE:
        return "it is in use"
    return os.strerror(fault.errno) if fault.errno and not isinstance(fault, socket.gaierror) else str(fault)
