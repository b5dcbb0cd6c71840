"""Nodes that share files over real sessions and lanes; membership is a set, the overlay a dictionary."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from tests.support.stores import PlainSealer
from tests.support.transport_nodes import DOOR_KEY, NETWORK, SetView, wait_until

from shoal.apps.files.pins import PinKeeper
from shoal.apps.files.ports import FileStores
from shoal.apps.files.service import Files
from shoal.apps.files.status import ShareStatus, TransferStatus
from shoal.content.link import Link
from shoal.core.clock import SystemClock
from shoal.core.errors import Unavailable
from shoal.core.observation import Observation
from shoal.core.supervisor import Supervisor
from shoal.identity.keys import DeviceKeys
from shoal.identity.operations import Role
from shoal.identity.state import MembershipState
from shoal.storage.database import Connect, Database, connect_sqlite
from shoal.storage.store import Store
from shoal.storage.stores import make_stores
from shoal.swarm.service import SwarmService
from shoal.transport.address import Address
from shoal.transport.config import TransportConfig
from shoal.transport.lane_broker import LaneBroker
from shoal.transport.transport import Transport

CONTENT_SECRET = b"C" * 32


class RoleView(SetView):
    """Who is a member, with roles."""

    def __init__(self, roles: dict[bytes, Role]) -> None:
        super().__init__(set(), [DOOR_KEY])
        self.roles = roles

    def is_active(self, peer_id: bytes) -> bool:
        return peer_id in self.roles

    def role_of(self, peer_id: bytes) -> Role | None:
        return self.roles.get(peer_id)


@dataclass
class PlainNetwork:
    """What file sharing asks of membership."""

    keys: DeviceKeys
    roles: dict[bytes, Role]
    network_id: bytes = NETWORK
    state: MembershipState = field(default_factory=MembershipState)

    @property
    def own_id(self) -> bytes:
        return self.keys.peer_id

    @property
    def is_out(self) -> bool:
        return self.own_id not in self.roles

    def role_of(self, peer_id: bytes) -> Role | None:
        return self.roles.get(peer_id)

    def content_secret(self, generation: int) -> bytes:
        if generation or self.roles.get(self.own_id) is Role.STORAGE:
            raise Unavailable("no such secret")
        return CONTENT_SECRET

    def content_generation(self) -> int:
        return 0


class Directory:
    """One node's view of the shared dictionary key -> peers."""

    def __init__(self, own_id: bytes, keys: dict[bytes, set[bytes]], node: FilesNode) -> None:
        self._own_id = own_id
        self._keys = keys
        self._node = node

    async def publish(self, key: bytes) -> None:
        self._keys.setdefault(key, set()).add(self._own_id)

    async def withdraw(self, key: bytes) -> None:
        self._keys.get(key, set()).discard(self._own_id)

    def tell_head(self, key: bytes, entries: int) -> None:
        self._keys.setdefault(key, set()).add(self._own_id)

    def listen(self, key: bytes, on_head: object, who: str = "") -> None:
        """Nobody tells heads here: providers' notices do it."""

    async def locate(self, key: bytes, budget_s: float) -> SimpleNamespace:
        return SimpleNamespace(hits=sorted(self._keys.get(key, ())))

    def neighbours(self) -> list[bytes]:
        return [session.peer_id for session in self._node.transport.sessions()]


