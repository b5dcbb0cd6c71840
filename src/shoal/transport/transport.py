"""Transport: listens, dials, and keeps one settled session to each peer; the face of this folder.

Accepted sockets go: admission -> first byte -> TLS with knock -> hello -> session table -> services. Dialled
ones enter at TLS. Everything runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from OpenSSL import SSL

from shoal.core.clock import Clock
from shoal.core.errors import LocalMisuse, Refused, RemoteFault, ShoalError, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.identity.ids import short_peer_id
from shoal.transport.address import Address
from shoal.transport.admission import Admission, Pending
from shoal.transport.channel import TlsChannel
from shoal.transport.config import TransportConfig
from shoal.transport.dialler import open_socket
from shoal.transport.frame_pipe import FramePipe
from shoal.transport.handshake import Party, initiate, refuse, respond, send_hello
from shoal.transport.hello import INSTANCE_BYTES
from shoal.transport.join_channel import JoinChannel
from shoal.transport.knock import NONCE_BYTES, Knock, KnockGate, KnockKind, KnockRefused, make_knock
from shoal.transport.listener import Listener
from shoal.transport.messages import ErrorReply
from shoal.transport.ports import LanePort, MembershipView, Service
from shoal.transport.session import Session
from shoal.transport.session_table import SessionTable, Verdict
from shoal.transport.tls import TlsContexts
from shoal.wire.registry import MessageTable, ServiceNumber

TLS_FIRST_BYTE = 0x16
JOIN_TIMEOUT_S = 60.0  # one join from knock to end; a person may be asked something meanwhile
JOINS = 8  # at once; each has shown a knock made from a ticket
REPLACE_RETRY_S = 60.0
RECORDS_GRACE = 2**20
UP_TIMEOUT_S = 3.0  # a dial that lost against the peer's waits this long for the other session
CLOCK_JUMP_S = 5.0  # wall against monotonic clock within one tick

OnJoin = Callable[[JoinChannel], Awaitable[None]]


@dataclass(eq=False)
class _Attempt:
    """One dial of ours to a peer; all who want that peer wait for it."""

    peer_id: bytes
    address: Address
    replaces: bool
    result: asyncio.Future[Session] = field(repr=False)
    connected: bool = False
    task: asyncio.Task[None] | None = None
    session: Session | None = None


class Transport:
    """One a node. `start` binds; `close` (at most about two seconds) ends every session.

    Expects `register` for each service and `attach_lanes` before `start`.
    """

    def __init__(
        self,
        config: TransportConfig,
        view: MembershipView,
        supervisor: Supervisor,
        clock: Clock,
        observe: Observer,
        rng: Random,
    ) -> None:
        self.config = config
        self.view = view
        self.supervisor = supervisor
        self.observe = observe
        self.timing = config.timing
        self.lanes: LanePort | None = None
        self.on_join: OnJoin | None = None
        self._clock = clock
        self._random = rng
        self._own_id = config.keys.peer_id
        self._party = Party(config.keys, config.network_id, view, secrets.token_bytes(INSTANCE_BYTES))
        self._services: dict[int, Service] = {}
        self._lane_table: MessageTable | None = None
        self._gate = KnockGate(self._own_id, view, config.limits.nonces)
        self._tls = TlsContexts(config.keys, self._on_alpn)
        self._admission = Admission(config.limits)
        self._listener = Listener(config.listen, self._on_socket, observe)
        self._table = SessionTable(self._own_id, self.timing.simultaneous_s)
        self._unsettled: set[Session] = set()  # bounded by handshakes and dials
        self._retiring: dict[Session, float] = {}  # replaced, until their requests are answered
        self._attempts: dict[bytes, _Attempt] = {}  # at most limits.dials
        self._arrivals: dict[bytes, list[asyncio.Future[Session]]] = {}  # bounded by limits.dials
        self._evictable: dict[Pending, asyncio.Task[None]] = {}  # as admission's pending
        self._replace_after: dict[Session, float] = {}
        self._joins = 0
        self._closing = asyncio.Event()
        self._started = False

    # -- set-up ----------------------------------------------------------------------------------------

    def register(self, service: Service) -> None:
        """Let a service answer its number. Raises: LocalMisuse for a number that is taken."""
        if service.number in self._services or service.number == ServiceNumber.SESSION:
            raise LocalMisuse(f"service {service.number.name} is registered already")
        self._services[service.number] = service

    def attach_lanes(self, lanes: LanePort) -> None:
        """Give lane messages and lane sockets to the broker."""
        self.lanes = lanes
        self._lane_table = MessageTable(ServiceNumber.SESSION, lanes.messages)

    def set_observer(self, observe: Observer) -> None:
        """Send observations elsewhere from now on."""
        self.observe = observe

    async def start(self) -> None:
        """Bind, accept and judge sessions from now on. Raises: ConfigFault when an address cannot be used."""
        self._listener.start()
        self._started = True
        self.supervisor.start("transport sessions", self._judge_sessions)

    async def close(self, reason: str = "shutdown") -> None:
        """Stop listening, end every session and dial; idempotent. Peers are told if they can be reached."""
        self._closing.set()
        self._listener.close()
        for attempt in list(self._attempts.values()):
            self._cancel(attempt)
        for task in list(self._evictable.values()):
            task.cancel()
        self.close_all(reason)
        async with asyncio.timeout(self.timing.goodbye_s * 2):
            await asyncio.sleep(0)  # goodbyes were written; the sockets close by themselves within goodbye_s

    @property
    def listen_addresses(self) -> list[Address]:
        """What is listened on, with real ports."""
        return self._listener.addresses

    # -- sessions --------------------------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        """Return the settled sessions."""
        return self._table.sessions()

    def find_session(self, peer_id: bytes) -> Session | None:
        """Return the settled session to a peer."""
        return self._table.find(peer_id)

    def close_peer(self, peer_id: bytes, reason: str) -> None:
        """End everything with a peer at once: sessions, their lanes and requests, dials, handshakes."""
        attempt = self._attempts.get(peer_id)
        if attempt is not None:
            self._cancel(attempt)
        for session in [*self._all_sessions()]:
            if session.peer_id == peer_id:
                session.close(reason)

    def close_all(self, reason: str) -> None:
        """End every session at once, for instance because membership is blocked."""
        for session in self._all_sessions():
            session.close(reason)

    def probe_sessions(self) -> None:
        """Ask every peer for a sign of life now: the network changed or the machine slept."""
        now = self.monotonic()
        for session in self._all_sessions():
            session.judge(now, probe=True)

    async def dial(self, peer_id: bytes, address: Address, timeout_s: float = 8.0) -> Session:
        """Return the settled session to a peer, dialling `address` if there is none.

        Cancelling is safe; a dial that others wait for goes on.
        Raises: Unavailable, Refused (no member, or it refused our knock), RemoteFault (another key answered).
        """
        self._check_dial(peer_id)
        if not self.view.is_active(peer_id):
            raise Refused(
                "The peer is not dialled", cause="it is not a member of this network", code="stranger"
            )
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    session = self._table.find(peer_id)
                    if session is not None:
                        return session
                    attempt = self._attempts.get(peer_id)
                    if attempt is None or attempt.address == address:
                        attempt = attempt or self._start_attempt(peer_id, address, replaces=False)
                        return await asyncio.shield(attempt.result)
                    await asyncio.wait([attempt.result])  # somebody tries another address of that peer
        except TimeoutError as error:
            raise Unavailable(
                f"{address} did not become a session", cause=f"it had {timeout_s:g} s", code="timeout"
            ) from error

    async def dial_join(
        self, inviter: bytes, address: Address, nonce: bytes, mac: bytes, timeout_s: float = 8.0
    ) -> JoinChannel:
        """Return a channel to the inviter of a ticket, whose key is checked. Cancelling is safe.

        `nonce` and `mac` are the join knock. Raises: Unavailable, Refused (the knock), RemoteFault.
        """
        self._check_dial(inviter)
        knock = Knock(KnockKind.JOIN, nonce, mac)
        try:
            async with asyncio.timeout(timeout_s):
                sock = await self.open_socket(address, timeout_s)
                channel = await self._dial_channel(sock, inviter, knock.name)
        except TimeoutError as error:
            raise Unavailable(
                f"{address} did not answer", cause=f"it had {timeout_s:g} s", code="timeout"
            ) from error
        return JoinChannel(FramePipe(channel), self._own_id, address, True, None)

    async def open_socket(self, address: Address, timeout_s: float = 8.0) -> socket.socket:
        """Return a connected, non-blocking TCP socket; sessions and lanes take the same way."""
        return await open_socket(address, timeout_s)

    # -- SessionHost -----------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Seconds on the clock that every deadline of transport uses."""
        return self._clock.monotonic()

    def find_service(self, number: int) -> Service | None:
        """Return the service of a number."""
        return self._services.get(number)

    def lane_table(self) -> MessageTable | None:
        """Return the table of lane control messages."""
        return self._lane_table

    def on_session_settled(self, session: Session) -> None:
        """The peer settled a session that we dialled."""
        self._adopt(session)

    def on_session_closed(self, session: Session, reason: str) -> None:
        """A session ended, by whomever."""
        self._unsettled.discard(session)
        self._retiring.pop(session, None)
        self._replace_after.pop(session, None)
        if self._table.remove(session):
            self._tell_down(session, reason)

    # -- accepting -------------------------------------------------------------------------------------

    def _on_socket(self, sock: socket.socket, address: Address) -> None:
        verdict, pending, victim = self._admission.open(address.budget_group, self.monotonic())
        if victim is not None:
            task = self._evictable.get(victim)
            if task is not None:
                task.cancel()
        if pending is None:
            self.observe(Observation(verdict.value, address.budget_group))
            sock.close()
            return
        try:
            task = self.supervisor.spawn(f"accept {address}", self._serve(sock, address, pending))
        except Unavailable:
            self._admission.close(pending)
            sock.close()
            return
        self._evictable[pending] = task
        task.add_done_callback(lambda _: self._evictable.pop(pending, None))

    async def _serve(self, sock: socket.socket, address: Address, pending: Pending) -> None:
        """Take one accepted socket to what it wants to be, within handshake_s."""
        sock_is_ours = True
        try:
            async with asyncio.timeout(self.timing.handshake_s):
                first = await _peek(sock)
                if first == TLS_FIRST_BYTE:
                    sock_is_ours = False
                    await self._serve_tls(sock, address, pending)
                elif self.lanes is not None and first == self.lanes.preamble_first_byte:
                    preamble = await _read_exactly(sock, self.lanes.preamble_bytes)
                    sock_is_ours = not self.lanes.accept(sock, preamble, address)
                    if sock_is_ours:
                        self.observe(Observation("unknown_lane", address.budget_group))
                    else:
                        self._admission.on_lane(pending)
                else:
                    self.observe(Observation("bad_preamble", address.budget_group, f"first byte {first}"))
        except TimeoutError:
            self.observe(Observation("handshake_timeout", address.budget_group))
        except OSError:
            pass  # it went away before it said anything
        finally:
            self._admission.close(pending)
            if sock_is_ours:
                sock.close()

    async def _serve_tls(self, sock: socket.socket, address: Address, pending: Pending) -> None:
        channel = await self._make_channel(sock, True, lambda c: self._tls.accept((c, pending)))
        kept = False
        try:
            peer_id = await channel.wait_open()
            if channel.verdict is not None and channel.verdict.kind is KnockKind.JOIN:
                kept = self._accept_join(channel, address, channel.verdict.invite_id)
                return
            if peer_id == self._own_id:
                raise RemoteFault("The peer uses our own key", peer=peer_id, code="own_key")
            pipe = FramePipe(channel)
            hello = await respond(self._party, pipe)
            self._admission.on_authenticated(pending)
            kept = self._accept_session(pipe, address, hello.instance, hello.head, hello.replaces)
        except ShoalError as error:
            if error.code not in ("reset", "closed"):
                rule = _RULES.get(error.code, "bad_handshake")
                self.observe(Observation(rule, address.budget_group, str(error)))
            if isinstance(error, Unavailable):
                channel.close(self.timing.goodbye_s)
        finally:
            if not kept:
                channel.abort() if not channel.closed else None

    def _on_alpn(self, connection: SSL.Connection, names: list[bytes]) -> bytes:
        """Judge a knock, inside OpenSSL: raising ends the handshake before a certificate is sent."""
        channel, pending = connection.get_app_data()
        name, verdict = self._gate.check(names)
        if not self._admission.on_knock(pending, verdict.newest, self.monotonic()):
            raise KnockRefused("too many knocks from this address")
        channel.verdict = verdict
        return name

    def _accept_join(self, channel: TlsChannel, address: Address, invite_id: bytes | None) -> bool:
        if self.on_join is None or self._joins >= JOINS:
            self.observe(Observation("joins_full", address.budget_group))
            return False
        join = JoinChannel(FramePipe(channel), self._own_id, address, False, invite_id)
        self.supervisor.spawn(f"join from {address}", self._run_join(self.on_join, join))
        return True

    async def _run_join(self, on_join: OnJoin, join: JoinChannel) -> None:
        self._joins += 1
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S), join:
                await on_join(join)
        except TimeoutError:
            self.observe(Observation("join_timeout", join.address.budget_group))
        except ShoalError as error:
            self.observe(Observation("join_failed", join.address.budget_group, str(error)))
        finally:
            self._joins -= 1

    def _accept_session(
        self, pipe: FramePipe, address: Address, instance: bytes, head: bytes, replaces: bool
    ) -> bool:
        channel = pipe.channel
        peer_id = channel.peer_id
        attempt = self._attempts.get(peer_id)
        dialling = attempt is not None and attempt.connected and not attempt.replaces
        verdict = self._table.judge_accepted(peer_id, instance, replaces, self.monotonic(), dialling)
        if verdict is Verdict.REFUSE or self._closing.is_set():
            refuse(channel, ErrorReply("unavailable", "duplicate", "There is a session already"))
            channel.close(self.timing.goodbye_s)
            return True
        session = Session(self, channel, address, None, instance, head, replaces)
        self._unsettled.add(session)
        send_hello(self._party, channel)
        session.start(pipe.reader, pipe.take_frames())
        if verdict is Verdict.WAIT and not session.closed:
            before = self._table.wait(session)
            if before is not None:
                before.close("duplicate")
        elif not session.closed:
            session.settle(tell=True)
            self._adopt(session)
        return True

    # -- dialling --------------------------------------------------------------------------------------

    def _check_dial(self, peer_id: bytes) -> None:
        if peer_id == self._own_id:
            raise LocalMisuse("a node does not dial itself")
        if self._closing.is_set():
            raise Unavailable("The node is stopping", code="shutdown")

    def _start_attempt(self, peer_id: bytes, address: Address, replaces: bool) -> _Attempt:
        if len(self._attempts) >= self.config.limits.dials:
            raise Unavailable("Too many peers are being dialled", retry_after_s=1.0, code="dials_full")
        attempt = _Attempt(peer_id, address, replaces, asyncio.get_running_loop().create_future())
        self._attempts[peer_id] = attempt
        name = f"dial {short_peer_id(peer_id)}"
        try:
            attempt.task = self.supervisor.spawn(name, self._run_attempt(attempt))
        except Unavailable:
            del self._attempts[peer_id]
            raise
        attempt.task.add_done_callback(lambda _: self._on_attempt_ended(attempt))
        return attempt

    async def _run_attempt(self, attempt: _Attempt) -> None:
        try:
            session = await self._connect(attempt)
        except ShoalError as error:
            found = None
            if error.code == "duplicate" and not attempt.replaces:
                found = await self._wait_arrival(attempt.peer_id)
            if found is None:
                _fail(attempt, error)
            elif not attempt.result.done():
                attempt.result.set_result(found)
        else:
            if not attempt.result.done():
                attempt.result.set_result(session)

    def _on_attempt_ended(self, attempt: _Attempt) -> None:
        if self._attempts.get(attempt.peer_id) is attempt:
            del self._attempts[attempt.peer_id]
        # who waits for a dial that was overtaken gets the session that overtook it
        current = self._table.find(attempt.peer_id)
        if current is not None and not attempt.result.done():
            attempt.result.set_result(current)
        _fail(attempt, Unavailable("The dial was given up", code="closed"))
        waiting = self._table.take_waiting(attempt.peer_id)
        if waiting is None or waiting.closed:
            return
        if current is not None and current.is_dialler:
            waiting.close("duplicate")
        else:
            waiting.settle(tell=True)
            self._adopt(waiting)

    async def _connect(self, attempt: _Attempt) -> Session:
        sock = await self.open_socket(attempt.address, self.timing.handshake_s)
        attempt.connected = True
        keys = self.view.door_keys()
        if not keys:
            sock.close()
            raise Unavailable("No peer can be dialled", cause="the network's door key is not known yet")
        knock = make_knock(keys[0], secrets.token_bytes(NONCE_BYTES), attempt.peer_id)
        session: Session | None = None
        try:
            async with asyncio.timeout(self.timing.handshake_s):
                channel = await self._dial_channel(sock, attempt.peer_id, knock.name)
                try:
                    pipe = FramePipe(channel)
                    hello = await initiate(self._party, pipe, attempt.replaces)
                    address = attempt.address
                    session = Session(
                        self, channel, address, address, hello.instance, hello.head, attempt.replaces
                    )
                except BaseException:
                    channel.abort()
                    raise
                attempt.session = session
                self._unsettled.add(session)
                session.start(pipe.reader, pipe.take_frames())
                await session.wait_settled()
        except TimeoutError as error:
            if session is not None:
                session.close("closed")
            raise Unavailable(
                f"{attempt.address} did not become a session",
                cause="the handshake took too long",
                code="timeout",
            ) from error
        except BaseException:
            if session is not None:
                session.close("closed")
            raise
        return session

    async def _dial_channel(self, sock: socket.socket, expected: bytes, alpn: bytes) -> TlsChannel:
        """Return an open channel to `expected`. Raises: RemoteFault when another key answers."""
        channel = await self._make_channel(sock, False, lambda c: self._tls.dial(c, alpn))
        try:
            peer_id = await channel.wait_open()
            if peer_id != expected:
                raise RemoteFault(
                    "Another device answered",
                    peer=peer_id,
                    cause="its key is not the peer's",
                    code="wrong_peer",
                )
            if channel.alpn != alpn:
                raise RemoteFault("The peer agreed on another protocol", peer=peer_id, code="alpn")
        except BaseException:
            channel.abort()
            raise
        return channel

    async def _make_channel(
        self, sock: socket.socket, is_server: bool, make_tls: Callable[[TlsChannel], SSL.Connection]
    ) -> TlsChannel:
        loop = asyncio.get_running_loop()

        def make() -> TlsChannel:
            return TlsChannel(make_tls, is_server, self._clock.monotonic, self.config.limits)

        try:
            if is_server:
                _, channel = await loop.connect_accepted_socket(make, sock)
            else:
                _, channel = await loop.create_connection(make, sock=sock)
        except BaseException:
            sock.close()
            raise
        return channel

    def _cancel(self, attempt: _Attempt) -> None:
        if attempt.task is not None:
            attempt.task.cancel()

    async def _wait_arrival(self, peer_id: bytes) -> Session | None:
        """Return the session to a peer once it is settled, or None after UP_TIMEOUT_S."""
        session = self._table.find(peer_id)
        if session is not None:
            return session
        arrival: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._arrivals.setdefault(peer_id, []).append(arrival)
        try:
            async with asyncio.timeout(UP_TIMEOUT_S):
                return await arrival
        except TimeoutError:
            return None
        finally:
            waiting = self._arrivals.get(peer_id, [])
            if arrival in waiting:
                waiting.remove(arrival)
            if not waiting:
                self._arrivals.pop(peer_id, None)

    # -- the one session to a peer ---------------------------------------------------------------------

    def _adopt(self, session: Session) -> None:
        """Make a settled session the one to its peer, and tell the services."""
        self._unsettled.discard(session)
        if not self.view.is_active(session.peer_id):  # it was removed while it shook hands
            session.close("removed")
            return
        old = self._table.put(session)
        if old is not None:
            self._tell_down(old, "replaced")
            if session.replaces and old.instance == session.instance:
                old.retired = True
                self._retiring[old] = self.monotonic() + self.timing.drain_s
            else:
                old.close("replaced")
        attempt = self._attempts.get(session.peer_id)
        if attempt is not None and attempt.session is not session:
            self._cancel(attempt)
        for service in list(self._services.values()):
            if session.closed:
                return
            service.on_session_up(session)
        for arrival in self._arrivals.pop(session.peer_id, []):
            if not arrival.done():
                arrival.set_result(session)

    def _tell_down(self, session: Session, reason: str) -> None:
        for service in list(self._services.values()):
            service.on_session_down(session, reason)

    def _all_sessions(self) -> list[Session]:
        return [*self._table.sessions(), *self._unsettled, *self._retiring]

    # -- once a tick -----------------------------------------------------------------------------------

    async def _judge_sessions(self) -> None:
        ticked_at, wall_at = self.monotonic(), self._clock.wall()
        while not self._closing.is_set():
            try:
                async with asyncio.timeout(self.timing.tick_s):
                    await self._closing.wait()
            except TimeoutError:
                pass
            now, wall = self.monotonic(), self._clock.wall()
            elapsed = now - ticked_at
            stalled = elapsed > self.timing.tick_s + self.timing.stall_s
            jumped = abs((wall - wall_at) - elapsed) > CLOCK_JUMP_S
            ticked_at, wall_at = now, wall
            for session in self._all_sessions():
                session.judge(now, probe=stalled or jumped)
            self._replace_worn(now)
            for session, deadline in list(self._retiring.items()):
                if session.in_flight == 0 or now >= deadline:
                    session.close("replaced")

    def _replace_worn(self, now: float) -> None:
        timing = self.timing
        for session in self._table.sessions():
            age_s = now - session.established_at
            if age_s < timing.replace_age_s and session.records < timing.replace_records:
                continue
            if session.dial_address is None:
                late = age_s >= timing.replace_age_s + timing.replace_grace_s
                if late or session.records >= timing.replace_records + RECORDS_GRACE:
                    session.close("idle")  # whoever wants it dials again
            elif now >= self._replace_after.get(session, 0.0) and session.peer_id not in self._attempts:
                self._replace_after[session] = now + REPLACE_RETRY_S * self._random.uniform(0.5, 1.0)
                try:
                    self._start_attempt(session.peer_id, session.dial_address, replaces=True)
                except Unavailable as error:
                    self.observe(Observation("replace_failed", session.subject, str(error)))


_RULES = {
    "knock": "wrong_knock",
    "stranger": "unknown_member",
    "channel_binding": "channel_binding_mismatch",
    "certificate": "bad_certificate",
    "network": "wrong_network",
    "own_key": "own_key",
    "synchronise": "behind",
}


def _fail(attempt: _Attempt, error: ShoalError) -> None:
    if not attempt.result.done():
        attempt.result.set_exception(error)
        attempt.result.exception()  # marked as seen: nobody may wait any more


async def _wait_readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
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


async def _read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read `size` bytes and not one more: what follows is for somebody else."""
    data = b""
    while len(data) < size:
        try:
            part = sock.recv(size - len(data))
        except BlockingIOError:
            await _wait_readable(sock)
            continue
        if not part:
            raise ConnectionResetError
        data += part
    return data
