"""Nodes that consist of a transport only: a membership view made of sets, a service that echoes."""

from __future__ import annotations

import asyncio
import hmac
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from shoal.core.clock import Clock, SystemClock
from shoal.core.errors import Refused, ShoalError, Unavailable
from shoal.core.observation import Observation
from shoal.core.supervisor import Supervisor
from shoal.identity.keys import DeviceKeys
from shoal.identity.operations import Role
from shoal.transport.address import Address
from shoal.transport.config import AdmissionLimits, SessionTiming, TransportConfig
from shoal.transport.ports import BaseService, ServiceBudget
from shoal.transport.session import Session
from shoal.transport.transport import Transport
from shoal.wire.codec import Message
from shoal.wire.registry import MessageTable, ServiceNumber

NETWORK = b"N" * 32
DOOR_KEY = b"D" * 32
JOIN_SECRET = b"J" * 32
INVITE_ID = b"I" * 16

QUICK = SessionTiming(
    handshake_s=1.0,
    heartbeat_s=0.2,
    heads_s=0.5,
    resting_s=0.6,
    rest_after_s=0.3,
    silence_s=0.4,
    probe_s=0.2,
    tick_s=0.05,
    stall_s=0.3,
    simultaneous_s=1.0,
    drain_s=1.0,
    goodbye_s=0.3,
)


class Say(Message, frozen=True, array_like=True):
    """What the echo service is told; `how` says what it does with it."""

    text: bytes
    how: str = "echo"


ECHO_TABLE = MessageTable(ServiceNumber.SWARM, {2: Say})


class Echo(BaseService):
    """Answers, fails, or hangs as it is told; writes down what it sees."""

    number = ServiceNumber.SWARM
    table = ECHO_TABLE
    budget = ServiceBudget(requests_in_flight=16, messages_per_s=1e6, burst=1e6)

    def __init__(self) -> None:
        self.log: list[tuple[str, bytes, str]] = []
        self.notices: list[bytes] = []
        self.cancelled = 0
        self.heads: list[bytes] = []

    async def on_request(self, session: Session, message: Message) -> Message:
        assert isinstance(message, Say)
        if message.how == "refuse":
            raise Refused("no", cause="because", next_step="go away", code="nope")
        if message.how == "bug":
            raise KeyError("a bug")
        if message.how == "hang":
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1
        return message

    def on_notice(self, session: Session, message: Message) -> None:
        assert isinstance(message, Say)
        if message.how == "unavailable":
            raise Unavailable("not now")
        self.notices.append(message.text)

    def on_session_up(self, session: Session) -> None:
        self.log.append(("up", session.peer_id, ""))

    def on_session_down(self, session: Session, reason: str) -> None:
        self.log.append(("down", session.peer_id, reason))

    def count(self, what: str) -> int:
        return sum(kind == what for kind, _, _ in self.log)


class HeadService(Echo):
    """The membership service's place: hears the heads of heartbeats."""

    number = ServiceNumber.MEMBERSHIP
    table = MessageTable(ServiceNumber.MEMBERSHIP, {2: Say})

    def on_peer_head(self, session: Session, head8: bytes) -> None:
        self.heads.append(head8)


