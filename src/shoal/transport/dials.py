"""Dials: our own attempts to reach peers, one at a time for each; all who want that peer wait for it."""

from __future__ import annotations

import asyncio
import secrets
import socket
from dataclasses import dataclass, field
from typing import Protocol

from shoal.core.errors import ShoalError, Unavailable
from shoal.core.supervisor import Supervisor
from shoal.core.undo import undone_on_failure
from shoal.identity.ids import short_peer_id
from shoal.transport.address import Address
from shoal.transport.channels import Channels
from shoal.transport.config import SessionTiming
from shoal.transport.frame_pipe import FramePipe
from shoal.transport.handshake import Party, initiate
from shoal.transport.knock import NONCE_BYTES, make_knock
from shoal.transport.messages import Hello
from shoal.transport.session import Session

ARRIVAL_TIMEOUT_S = 3.0  # a dial that lost against the peer's waits this long for the other session


class DialsHost(Protocol):
    """What dials need of their transport."""

    supervisor: Supervisor
    timing: SessionTiming

    async def open_socket(self, address: Address, timeout_s: float, peer_id: bytes) -> socket.socket: ...

    def find_session(self, peer_id: bytes) -> Session | None: ...

    def make_dialled_session(
        self, pipe: FramePipe, address: Address, hello: Hello, replaces: bool
    ) -> Session:
        """Return the session of a responder that was verified."""
        ...

    def on_dial_ended(self, peer_id: bytes) -> None:
        """An attempt ended, with a session or without."""
        ...


@dataclass(eq=False)
class Attempt:
    """One dial of ours. `result` is settled however it ends."""

    peer_id: bytes
    address: Address
    replaces: bool
    result: asyncio.Future[Session] = field(repr=False)
    connected: bool = False  # TCP stands: from now on the peer may answer
    shown: list[bytes] = field(default_factory=list)  # entries in our hello that admit this device
    task: asyncio.Task[None] | None = None
    session: Session | None = None

    def fail(self, error: ShoalError) -> None:
        """End without a session, unless it ended already."""
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()  # marked as seen: nobody may wait any more

    def cancel(self) -> None:
        """Give the dial up."""
        if self.task is not None:
            self.task.cancel()


