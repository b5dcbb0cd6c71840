"""Acceptor: takes an accepted socket to what it wants to be: a session, a lane or a join, in bounded time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from shoal.core.errors import RemoteFault, ShoalError, Unavailable
from shoal.core.observation import Observation
from shoal.core.supervisor import Supervisor
from shoal.transport.address import Address
from shoal.transport.admission import Admission, Pending
from shoal.transport.channel import TlsChannel
from shoal.transport.channels import Channels
from shoal.transport.config import SessionTiming
from shoal.transport.frame_pipe import FramePipe
from shoal.transport.handshake import Party, respond
from shoal.transport.join_channel import JoinChannel
from shoal.transport.knock import KnockKind
from shoal.transport.messages import Hello
from shoal.transport.ports import LanePort, ReachPort
from shoal.transport.sockets import read_exactly

TLS_FIRST_BYTE = 0x16
JOIN_TIMEOUT_S = 60.0  # one join from knock to end; a person may be asked something meanwhile
JOINS = 8  # at once; by ticket, or up to 4 by typed code, which shows nothing (membership/code_door.py)

OnJoin = Callable[[JoinChannel], Awaitable[None]]


class AcceptorHost(Protocol):
    """What the acceptor needs of its transport."""

    supervisor: Supervisor
    timing: SessionTiming
    lanes: LanePort | None
    reach: ReachPort | None
    on_join: OnJoin | None

    def monotonic(self) -> float:
        """Seconds on the node's clock."""
        ...

    def observe(self, observation: Observation) -> None:
        """Report what was seen."""
        ...

    def accept_session(self, pipe: FramePipe, address: Address, hello: Hello) -> None:
        """Take over a channel whose initiator was verified."""
        ...


