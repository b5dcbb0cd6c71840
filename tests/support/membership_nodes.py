"""Nodes that consist of membership over a real transport on loopback, each with a home directory."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.links import LinkService
from tests.support.stores import open_stores
from tests.support.transport_nodes import QUICK, wait_until

from shoal.core.clock import Clock, SystemClock
from shoal.core.events import EventBus
from shoal.core.observation import Observation
from shoal.core.supervisor import Supervisor
from shoal.identity.keys import DeviceKeys
from shoal.identity.operations import Role
from shoal.identity.ticket import Ticket
from shoal.membership.code_door import CodeDoor, answer_joins
from shoal.membership.events import MembershipChanged
from shoal.membership.founding import found_network
from shoal.membership.inviter import Inviter
from shoal.membership.join import Joined, join_network
from shoal.membership.network import Network, Stores
from shoal.membership.service import MembershipService
from shoal.testing.disk import FailingDisk
from shoal.transport.address import Address
from shoal.transport.config import TransportConfig
from shoal.transport.lane import Lane
from shoal.transport.lane_broker import LaneBroker
from shoal.transport.ports import BaseService
from shoal.transport.session import Session
from shoal.transport.transport import Transport
from shoal.wire.registry import MessageTable, ServiceNumber


@dataclass
class Home:
    """What survives a restart."""

    path: Path
    keys: DeviceKeys = field(default_factory=DeviceKeys.generate)
    network_id: bytes = b""
    disk: FailingDisk = field(default_factory=FailingDisk)


class LaneService(BaseService):
    """Takes every lane that is opened to it."""

    number = ServiceNumber.SWARM
    table = MessageTable(ServiceNumber.SWARM, {})

    def __init__(self) -> None:
        self.lanes: list[Lane] = []

    def may_open_lane(self, session: Session, purpose: bytes) -> bool:
        return True

    def on_lane(self, session: Session, lane: Lane, purpose: bytes) -> None:
        self.lanes.append(lane)


class MembershipNode:
    """One running node. `close` is a clean stop; the home can be started again."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self.home = home
        self.clock = clock
        self.seen: list[Observation] = []
        self.events: list[object] = []
        self._stack = AsyncExitStack()

    async def start(self) -> MembershipNode:
        home, clock = self.home, self.clock
        tables = await self._stack.enter_async_context(open_stores(home.path, home.disk.connect))
        self.stores = Stores(tables.entries, tables.secrets, tables.invites)
        self.recovery = ""
        if not home.network_id:
            home.network_id, self.recovery = await found_network(
                home.keys, self.stores, clock, network_name="n", name="first", user="ann"
            )
        self.supervisor = await self._stack.enter_async_context(Supervisor())
        bus = EventBus()
        bus.on(object, self.events.append)
        self.network = Network(
            home.network_id,
            home.keys,
            self.stores,
            clock=clock,
            supervisor=self.supervisor,
            observe=self.seen.append,
            events=bus,
        )
        self.network.journal.retry_s = 0.1
        await self.network.load()
        self.network.start()
        listen = [Address.parse("127.0.0.1:0")]
        config = TransportConfig(home.keys, home.network_id, listen, QUICK)
        self.transport = Transport(
            config, self.network, self.supervisor, clock, self.seen.append, random.Random(1)
        )
        self.links = LinkService(
            home.keys.peer_id, self.transport, self.network.active_members, clock, self.seen.append
        )
        bus.on(MembershipChanged, lambda event: self.links.members_changed())
        self.service = MembershipService(
            self.network, self.transport, self.links, self.supervisor, clock, self.seen.append
        )
        self.transport.register(self.service)
        self.transport.register(self.links)
        self.lane_service = LaneService()
        self.transport.register(self.lane_service)
        self.lanes = LaneBroker(
            self.transport,
            own_id=home.keys.peer_id,
            network_id=home.network_id,
            supervisor=self.supervisor,
            monotonic=clock.monotonic,
            observe=self.seen.append,
        )
        self.transport.attach_lanes(self.lanes)
        self.inviter = Inviter(self.network, clock, self.seen.append)
        self.door = CodeDoor(self.network, clock, self.seen.append)
        self.transport.on_join = answer_joins(self.inviter, self.door)
        await self.transport.start()
        self.links.start()
        return self

    async def close(self) -> None:
        self.links.substrate.close()
        await self.transport.close()
        self.lanes.close()
        await self._stack.aclose()

    @property
    def peer_id(self) -> bytes:
        return self.home.keys.peer_id

    @property
    def address(self) -> Address:
        return self.transport.listen_addresses[0]

    @property
    def rules(self) -> list[str]:
        return [o.rule for o in self.seen]

    async def ticket(self, role: Role = Role.MEMBER, expires_s: float = 3600.0) -> Ticket:
        ticket, _ = await self.network.invites.make(
            self.network.network_id, role, "", expires_s, [str(self.address)]
        )
        return ticket

    async def join(self, ticket: Ticket, name: str = "device") -> Joined:
        return await join_network(self.network, self.transport, ticket, name=name)

    async def dial(self, other: MembershipNode) -> Session:
        session = await self.transport.dial(other.peer_id, other.address)
        await wait_until(lambda: other.transport.find_session(self.peer_id) is not None)
        return session

    def has_session(self, other: MembershipNode) -> bool:
        return self.transport.find_session(other.peer_id) is not None


class Village:
    """Makes nodes and closes those that are still up."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self.nodes: list[MembershipNode] = []

    async def founder(self) -> MembershipNode:
        return await self.start(self.make_home())

    async def stranger(self, ticket: Ticket, keys: DeviceKeys | None = None) -> MembershipNode:
        """Start a node that is about to join by a ticket."""
        home = self.make_home()
        home.keys = keys or home.keys
        home.network_id = ticket.network_id
        return await self.start(home)

    async def member(self, inviter: MembershipNode, role: Role = Role.MEMBER) -> MembershipNode:
        """Start a node, join it, open a session to the inviter."""
        ticket = await inviter.ticket(role)
        node = await self.stranger(ticket)
        await node.join(ticket, f"device {len(self.nodes)}")
        await node.dial(inviter)
        return node

    def make_home(self) -> Home:
        path = self.path / str(len(list(self.path.iterdir())))
        path.mkdir()
        return Home(path)

    async def start(self, home: Home) -> MembershipNode:
        node = await MembershipNode(home, self.clock).start()
        self.nodes.append(node)
        return node

    async def stop(self, node: MembershipNode) -> Home:
        self.nodes.remove(node)
        await node.close()
        return node.home


@asynccontextmanager
async def open_village(path: Path, clock: Clock | None = None) -> AsyncIterator[Village]:
    village = Village(path, clock or SystemClock())
    try:
        yield village
    finally:
        for node in village.nodes:
            await node.close()
