"""Session: the authenticated, persistent control channel to one peer: requests, notices, heartbeat.

Frames of every service travel over it (spec/session.md). Order of checks on what comes in: size, rate,
membership, duplicate, schema, and only then the service. A session never dials, lives or dies for itself:
the transport judges it once a tick and owns the table it stands in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from shoal.core.budget import TokenBucket
from shoal.core.errors import (
    LimitExceeded,
    LocalMisuse,
    MalformedMessage,
    RemoteFault,
    ShoalError,
    Unavailable,
)
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.identity.ids import short_peer_id
from shoal.identity.operations import Role
from shoal.transport.address import Address
from shoal.transport.channel import TlsChannel
from shoal.transport.config import SessionTiming
from shoal.transport.messages import (
    LANE_TYPES,
    ErrorReply,
    GoingAway,
    Ping,
    Pong,
    Settled,
    check_length,
    make_error,
    make_error_reply,
)
from shoal.transport.ports import LanePort, MembershipView, Service, ServiceBudget
from shoal.wire.codec import Message, decode, encode
from shoal.wire.frames import Frame, FrameKind, FrameReader, pack_frame
from shoal.wire.limits import BUFFER_BYTES, MESSAGE_BYTES, REQUESTS_IN_FLIGHT
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
BUSY_BUFFER_BYTES = BUFFER_BYTES // 2  # who does not read our answers gets no more of them
ERROR_BYTES = 4096
MALFORMED_BURST = 3.0  # a minute; security.md section 3
MALFORMED_S = 3.0 / 60.0
PING_S = 20.0  # of incoming pings; ours come every 5 s, a person's `shoal ping` a few times a second
PING_BURST = 40.0
PINGS_WAITING = 8
RTT_WEIGHT = 0.125  # RFC 6298's alpha
SESSION_BUDGET = ServiceBudget(requests_in_flight=16, messages_per_s=100.0, burst=200.0, message_bytes=4096)
"""Budget of lane control messages."""


class SessionHost(Protocol):
    """What a session needs of its transport."""

    view: MembershipView
    supervisor: Supervisor
    observe: Observer
    timing: SessionTiming
    lanes: LanePort | None

    def monotonic(self) -> float: ...

    def find_service(self, number: int) -> Service | None: ...

    def lane_table(self) -> MessageTable | None: ...

    def on_session_settled(self, session: Session) -> None: ...

    def on_session_closed(self, session: Session, reason: str) -> None: ...


class _Traffic:
    """What one peer does with one service: rate and requests in flight, both ways."""

    __slots__ = ("asking", "bucket", "in_flight")

    def __init__(self, budget: ServiceBudget, now: float) -> None:
        self.bucket = TokenBucket(budget.messages_per_s, budget.burst, now)
        self.in_flight = 0
        self.asking = asyncio.Semaphore(budget.requests_in_flight)


class Session:
    """One session. Made by the transport after both hellos; `settled` once it is the session to this peer."""

    path = "direct"

    def __init__(
        self,
        host: SessionHost,
        channel: TlsChannel,
        address: Address,
        dial_address: Address | None,
        instance: bytes,
        peer_head: bytes,
        replaces: bool,
    ) -> None:
        self.peer_id = channel.peer_id
        self.address = address  # the other end of the socket
        self.dial_address = dial_address  # what we dialled; None at the accepting end
        self.is_dialler = dial_address is not None
        self.instance = instance
        self.replaces = replaces
        self.peer_head8 = peer_head[:HEAD8_BYTES]
        self.established_at = host.monotonic()
        self.rtt_ms: float | None = None
        self.settled = False
        self.retired = False  # another session took its place; it finishes what is in flight
        self.closed = False
        self.close_reason = ""
        self.closed_by = ""  # us | peer | network
        self._host = host
        self._channel = channel
        self._reader = FrameReader()
        self._next_id = 0
        self._asked: dict[int, tuple[asyncio.Future[Message], MessageTable]] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}  # at most REQUESTS_IN_FLIGHT
        self._pings: dict[int, tuple[float, asyncio.Future[float] | None]] = {}  # at most PINGS_WAITING
        self._traffic: dict[int, _Traffic] = {}  # by registered service
        self._malformed = TokenBucket(MALFORMED_S, MALFORMED_BURST, self.established_at)
        self._ping_bucket = TokenBucket(PING_S, PING_BURST, self.established_at)
        self._pinged_at = self.established_at
        self._probed_at: float | None = None
        self._settle_waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        way = "to" if self.is_dialler else "from"
        return f"<Session {way} {short_peer_id(self.peer_id)} {self.address}>"

    # -- facts -----------------------------------------------------------------------------------------

    @property
    def role(self) -> Role | None:
        """The peer's role in the network now."""
        return self._host.view.role_of(self.peer_id)

    @property
    def over_loopback(self) -> bool:
        """Whether the peer is on this machine."""
        return self.address.is_loopback

    @property
    def subject(self) -> str:
        """The peer, as observations name it."""
        return short_peer_id(self.peer_id)

    @property
    def in_flight(self) -> int:
        """Requests without an answer yet, both ways."""
        return len(self._asked) + len(self._answering)

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
        traffic = self._traffic_of(service, budget)
        try:
            async with asyncio.timeout(timeout_s), traffic.asking:
                return await self._ask(table, number, payload)
        except TimeoutError as error:
            raise Unavailable(
                "The peer did not answer",
                cause=f"{type(message).__name__} had {timeout_s:g} s",
                code="timeout",
            ) from error

    def notify(self, service: ServiceNumber, message: Message) -> bool:
        """Send a message that has no answer; return whether it was taken. Never blocks.

        False: the session is closed, not settled, or NOTIFY_BUFFER_BYTES wait to be sent.
        """
        if self.closed or not self.settled or self._channel.buffered_bytes > NOTIFY_BUFFER_BYTES:
            return False
        table, budget = self._require(service)
        number, payload = table.encode(message, min(budget.message_bytes, MESSAGE_BYTES))
        self._send(FrameKind.NOTICE, service, number, 0, payload)
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
            raise Unavailable(
                "The peer did not answer", cause=f"a ping had {timeout_s:g} s", code="timeout"
            ) from error

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
        if by == "us" and not self._channel.closed:
            self._send_raw(FrameKind.NOTICE, 6, 0, encode(GoingAway(reason)))
        if by == "network":
            self._channel.abort()
        else:
            self._channel.close(self._host.timing.goodbye_s)
        error = self._ended()
        for future, _ in self._asked.values():
            _fail(future, error)
        for _, waiter in self._pings.values():
            if waiter is not None:
                _fail(waiter, error)
        _fail(self._settle_waiter, error)
        self._asked.clear()
        self._pings.clear()
        for task in self._answering.values():
            task.cancel()
        if self._host.lanes is not None:
            self._host.lanes.close_session(self)
        self._host.on_session_closed(self, reason)

    # -- for the transport -----------------------------------------------------------------------------

    def start(self, reader: FrameReader, frames: Sequence[Frame]) -> None:
        """Read from now on; `frames` came before."""
        self._reader = reader
        for frame in frames:
            self._on_frame(frame)
            if self.closed:
                return
        self._channel.start(self._on_data, self._on_lost)

    def send_hello(self, kind: FrameKind, payload: bytes) -> None:
        """Send our hello as a frame of the session service."""
        self._send_raw(kind, 2, 1, payload)

    def settle(self, tell: bool) -> None:
        """Make this the session to its peer; `tell` at the accepting end, which decides."""
        if self.closed or self.settled:
            return
        self.settled = True
        if tell:
            self._send_raw(FrameKind.NOTICE, 4, 0, encode(Settled()))
        if not self._settle_waiter.done():
            self._settle_waiter.set_result(None)
        self._ping(None)  # the first round trip time

    async def wait_settled(self) -> None:
        """Wait until the session is settled. Raises: Unavailable when it ends before. Cancelling is safe."""
        await asyncio.shield(self._settle_waiter)

    def judge(self, now: float, probe: bool) -> None:
        """Look at the session once a tick: send the heartbeat, probe a silent peer, give a dead one up.

        `probe`: our own loop stalled or the machine slept, so silence proves nothing yet: what arrived
        meanwhile is still in the kernel, and the peer gets its full time to answer.
        """
        timing = self._host.timing
        received_at = self._channel.last_received_at
        if probe:
            self._probed_at = now
            self._ping(None)
        elif self._probed_at is not None:
            if received_at >= self._probed_at:
                self._probed_at = None
            elif now - self._probed_at >= timing.probe_s:
                self.close("dead", "network")
        elif now - received_at >= timing.silence_s:
            self._probed_at = now
            self._ping(None)
        if not self.closed and now - self._pinged_at >= timing.heartbeat_s:
            self._ping(None)

    # -- coming in -------------------------------------------------------------------------------------

    def _on_data(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except RemoteFault as error:
            self._on_broken(error)
            return
        for frame in frames:
            self._on_frame(frame)
            if self.closed:
                return

    def _on_lost(self, error: ShoalError) -> None:
        if isinstance(error, RemoteFault):
            self._observe("tls_fault", error)
        self.close("reset" if isinstance(error, Unavailable) else "fault", "network")

    def _on_frame(self, frame: Frame) -> None:
        try:
            match frame.kind:
                case FrameKind.REQUEST:
                    self._on_request(frame)
                case FrameKind.RESPONSE | FrameKind.ERROR:
                    self._on_answer(frame)
                case FrameKind.NOTICE:
                    self._on_notice(frame)
                case FrameKind.CANCEL:
                    task = self._answering.get(frame.request_id)
                    if task is not None:
                        task.cancel()
        except RemoteFault as error:
            self._on_fault(error)

    def _on_request(self, frame: Frame) -> None:
        if frame.service == ServiceNumber.SESSION and frame.message_type not in LANE_TYPES:
            self._on_ping(frame)
            return
        now = self._host.monotonic()
        found = self._find(frame)
        if found is None:
            self._refuse(frame, "unsupported", "This peer does not have that service")
            return
        table, budget, answer = found
        if len(frame.payload) > budget.message_bytes:
            self._refuse(frame, "limit_exceeded", "The request is over the service's limit", "limit")
            raise LimitExceeded("a request over its service's limit", cause=f"{len(frame.payload)} bytes")
        traffic = self._traffic_of(frame.service, budget)
        if (
            not traffic.bucket.try_take(now)
            or traffic.in_flight >= budget.requests_in_flight
            or len(self._answering) >= REQUESTS_IN_FLIGHT
            or self._channel.buffered_bytes > BUSY_BUFFER_BYTES
        ):
            self._observe_rate(frame.service)
            self._refuse(frame, "busy", "The peer is busy", "unavailable")
            return
        if not self._is_allowed():
            return
        if frame.request_id in self._answering:
            raise MalformedMessage("a request id that is in flight already")
        try:
            message = table.decode(frame.message_type, frame.payload)
        except RemoteFault as error:
            self._send_error(frame, error)
            raise
        if message is None:
            self._refuse(frame, "unsupported", "This peer does not know that request")
            return
        try:
            task = self._host.supervisor.spawn(
                f"answer {frame.service}/{frame.message_type}", self._answer(frame, table, message, answer)
            )
        except Unavailable as error:
            self._send_error(frame, error)
            return
        traffic.in_flight += 1
        self._answering[frame.request_id] = task
        task.add_done_callback(lambda done: self._on_answered(done, frame, traffic))

    async def _answer(
        self,
        frame: Frame,
        table: MessageTable,
        message: Message,
        answer: Callable[[Session, Message], asyncio.Future[Message]],
    ) -> None:
        try:
            reply = await answer(self, message)
        except ShoalError as error:
            self._send_error(frame, error)
            if _is_senders_fault(error, self.peer_id):
                self._on_fault(error)
            return
        number, payload = table.encode(reply)
        self._send(FrameKind.RESPONSE, frame.service, number, frame.request_id, payload)

    def _on_answered(self, task: asyncio.Task[None], frame: Frame, traffic: _Traffic) -> None:
        traffic.in_flight -= 1
        if self._answering.get(frame.request_id) is task:
            del self._answering[frame.request_id]
        if not task.cancelled() and task.exception() is not None:  # the supervisor has logged it
            self._refuse(frame, "internal", "The peer failed to answer", "unavailable")

    def _on_answer(self, frame: Frame) -> None:
        if frame.service == ServiceNumber.SESSION and frame.request_id in self._pings:
            self._on_pong(frame)
            return
        waiting = self._asked.get(frame.request_id)
        if waiting is None:
            return  # cancelled or timed out meanwhile
        future, table = waiting
        if future.done():
            return
        try:
            if table.service != frame.service:
                raise MalformedMessage("an answer from another service")
            if frame.kind is FrameKind.ERROR:
                future.set_exception(make_error(decode(ErrorReply, frame.payload, ERROR_BYTES), self.peer_id))
                return
            message = table.decode(frame.message_type, frame.payload)
            if message is None:
                raise MalformedMessage("an answer of unknown type")
            future.set_result(message)
        except RemoteFault as error:
            error.peer = self.peer_id
            _fail(future, error)
            raise

    def _on_notice(self, frame: Frame) -> None:
        if frame.service == ServiceNumber.SESSION and frame.message_type not in LANE_TYPES:
            self._on_session_notice(frame)
            return
        found = self._find(frame)
        if found is None:
            return
        table, budget, _ = found
        if len(frame.payload) > budget.message_bytes:
            raise LimitExceeded("a notice over its service's limit", cause=f"{len(frame.payload)} bytes")
        if not self._traffic_of(frame.service, budget).bucket.try_take(self._host.monotonic()):
            self._observe_rate(frame.service)
            return
        if not self._is_allowed():
            return
        message = table.decode(frame.message_type, frame.payload)
        if message is None:
            return
        service: Service | LanePort | None = self._host.find_service(frame.service)
        if frame.service == ServiceNumber.SESSION:
            service = self._host.lanes
        try:
            if service is not None:
                service.on_notice(self, message)
        except RemoteFault:
            raise
        except ShoalError as error:
            self._observe("notice_failed", error)

    def _on_session_notice(self, frame: Frame) -> None:
        match frame.message_type:
            case 4:
                decode(Settled, frame.payload)
                if not self.is_dialler:
                    raise MalformedMessage("only the accepting end settles a session")
                if not self.settled:
                    self.settle(tell=False)
                    self._host.on_session_settled(self)
            case 6:
                reason = decode(GoingAway, frame.payload).reason
                self.close(reason if reason in REASONS else "closed", "peer")
            case number if number % 2 == 0:
                raise MalformedMessage(f"SESSION has no notice {number}")
            case _:
                pass

    def _on_ping(self, frame: Frame) -> None:
        if frame.message_type != 8:
            if frame.message_type % 2:
                self._refuse(frame, "unsupported", "This peer does not know that request")
                return
            raise MalformedMessage(f"SESSION has no request {frame.message_type}")
        if not self._ping_bucket.try_take(self._host.monotonic()):
            self._observe_rate(frame.service)
            return
        head = decode(Ping, frame.payload).head
        check_length("head", head, HEAD8_BYTES)
        pong = encode(Pong(self._host.view.head()[:HEAD8_BYTES]))
        self._send_raw(FrameKind.RESPONSE, 10, frame.request_id, pong)
        self._on_head(head)

    def _on_pong(self, frame: Frame) -> None:
        sent_at, waiter = self._pings.pop(frame.request_id)
        if frame.kind is FrameKind.ERROR or frame.message_type != 10:
            raise MalformedMessage("a ping was answered by something else")
        head = decode(Pong, frame.payload).head
        check_length("head", head, HEAD8_BYTES)
        rtt_ms = (self._host.monotonic() - sent_at) * 1000.0
        self.rtt_ms = rtt_ms if self.rtt_ms is None else self.rtt_ms + RTT_WEIGHT * (rtt_ms - self.rtt_ms)
        if waiter is not None and not waiter.done():
            waiter.set_result(rtt_ms)
        self._on_head(head)

    def _on_head(self, head8: bytes) -> None:
        self.peer_head8 = head8
        service = self._host.find_service(ServiceNumber.MEMBERSHIP)
        if service is not None and self.settled:
            service.on_peer_head(self, head8)

    # -- judging ---------------------------------------------------------------------------------------

    def _is_allowed(self) -> bool:
        if not self.settled:
            raise MalformedMessage("a message before the session was settled")
        if not self._host.view.is_active(self.peer_id):
            self.close("removed")
            return False
        return True

    def _on_fault(self, error: ShoalError) -> None:
        """Count a message that broke the protocol; close beyond three a minute."""
        self._observe("malformed_message", error)
        if not self._malformed.try_take(self._host.monotonic()):
            self.close("fault")

    def _on_broken(self, error: RemoteFault) -> None:
        self._observe("malformed_frame", error)
        self.close("fault")

    def _observe(self, rule: str, error: ShoalError) -> None:
        self._host.observe(Observation(rule, self.subject, str(error)))

    def _observe_rate(self, service: int) -> None:
        self._host.observe(Observation("over_budget", self.subject, f"service {service}"))

    def _find(
        self, frame: Frame
    ) -> tuple[MessageTable, ServiceBudget, Callable[[Session, Message], asyncio.Future[Message]]] | None:
        if frame.service == ServiceNumber.SESSION:
            table, lanes = self._host.lane_table(), self._host.lanes
            return None if table is None or lanes is None else (table, SESSION_BUDGET, lanes.on_request)  # type: ignore[return-value]
        service = self._host.find_service(frame.service)
        return None if service is None else (service.table, service.budget, service.on_request)  # type: ignore[return-value]

    # -- going out -------------------------------------------------------------------------------------

    async def _ask(self, table: MessageTable, number: int, payload: bytes) -> Message:
        if self.closed:
            raise self._ended()
        request_id = self._make_id()
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[request_id] = (future, table)
        self._send(FrameKind.REQUEST, table.service, number, request_id, payload)
        try:
            return await future
        except asyncio.CancelledError:
            if not self.closed and future.cancelled():
                self._send(FrameKind.CANCEL, table.service, 0, request_id, b"")
            raise
        finally:
            self._asked.pop(request_id, None)

    def _ping(self, waiter: asyncio.Future[float] | None) -> None:
        if len(self._pings) >= PINGS_WAITING:
            _, stale = self._pings.pop(next(iter(self._pings)))
            if stale is not None:
                _fail(stale, Unavailable("The peer did not answer", cause="too many pings wait"))
        request_id = self._make_id()
        self._pinged_at = self._host.monotonic()
        self._pings[request_id] = (self._pinged_at, waiter)
        ping = encode(Ping(self._host.view.head()[:HEAD8_BYTES]))
        self._send_raw(FrameKind.REQUEST, 8, request_id, ping)

    def _refuse(self, frame: Frame, code: str, message: str, kind: str = "refused") -> None:
        self._send_reply(frame, ErrorReply(kind, code, message))

    def _send_error(self, frame: Frame, error: ShoalError) -> None:
        self._send_reply(frame, make_error_reply(error))

    def _send_reply(self, frame: Frame, reply: ErrorReply) -> None:
        self._send(FrameKind.ERROR, frame.service, 0, frame.request_id, encode(reply, ERROR_BYTES * 4))

    def _send(self, kind: FrameKind, service: int, number: int, request_id: int, payload: bytes) -> None:
        if self.closed:
            return
        self._channel.write(pack_frame(Frame(kind, service, number, request_id, payload)))
        if self._channel.buffered_bytes > BUFFER_BYTES:
            self._host.observe(Observation("slow_reader", self.subject, "does not take what it asked for"))
            self.close("fault", "network")

    def _send_raw(self, kind: FrameKind, number: int, request_id: int, payload: bytes) -> None:
        self._channel.write(pack_frame(Frame(kind, ServiceNumber.SESSION, number, request_id, payload)))

    def _make_id(self) -> int:
        while True:
            self._next_id = self._next_id % 0xFFFFFFFF + 1
            if self._next_id not in self._asked and self._next_id not in self._pings:
                return self._next_id

    def _require(self, number: ServiceNumber) -> tuple[MessageTable, ServiceBudget]:
        if self.closed or not self.settled:
            raise self._ended()
        if number == ServiceNumber.SESSION:
            table = self._host.lane_table()
            if table is None:
                raise LocalMisuse("no lane broker is attached to the transport")
            return table, SESSION_BUDGET
        service = self._host.find_service(number)
        if service is None:
            raise LocalMisuse(f"no service {number.name} is registered")
        return service.table, service.budget

    def _traffic_of(self, service: int, budget: ServiceBudget) -> _Traffic:
        traffic = self._traffic.get(service)
        if traffic is None:
            traffic = self._traffic[service] = _Traffic(budget, self._host.monotonic())
        return traffic

    def _ended(self) -> Unavailable:
        cause = f"the session ended: {self.close_reason}" if self.closed else "the session is not settled yet"
        return Unavailable("The peer cannot be asked now", cause=cause, code=self.close_reason or "unsettled")


def _fail(
    future: asyncio.Future[Message] | asyncio.Future[float] | asyncio.Future[None], error: ShoalError
) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marked as seen: nobody may be waiting any more


def _is_senders_fault(error: ShoalError, peer_id: bytes) -> bool:
    return isinstance(error, MalformedMessage | LimitExceeded) and error.peer in (None, peer_id)
