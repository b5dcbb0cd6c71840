"""Answering: what a peer asks of our services over one session, in order and within budgets.

Order of checks (security.md section 3): size, rate, membership, duplicate, schema; then the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from shoal.core.budget import TokenBucket
from shoal.core.errors import LimitExceeded, MalformedMessage, RemoteFault, ShoalError, Unavailable
from shoal.core.observation import Observation
from shoal.core.supervisor import Supervisor
from shoal.transport.messages import ERROR_BYTES, ErrorReply, make_error_reply
from shoal.transport.ports import LanePort, MembershipView, Service, ServiceBudget
from shoal.wire.codec import Message, encode
from shoal.wire.frames import Frame, FrameKind
from shoal.wire.limits import BUFFER_BYTES, REQUESTS_IN_FLIGHT
from shoal.wire.registry import MessageTable, ServiceNumber

BUSY_BUFFER_BYTES = BUFFER_BYTES // 2  # who does not read our answers gets no more of them
MALFORMED_BURST = 3.0  # a minute; security.md section 3
MALFORMED_S = 3.0 / 60.0
LANE_BUDGET = ServiceBudget(requests_in_flight=16, messages_per_s=100.0, burst=200.0, message_bytes=4096)


class AnsweringHost(Protocol):
    """What answering needs of the transport."""

    view: MembershipView
    supervisor: Supervisor
    lanes: LanePort | None

    def monotonic(self) -> float: ...

    def observe(self, observation: Observation) -> None: ...

    def find_service(self, number: int) -> Service | None: ...

    def lane_table(self) -> MessageTable | None: ...


class AnsweringSession(Protocol):
    """What answering needs of its session."""

    peer_id: bytes
    settled: bool
    closed: bool

    @property
    def subject(self) -> str: ...

    @property
    def buffered_bytes(self) -> int: ...

    def send_frame(self, frame: Frame) -> None: ...

    def close(self, reason: str) -> None: ...


OnRequest = Callable[[Any, Message], Coroutine[Any, Any, Message]]
OnNotice = Callable[[Any, Message], None]


class _Target:
    """A service, or the lane broker, as a frame finds it."""

    __slots__ = ("bucket", "budget", "in_flight", "on_notice", "on_request", "table")

    def __init__(
        self,
        table: MessageTable,
        budget: ServiceBudget,
        on_request: OnRequest,
        on_notice: OnNotice,
        now: float,
    ) -> None:
        self.table = table
        self.budget = budget
        self.on_request = on_request
        self.on_notice = on_notice
        self.bucket = TokenBucket(budget.messages_per_s, budget.burst, now)
        self.in_flight = 0


class Answering:
    """The answering half of a session."""

    def __init__(self, host: AnsweringHost, session: AnsweringSession) -> None:
        self._host = host
        self._session = session
        self._targets: dict[int, _Target] = {}  # by registered service
        self._tasks: dict[int, asyncio.Task[None]] = {}  # at most REQUESTS_IN_FLIGHT
        self._malformed = TokenBucket(MALFORMED_S, MALFORMED_BURST, host.monotonic())

    def __len__(self) -> int:
        return len(self._tasks)

    def on_request(self, frame: Frame) -> None:
        """Answer a request, now or later. Raises: RemoteFault for one that broke the protocol."""
        target = self._find_target(frame.service)
        if target is None:
            self.refuse(frame, "unsupported", "This peer does not have that service")
            return
        if len(frame.payload) > target.budget.message_bytes:
            self.refuse(frame, "limit_exceeded", "The request is over the service's limit", "limit")
            raise LimitExceeded("a request over its service's limit", cause=f"{len(frame.payload)} bytes")
        if not self._has_room(target):
            self._observe("over_budget", f"service {frame.service}")
            self.refuse(frame, "busy", "The peer is busy", "unavailable")
            return
        if not self._is_allowed():
            return
        if frame.request_id in self._tasks:
            raise MalformedMessage("a request id that is in flight already")
        try:
            message = target.table.decode(frame.message_type, frame.payload)
        except RemoteFault as error:
            self._send_error(frame, error)
            raise
        if message is None:
            self.refuse(frame, "unsupported", "This peer does not know that request")
            return
        name = f"answer {frame.service}/{frame.message_type}"
        try:
            task = self._host.supervisor.spawn(name, self._answer(frame, target, message), for_peer=True)
        except Unavailable as error:
            self._send_error(frame, error)
            return
        target.in_flight += 1
        self._tasks[frame.request_id] = task
        task.add_done_callback(lambda done: self._on_done(done, frame, target))

    def on_notice(self, frame: Frame) -> None:
        """Hand a notice over. Raises: RemoteFault for one that broke the protocol."""
        target = self._find_target(frame.service)
        if target is None:
            return
        if len(frame.payload) > target.budget.message_bytes:
            raise LimitExceeded("a notice over its service's limit", cause=f"{len(frame.payload)} bytes")
        if not target.bucket.try_take(self._host.monotonic()):
            self._observe("over_budget", f"service {frame.service}")
            return
        if not self._is_allowed():
            return
        message = target.table.decode(frame.message_type, frame.payload)
        if message is None:
            return
        try:
            target.on_notice(self._session, message)
        except RemoteFault:
            raise
        except ShoalError as error:
            self._observe("notice_failed", str(error))

    def cancel(self, request_id: int) -> None:
        """The peer does not want an answer any more."""
        task = self._tasks.get(request_id)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Cancel every answer; idempotent."""
        for task in list(self._tasks.values()):
            task.cancel()

    def on_fault(self, error: ShoalError) -> None:
        """Count a message that broke the protocol; close beyond three a minute."""
        self._observe("malformed_message", str(error))
        if not self._malformed.try_take(self._host.monotonic()):
            self._session.close("fault")

    def refuse(self, frame: Frame, code: str, message: str, kind: str = "refused") -> None:
        """Answer a request with an error."""
        self._reply(frame, ErrorReply(kind, code, message))

    async def _answer(self, frame: Frame, target: _Target, message: Message) -> None:
        try:
            reply = await target.on_request(self._session, message)
        except ShoalError as error:
            self._send_error(frame, error)
            if isinstance(error, MalformedMessage | LimitExceeded) and error.peer in (
                None,
                self._session.peer_id,
            ):
                self.on_fault(error)
            return
        number, payload = target.table.encode(reply)
        self._session.send_frame(Frame(FrameKind.RESPONSE, frame.service, number, frame.request_id, payload))

    def _on_done(self, task: asyncio.Task[None], frame: Frame, target: _Target) -> None:
        target.in_flight -= 1
        if self._tasks.get(frame.request_id) is task:
            del self._tasks[frame.request_id]
        if not task.cancelled() and task.exception() is not None:  # the supervisor has logged it
            self.refuse(frame, "internal", "The peer failed to answer", "unavailable")

    def _has_room(self, target: _Target) -> bool:
        return (
            target.bucket.try_take(self._host.monotonic())
            and target.in_flight < target.budget.requests_in_flight
            and len(self._tasks) < REQUESTS_IN_FLIGHT
            and self._session.buffered_bytes <= BUSY_BUFFER_BYTES
        )

    def _is_allowed(self) -> bool:
        if not self._session.settled:
            raise MalformedMessage("a message before the session was settled")
        if not self._host.view.is_active(self._session.peer_id):
            self._session.close("removed")
            return False
        return True

    def _find_target(self, number: int) -> _Target | None:
        target = self._targets.get(number)
        if target is None:
            now = self._host.monotonic()
            if number == ServiceNumber.SESSION:
                table, lanes = self._host.lane_table(), self._host.lanes
                if table is None or lanes is None:
                    return None
                target = _Target(table, LANE_BUDGET, lanes.on_request, lanes.on_notice, now)
            else:
                service = self._host.find_service(number)
                if service is None:
                    return None
                target = _Target(service.table, service.budget, service.on_request, service.on_notice, now)
            self._targets[number] = target
        return target

    def _send_error(self, frame: Frame, error: ShoalError) -> None:
        self._reply(frame, make_error_reply(error))

    def _reply(self, frame: Frame, reply: ErrorReply) -> None:
        payload = encode(reply, ERROR_BYTES)
        self._session.send_frame(Frame(FrameKind.ERROR, frame.service, 0, frame.request_id, payload))

    def _observe(self, rule: str, detail: str) -> None:
        self._host.observe(Observation(rule, self._session.subject, detail))
