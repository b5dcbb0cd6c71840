"""Channels: makes TLS channels out of connected sockets, for both ends; judges knocks inside OpenSSL."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from OpenSSL import SSL

from shoal.core.errors import RemoteFault
from shoal.core.undo import undone_on_failure
from shoal.identity.keys import DeviceKeys
from shoal.transport.admission import Admission, Pending
from shoal.transport.channel import TlsChannel
from shoal.transport.config import AdmissionLimits
from shoal.transport.knock import KnockGate, KnockRefused
from shoal.transport.tls import TlsContexts


async def open_channel(
    sock: socket.socket, make: Callable[[], TlsChannel], expected: bytes | None, alpn: bytes
) -> TlsChannel:
    """Shake hands as the dialler; return the open channel, which owns the socket. Cancelling closes it.

    A socket that did not become a channel is closed.
    `expected`: the only peer that may answer; None takes whoever does.
    Raises: Refused (the knock), RemoteFault (another key answered, TLS), Unavailable.
    """
    with undone_on_failure(sock.close):
        _, channel = await asyncio.get_running_loop().create_connection(make, sock=sock)
    with undone_on_failure(channel.abort):
        peer_id = await channel.wait_open()
        if expected is not None and peer_id != expected:
            cause = "its key is not the one that was dialled"
            raise RemoteFault("Another device answered", peer=peer_id, cause=cause, code="wrong_peer")
        if channel.alpn != alpn:
            raise RemoteFault("The peer agreed on another protocol", peer=peer_id, code="alpn")
    return channel


class Channels:
    """One a node. A socket given to `accept` or `dial` belongs to the channel, or is closed."""

    def __init__(
        self,
        keys: DeviceKeys,
        gate: KnockGate,
        admission: Admission,
        limits: AdmissionLimits,
        monotonic: Callable[[], float],
    ) -> None:
        self.tls = TlsContexts(keys, self._on_alpn)
        self._gate = gate
        self._admission = admission
        self._limits = limits
        self._monotonic = monotonic

    async def accept(self, sock: socket.socket, pending: Pending) -> TlsChannel:
        """Return a channel that waits for a ClientHello."""
        loop = asyncio.get_running_loop()
        with undone_on_failure(sock.close):
            _, channel = await loop.connect_accepted_socket(
                lambda: self._make(lambda c: self.tls.accept((c, pending)), True), sock
            )
        return channel

    async def dial(self, sock: socket.socket, expected: bytes, alpn: bytes) -> TlsChannel:
        """Return an open channel to `expected`. Cancelling closes it.

        Raises: Refused (the knock), RemoteFault (another key answered, TLS), Unavailable.
        """
        return await open_channel(
            sock, lambda: self._make(lambda _: self.tls.dial(expected, alpn), False), expected, alpn
        )

    def _make(self, make_tls: Callable[[TlsChannel], SSL.Connection], is_server: bool) -> TlsChannel:
        return TlsChannel(make_tls, is_server, self._monotonic, self._limits)

    def _on_alpn(self, connection: SSL.Connection, names: list[bytes]) -> bytes:
        """Judge a knock: raising ends the handshake before a certificate is sent."""
        channel, pending = connection.get_app_data()
        name, verdict = self._gate.check(names)
        if not self._admission.on_knock(pending, verdict.newest, self._monotonic()):
            raise KnockRefused("too many knocks from this address")
        channel.verdict = verdict
        return name
