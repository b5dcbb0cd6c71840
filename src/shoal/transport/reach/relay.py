"""Relay: splices byte streams between members that both have a session here; drives the relay machine.

It sees ciphertext only: TLS runs between the two ends, and each checks the other's key.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from shoal.core.errors import Refused, RemoteFault, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.identity.ids import short_peer_id
from shoal.transport.reach.messages import TOKEN_BYTES, GuestOffer, RelayGrant, RelayOffer, RelayTaken
from shoal.transport.reach.relay_machine import (
    Answered,
    Arrived,
    Ask,
    Drop,
    Effect,
    Ended,
    Grant,
    Guest,
    Hold,
    Input,
    Moved,
    Offer,
    PeerGone,
    Refuse,
    RelayLimits,
    RelayMachine,
    RelayStatus,
    SetTimer,
    Splice,
    Timer,
)
from shoal.transport.session import Session
from shoal.wire.registry import ServiceNumber

log = logging.getLogger("shoal.reach")

COPY_BYTES = 64 * 1024  # a read; two buffers a stream
OFFER_TIMEOUT_S = 4.0


class RelayHost(Protocol):
    """What a relay needs of its transport."""

    def find_session(self, peer_id: bytes) -> Session | None: ...


@dataclass(eq=False)
class _Stream:
    tokens: tuple[bytes, bytes]  # of the asker, of the target
    grant: asyncio.Future[RelayGrant]
    invite_id: bytes  # of a guest's pass; empty: the asker is a member
    sockets: dict[int, socket.socket] = field(default_factory=dict)  # by end
    task: asyncio.Task[None] | None = None


class Relay:
    """The relaying half of a node; made only where its owner wants it. `close` ends all streams."""

    def __init__(
        self,
        host: RelayHost,
        limits: RelayLimits,
        supervisor: Supervisor,
        monotonic: Callable[[], float],
        observe: Observer,
    ) -> None:
        self._host = host
        self._machine = RelayMachine(limits)
        self._supervisor = supervisor
        self._monotonic = monotonic
        self._observe = observe
        self._streams: dict[int, _Stream] = {}  # as many as the machine has
        self._tokens: dict[bytes, tuple[int, int]] = {}  # token -> stream and end; two a stream
        self._holds: dict[int, float] = {}  # stream -> until when nothing is read; bounded by streams
        self._next = 0

    def status(self) -> RelayStatus:
        """Return a snapshot for people."""
        return self._machine.status()

    async def grant(self, session: Session, target: bytes) -> RelayGrant:
        """Answer a member's RelayAsk. Raises: Unavailable when there is no stream for it now."""
        # a relay does not stand on another one: two hops cost twice and nobody could say where they go
        may = session.relay is None and self._is_direct(target)
        return await self._begin(lambda stream: Ask(stream, session.peer_id, target, may))

    async def grant_guest(
        self, guest_key: bytes, inviter: bytes, guest: Guest, invite_id: bytes
    ) -> RelayGrant:
        """Lead who showed a pass, and is no member, to its inviter. Raises: Unavailable."""
        may = self._is_direct(inviter)
        return await self._begin(lambda stream: Ask(stream, guest_key, inviter, may, guest), invite_id)

    def _is_direct(self, peer_id: bytes) -> bool:
        session = self._host.find_session(peer_id)
        return session is not None and session.relay is None

    async def _begin(self, make_ask: Callable[[int], Ask], invite_id: bytes = b"") -> RelayGrant:
        self._next += 1
        stream = self._next
        tokens = (secrets.token_bytes(TOKEN_BYTES), secrets.token_bytes(TOKEN_BYTES))
        held = _Stream(tokens, asyncio.get_running_loop().create_future(), invite_id)
        self._streams[stream] = held
        try:
            self._step(make_ask(stream))
            return await held.grant
        except asyncio.CancelledError:
            self._step(Ended(stream))
            raise

    def accept(self, sock: socket.socket, token: bytes) -> bool:
        """Take the connection of an end; False: the token is not one of ours, or was used."""
        found = self._tokens.pop(token, None)
        if found is None:
            return False
        stream, end = found
        self._streams[stream].sockets[end] = sock
        self._step(Arrived(stream, end))
        return True

    def drop(self, peer: bytes) -> None:
        """A member is none any more."""
        self._step(PeerGone(peer))

    def close(self) -> None:
        """End every stream; idempotent."""
        for stream in list(self._streams):
            self._step(Ended(stream))

    # -- the machine -----------------------------------------------------------------------------------

    def _step(self, event: Input) -> None:
        for effect in self._machine.step(self._monotonic(), event):
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Hold(stream, seconds):
                self._holds[stream] = self._monotonic() + seconds
            case Offer(stream, asker, target):
                self._offer(stream, asker, target)
            case Grant(stream):
                held = self._streams[stream]
                self._tokens[held.tokens[0]] = (stream, 0)
                if not held.grant.done():
                    held.grant.set_result(RelayGrant(held.tokens[0]))
            case Refuse(stream, code, cause, retry_after_s):
                self._forget(stream, code, cause, retry_after_s)
            case Splice(stream):
                self._splice(stream)
            case Drop(stream, reason):
                log.debug("relayed stream %s ended: %s", stream, reason)
                self._forget(stream, "relay_dropped", reason)
            case SetTimer(at, token):
                wait_s = max(0.0, at - self._monotonic())
                asyncio.get_running_loop().call_later(wait_s, self._step, Timer(token))

    def _offer(self, stream: int, asker: bytes, target: bytes) -> None:
        try:
            self._supervisor.spawn("relay offer", self._ask_target(stream, asker, target), for_peer=True)
        except Unavailable:
            asyncio.get_running_loop().call_soon(self._step, Answered(stream, False))

    async def _ask_target(self, stream: int, asker: bytes, target: bytes) -> None:
        held = self._streams.get(stream)
        session = self._host.find_session(target)
        agreed = False
        try:
            if held is not None and session is not None:
                self._tokens[held.tokens[1]] = (stream, 1)  # it may come before its answer does
                token, invite_id = held.tokens[1], held.invite_id
                offer = GuestOffer(invite_id, token) if invite_id else RelayOffer(asker, token)
                answer = await session.request(ServiceNumber.REACH, offer, OFFER_TIMEOUT_S)
                agreed = isinstance(answer, RelayTaken)
        except (Unavailable, Refused, RemoteFault) as error:  # a ticket may be over, a member unheard of
            self._observe(Observation("relay_offer", short_peer_id(target), str(error)))
        finally:
            self._step(Answered(stream, agreed))

    def _forget(self, stream: int, code: str, cause: str, retry_after_s: float | None = None) -> None:
        held = self._streams.pop(stream, None)
        self._holds.pop(stream, None)
        if held is None:
            return
        for token in held.tokens:
            self._tokens.pop(token, None)
        if held.task is not None:
            held.task.cancel()  # closes the sockets
        else:
            _close(held)
        if not held.grant.done():
            error = Unavailable("Nothing was relayed", cause=cause, code=code, retry_after_s=retry_after_s)
            held.grant.set_exception(error)
            held.grant.exception()  # whoever asked may have gone

    # -- bytes -----------------------------------------------------------------------------------------

    def _splice(self, stream: int) -> None:
        held = self._streams[stream]
        try:
            held.task = self._supervisor.spawn("relay stream", self._run(stream, held), for_peer=True)
        except Unavailable:
            asyncio.get_running_loop().call_soon(self._step, Ended(stream))
            return
        # cancelled before it ran, a task never closes them
        held.task.add_done_callback(lambda _: _close(held))

    async def _run(self, stream: int, held: _Stream) -> None:
        one, other = held.sockets[0], held.sockets[1]
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(stream, one, other))
                pumps.create_task(self._pump(stream, other, one))
        except* OSError:
            pass  # an end is gone
        finally:
            self._step(Ended(stream))

    async def _pump(self, stream: int, source: socket.socket, sink: socket.socket) -> None:
        """Copy one direction until its source ends, then say so to the sink."""
        loop = asyncio.get_running_loop()
        buffer = bytearray(COPY_BYTES)
        view = memoryview(buffer)
        while True:
            hold_s = self._holds.get(stream, 0.0) - self._monotonic()
            if hold_s > 0:
                await asyncio.sleep(hold_s)
            size = await loop.sock_recv_into(source, buffer)
            if size == 0:
                sink.shutdown(socket.SHUT_WR)
                return
            self._step(Moved(stream, size))
            await loop.sock_sendall(sink, view[:size])


def _close(held: _Stream) -> None:
    for sock in held.sockets.values():
        sock.close()
