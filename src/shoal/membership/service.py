"""Service: drives membership: synchronisation, broadcasts, acknowledged removals, delivery of secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.core.clock import Clock
from shoal.core.errors import LimitExceeded, MalformedMessage, Refused, RemoteFault, ShoalError, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.identity.entry import Entry
from shoal.identity.ids import short_peer_id
from shoal.identity.operations import Role
from shoal.membership.broadcasts import BroadcastPort, Broadcasts
from shoal.membership.events import SecretsReceived
from shoal.membership.messages import (
    MEMBERSHIP_TABLE,
    Fetch,
    LastWord,
    Page,
    RemovalAck,
    SecretsGiven,
    SecretsWanted,
    VectorPage,
)
from shoal.membership.network import Network
from shoal.membership.removal import Enforcer, SessionCloser
from shoal.membership.sync_events import (
    Answered,
    Ask,
    Asked,
    AskFailed,
    Drop,
    Fail,
    Notify,
    Offered,
    PeerHead,
    Reply,
    SessionDown,
    SessionUp,
    Spread,
    Synced,
    SyncEffect,
)
from shoal.transport.ports import BaseService, ServiceBudget
from shoal.transport.session import Session
from shoal.wire.codec import Message
from shoal.wire.registry import ServiceNumber

ASK_TIMEOUT_S = 10.0
ACKS_ON_SESSION = 64  # the latest removals by a peer are acknowledged again when it is connected again
SECRETS_A_MINUTE = 6.0  # requests of one peer: each answer costs up to 32 wraps, some 10 ms
SECRETS_PEERS = 1024
SECRETS_PAUSE_S = 30.0  # before a peer that gave nothing is asked again


class MembershipService(BaseService):
    """What the MEMBERSHIP number answers. Register it with the transport before that starts.

    `network.enforcer.on_ended` is where other parts say what they drop when a device is out.
    """

    number = ServiceNumber.MEMBERSHIP
    table = MEMBERSHIP_TABLE
    # security.md section 3: gossip 15/s burst 300; pulls need a request for every 60 KiB
    budget = ServiceBudget(requests_in_flight=4, messages_per_s=15.0, burst=300.0)

    def __init__(
        self,
        network: Network,
        transport: SessionCloser,
        overlay: BroadcastPort,
        supervisor: Supervisor,
        clock: Clock,
        observe: Observer,
    ) -> None:
        self._network = network
        self._broadcasts = Broadcasts(network, overlay)
        self._transport = transport
        self._supervisor = supervisor
        self._clock = clock
        self._observe = observe
        self._sessions: dict[bytes, Session] = {}
        self._asking_secrets = False
        self._secret_asks: BoundedMap[bytes, TokenBucket] = BoundedMap(SECRETS_PEERS)
        self._gave_nothing_until: BoundedMap[bytes, float] = BoundedMap(SECRETS_PEERS)
        network.enforcer = Enforcer(transport)
        network.outbox = self._perform
        network.connected = lambda: set(self._sessions)
        network.on_durable = self._on_durable

    # --- from transport -----------------------------------------------------------------------------------

    async def on_request(self, session: Session, message: Message) -> Message:
        match message:
            case VectorPage() | Fetch():
                return self._answer_sync(session, message)
            case SecretsWanted():
                return self._answer_secrets(session, message)
            case _:
                return await super().on_request(session, message)

    def on_notice(self, session: Session, message: Message) -> None:
        match message:
            case LastWord():
                message.check()
                self._network.step(Offered((message.entry,), session.peer_id))
            case RemovalAck():
                message.check()
                if self._network.is_active(session.peer_id):
                    self._network.confirmations.on_ack(message.operation, session.peer_id)
            case _:
                raise MalformedMessage("not a notice of membership", peer=session.peer_id)

    def on_session_up(self, session: Session) -> None:
        self._sessions[session.peer_id] = session
        self._network.step(SessionUp(session.peer_id, session.peer_head8))
        unsaved = self._network.journal.unsaved_ids()  # acknowledged once they are durable, by `_on_durable`
        removals = [
            operation
            for operation in self._network.state.removals
            if operation not in unsaved and self._network.log.entry(operation).author == session.peer_id
        ]
        for operation in removals[-ACKS_ON_SESSION:]:
            session.notify(self.number, RemovalAck(operation))
        self._want_secrets(session)

    def on_session_down(self, session: Session, reason: str) -> None:
        if self._sessions.get(session.peer_id) is session:
            del self._sessions[session.peer_id]
            self._network.step(SessionDown(session.peer_id))
            self._network.confirmations.wake()

    def on_peer_head(self, session: Session, head8: bytes) -> None:
        if self._sessions.get(session.peer_id) is session:
            self._network.step(PeerHead(session.peer_id, head8))

    # --- what the machine wants ---------------------------------------------------------------------------

    def _perform(self, effect: SyncEffect) -> None:
        match effect:
            case Ask(peer, message):
                session = self._sessions.get(peer)
                if session is not None:
                    self._spawn("membership ask", session, self._ask(session, message))
            case Notify(peer, message):
                session = self._sessions.get(peer)
                if session is not None:
                    session.notify(self.number, message)
            case Spread(entries):
                self._broadcasts.spread(entries)
            case Drop(peer, reason):
                self._observe(Observation("membership_dropped", short_peer_id(peer), reason))
                self._transport.close_peer(peer, "fault")
            case Synced(peer):
                session = self._sessions.get(peer)
                if session is not None:
                    self._want_secrets(session)
            case _:
                pass  # Reply and Fail belong to who asked

    async def _ask(self, session: Session, message: VectorPage | Fetch) -> None:
        peer = session.peer_id
        try:
            answer = await session.request(self.number, message, ASK_TIMEOUT_S)
            if not isinstance(answer, Page):
                raise MalformedMessage("The answer is no page of entries", peer=peer)
        except ShoalError as error:
            if isinstance(error, RemoteFault):
                self._observe(Observation("membership_answer", short_peer_id(peer), str(error)))
            if self._sessions.get(peer) is session:
                self._network.step(AskFailed(peer))
            return
        if self._sessions.get(peer) is session:  # else the machine has heard that it went down
            self._network.step(Answered(peer, answer))

    def _answer_sync(self, session: Session, message: VectorPage | Fetch) -> Message:
        for effect in self._network.step(Asked(session.peer_id, message)):
            match effect:
                case Reply(page):
                    return page
                case Fail(error):
                    raise error
                case _:
                    pass
        raise Unavailable("The request was not answered")

    def _on_durable(self, entries: tuple[Entry, ...]) -> None:
        """Acknowledge removals that are carried out and durable here to who wrote them."""
        removals = self._network.state.removals
        for entry in entries:
            session = self._sessions.get(entry.author)
            if entry.id in removals and session is not None:
                session.notify(self.number, RemovalAck(entry.id))

    # --- secrets ------------------------------------------------------------------------------------------

    def _answer_secrets(self, session: Session, message: SecretsWanted) -> SecretsGiven:
        message.check()
        now = self._clock.monotonic()
        bucket = self._secret_asks.find(session.peer_id)
        if bucket is None:
            bucket = TokenBucket(SECRETS_A_MINUTE / 60.0, SECRETS_A_MINUTE, now)
            self._secret_asks.put(session.peer_id, bucket)
        if not bucket.try_take(now):
            raise Unavailable(
                "Secrets are not given so often", retry_after_s=bucket.wait_s(now), code="too_often"
            )
        member = self._network.state.members.get(session.peer_id)
        if member is None or not self._network.is_active(session.peer_id):
            raise Refused("Secrets are for members", code="not_member")
        return SecretsGiven(self._network.secrets.wrap_for(member, message.refs))

    def _want_secrets(self, session: Session) -> None:
        """Ask this peer for what is missing, unless somebody is being asked."""
        network = self._network
        if self._asking_secrets or not network.is_active(session.peer_id):
            return
        if self._clock.monotonic() < (self._gave_nothing_until.find(session.peer_id) or 0.0):
            return
        missing = network.secrets.missing(network.state)
        if not missing or network.role_of(session.peer_id) is Role.STORAGE:
            return
        self._asking_secrets = True
        if not self._spawn("membership secrets", session, self._ask_secrets(session, SecretsWanted(missing))):
            self._asking_secrets = False

    async def _ask_secrets(self, session: Session, message: SecretsWanted) -> None:
        count = 0
        try:
            answer = await session.request(self.number, message, ASK_TIMEOUT_S)
            if not isinstance(answer, SecretsGiven):
                raise MalformedMessage("The answer holds no secrets", peer=session.peer_id)
            answer.check()
            count = await self._network.secrets.accept(self._network.state, answer.secrets)
            if count:
                self._network.events.publish(SecretsReceived(count))
        except (MalformedMessage, LimitExceeded) as error:
            self._observe(Observation("bad_secret", short_peer_id(session.peer_id), str(error)))
        except ShoalError as error:
            self._observe(Observation("secrets_not_given", short_peer_id(session.peer_id), str(error)))
        finally:
            self._asking_secrets = False
            if not count:
                self._gave_nothing_until.put(session.peer_id, self._clock.monotonic() + SECRETS_PAUSE_S)

    def _spawn(self, name: str, session: Session, job: Coroutine[Any, Any, None]) -> bool:
        """Start a job; a node with too much to do lets it fall (the next heartbeat tries again)."""
        try:
            self._supervisor.spawn(name, job)
        except Unavailable:
            if name == "membership ask" and self._sessions.get(session.peer_id) is session:
                # in a turn of its own: the machine may ask the next peer at once, and so on through all
                asyncio.get_running_loop().call_soon(self._network.step, AskFailed(session.peer_id))
            return False
        return True