class Dials:
    """The attempts that go on, at most `limit`."""

    def __init__(self, host: DialsHost, party: Party, channels: Channels, limit: int) -> None:
        self._host = host
        self._party = party
        self._channels = channels
        self._limit = limit
        self._attempts: dict[bytes, Attempt] = {}
        self._arrivals: dict[bytes, asyncio.Future[Session]] = {}  # no more than attempts

    def __len__(self) -> int:
        return len(self._attempts)

    def find(self, peer_id: bytes) -> Attempt | None:
        """Return the attempt that goes on for a peer."""
        return self._attempts.get(peer_id)

    def is_committed(self, peer_id: bytes) -> bool:
        """Whether an attempt for a first session is so far that the peer may have answered it."""
        attempt = self._attempts.get(peer_id)
        return attempt is not None and attempt.connected and not attempt.replaces

    def start(self, peer_id: bytes, address: Address, replaces: bool) -> Attempt:
        """Begin an attempt; there must be none for that peer. Raises: Unavailable beyond the limit."""
        if len(self._attempts) >= self._limit:
            raise Unavailable("Too many peers are being dialled", retry_after_s=1.0, code="dials_full")
        attempt = Attempt(peer_id, address, replaces, asyncio.get_running_loop().create_future())
        attempt.task = self._host.supervisor.spawn(f"dial {short_peer_id(peer_id)}", self._run(attempt))
        self._attempts[peer_id] = attempt
        attempt.task.add_done_callback(lambda _: self._on_ended(attempt))
        return attempt

    def on_session_up(self, session: Session) -> None:
        """A session is the one to its peer now: dials to that peer are over."""
        arrival = self._arrivals.pop(session.peer_id, None)
        if arrival is not None and not arrival.done():
            arrival.set_result(session)
        attempt = self._attempts.get(session.peer_id)
        if attempt is not None and attempt.session is not session and arrival is None:
            attempt.cancel()

    def cancel(self, peer_id: bytes) -> None:
        """Give up the attempt for a peer, if there is one."""
        attempt = self._attempts.get(peer_id)
        if attempt is not None:
            attempt.cancel()

    def close(self) -> None:
        """Give up every attempt; idempotent."""
        for attempt in list(self._attempts.values()):
            attempt.cancel()

    async def _run(self, attempt: Attempt) -> None:
        try:
            session: Session | None = await self._connect(attempt)
        except ShoalError as error:
            session = None
            if error.code == "duplicate" and not attempt.replaces:
                attempt.connected = False  # it lost: no accepted session waits for its end any more
                self._host.on_dial_ended(attempt.peer_id)
                session = await self._wait_arrival(attempt.peer_id)
            if session is None:
                attempt.fail(error)
        if session is not None and not attempt.result.done():
            attempt.result.set_result(session)

    def _on_ended(self, attempt: Attempt) -> None:
        if self._attempts.get(attempt.peer_id) is attempt:
            del self._attempts[attempt.peer_id]
        # who waits for a dial that was overtaken gets the session that overtook it
        current = self._host.find_session(attempt.peer_id)
        if current is not None and not attempt.result.done():
            attempt.result.set_result(current)
        self._host.on_dial_ended(attempt.peer_id)
        current = self._host.find_session(attempt.peer_id)
        if current is not None and not attempt.result.done():
            attempt.result.set_result(current)
        attempt.fail(Unavailable("The dial was given up", code="closed"))

    async def _connect(self, attempt: Attempt) -> Session:
        keys = self._party.view.door_keys()
        if not keys:
            raise Unavailable("No peer can be dialled", cause="the network's door key is not known yet")
        try:
            return await self._introduce(attempt, keys[0])
        except Unavailable as error:
            # most peers know us already, and were spared some 20 KB
            if error.code != "stranger" or attempt.shown or not self._has_more_to_show(attempt):
                raise
        return await self._introduce(attempt, keys[0])

    def _has_more_to_show(self, attempt: Attempt) -> bool:
        attempt.shown = self._party.view.show_admission(attempt.peer_id, b"")
        return bool(attempt.shown)

    async def _introduce(self, attempt: Attempt, door_key: bytes) -> Session:
        """Connect and say hello."""
        sock = await self._host.open_socket(attempt.address, self._host.timing.handshake_s, attempt.peer_id)
        attempt.connected = True
        knock = make_knock(door_key, secrets.token_bytes(NONCE_BYTES), attempt.peer_id)
        try:
            async with asyncio.timeout(self._host.timing.handshake_s):
                return await self._shake_hands(attempt, sock, knock.name)
        except TimeoutError as error:
            raise Unavailable(
                f"{attempt.address} did not become a session",
                cause="the handshake took too long",
                code="timeout",
            ) from error

    async def _shake_hands(self, attempt: Attempt, sock: socket.socket, alpn: bytes) -> Session:
        channel = await self._channels.dial(sock, attempt.peer_id, alpn)
        with undone_on_failure(channel.abort):
            pipe = FramePipe(channel)
            attempt.shown = attempt.shown or self._party.view.show_admission(attempt.peer_id, b"")
            hello = await initiate(self._party, pipe, attempt.replaces, attempt.shown)
            session = self._host.make_dialled_session(pipe, attempt.address, hello, attempt.replaces)
            attempt.session = session
            with undone_on_failure(session.close):
                session.start(pipe.reader, pipe.take_frames())
                await session.wait_settled()
        return session

    async def _wait_arrival(self, peer_id: bytes) -> Session | None:
        """Return the session to a peer once it is up, or None after ARRIVAL_TIMEOUT_S."""
        session = self._host.find_session(peer_id)
        if session is not None:
            return session
        arrival: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._arrivals[peer_id] = arrival
        try:
            async with asyncio.timeout(ARRIVAL_TIMEOUT_S):
                return await arrival
        except TimeoutError:
            return None
        finally:
            if self._arrivals.get(peer_id) is arrival:
                del self._arrivals[peer_id]
