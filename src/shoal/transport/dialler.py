"""Dialler: from an address to a connected socket. What replaces it (relay, hole punching) yields the same."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import cast

from shoal.core.errors import Refused, Unavailable
from shoal.core.undo import undone_on_failure
from shoal.transport.address import Address, may_dial

RESOLVED_TRIED = 4  # of the addresses a name has
RESOLVED_HELD = 32

SocketName = tuple[str, int] | tuple[str, int, int, int]


async def open_socket(address: Address, timeout_s: float) -> socket.socket:
    """Return a connected, non-blocking TCP socket with Nagle's delay off. Cancelling closes it.

    A literal is dialled as it is: who took it out of a record asked `may_dial` before. A name is resolved,
    and only what a record might hold too is dialled (`localhost` excepted).
    Raises: Unavailable, Refused.
    """
    try:
        async with asyncio.timeout(timeout_s) as limit:
            error: OSError | None = None
            names = await _resolve(address)
            for left, (family, name) in zip(range(len(names), 0, -1), names, strict=True):
                try:
                    async with asyncio.timeout_at(_share(limit.when(), left)):
                        return await _connect(family, name)
                except OSError as failed:  # time-outs too
                    error = failed
            raise _unreachable(address, error)
    except TimeoutError as late:
        raise Unavailable(
            f"{address} cannot be reached", cause=f"no connection within {timeout_s:g} s", code="timeout"
        ) from late


def _share(until: float | None, left: int) -> float | None:
    """Return until when one of `left` addresses is tried, so that a silent one leaves time for the others."""
    now = asyncio.get_running_loop().time()
    return None if until is None or left == 1 else now + (until - now) / left


async def _resolve(address: Address) -> list[tuple[int, SocketName]]:
    loop = asyncio.get_running_loop()
    ip = address.ip
    if ip is not None and "%" not in address.host:
        return [find_socket_name(address)]
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(
            f"{address} cannot be reached", cause=f"the name was not resolved: {error.strerror}", code="name"
        ) from error
    names: list[tuple[int, SocketName]] = []
    for family, _, _, _, found_name in found[:RESOLVED_HELD]:
        name = cast(SocketName, found_name)
        if family not in (socket.AF_INET, socket.AF_INET6) or (family, name) in names:
            continue
        if ip is not None or may_dial(Address.from_socket(name), learned_over_loopback=address.is_loopback):
            names.append((family, name))
    if not names:
        raise Refused(
            f"{address} is not dialled", cause="it resolves to no address that may be dialled", code="address"
        )
    return names[:RESOLVED_TRIED]


def find_socket_name(address: Address) -> tuple[int, SocketName]:
    """Return family and name of a literal address. Raises: OSError for a name, or one with a scope."""
    ip = address.ip
    if ip is None or "%" in address.host:
        raise OSError(errno.EINVAL, f"{address} is no plain address")
    if ip.version == 4:
        return socket.AF_INET, (str(ip), address.port)
    return socket.AF_INET6, (str(ip), address.port, 0, 0)


async def _connect(family: int, name: SocketName) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    with undone_on_failure(sock.close):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, name)
        if sock.getsockname() == sock.getpeername():  # a port of our own that dialled itself
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return sock


def _unreachable(address: Address, error: OSError | None) -> Unavailable:
    if error is None:
        cause = "no address"
    else:  # asyncio's own text only repeats the address
        cause = os.strerror(error.errno) if error.errno else str(error)
    return Unavailable(f"{address} cannot be reached", cause=cause.lower(), code="unreachable")
