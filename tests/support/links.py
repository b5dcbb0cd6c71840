"""Links: the substrate alone over real sessions, none of which it dials: broadcasts for tests of others."""

from __future__ import annotations

from collections.abc import Callable

from shoal.core.chance import Chance
from shoal.core.clock import Clock
from shoal.core.errors import MalformedMessage
from shoal.core.observation import Observer
from shoal.overlay.messages import OVERLAY_TABLE, check
from shoal.overlay.substrate.messages import Gossip
from shoal.overlay.substrate.service import SessionsPort, SubstrateService, TopicHandler, make_identifier
from shoal.transport.ports import BaseService, ServiceBudget
from shoal.transport.session import Session
from shoal.wire.codec import Message
from shoal.wire.registry import ServiceNumber


def send_broadcast(session: Session, topic: int, payload: bytes) -> None:
    """Send a broadcast to one peer alone, whatever it holds."""
    session.notify(ServiceNumber.OVERLAY, Gossip(make_identifier(topic, payload), 1, topic, payload))


class LinkService(BaseService):
    """Every session is a link, as in a small network."""

    number = ServiceNumber.OVERLAY
    table = OVERLAY_TABLE
    budget = ServiceBudget(requests_in_flight=1, messages_per_s=15.0, burst=300.0)

    def __init__(
        self,
        own_id: bytes,
        sessions: SessionsPort,
        members: Callable[[], set[bytes]],
        clock: Clock,
        observe: Observer,
    ) -> None:
        self._members = members
        self.substrate = SubstrateService(
            own_id,
            sessions,
            Chance(1),
            dial=lambda peer: None,
            set_sparse=lambda on: None,
            is_busy=lambda peer: False,
            find_reachable=list,
            compare=lambda: None,
            clock=clock,
            observe=observe,
        )

    def start(self) -> None:
        self.substrate.start(frozenset(self._members()))

    def members_changed(self) -> None:
        self.substrate.on_members(frozenset(self._members()))

    def broadcast(self, topic: int, payload: bytes) -> None:
        self.substrate.broadcast(topic, payload)

    def handle(self, topic: int, handler: TopicHandler) -> None:
        self.substrate.handle(topic, handler)

    def on_session_up(self, session: Session) -> None:
        self.members_changed()  # a join may have brought the whole log
        self.substrate.on_session_up(session.peer_id)

    def on_session_down(self, session: Session, reason: str) -> None:
        self.substrate.on_session_down(session.peer_id, reason)

    def on_notice(self, session: Session, message: Message) -> None:
        check(message)
        self.substrate.on_message(session.peer_id, message)

    async def on_request(self, session: Session, message: Message) -> Message:
        raise MalformedMessage("not a request", cause=type(message).__name__)
