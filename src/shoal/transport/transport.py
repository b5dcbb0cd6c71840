"""Transport: listens, dials, and keeps one settled session to each peer; the face of this folder.

Accepted sockets go: admission -> first byte -> TLS with knock -> hello -> session table -> services. Dialled
ones enter at TLS. Everything runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Collection, Sequence
from random import Random

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.core.clock import Clock
from shoal.core.errors import LocalMisuse, Refused, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.core.undo import undone_on_failure
from shoal.identity.ids import short_peer_id
from shoal.transport.acceptor import Acceptor, OnJoin
from shoal.transport.address import Address
from shoal.transport.admission import Admission
from shoal.transport.channels import Channels
from shoal.transport.config import TransportConfig
from shoal.transport.dialler import open_socket
from shoal.transport.dials import Dials
from shoal.transport.frame_pipe import FramePipe
from shoal.transport.guest_dial import ask_at_door, open_with_token
from shoal.transport.handshake import Party, refuse, send_hello
from shoal.transport.hello import INSTANCE_BYTES
from shoal.transport.join_channel import JoinChannel
from shoal.transport.knock import NONCE_BYTES, Knock, KnockGate, KnockKind, make_guest_knock
from shoal.transport.listener import Listener
from shoal.transport.messages import ErrorReply, Hello
from shoal.transport.ports import LanePort, MembershipView, ReachPort, Service
from shoal.transport.session import Session
from shoal.transport.session_table import SessionTable, Verdict
from shoal.wire.limits import MEMBERS
from shoal.wire.registry import MessageTable, ServiceNumber

REPLACE_RETRY_S = 60.0
SESSIONS_S = 1.0  # accepted of one member: each costs a handshake and tells every service; wild guess
SESSIONS_BURST = 20.0
RECORDS_GRACE = 2**20  # the accepting end lets a session go on this long beyond replace_records
CLOCK_JUMP_S = 5.0  # wall against monotonic clock within one tick


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
        self.timing = config.timing
        self.lanes: LanePort | None = None
        self.reach: ReachPort | None = None
        self.on_join: OnJoin | None = None
        self._clock = clock
        self._random = rng
        self._observer = observe
        self._own_id = config.keys.peer_id
        self._party = Party(config.keys, config.network_id, view, secrets.token_bytes(INSTANCE_BYTES))
        self._services: dict[int, Service] = {}
        self._lane_table: MessageTable | None = None
        self._gate = KnockGate(self._own_id, view, config.limits.nonces)
        admission = Admission(config.limits)
        self._channels = Channels(config.keys, self._gate, admission, config.limits, clock.monotonic)
        self._acceptor = Acceptor(self, self._party, self._channels, admission)
        self._listener = Listener(config.listen, self._acceptor.on_socket, self.observe)
        self._dials = Dials(self, self._party, self._channels, config.limits.dials)
        self._table = SessionTable(self._own_id, self.timing.simultaneous_s)
        self._unsettled: set[Session] = set()  # bounded by handshakes and dials
        self._retiring: dict[Session, float] = {}  # replaced, until their requests are answered
        self._replace_after: dict[Session, float] = {}
        self._accepted: BoundedMap[bytes, TokenBucket] = BoundedMap(MEMBERS)
        self._closing = asyncio.Event()

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

    def attach_reach(self, reach: ReachPort) -> None:
        """Give ways that are no addresses, guests, and sockets with its preamble to who makes them."""
        self.reach = reach
        self._gate.match_guest = reach.match_guest_knock

    async def start(self) -> None:
        """Bind, accept and judge sessions from now on. Raises: ConfigFault when an address cannot be used."""
        self._listener.start()
        self.supervisor.start("transport sessions", self._judge_sessions)

    async def close(self, reason: str = "shutdown") -> None:
        """Stop listening, end every session and dial; idempotent. Peers are told if they can be reached."""
        self._closing.set()
        self._listener.close()
        self._dials.close()
        self._acceptor.close()
        self.close_all(reason)
        await asyncio.sleep(0)  # goodbyes are written; the sockets close by themselves within goodbye_s

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
        self._dials.cancel(peer_id)
        for session in self._all_sessions():
            if session.peer_id == peer_id:
                session.close(reason)

    def close_all(self, reason: str) -> None:
        """End every session at once, for instance because membership is blocked."""
        for session in self._all_sessions():
            session.close(reason)

    def close_stranded(self, own_hosts: Collection[str]) -> None:
        """End the sessions that go out from an address which this machine has no more: nothing comes back.

        `own_hosts`: all that it has, loopback excepted.
        """
        for session in self._all_sessions():
            if session.own_host and not session.over_loopback and session.own_host not in own_hosts:
                session.close("reset", "network")

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
                    attempt = self._dials.find(peer_id)
                    if attempt is None or attempt.address == address:
                        attempt = attempt or self._dials.start(peer_id, address, replaces=False)
                        return await asyncio.shield(attempt.result)
                    await asyncio.wait([attempt.result])  # somebody tries another address of that peer
        except TimeoutError as error:
            raise Unavailable(
                f"{address} did not become a session", cause=f"it had {timeout_s:g} s", code="timeout"
            ) from error

    async def dial_join(
        self,
        inviter: bytes,
        address: Address,
        nonce: bytes,
        mac: bytes,
        timeout_s: float = 8.0,
        sock: socket.socket | None = None,
    ) -> JoinChannel:
        """Return a channel to the inviter of a ticket, whose key is checked. Cancelling is safe.

        `nonce` and `mac` are the join knock; `sock`: a connection that leads there already, and is closed
        where this fails. Raises: Unavailable, Refused (the knock), RemoteFault.
        """
        with undone_on_failure(sock.close if sock is not None else lambda: None):
            self._check_dial(inviter)
        knock = Knock(KnockKind.JOIN, nonce, mac)
        return await self._dial_channel(inviter, address, knock, timeout_s, sock)

    async def open_guest_way(
        self, relay: bytes, at: Address, guest_pass: bytes, timeout_s: float = 8.0
    ) -> socket.socket:
        """Return a socket that leads to an inviter over a relay, which lets in who has the pass (guest.md).

        `at`: where the relay is. Cancelling closes it. Raises: Unavailable, Refused (the relay does not know
        the pass: code `knock`; or it said no), RemoteFault.
        """
        self._check_dial(relay)
        knock = make_guest_knock(guest_pass, secrets.token_bytes(NONCE_BYTES), relay)
        door = await self._dial_channel(relay, at, knock, timeout_s, None)
        async with door:
            token = await ask_at_door(door, guest_pass)
        return await open_with_token(at, token, timeout_s)

    async def _dial_channel(
        self, peer_id: bytes, address: Address, knock: Knock, timeout_s: float, sock: socket.socket | None
    ) -> JoinChannel:
        try:
            async with asyncio.timeout(timeout_s):
                if sock is None:
                    sock = await self.open_socket(address, timeout_s)
                channel = await self._channels.dial(sock, peer_id, knock.name)
        except TimeoutError as error:
            raise Unavailable(
                f"{address} did not answer", cause=f"it had {timeout_s:g} s", code="timeout"
            ) from error
        return JoinChannel(FramePipe(channel), self._own_id, address, True, None)

    async def replace(self, peer_id: bytes, address: Address, timeout_s: float = 8.0) -> Session:
        """Dial another way to a peer with a session; the old one goes on until the new one is settled.

        Raises: Unavailable, also while another dial to that peer goes on; Refused, RemoteFault.
        """
        self._check_dial(peer_id)
        if self._dials.find(peer_id) is not None:
            raise Unavailable("The way was not changed", cause="the peer is being dialled", retry_after_s=1.0)
        attempt = self._dials.start(peer_id, address, replaces=True)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(attempt.result)
        except TimeoutError as error:
            attempt.cancel()
            if attempt.task is not None:
                await asyncio.wait([attempt.task])  # or the next way would find this dial going on
            cause = f"it had {timeout_s:g} s"
            raise Unavailable(f"{address} did not become a session", cause=cause, code="timeout") from error

    async def open_socket(
        self, address: Address, timeout_s: float = 8.0, peer_id: bytes = b"", fall_back: bool = False
    ) -> socket.socket:
        """Return a connected, non-blocking TCP socket; sessions and lanes take the same way.

        `fall_back`: where a way that is no address fails, a relay will do.
        """
        if not address.is_way:
            return await open_socket(address, timeout_s)
        if self.reach is None:
            raise Unavailable("The peer cannot be reached", cause=f"there is no way {address}", code="no_way")
        return await self.reach.open_socket(address, peer_id, timeout_s, fall_back)

    def take_socket(self, sock: socket.socket, address: Address) -> None:
        """Serve a connection that came over another way as if it had been accepted."""
        self._acceptor.on_socket(sock, address)

    # -- SessionHost -----------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Seconds on the clock that every deadline of transport uses."""
        return self._clock.monotonic()

    def wall(self) -> float:
        """Seconds since 1970, for display."""
        return self._clock.wall()

    def observe(self, observation: Observation) -> None:
        """Report what was seen; nothing down here judges it."""
        self._observer(observation)

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

    # -- for the acceptor and the dials ----------------------------------------------------------------

    def accept_session(self, pipe: FramePipe, address: Address, hello: Hello) -> None:
        """Decide about a session whose initiator was verified, and answer its hello."""
        channel = pipe.channel
        if channel.closed:  # gone while its entries were stored: it must not replace a session that lives
            return
        if not self._may_accept(channel.peer_id):
            self.observe(Observation("session_churn", short_peer_id(channel.peer_id)))
            refuse(channel, ErrorReply("unavailable", "busy", "Too many sessions in a short time"))
            channel.close(self.timing.goodbye_s)
            return
        verdict = self._table.judge_accepted(
            channel.peer_id,
            hello.instance,
            hello.replaces,
            self.monotonic(),
            self._dials.is_committed(channel.peer_id),
        )
        if verdict is Verdict.REFUSE or self._closing.is_set():
            refuse(channel, ErrorReply("unavailable", "duplicate", "There is a session already"))
            channel.close(self.timing.goodbye_s)
            return
        send_hello(self._party, channel, hello)
        session = Session(self, channel, address, None, hello)
        self._unsettled.add(session)
        if verdict is Verdict.WAIT:
            before = self._table.wait(session)
            if before is not None:
                before.close("duplicate")
        else:
            session.settle(tell=True)
            self._adopt(session)
        session.start(pipe.reader, pipe.take_frames())

    def make_dialled_session(
        self, pipe: FramePipe, address: Address, hello: Hello, replaces: bool
    ) -> Session:
        """Return the session of a responder that was verified; it waits to be settled."""
        session = Session(self, pipe.channel, address, address, hello)
        session.replaces = replaces
        self._unsettled.add(session)
        return session

    def on_dial_ended(self, peer_id: bytes) -> None:
        """Decide about an accepted session that waited for the end of our dial."""
        waiting = self._table.take_waiting(peer_id)
        if waiting is None or waiting.closed:
            return
        current = self._table.find(peer_id)
        if current is not None and current.is_dialler:
            waiting.close("duplicate")
        else:
            waiting.settle(tell=True)
            self._adopt(waiting)

    def _may_accept(self, peer_id: bytes) -> bool:
        now = self.monotonic()
        bucket = self._accepted.find(peer_id)
        if bucket is None:
            bucket = TokenBucket(SESSIONS_S, SESSIONS_BURST, now)
            self._accepted.put(peer_id, bucket)
        return bucket.try_take(now)

    def _check_dial(self, peer_id: bytes) -> None:
        if peer_id == self._own_id:
            raise LocalMisuse("a node does not dial itself")
        if self._closing.is_set():
            raise Unavailable("The node is stopping", code="shutdown")

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
            for older in [other for other in self._retiring if other.peer_id == session.peer_id]:
                older.close("replaced")  # one at a time, or each replacement would bring new budgets
            if session.replaces and old.instance == session.instance:
                old.retired = True
                self._retiring[old] = self.monotonic() + self.timing.drain_s
            else:
                old.close("replaced")
        self._dials.on_session_up(session)
        for service in list(self._services.values()):
            if session.closed:
                return
            service.on_session_up(session)

    def _tell_down(self, session: Session, reason: str) -> None:
        for service in list(self._services.values()):
            service.on_session_down(session, reason)

    def _all_sessions(self) -> Sequence[Session]:
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
            elif now >= self._replace_after.get(session, 0.0) and self._dials.find(session.peer_id) is None:
                self._replace_after[session] = now + REPLACE_RETRY_S * self._random.uniform(0.5, 1.0)
                try:
                    self._dials.start(session.peer_id, session.dial_address, replaces=True)
                except Unavailable as error:
                    self.observe(Observation("replace_failed", session.subject, str(error)))
