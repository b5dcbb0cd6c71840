"""Lying relay: a relay that takes sessions and calls as others do, and does something else with them."""

from __future__ import annotations

import asyncio
import socket

from shoal.core.errors import Unavailable
from shoal.transport.reach.messages import TOKEN_BYTES, RelayGrant
from shoal.transport.reach.relay import Relay
from shoal.transport.reach.relay import _Stream as Stream
from shoal.transport.session import Session

LIES = ("mute", "dead", "cuts", "swaps", "full", "flips", "stalls")
STALL_S = 1.0  # until `stalls` passes nothing more: some handshakes long


class LyingRelay(Relay):
    """`lie`: one of LIES, or empty.

    mute: never tells of a caller, and never answers it; dead: grants and never splices; cuts: splices and
    closes; swaps: gives the caller its own node instead of the peer; full: has no stream for anybody; flips:
    changes every byte; stalls: swallows what comes after a while.
    """

    lie = ""

    async def grant(self, session: Session, target: bytes) -> RelayGrant:
        if self.lie == "mute":
            await asyncio.Event().wait()
        if self.lie == "full":
            raise Unavailable("Nothing was relayed", cause="no place", code="relay_full")
        if self.lie == "dead":
            return RelayGrant(bytes(TOKEN_BYTES))
        return await super().grant(session, target)

    def accept(self, sock: socket.socket, token: bytes) -> bool:
        if self.lie == "dead" and token == bytes(TOKEN_BYTES):
            self.held = sock  # and nothing ever comes of it
            return True
        return super().accept(sock, token)

    async def _run(self, stream: int, held: Stream) -> None:
        if self.lie == "cuts":
            for sock in held.sockets.values():
                sock.shutdown(socket.SHUT_RDWR)
        elif self.lie == "swaps":
            held.sockets[1].shutdown(socket.SHUT_RDWR)
            mine = socket.socket()
            mine.setblocking(False)
            address = self._host.listen_addresses[0]  # type: ignore[attr-defined]
            await asyncio.get_running_loop().sock_connect(mine, (address.host, address.port))
            held.sockets[1].close()
            held.sockets[1] = mine
        await super()._run(stream, held)

    async def _pump(self, stream: int, source: socket.socket, sink: socket.socket) -> None:
        if self.lie not in ("flips", "stalls"):
            await super()._pump(stream, source, sink)
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + STALL_S
        while data := await loop.sock_recv(source, 65536):
            if self.lie == "flips":
                await loop.sock_sendall(sink, bytes(byte ^ 1 for byte in data))
            elif loop.time() < until:
                await loop.sock_sendall(sink, data)
        sink.shutdown(socket.SHUT_WR)


def open_to_nobody(lie: str, ends: list[socket.socket]) -> socket.socket:
    """Return the near end of a stream whose far end `cuts`, `floods` or stays silent; `ends` keeps that."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    ends.append(theirs)
    if lie == "cuts":
        theirs.close()
    elif lie == "floods":
        theirs.send(bytes(64 * 1024))
    return ours