class FilesNode:
    """One device: transport, lanes, swarm, files, and a home with a database."""

    def __init__(self, world: FilesWorld, home: Path, keys: DeviceKeys, connect: Connect) -> None:
        self.world = world
        self.home = home
        self.keys = keys
        self.seen: list[Observation] = []
        self.supervisor = Supervisor()
        clock = SystemClock()
        rng = random.Random(world.seed + len(world.nodes))
        config = TransportConfig(keys, NETWORK, [Address.parse("127.0.0.1:0")])
        view = RoleView(world.roles)
        self.transport = Transport(config, view, self.supervisor, clock, self.seen.append, rng)
        broker = LaneBroker(
            self.transport,
            own_id=keys.peer_id,
            network_id=NETWORK,
            supervisor=self.supervisor,
            monotonic=clock.monotonic,
            observe=self.seen.append,
        )
        self.transport.attach_lanes(broker)
        self.swarm = SwarmService(
            own_id=keys.peer_id,
            network_id=NETWORK,
            find_session=self.transport.find_session,
            role_of=view.role_of,
            supervisor=self.supervisor,
            clock=clock,
            observe=self.seen.append,
            rng=rng,
        )
        self.transport.register(self.swarm)
        self.database = Database(f"{home}/shoal.db", connect=connect)
        stores = make_stores(self.database, PlainSealer())
        self.stores = stores
        self.files = Files(
            network=PlainNetwork(keys, world.roles),
            swarm=self.swarm,
            overlay=Directory(keys.peer_id, world.keys, self),
            stores=FileStores(stores.entries, stores.objects, stores.shares, stores.transfers),
            home=os.fsencode(home),
            supervisor=self.supervisor,
            clock=clock,
        )
        self.store = Store(self.database, f"{home}/store", segment_bytes=4 * 1024 * 1024)
        self.pins = PinKeeper(self.files.context, self.store, stores.pins, self.files.share_turn)

    @property
    def peer_id(self) -> bytes:
        return self.keys.peer_id

    @property
    def rules(self) -> list[str]:
        return [o.rule for o in self.seen]

    async def start(self) -> None:
        await self.supervisor.__aenter__()
        await self.database.open()
        await self.transport.start()
        await self.files.start()
        await self.store.open()
        await self.pins.start()

    async def stop(self) -> None:
        await self.pins.close()
        await self.files.close()
        await self.swarm.close()
        await self.transport.close()
        await self.supervisor.close()
        await self.store.close()
        await self.database.close()

    async def share(self, *paths: Path, timeout_s: float = 60.0) -> ShareStatus:
        """Share and wait until it is complete (or failed)."""
        status = await self.files.share([os.fsencode(path) for path in paths])
        return await self.wait_hashed(status.share_id, timeout_s)

    async def wait_hashed(self, share_id: bytes, timeout_s: float = 60.0) -> ShareStatus:
        async with asyncio.timeout(timeout_s):
            status = self.files.find_share(share_id)
            assert status is not None
            while status.state == "hashing":
                status = await self.files.wait_share(share_id, status.done_bytes, 5.0)
        return status

    async def get(self, link: Link, dest: Path, timeout_s: float = 60.0, **options: object) -> TransferStatus:
        """Get and wait for the end."""
        status = await self.files.get(link, os.fsencode(dest), **options)  # type: ignore[arg-type]
        return await self.wait_end(status.id, timeout_s)

    async def wait_end(self, transfer_id: bytes, timeout_s: float = 60.0) -> TransferStatus:
        return await self.wait_transfer(transfer_id, lambda s: s.state.is_end, timeout_s)

    async def wait_transfer(
        self, transfer_id: bytes, condition: Callable[[TransferStatus], bool], timeout_s: float = 60.0
    ) -> TransferStatus:
        status = self.files.find_transfer(transfer_id)
        assert status is not None
        try:
            async with asyncio.timeout(timeout_s):
                while not condition(status):
                    status = await self.files.wait_transfer(transfer_id, status.revision, 5.0)
        except TimeoutError:
            raise AssertionError(f"it did not happen: {status}") from None
        return status


class FilesWorld:
    """All nodes of a test, who they are, and who announced what."""

    def __init__(self, directory: Path, seed: int = 1) -> None:
        self.directory = directory
        self.seed = seed
        self.roles: dict[bytes, Role] = {}
        self.keys: dict[bytes, set[bytes]] = {}
        self.nodes: list[FilesNode] = []

    async def add(
        self,
        role: Role = Role.MEMBER,
        *,
        connected: bool = True,
        connect: Connect = connect_sqlite,
        again: FilesNode | None = None,
    ) -> FilesNode:
        """Start a node and connect it to all others; `again` restarts a stopped one with its home."""
        home = again.home if again is not None else self.directory / f"home{len(self.nodes)}"
        home.mkdir(exist_ok=True)
        keys = again.keys if again is not None else DeviceKeys.generate()
        self.roles.setdefault(keys.peer_id, role)
        node = FilesNode(self, home, keys, connect)
        await node.start()
        if connected:
            for other in self.nodes:
                await self.connect(node, other)
        self.nodes.append(node)
        return node

    async def connect(self, one: FilesNode, other: FilesNode) -> None:
        await one.transport.dial(other.peer_id, other.transport.listen_addresses[0])
        await wait_until(lambda: other.transport.find_session(one.peer_id) is not None)

    async def stop(self, node: FilesNode) -> None:
        self.nodes.remove(node)
        await node.stop()

    def remove(self, node: FilesNode) -> None:
        """Carry out a removal on every other node."""
        del self.roles[node.peer_id]
        for other in self.nodes:
            if other is not node:
                other.transport.close_peer(node.peer_id, "removed")


@asynccontextmanager
async def files_world(directory: Path) -> AsyncIterator[FilesWorld]:
    """Yield an empty world; stops what is left at the end."""
    world = FilesWorld(directory)
    try:
        yield world
    finally:
        for node in list(world.nodes):
            await node.stop()
