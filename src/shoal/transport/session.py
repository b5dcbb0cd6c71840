"""Session: the authenticated, persistent control channel to one peer: requests, notices, heartbeat.

Frames of every service travel over it (spec/session.md). A session never dials, lives or dies for itself: the
transport judges it once a tick and owns the table it stands in. What the peer asks is in answering.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from shoal.core.budget import TokenBucket
from shoal.core.errors import LocalMisuse, MalformedMessage, RemoteFault, ShoalError, Unavailable
from shoal.core.observation import Observation
from shoal.identity.ids import short_peer_id
from shoal.identity.operations import Role
from shoal.transport.address import PUNCHED, Address
from shoal.transport.answering import LANE_BUDGET, Answering, AnsweringHost
from shoal.transport.channel import TlsChannel
from shoal.transport.config import SessionTiming
from shoal.transport.heartbeat import Beat, Heartbeat
from shoal.transport.messages import (
    ERROR_BYTES,
    LANE_TYPES,
    ErrorReply,
    GoingAway,
    Hello,
    Ping,
    Pong,
    SessionType,
    Settled,
    check_length,
    make_error,
)
from shoal.transport.ports import ServiceBudget
from shoal.wire.codec import Message, decode, encode
from shoal.wire.frames import Frame, FrameKind, FrameReader, pack_frame
from shoal.wire.limits import BUFFER_BYTES, MESSAGE_BYTES
from shoal.wire.registry import MessageTable, ServiceNumber

if TYPE_CHECKING:
    from shoal.transport.lane import Lane

REASONS = frozenset(
    {
        *("closed", "shutdown", "idle", "evicted", "blocked"),  # somebody wanted it
        *("removed", "left", "banned"),  # the peer is not to come back
        *("duplicate", "replaced"),  # there is another session
        *("dead", "reset", "fault"),  # the network, or a broken protocol
    }
)
HEAD8_BYTES = 8
NOTIFY_BUFFER_BYTES = BUFFER_BYTES // 4  # `notify` gives up beyond it; requests and answers have the rest
PING_S = 20.0  # of incoming pings; ours come every 4 s, a person's `shoal ping` a few times a second
PING_BURST = 40.0


class SessionHost(AnsweringHost, Protocol):
    """What a session needs of its transport."""

    timing: SessionTiming

    def wall(self) -> float: ...

    def on_session_settled(self, session: Session) -> None: ...

    def on_session_closed(self, session: Session, reason: str) -> None: ...


class Session:
    """One session. Made by the transport after both hellos; `settled` once it is the session to this peer."""

    def __init__(
        self,
        host: SessionHost,
        channel: TlsChannel,
        address: Address,
        dial_address: Address | None,
        hello: Hello,
    ) -> None:
        self.peer_id = channel.peer_id
        self.address = address  # the other end of the socket
        self.dial_address = dial_address  # what we dialled; None at the accepting end
        self.is_dialler = dial_address is not None
        self.instance = hello.instance
        self.replaces = hello.replaces
        self.peer_head8 = hello.head[:HEAD8_BYTES]
        self.established_at = host.monotonic()
        self.used_at = self.established_at  # when something other than a heartbeat was sent or came last
        self.may_rest = False  # nobody waits for what may come over it, says who decides that it is kept
        self.settled = False
        self.retired = False  # another session took its place; it finishes what is in flight
        self.closed = False
        self.close_reason = ""
        self.closed_by = ""  # us | peer | network
        self.clock_skew_s: float | None = None  # the peer's clock minus ours, for people; None until told
        self._host = host
        self._channel = channel
        self._reader = FrameReader()
        self._next_id = 0
        self._asked: dict[int, tuple[asyncio.Future[Message], MessageTable]] = {}  # bounded by _places
        self._places: dict[int, asyncio.Semaphore] = {}  # requests in flight, by registered service
        self._answering = Answering(host, self)
        self._heartbeat = Heartbeat(host.timing, self.established_at)
        self._ping_bucket = TokenBucket(PING_S, PING_BURST, self.established_at)
        self._settle_waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        way = "to" if self.is_dialler else "from"
        return f"<Session {way} {self.subject} {self.address}>"

    # -- facts -----------------------------------------------------------------------------------------

    @property
    def role(self) -> Role | None:
        """The peer's role in the network now."""
        return self._host.view.role_of(self.peer_id)

    @property
    def relay(self) -> bytes | None:
        """The peer over which this session goes; None for a direct one."""
        return self.address.relay

    @property
    def path(self) -> str:
        """How the peer is reached: `direct`, `punched` or `relay`."""
        if self.relay is not None:
            return "relay"
        return "punched" if self.dial_address == PUNCHED else "direct"

    @property
    def own_host(self) -> str:
        """Our address on the way to the peer, or to the relay."""
        return self._channel.own_host

    @property
    def far_end(self) -> Address | None:
        """Where the connection leads, or comes from; None over a relay: it is the relay's."""
        return None if self.relay is not None else self._channel.far_end

    @property
    def over_loopback(self) -> bool:
        """Whether the peer is on this machine."""
        return self.address.is_loopback

    @property
    def subject(self) -> str:
        """The peer, as observations name it."""
        return short_peer_id(self.peer_id)

    @property
    def rtt_ms(self) -> float | None:
        """The smoothed round trip; None until the first answer."""
        return self._heartbeat.rtt_ms

    @property
    def in_flight(self) -> int:
        """Requests without an answer yet, both ways."""
        return len(self._asked) + len(self._answering)

    @property
    def buffered_bytes(self) -> int:
        """What the network has not taken yet."""
        return self._channel.buffered_bytes

    @property
    def records(self) -> int:
        """TLS records of the busier direction."""
        return max(self._channel.records_sent, self._channel.records_received)

    def exporter(self, label: bytes, context: bytes, length: int) -> bytes:
        """Return keying material that only the two ends of this session know."""
        return self._channel.exporter(label, context, length)

    # -- asking ----------------------------------------------------------------------------------------

    async def request(self, service: ServiceNumber, message: Message, timeout_s: float = 10.0) -> Message:
        """Send a request and return the answer.

        Cancelling is safe: the peer is told and may have acted already. Waits for a free place when as many
        requests as the service allows are in flight.
        Raises: Unavailable (session ended, time-out, peer busy), Refused, RemoteFault.
        """
        table, budget = self._require(service)
        number, payload = table.encode(message, min(budget.message_bytes, MESSAGE_BYTES))
        place = self._places.get(service)
        if place is None:
            place = self._places[service] = asyncio.Semaphore(budget.requests_in_flight)
        try:
            async with asyncio.timeout(timeout_s), place:
                return await self._ask(table, number, payload)
        except TimeoutError as error:
            cause = f"{type(message).__name__} had {timeout_s:g} s"
            raise Unavailable("The peer did not answer", cause=cause, code="timeout") from error

    def notify(self, service: ServiceNumber, message: Message) -> bool:
        """Send a message that has no answer; return whether it was taken. Never blocks.

        False: the session is closed, not settled, or NOTIFY_BUFFER_BYTES wait to be sent.
        """
        if self.closed or not self.settled or self._channel.buffered_bytes > NOTIFY_BUFFER_BYTES:
            return False
        table, budget = self._require(service)
        number, payload = table.encode(message, min(budget.message_bytes, MESSAGE_BYTES))
        self.send_frame(Frame(FrameKind.NOTICE, service, number, 0, payload))
        return True

    async def ping(self, timeout_s: float = 5.0) -> float:
        """Return the round trip now, in milliseconds. Raises: Unavailable. Cancelling is safe."""
        if self.closed:
            raise self._ended()
        waiter: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._ping(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError as error:
            cause = f"a ping had {timeout_s:g} s"
            raise Unavailable("The peer did not answer", cause=cause, code="timeout") from error

    async def open_lane(self, service: ServiceNumber, purpose: bytes, send: bool) -> Lane:
        """Open a lane for bulk data to the peer's service. Raises: Unavailable, Refused, RemoteFault."""
        if self._host.lanes is None:
            raise LocalMisuse("no lane broker is attached to the transport")
        if self.closed or not self.settled:
            raise self._ended()
        return await self._host.lanes.open(self, service, purpose, send)

    def close(self, reason: str = "closed", by: str = "us") -> None:
        """End the session at once: requests of both ends fail or are cancelled, lanes close. Idempotent.

        The peer is told the reason if it can still be reached.
        """
        if self.closed:
            return
        self.closed, self.close_reason, self.closed_by = True, reason, by
        if by == "us":
            self._say(FrameKind.NOTICE, SessionType.GOING_AWAY, 0, GoingAway(reason))
        if by == "network":
            self._channel.abort()
        else:
            self._channel.close(self._host.timing.goodbye_s)
        error = self._ended()
        for future, _ in self._asked.values():
            _fail(future, error)
        self._asked.clear()
        _fail(self._settle_waiter, error)
        self._heartbeat.close(error)
        self._answering.close()
        if self._host.lanes is not None:
            self._host.lanes.close_session(self)
        self._host.on_session_closed(self, reason)

    # -- for the transport -----------------------------------------------------------------------------

    def start(self, reader: FrameReader, frames: Sequence[Frame]) -> None:
        """Read from now on; `frames` came before."""
        self._reader = reader
        for frame in frames:
            self._on_frame(frame)
        self._channel.start(self._on_data, self._on_lost)
        if self._channel.closed:  # it ended while the hello was judged, and nobody says so twice
            self.close("reset", "network")

    def settle(self, tell: bool) -> None:
        """Make this the session to its peer; `tell` at the accepting end, which decides."""
        if self.closed or self.settled:
            return
        self.settled = True
        if tell:
            self._say(FrameKind.NOTICE, SessionType.SETTLED, 0, Settled())
        if not self._settle_waiter.done():
            self._settle_waiter.set_result(None)
        self._ping(None)  # the first round trip time

    async def wait_settled(self) -> None:
        """Wait until the session is settled. Raises: Unavailable when it ends before. Cancelling is safe."""
        await asyncio.shield(self._settle_waiter)

    def judge(self, now: float, probe: bool) -> None:
        """Look at the peer, once a tick; `probe` after a stall or sleep of our own, see heartbeat.py."""
        if self._channel.buffered_bytes > BUFFER_BYTES:  # of pongs, or of TLS itself: no `send_frame` saw it
            self._close_slow()
            return
        resting = (
            self.may_rest and not self.in_flight and now - self.used_at >= self._host.timing.rest_after_s
        )
        match self._heartbeat.judge(now, self._channel.last_received_at, probe, resting):
            case Beat.PING:
                self._ping(None)
            case Beat.DEAD:
                self.close("dead", "network")
            case Beat.NOTHING:
                pass

    def send_frame(self, frame: Frame) -> None:
        """Send a frame; dropped once closed. A peer that does not read loses the session."""
        if self.closed:
            return
        self.used_at = self._host.monotonic()
        self._channel.write(pack_frame(frame))
        if self._channel.buffered_bytes > BUFFER_BYTES:
            self._close_slow()

    def _close_slow(self) -> None:
        self._host.observe(Observation("slow_reader", self.subject, "does not take what it asked for"))
        self.close("fault", "network")

    # -- coming in -------------------------------------------------------------------------------------

    def _on_data(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except RemoteFault as error:
            self._host.observe(Observation("malformed_frame", self.subject, str(error)))
            self.close("fault")
            return
        for frame in frames:
            self._on_frame(frame)

    def _on_lost(self, error: ShoalError) -> None:
        if isinstance(error, RemoteFault):
            self._host.observe(Observation("tls_fault", self.subject, str(error)))
        self.close("fault" if isinstance(error, RemoteFault) else "reset", "network")

    def _on_frame(self, frame: Frame) -> None:
        if self.closed:
            return
        is_own = frame.service == ServiceNumber.SESSION and frame.message_type not in LANE_TYPES
        if not is_own:
            self.used_at = self._host.monotonic()
        try:
            match frame.kind:
                case FrameKind.REQUEST:
                    self._on_ping(frame) if is_own else self._answering.on_request(frame)
                case FrameKind.NOTICE:
                    self._on_own_notice(frame) if is_own else self._answering.on_notice(frame)
                case FrameKind.RESPONSE | FrameKind.ERROR:
                    self._on_answer(frame)
                case FrameKind.CANCEL:
                    self._answering.cancel(frame.request_id)
        except RemoteFault as error:
            self._answering.on_fault(error)

    def _on_answer(self, frame: Frame) -> None:
        if frame.service == ServiceNumber.SESSION and self._heartbeat.is_waiting(frame.request_id):
            self._on_pong(frame)
            return
        future, table = self._asked.get(frame.request_id, (None, None))
        if future is None or table is None or future.done():
            return  # cancelled or timed out meanwhile
        try:
            if table.service != frame.service:
                raise MalformedMessage("an answer from another service")
            if frame.kind is FrameKind.ERROR:
                reply = decode(ErrorReply, frame.payload, ERROR_BYTES)
                _fail(future, make_error(reply, self.peer_id))
                return
            message = table.decode(frame.message_type, frame.payload)
            if message is None:
                raise MalformedMessage("an answer of unknown type")
        except RemoteFault as error:
            error.peer = self.peer_id
            _fail(future, error)
            raise
        future.set_result(message)

    def _on_own_notice(self, frame: Frame) -> None:
        match frame.message_type:
            case SessionType.SETTLED:
                decode(Settled, frame.payload)
                if not self.is_dialler:
                    raise MalformedMessage("only the accepting end settles a session")
                if not self.settled:
                    self.settle(tell=False)
                    self._host.on_session_settled(self)
            case SessionType.GOING_AWAY:
                reason = decode(GoingAway, frame.payload).reason
                self.close(reason if reason in REASONS else "closed", "peer")
            case number if number % 2 == 0:
                raise MalformedMessage(f"SESSION has no notice {number}")
            case _:
                pass

    def _on_ping(self, frame: Frame) -> None:
        if frame.message_type != SessionType.PING:
            if frame.message_type % 2 == 0:
                raise MalformedMessage(f"SESSION has no request {frame.message_type} now")
            self._answering.refuse(frame, "unsupported", "This peer does not know that request")
            return
        if not self._ping_bucket.try_take(self._host.monotonic()):
            self._host.observe(Observation("over_budget", self.subject, "pings"))
            return
        head = decode(Ping, frame.payload).head
        check_length("head", head, HEAD8_BYTES)
        self._heartbeat.on_asked(self._host.monotonic())
        pong = Pong(self._host.view.head()[:HEAD8_BYTES], max(0, int(self._host.wall())))
        self._say(FrameKind.RESPONSE, SessionType.PONG, frame.request_id, pong)
        self._on_head(head)

    def _on_pong(self, frame: Frame) -> None:
        if frame.kind is FrameKind.ERROR or frame.message_type != SessionType.PONG:
            raise MalformedMessage("a ping was answered by something else")
        pong = decode(Pong, frame.payload)
        check_length("head", pong.head, HEAD8_BYTES)
        self._heartbeat.on_answer(frame.request_id, self._host.monotonic())
        if pong.time:
            self.clock_skew_s = pong.time - self._host.wall()
        self._on_head(pong.head)

    def _on_head(self, head8: bytes) -> None:
        self.peer_head8 = head8
        service = self._host.find_service(ServiceNumber.MEMBERSHIP)
        if service is not None and self.settled and not self.retired:
            service.on_peer_head(self, head8)

    # -- going out -------------------------------------------------------------------------------------

    async def _ask(self, table: MessageTable, number: int, payload: bytes) -> Message:
        if self.closed:
            raise self._ended()
        request_id = self._make_id()
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[request_id] = (future, table)
        self.send_frame(Frame(FrameKind.REQUEST, table.service, number, request_id, payload))
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self.send_frame(Frame(FrameKind.CANCEL, table.service, 0, request_id, b""))
            raise
        finally:
            self._asked.pop(request_id, None)

    def _ping(self, waiter: asyncio.Future[float] | None) -> None:
        ping_id = self._make_id()
        self._heartbeat.on_sent(ping_id, self._host.monotonic(), waiter)
        self._say(FrameKind.REQUEST, SessionType.PING, ping_id, Ping(self._host.view.head()[:HEAD8_BYTES]))

    def _say(self, kind: FrameKind, number: SessionType, request_id: int, message: Message) -> None:
        frame = Frame(kind, ServiceNumber.SESSION, number, request_id, encode(message))
        self._channel.write(pack_frame(frame))

    def _make_id(self) -> int:
        while True:
            self._next_id = self._next_id % 0xFFFFFFFF + 1
            if self._next_id not in self._asked and not self._heartbeat.is_waiting(self._next_id):
                return self._next_id

    def _require(self, number: ServiceNumber) -> tuple[MessageTable, ServiceBudget]:
        if self.closed or not self.settled:
            raise self._ended()
        if number == ServiceNumber.SESSION:
            table = self._host.lane_table()
            if table is None:
                raise LocalMisuse("no lane broker is attached to the transport")
            return table, LANE_BUDGET
        service = self._host.find_service(number)
        if service is None:
            raise LocalMisuse(f"no service {number.name} is registered")
        return service.table, service.budget

    def _ended(self) -> Unavailable:
        cause = f"the session ended: {self.close_reason}" if self.closed else "the session is not settled yet"
        return Unavailable("The peer cannot be asked now", cause=cause, code=self.close_reason or "unsettled")


def _fail(future: asyncio.Future[Message] | asyncio.Future[None], error: ShoalError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marked as seen: nobody may be waiting any more