class Acceptor:
    """Serves accepted sockets. Every one of them ends here, or is handed over, within handshake_s."""

    def __init__(self, host: AcceptorHost, party: Party, channels: Channels, admission: Admission) -> None:
        self._host = host
        self._party = party
        self._channels = channels
        self._admission = admission
        self._tasks: dict[Pending, asyncio.Task[None]] = {}  # as many as admission lets be pending
        self._joins = 0

    def on_socket(self, sock: socket.socket, address: Address) -> None:
        """Take a non-blocking socket that was just accepted."""
        host = self._host
        verdict, pending, victim = self._admission.open(address.budget_group, host.monotonic())
        if victim is not None and victim in self._tasks:
            self._tasks[victim].cancel()
        if pending is None:
            host.observe(Observation(verdict.value, address.budget_group))
            sock.close()
            return
        try:
            task = host.supervisor.spawn(f"accept {address}", self._serve(sock, address, pending))
        except Unavailable:
            self._forget(pending, sock)
            return
        self._tasks[pending] = task
        task.add_done_callback(lambda _: self._forget(pending, sock))

    def close(self) -> None:
        """End what is pending; idempotent."""
        for task in list(self._tasks.values()):
            task.cancel()

    def _forget(self, pending: Pending, sock: socket.socket) -> None:
        self._tasks.pop(pending, None)
        self._admission.close(pending)
        if not pending.handed_over:
            sock.close()

    async def _serve(self, sock: socket.socket, address: Address, pending: Pending) -> None:
        host, group = self._host, address.budget_group
        try:
            async with asyncio.timeout(host.timing.handshake_s):
                first = await _peek(sock)
                if first == TLS_FIRST_BYTE:
                    pending.handed_over = True
                    await self._serve_tls(sock, address, pending)
                elif (taker := self._find_taker(first)) is not None:
                    preamble = await read_exactly(sock, taker.preamble_bytes)
                    pending.handed_over = taker.accept(sock, preamble, address)
                    if pending.handed_over:
                        self._admission.on_lane(pending)
                    else:
                        rule = "unknown_lane" if taker is host.lanes else "unknown_token"
                        host.observe(Observation(rule, group))
                else:
                    host.observe(Observation("bad_preamble", group, f"first byte {first}"))
        except TimeoutError:
            host.observe(Observation("handshake_timeout", group))
        except OSError:
            pass  # it went away before it said anything

    def _find_taker(self, first: int) -> LanePort | ReachPort | None:
        """Return who reads preambles that begin so."""
        takers = (self._host.lanes, self._host.reach)
        return next((t for t in takers if t is not None and t.preamble_first_byte == first), None)

    async def _serve_tls(self, sock: socket.socket, address: Address, pending: Pending) -> None:
        channel = await self._channels.accept(sock, pending)
        handed_over = False
        try:
            peer_id = await channel.wait_open()
            if channel.verdict is not None and channel.verdict.kind is KnockKind.JOIN:
                handed_over = self._accept_join(channel, address, channel.verdict.invite_id)
                return
            if channel.verdict is not None and channel.verdict.kind is KnockKind.GUEST:
                handed_over = self._accept_guest(channel, address, channel.verdict.guest_pass)
                return
            if peer_id == self._party.keys.peer_id:
                raise RemoteFault("The peer uses our own key", peer=peer_id, code="own_key")
            pipe = FramePipe(channel)
            hello = await respond(self._party, pipe)
            self._admission.on_authenticated(pending)
            handed_over = True
            self._host.accept_session(pipe, address, hello)
        except ShoalError as error:
            self._judge(error, channel, address)
        finally:
            if not handed_over and not channel.closed:
                channel.abort()

    def _judge(self, error: ShoalError, channel: TlsChannel, address: Address) -> None:
        if error.code != "reset":
            rule = _RULES.get(error.code, "bad_handshake")
            self._host.observe(Observation(rule, address.budget_group, str(error)))
        if isinstance(error, Unavailable):
            channel.close(self._host.timing.goodbye_s)  # it was told why

    def _accept_join(self, channel: TlsChannel, address: Address, invite_id: bytes | None) -> bool:
        host = self._host
        if host.on_join is None or self._joins >= JOINS:
            host.observe(Observation("joins_full", address.budget_group))
            return False
        join = JoinChannel(FramePipe(channel), self._party.keys.peer_id, address, False, invite_id)
        task = host.supervisor.spawn(f"join from {address}", self._run_join(host.on_join, join))
        self._joins += 1  # at once: others may be accepted before the task runs
        task.add_done_callback(lambda _: self._on_join_done(join))
        return True

    def _accept_guest(self, channel: TlsChannel, address: Address, guest_pass: bytes) -> bool:
        reach = self._host.reach
        guest = JoinChannel(FramePipe(channel), self._party.keys.peer_id, address, False, None)
        if reach is not None and reach.take_guest(guest, guest_pass):
            return True
        self._host.observe(Observation("guests_full", address.budget_group))
        return False

    def _on_join_done(self, join: JoinChannel) -> None:
        self._joins -= 1
        join.close()  # also of a task that was cancelled before it ran

    async def _run_join(self, on_join: OnJoin, join: JoinChannel) -> None:
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S), join:
                await on_join(join)
        except TimeoutError:
            self._host.observe(Observation("join_timeout", join.address.budget_group))
        except ShoalError as error:
            self._host.observe(Observation("join_failed", join.address.budget_group, str(error)))


_RULES = {
    "knock": "wrong_knock",
    "stranger": "unknown_member",
    "channel_binding": "channel_binding_mismatch",
    "certificate": "bad_certificate",
    "network": "wrong_network",
    "own_key": "own_key",
    "synchronise": "behind",
    "limit_exceeded": "oversize",
    "malformed": "malformed_message",
}
"""What is observed for the code of an error before authentication; anything else is `bad_handshake`."""


async def _wait_readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


async def _peek(sock: socket.socket) -> int:
    """Return the first byte that arrives, leaving it there. Raises: OSError when nothing ever will."""
    while True:
        try:
            data = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            await _wait_readable(sock)
            continue
        if not data:
            raise ConnectionResetError
        return data[0]
