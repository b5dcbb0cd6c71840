"""Punch: one TCP connection between two ends that both connect, from ports that both know beforehand.

Each end takes a fresh port, listens on it and connects from it to the other's addresses, again and again
for some seconds: in a NAT that gives a port one mapping whatever it talks to, both ways open (RFC 5128, 3.4).
What arrives first wins; the asking end says with a token which connection it keeps.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from shoal.core.errors import Unavailable
from shoal.core.undo import undone_on_failure
from shoal.transport.address import Address
from shoal.transport.dialler import find_socket_name
from shoal.transport.reach.messages import PREAMBLE_BYTES, pack_preamble
from shoal.transport.sockets import read_exactly

PUNCH_S = 3.0  # both ends try this long; a mapping that works does at the first or second SYN
RETRY_S = 0.15  # a refused SYN was earlier than the other end's
REFLECT_S = 2.0
TEXT_LIMIT_BYTES = 128
JUDGED = 16  # connections of one punch that are read
ACCEPTED = (
    16  # connections that one port takes: the other end's is one of the first, or it is lost in a flood
)


class PunchPort:
    """A port of our own from which several connections start. `close` keeps only what was handed out."""

    def __init__(self, family: int) -> None:
        """Bind. Raises: OSError."""
        self.family = family
        self._any = "::" if family == socket.AF_INET6 else "0.0.0.0"
        self._listening = self._bind(0)
        self.port: int = self._listening.getsockname()[1]
        self._open: set[socket.socket] = {
            self._listening
        }  # a listener, a reflection, candidates and arrivals

    def close(self) -> None:
        """Close every socket but those that were handed out; idempotent."""
        for sock in self._open:
            sock.close()
        self._open.clear()

    async def reflect(self, reflector: Address, token: bytes) -> tuple[Address, str]:
        """Ask a peer's port what it sees. Returns that, and our own IP on the way there.

        The connection stays: it keeps the mapping. Raises: OSError, TimeoutError, ValueError for nonsense.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(REFLECT_S):
            sock = await self._connect(reflector)
            await loop.sock_sendall(sock, pack_preamble(token))
            size = (await read_exactly(sock, 1))[0]
            if not 0 < size <= TEXT_LIMIT_BYTES:
                raise ValueError("no address")
            seen = Address.parse((await read_exactly(sock, size)).decode("ascii"))
        return seen, str(sock.getsockname()[0])

    async def open(self, candidates: Sequence[Address], token: bytes, *, asks: bool) -> socket.socket:
        """As `punch`, with this port alone."""
        return await punch([self], candidates, token, asks=asks)

    def listen(self) -> None:
        """Let the other end connect. Raises: OSError."""
        self._listening.listen(8)

    def release(self, sock: socket.socket) -> None:
        """Hand a socket out: `close` leaves it open."""
        self._open.discard(sock)

    async def accept_all(self, arrived: asyncio.Queue[socket.socket]) -> None:
        """Put who connects into the queue; after ACCEPTED of them everybody else is refused."""
        loop = asyncio.get_running_loop()
        accepted = 0
        while accepted < ACCEPTED:
            try:
                sock, _ = await loop.sock_accept(self._listening)
            except OSError:
                await asyncio.sleep(RETRY_S)  # it was gone before it was accepted, or descriptors ran out
                continue
            self._open.add(sock)
            arrived.put_nowait(sock)
            accepted += 1
        self._open.discard(self._listening)
        self._listening.close()

    async def keep_connecting(self, candidate: Address, arrived: asyncio.Queue[socket.socket]) -> None:
        """Connect until it succeeds, and put that into the queue; not to addresses of another family."""
        while True:
            try:
                arrived.put_nowait(await self._connect(candidate))
                return
            except OSError as error:
                if error.errno in (errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EINVAL):
                    return  # no way there, or that very connection has come in already
            await asyncio.sleep(RETRY_S)

    async def _connect(self, address: Address) -> socket.socket:
        family, name = find_socket_name(address)
        if family != self.family:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        sock = self._bind(self.port)
        with undone_on_failure(sock.close):
            await asyncio.get_running_loop().sock_connect(sock, name)
            if sock.getsockname() == sock.getpeername():  # our own port that dialled itself
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        self._open.add(sock)
        return sock

    def _bind(self, port: int) -> socket.socket:
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        with undone_on_failure(sock.close):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if self.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            _prepare(sock)
            sock.bind((self._any, port))
        return sock


async def punch(
    ports: Sequence[PunchPort], candidates: Sequence[Address], token: bytes, *, asks: bool
) -> socket.socket:
    """Connect to the other end, from ports of one or both families; it does the same now.

    The caller owns the socket, and closes the ports. `asks`: this end sends the token, over one connection;
    the other end takes the one that brings it. Raises: Unavailable after PUNCH_S. Cancelling is safe.
    """
    arrived: asyncio.Queue[socket.socket] = asyncio.Queue()
    for port in ports:
        port.listen()
    try:
        async with asyncio.timeout(PUNCH_S), asyncio.TaskGroup() as group:
            tasks = [group.create_task(port.accept_all(arrived)) for port in ports]
            tasks += [group.create_task(p.keep_connecting(x, arrived)) for p in ports for x in candidates]
            found: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
            tasks.append(group.create_task((_name_one if asks else _find_named)(arrived, token, found)))
            sock = await found
            for task in tasks:
                task.cancel()
    except TimeoutError as error:
        raise Unavailable(
            "The peer was not reached directly",
            cause="no connection came through the NATs between",
            code="not_punched",
        ) from error
    for port in ports:
        port.release(sock)
    return sock


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _name_one(
    arrived: asyncio.Queue[socket.socket], token: bytes, found: asyncio.Future[socket.socket]
) -> None:
    """Send the token over the first connection that takes it: the other end keeps that one, and so do we."""
    while not found.done():
        sock = await arrived.get()
        with suppress(OSError):  # gone again: the next one
            _prepare(sock)
            await asyncio.get_running_loop().sock_sendall(sock, pack_preamble(token))
            if not found.done():  # the time may have been over just now
                found.set_result(sock)


async def _find_named(
    arrived: asyncio.Queue[socket.socket], token: bytes, found: asyncio.Future[socket.socket]
) -> None:
    """Take the first connection that brings the token; others may be of anybody behind the same NAT."""

    async def judge(sock: socket.socket) -> None:
        with suppress(OSError):
            _prepare(sock)
            if await read_exactly(sock, PREAMBLE_BYTES) == pack_preamble(token) and not found.done():
                found.set_result(sock)

    async with asyncio.TaskGroup() as judges:
        for _ in range(JUDGED):
            judges.create_task(judge(await arrived.get()))
