"""Lane broker: makes lanes out of sessions: tokens, dialling, the OPEN exchange, limits. See spec/lane.md.

All methods are called on the loop thread; `Lane.close` may be called anywhere and reports back here.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shoal.core.errors import LocalMisuse, MalformedMessage, Refused, RemoteFault, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.core.undo import undone_on_failure
from shoal.core.units import MIB, format_size
from shoal.identity.ids import short_peer_id
from shoal.transport.lane import BUFFER_BYTES, Lane
from shoal.transport.lane_messages import (
    LANE_MESSAGES,
    PURPOSE_BYTES,
    LaneAccept,
    LaneOpen,
    check_lane_accept,
    check_lane_open,
)
from shoal.transport.lane_record import (
    BARE_RECORD_BYTES,
    EXPORTER_LABEL,
    LANE_ID_BYTES,
    LANE_MAGIC,
    PREAMBLE_BYTES,
    SECRET_BYTES,
    LaneRole,
    RecordOpener,
    RecordSealer,
    RecordType,
    derive_lane_key,
    pack_preamble,
    parse_preamble,
)
from shoal.transport.sockets import read_exactly
from shoal.wire.codec import Message
from shoal.wire.registry import ServiceNumber

if TYPE_CHECKING:
    from shoal.transport.address import Address
    from shoal.transport.ports import Service
    from shoal.transport.session import Session

TOKEN_VALID_S = 10.0  # formats.md, Lane
PENDING_A_SESSION = 8  # formats.md, Lane
LANES_A_PEER = 8  # pending ones included; more do not make one line faster (architecture.md, section 3)
LANES_A_NODE = 256  # each takes a thread of its service
MEMORY_BYTES = 256 * MIB  # for the buffers of all lanes together, if nothing else is said
MEMORY_MIN_BYTES = 16 * MIB
OWN_PART = 0.25  # of that memory, which is kept for lanes that this end asks for; wild guess
DIAL_TIMEOUT_S = 8.0
OPEN_TIMEOUT_S = 5.0  # from the preamble to the verified OPEN: one round trip
REQUEST_TIMEOUT_S = DIAL_TIMEOUT_S + OPEN_TIMEOUT_S + 2.0  # the answer may come after the dial


class LaneHost(Protocol):
    """What the broker needs of the transport it is attached to."""

    def find_service(self, number: int) -> Service | None: ...

    async def open_socket(
        self, address: Address, timeout_s: float, peer_id: bytes, fall_back: bool = False
    ) -> socket.socket: ...


@dataclass(eq=False, slots=True)
class _Pending:
    """A token that was given away and not used yet; it holds a slot of its peer."""

    session: Session
    service: int
    purpose: bytes
    sends: bool
    expires_at: float
    waiter: asyncio.Future[Lane] | None  # set when we asked; else the lane goes to the service


class LaneBroker:
    """Opens and accepts lanes for all sessions of one transport.

    Expects to be attached with `Transport.attach_lanes`. Implements `ports.LanePort`.
    """

    messages = LANE_MESSAGES
    preamble_first_byte = LANE_MAGIC[0]
    preamble_bytes = PREAMBLE_BYTES

    def __init__(
        self,
        host: LaneHost,
        *,
        own_id: bytes,
        network_id: bytes,
        supervisor: Supervisor,
        monotonic: Callable[[], float],
        observe: Observer,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._host = host
        self.memory_bytes = memory_bytes
        self._own_id = own_id
        self._network_id = network_id
        self._supervisor = supervisor
        self._monotonic = monotonic
        self._observe = observe
        self._pending: dict[bytes, _Pending] = {}  # bounded by the slots
        self._lanes: dict[Lane, Session] = {}  # bounded by the slots
        self._slots: dict[bytes, int] = {}  # peer id -> lanes and pending ones; a peer without any has no row

    @property
    def lane_count(self) -> int:
        """Open lanes, for status and tests."""
        return len(self._lanes)

    def has_lanes(self, peer_id: bytes) -> bool:
        """Whether a peer has a lane, open or about to be."""
        return peer_id in self._slots

    @property
    def slots_taken(self) -> int:
        """Open, pending and half-open lanes of all peers."""
        return sum(self._slots.values())

    @property
    def buffer_bytes(self) -> int:
        """Memory that the buffers of all open lanes hold now; at most `memory_bytes`."""
        return sum(lane.buffer_bytes for lane in self._lanes)

    async def open(self, session: Session, service: ServiceNumber, purpose: bytes, send: bool) -> Lane:
        """Open a lane to `service` of the peer; `send` says that this side will send the bulk data.

        Cancelling is safe: a half-open lane is closed.
        Raises: Unavailable (no settled session, limits, the peer cannot be dialled), Refused (by the peer's
        service), RemoteFault.
        """
        if session.closed or not session.settled:
            raise _not_opened("the session is not up", "lane_session")
        if len(purpose) > PURPOSE_BYTES:
            raise LocalMisuse(f"the purpose of a lane is at most {PURPOSE_BYTES} bytes")
        if session.is_dialler:
            self._take_slot(session.peer_id, own=True)
            with undone_on_failure(lambda: self._give_slot(session.peer_id)):
                ask = LaneOpen(service, purpose, send, b"")
                answer = await session.request(ServiceNumber.SESSION, ask, timeout_s=REQUEST_TIMEOUT_S)
                return await self._dial(session, check_lane_accept(answer).lane_id, send)
        return await self._open_by_peer(session, service, purpose, send)

    async def on_request(self, session: Session, message: Message) -> Message:
        """Answer LaneOpen. Raises: Refused, Unavailable, RemoteFault."""
        if not isinstance(message, LaneOpen):
            raise MalformedMessage("not a request for a lane", cause=type(message).__name__)
        check_lane_open(message, from_dialler=not session.is_dialler)
        service = self._host.find_service(message.service)
        if service is None or not service.may_open_lane(session, message.purpose):
            raise Refused("The lane was refused", cause="its service does not want it", code="lane_refused")
        if session.closed or not session.settled:
            raise _not_opened("the session is not up", "lane_session")
        if not session.is_dialler:
            sends = not message.asker_sends
            return LaneAccept(self._add_pending(session, message.service, message.purpose, sends))
        self._take_slot(session.peer_id, own=False)
        with undone_on_failure(lambda: self._give_slot(session.peer_id)):
            lane = await self._dial(session, message.lane_id, not message.asker_sends)
        service.on_lane(session, lane, message.purpose)
        return LaneAccept(message.lane_id)

    def on_notice(self, session: Session, message: Message) -> None:
        """No lane message is a notice. Raises: MalformedMessage."""
        raise MalformedMessage("not a notice", cause=type(message).__name__)

    def accept(self, sock: socket.socket, preamble: bytes, address: Address) -> bool:
        """Take an accepted, non-blocking socket if its preamble names a pending lane; see `ports.LanePort`.

        The token is spent by this, whatever happens next on the connection.
        """
        try:
            lane_id = parse_preamble(preamble)
        except MalformedMessage:
            self._observe(Observation("lane_preamble", address.budget_group))
            return False
        pending = self._pending.pop(lane_id, None)
        if pending is None:
            self._observe(Observation("lane_token", address.budget_group, "unknown, used or expired"))
            return False
        if pending.expires_at <= self._monotonic() or pending.session.closed:
            self._observe(Observation("lane_token", address.budget_group, "expired"))
            self._fail_pending(pending, "its token expired")
            return False
        try:
            self._supervisor.spawn("lane accept", self._finish_accept(sock, lane_id, pending))
        except Unavailable:
            self._fail_pending(pending, "the node has too much to do")
            return False
        return True

    def close_session(self, session: Session) -> None:
        """End every lane and token of a session at once; nothing more is sent on them after this."""
        for lane_id, pending in list(self._pending.items()):
            if pending.session is session:
                del self._pending[lane_id]
                self._fail_pending(pending, "the session ended")
        for lane, owner in list(self._lanes.items()):
            if owner is session:
                lane.close()

    def close(self) -> None:
        """End all lanes and tokens; idempotent."""
        for session in [*self._lanes.values(), *(p.session for p in self._pending.values())]:
            self.close_session(session)

    async def _open_by_peer(
        self, session: Session, service: ServiceNumber, purpose: bytes, send: bool
    ) -> Lane:
        """Ask the peer, who dialled the session, to dial a lane too."""
        waiter: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        lane_id = self._add_pending(session, service, purpose, send, waiter)
        with undone_on_failure(lambda: self._drop_waiter(lane_id, waiter)):
            ask = LaneOpen(service, purpose, send, lane_id)
            answer = await session.request(ServiceNumber.SESSION, ask, timeout_s=REQUEST_TIMEOUT_S)
            if check_lane_accept(answer).lane_id != lane_id:
                raise MalformedMessage("another lane id than was asked for", peer=session.peer_id)
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    lane = await waiter
            except TimeoutError:
                raise _not_opened("the peer said that it dialled, nothing came", "lane_timeout") from None
        return lane

    def _drop_waiter(self, lane_id: bytes, waiter: asyncio.Future[Lane]) -> None:
        """Forget a token of ours that nobody waits for any more; close its lane if that came after all."""
        pending = self._pending.pop(lane_id, None)
        if pending is not None:
            self._give_slot(pending.session.peer_id)
        if not waiter.done():
            waiter.cancel()
        elif not waiter.cancelled() and waiter.exception() is None:
            waiter.result().close()

    async def _dial(self, session: Session, lane_id: bytes, sends: bool) -> Lane:
        """Dial the session's address, exchange OPEN, return the lane. The caller holds its slot."""
        if session.dial_address is None:
            raise _not_opened("the session's address is not known", "lane_session")
        sock = await self._host.open_socket(
            session.dial_address, DIAL_TIMEOUT_S, session.peer_id, fall_back=True
        )
        try:
            with undone_on_failure(sock.close):
                sealer, opener = self._make_ends(session, lane_id, LaneRole.OPENER)
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    await loop.sock_sendall(sock, pack_preamble(lane_id) + sealer.seal(RecordType.OPEN))
                    opener.open(await read_exactly(sock, BARE_RECORD_BYTES))
                lane = self._make_lane(sock, session, lane_id, sealer, opener, sends)
        except TimeoutError:
            raise _not_opened("the peer did not answer on it", "lane_timeout") from None
        except OSError as error:
            raise _not_opened(error.strerror or str(error), "lane_reset") from error
        return lane

    async def _finish_accept(self, sock: socket.socket, lane_id: bytes, pending: _Pending) -> None:
        """Verify the opener's OPEN, answer it, hand the lane out. Sends nothing before it verified."""
        session = pending.session
        try:
            with (
                undone_on_failure(lambda: self._fail_pending(pending, "its connection did not open")),
                undone_on_failure(sock.close),
            ):
                sealer, opener = self._make_ends(session, lane_id, LaneRole.ACCEPTOR)
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    opener.open(await read_exactly(sock, BARE_RECORD_BYTES))
                    await asyncio.get_running_loop().sock_sendall(sock, sealer.seal(RecordType.OPEN))
                lane = self._make_lane(sock, session, lane_id, sealer, opener, pending.sends)
        except (OSError, TimeoutError, RemoteFault, Unavailable) as error:
            subject = short_peer_id(session.peer_id)
            self._observe(Observation("lane_open", subject, str(error) or type(error).__name__))
            return
        if pending.waiter is None:
            service = self._host.find_service(pending.service)
            if service is None:
                lane.close()
            else:
                service.on_lane(session, lane, pending.purpose)
        elif pending.waiter.done():
            lane.close()
        else:
            pending.waiter.set_result(lane)

    def _make_ends(
        self, session: Session, lane_id: bytes, role: LaneRole
    ) -> tuple[RecordSealer, RecordOpener]:
        secret = session.exporter(EXPORTER_LABEL, self._network_id, SECRET_BYTES)
        dialler, acceptor = self._own_id, session.peer_id
        if role is LaneRole.ACCEPTOR:
            dialler, acceptor = acceptor, dialler
        sending = derive_lane_key(secret, lane_id, dialler, acceptor, role)
        receiving = derive_lane_key(secret, lane_id, dialler, acceptor, LaneRole(1 - role))
        return RecordSealer(sending), RecordOpener(receiving)

    def _make_lane(
        self,
        sock: socket.socket,
        session: Session,
        lane_id: bytes,
        sealer: RecordSealer,
        opener: RecordOpener,
        sends: bool,
    ) -> Lane:
        if session.closed:
            raise _not_opened("the session ended", "lane_session")
        loop = asyncio.get_running_loop()

        def report_closed(lane: Lane) -> None:
            try:
                loop.call_soon_threadsafe(self._on_lane_closed, lane)
            except RuntimeError:
                pass  # the loop is gone, and this broker with it

        lane = Lane(
            sock,
            lane_id=lane_id,
            session_peer=session.peer_id,
            sealer=sealer,
            opener=opener,
            sends=sends,
            on_closed=report_closed,
        )
        self._lanes[lane] = session
        return lane

    def _on_lane_closed(self, lane: Lane) -> None:
        session = self._lanes.pop(lane, None)
        if session is not None:
            self._give_slot(session.peer_id)

    def _add_pending(
        self,
        session: Session,
        service: int,
        purpose: bytes,
        sends: bool,
        waiter: asyncio.Future[Lane] | None = None,
    ) -> bytes:
        """Make a token. Raises: Unavailable beyond the limits."""
        if sum(p.session is session for p in self._pending.values()) >= PENDING_A_SESSION:
            raise _not_opened("too many are pending", "lane_limit")
        self._take_slot(session.peer_id, own=waiter is not None)
        lane_id = secrets.token_bytes(LANE_ID_BYTES)
        expires_at = self._monotonic() + TOKEN_VALID_S
        self._pending[lane_id] = _Pending(session, service, purpose, sends, expires_at, waiter)
        asyncio.get_running_loop().call_later(TOKEN_VALID_S, self._expire, lane_id)
        return lane_id

    def _expire(self, lane_id: bytes) -> None:
        pending = self._pending.pop(lane_id, None)
        if pending is not None:
            self._fail_pending(pending, "its token expired")

    def _fail_pending(self, pending: _Pending, cause: str) -> None:
        """Give the slot back and tell who waits. The token is no longer in `_pending`."""
        self._give_slot(pending.session.peer_id)
        if pending.waiter is not None and not pending.waiter.done():
            pending.waiter.set_exception(_not_opened(cause, "lane_failed"))
            pending.waiter.exception()  # whoever asked may have gone: that is no error to log

    def _take_slot(self, peer_id: bytes, *, own: bool) -> None:
        """Raises: Unavailable beyond the limits; `own`: for a lane that this end asks for."""
        taken, all_taken = self._slots.get(peer_id, 0), self.slots_taken
        if taken >= LANES_A_PEER or all_taken >= LANES_A_NODE:
            raise _not_opened("too many are open", "lane_limit")
        memory_bytes = self.memory_bytes if own else int(self.memory_bytes * (1 - OWN_PART))
        if (all_taken + 1) * BUFFER_BYTES > memory_bytes:
            self._observe(Observation("lane_memory", short_peer_id(peer_id), f"{all_taken} lanes"))
            cause = f"{all_taken} lanes take the {format_size(memory_bytes)} of memory that there is for them"
            raise _not_opened(cause, "lane_memory")
        self._slots[peer_id] = taken + 1

    def _give_slot(self, peer_id: bytes) -> None:
        taken = self._slots.pop(peer_id, 0) - 1
        if taken > 0:
            self._slots[peer_id] = taken


def _not_opened(cause: str, code: str) -> Unavailable:
    return Unavailable("No lane was opened", cause=cause, code=code, retry_after_s=1.0)
