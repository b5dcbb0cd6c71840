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

from shoal.core.errors import Unavailable
from shoal.core.undo import undone_on_failure
from shoal.transport.address import Address
from shoal.transport.dialler import find_socket_name
from shoal.transport.reach.messages import PREAMBLE_BYTES, pack_preamble

PUNCH_S = 3.0  # both ends try this long; a mapping that works does at the first or second SYN
RETRY_S = 0.15  # a refused SYN was earlier than the other end's
REFLECT_S = 2.0
TEXT_LIMIT_BYTES = 128


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
            size = (await _read_exactly(sock, 1))[0]
            if not 0 < size <= TEXT_LIMIT_BYTES:
                raise ValueError("no address")
            seen = Address.parse((await _read_exactly(sock, size)).decode("ascii"))
        return seen, str(sock.getsockname()[0])

    async def open(self, candidates: Sequence[Address], token: bytes, *, asks: bool) -> socket.socket:
        """Connect to the other end; it does the same now. The caller owns the socket.

        `asks`: this end sends the token; the other end takes the connection that brings it.
        Raises: Unavailable after PUNCH_S. Cancelling is safe.
        """
        self._listening.listen(8)
        arrived: asyncio.Queue[socket.socket] = asyncio.Queue()
        tasks = [asyncio.create_task(self._accept(arrived))]
        tasks += [asyncio.create_task(self._keep_connecting(x, arrived)) for x in candidates]
        judges: list[asyncio.Task[socket.socket]] = []
        try:
            async with asyncio.timeout(PUNCH_S):
                if asks:
                    sock = await arrived.get()
                    await asyncio.get_running_loop().sock_sendall(sock, pack_preamble(token))
                else:
                    sock = await self._find_named(arrived, token, judges)
            self._open.discard(sock)
            return sock
        except (TimeoutError, OSError) as error:
            raise Unavailable(
                "The peer was not reached directly",
                cause="no connection came through the NATs between",
                code="not_punched",
            ) from error
        finally:
            for task in (*tasks, *judges):
                task.cancel()
            await asyncio.wait([*tasks, *judges])

    async def _find_named(
        self, arrived: asyncio.Queue[socket.socket], token: bytes, judges: list[asyncio.Task[socket.socket]]
    ) -> socket.socket:
        """Return the first connection that brings the token; others may be of anybody behind the same NAT."""
        found: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

        def on_judged(task: asyncio.Task[socket.socket]) -> None:
            if not task.cancelled() and task.exception() is None and not found.done():
                found.set_result(task.result())

        async def take() -> None:
            while len(judges) < 16:
                judge = asyncio.create_task(_judge(await arrived.get(), token))
                judge.add_done_callback(on_judged)
                judges.append(judge)

        taking = asyncio.create_task(take())
        try:
            return await found
        finally:
            taking.cancel()

    async def _accept(self, arrived: asyncio.Queue[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listening)
            _prepare(sock)
            self._open.add(sock)
            arrived.put_nowait(sock)

    async def _keep_connecting(self, candidate: Address, arrived: asyncio.Queue[socket.socket]) -> None:
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


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _judge(sock: socket.socket, token: bytes) -> socket.socket:
    """Return the socket if the token comes over it. Raises: OSError."""
    if await _read_exactly(sock, PREAMBLE_BYTES) != pack_preamble(token):
        raise ConnectionAbortedError("another token")
    return sock


async def _read_exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        if not part:
            raise ConnectionResetError("the other end closed")
        data += part
    return data