class SetView:
    """A membership view over a set that tests change."""

    def __init__(self, members: set[bytes], door_keys: list[bytes]) -> None:
        self.members = members
        self.keys = door_keys
        self.own_head = b"\0" * 32
        self.entries: list[bytes] = []
        self.learned: list[bytes] = []
        self.learn_error: ShoalError | None = None
        self.learn_gate = asyncio.Event()  # cleared: the disk is slow
        self.learn_gate.set()
        self.on_learn: Callable[[], None] = lambda: None
        self.invites = False
        self.own_id = b""

    def is_active(self, peer_id: bytes) -> bool:
        return peer_id in self.members

    def role_of(self, peer_id: bytes) -> Role | None:
        return Role.MEMBER if peer_id in self.members else None

    def head(self) -> bytes:
        return self.own_head

    def door_keys(self) -> list[bytes]:
        return self.keys

    def show_admission(self, peer_id: bytes, head: bytes) -> list[bytes]:
        return self.entries

    async def learn(self, entries: list[bytes]) -> None:
        self.learned += entries
        await self.learn_gate.wait()
        if self.learn_error is not None:
            raise self.learn_error
        self.on_learn()

    def open_invites(self) -> bool:
        return self.invites

    def match_join_knock(self, nonce: bytes, mac: bytes) -> bytes | None:
        return INVITE_ID if hmac.compare_digest(mac, join_mac(nonce, self.own_id)) else None

    def match_nameplate(self, nameplate: int) -> bytes | None:
        return INVITE_ID if nameplate == 7 else None


def join_mac(nonce: bytes, inviter: bytes) -> bytes:
    return hmac.digest(JOIN_SECRET, nonce + inviter, "sha256")


class TransportNode:
    """One transport with what it needs; `members` is shared by all nodes of a test."""

    def __init__(
        self,
        supervisor: Supervisor,
        members: set[bytes],
        timing: SessionTiming,
        limits: AdmissionLimits,
        clock: Clock,
        keys: DeviceKeys | None = None,
        network_id: bytes = NETWORK,
        listen: str = "127.0.0.1:0",
    ) -> None:
        self.keys = keys or DeviceKeys.generate()
        self.view = SetView(members, [DOOR_KEY])
        self.view.own_id = self.keys.peer_id
        members.add(self.keys.peer_id)
        self.seen: list[Observation] = []
        config = TransportConfig(self.keys, network_id, [Address.parse(listen)], timing, limits)
        self.transport = Transport(config, self.view, supervisor, clock, self.seen.append, random.Random(1))
        self.echo = Echo()
        self.heads = HeadService()
        self.transport.register(self.echo)
        self.transport.register(self.heads)

    @property
    def peer_id(self) -> bytes:
        return self.keys.peer_id

    @property
    def address(self) -> Address:
        return self.transport.listen_addresses[0]

    @property
    def rules(self) -> list[str]:
        return [o.rule for o in self.seen]

    async def dial(self, other: TransportNode, timeout_s: float = 8.0) -> Session:
        return await self.transport.dial(other.peer_id, other.address, timeout_s)

    async def wait_session(self, other: TransportNode) -> Session:
        await wait_until(lambda: self.transport.find_session(other.peer_id) is not None)
        session = self.transport.find_session(other.peer_id)
        assert session is not None
        return session


class TransportNetwork:
    """Makes nodes that know each other and closes them."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.members: set[bytes] = set()
        self.supervisor = supervisor
        self.nodes: list[TransportNode] = []

    async def add(
        self,
        *,
        timing: SessionTiming = QUICK,
        limits: AdmissionLimits | None = None,
        clock: Clock | None = None,
        keys: DeviceKeys | None = None,
        network_id: bytes = NETWORK,
        members: set[bytes] | None = None,
        listen: str = "127.0.0.1:0",
    ) -> TransportNode:
        node = TransportNode(
            self.supervisor,
            self.members if members is None else members,
            timing,
            limits or AdmissionLimits(),
            clock or SystemClock(),
            keys,
            network_id,
            listen,
        )
        await node.transport.start()
        self.nodes.append(node)
        return node


@asynccontextmanager
async def transport_network() -> AsyncIterator[TransportNetwork]:
    async with Supervisor() as supervisor:
        network = TransportNetwork(supervisor)
        try:
            yield network
        finally:
            for node in network.nodes:
                await node.transport.close()


async def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for a fact; the only place where these tests sleep."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen"
        await asyncio.sleep(0.005)


def slower(timing: SessionTiming = QUICK, **changes: float) -> SessionTiming:
    return replace(timing, **changes)  # type: ignore[arg-type]
