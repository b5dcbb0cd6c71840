"""Listener: accepts, lets admission judge, and hands over sockets. It reads nothing."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from shoal.core.errors import ConfigFault
from shoal.core.observation import Observation, Observer
from shoal.core.undo import undone_on_failure
from shoal.transport.address import Address

BACKLOG = 128
ACCEPTS_A_TURN = 32  # so that a flood does not keep the loop from its sessions
PAUSE_S = 0.5  # when descriptors or memory have run out
PORT_TRIES = 16  # for one free port on every address
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ANY = ("", "*")

OnSocket = Callable[[socket.socket, Address], None]


class Listener:
    """Listens on all addresses of a node, with one port where port 0 was asked for."""

    def __init__(self, addresses: Sequence[Address], on_socket: OnSocket, observe: Observer) -> None:
        self._wanted = list(addresses)
        self._on_socket = on_socket
        self._observe = observe
        self._sockets: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def addresses(self) -> list[Address]:
        """What is listened on, with real ports."""
        return [Address.from_socket(sock.getsockname()) for sock in self._sockets]

    def start(self) -> None:
        """Bind and listen. Raises: ConfigFault that names the address."""
        self._loop = asyncio.get_running_loop()
        for tried in range(PORT_TRIES):
            try:
                self._sockets = _bind_all(self._wanted)
                break
            except _PortTaken as error:
                if tried + 1 == PORT_TRIES or error.wanted.port:
                    raise _cannot_listen(error.wanted, error.cause) from error
        for sock in self._sockets:
            sock.listen(BACKLOG)
            self._loop.add_reader(sock.fileno(), self._on_readable, sock)

    def close(self) -> None:
        """Stop listening; idempotent."""
        for sock in self._sockets:
            if self._loop is not None:
                self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets = []

    def _on_readable(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, name = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(listening, error)
                    return
                continue  # that connection was gone before it was accepted
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                address = Address.from_socket(name)
            except (OSError, ValueError):
                sock.close()
                continue
            self._on_socket(sock, address)

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        self._observe(Observation("accept_failed", str(error.strerror)))
        if self._loop is None:
            return
        self._loop.remove_reader(listening.fileno())
        self._loop.call_later(PAUSE_S, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if self._loop is not None and listening in self._sockets:
            self._loop.add_reader(listening.fileno(), self._on_readable, listening)


class _PortTaken(Exception):
    def __init__(self, wanted: Address, cause: OSError) -> None:
        super().__init__(str(cause))
        self.wanted = wanted
        self.cause = cause


def _bind_all(wanted: Sequence[Address]) -> list[socket.socket]:
    """Bind every address; those with port 0 share the port that the first of them got."""
    sockets: list[socket.socket] = []
    shared = 0
    both = not any(a.ip is not None and a.ip.version == 4 for a in wanted)
    with ExitStack() as opened:
        for address in wanted:
            try:
                sock = _bind(address, address.port or shared, both)
            except OSError as error:
                if address.host in _ANY and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    sock = _bind(Address("0.0.0.0", 0), address.port or shared, False)
                else:
                    raise _PortTaken(address, error) from error
            sockets.append(sock)
            opened.callback(sock.close)
            if address.port == 0:
                shared = sock.getsockname()[1]
        opened.pop_all()
    return sockets


def _bind(address: Address, port: int, both: bool) -> socket.socket:
    host = "::" if address.host in _ANY else address.host
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, name = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    with undone_on_failure(sock.close):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        sock.bind(name)
    return sock


def _cannot_listen(address: Address, error: OSError) -> ConfigFault:
    reason = (error.strerror or str(error)).lower()
    step = "stop what uses it, or choose another with --listen HOST:PORT (port 0 picks a free one)"
    if error.errno == errno.EADDRNOTAVAIL:
        step = "choose an address of this machine with --listen HOST:PORT"
    elif error.errno == errno.EACCES:
        step = "choose a port above 1023 with --listen HOST:PORT"
    return ConfigFault(f"Cannot listen on {address}", cause=reason, next_step=step, code="listen")
