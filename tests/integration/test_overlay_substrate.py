"""The substrate over real sessions on loopback: a mesh that becomes views and a mesh again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.integration.test_overlay_service import MemoryStore
from tests.support.transport_nodes import NETWORK, TransportNode, transport_network, wait_until

from shoal.core.clock import SystemClock
from shoal.core.supervisor import Supervisor
from shoal.overlay.service import OverlayService
from shoal.overlay.substrate import service as substrate
from shoal.overlay.substrate.messages import Gossip, Neighbour
from shoal.overlay.substrate.plumtree import Verdict
from shoal.overlay.substrate.steps import Effect
from shoal.wire.registry import ServiceNumber

MESH = 4
TOPIC = 200


class Handler:
    """Takes what begins with `good`."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def judge(self, payload: bytes) -> Verdict:
        return Verdict.GOOD if payload.startswith(b"good") else Verdict.FORGED

    def find_author(self, payload: bytes) -> bytes | None:
        return payload[8:40] if payload.startswith(b"good by ") else None

    def deliver(self, payload: bytes, sender: bytes) -> None:
        self.taken.append(payload)


class Members:
    """Membership as one node sees it."""

    def __init__(self, members: set[bytes]) -> None:
        self.members = members

    def active_members(self) -> set[bytes]:
        return set(self.members)


class Node:
    """A transport and its overlay, with a mesh of at most four."""

    def __init__(self, transport: TransportNode, supervisor: Supervisor) -> None:
        self.transport = transport
        self.handler = Handler()
        self.overlay = OverlayService(
            transport.transport,
            Members(transport.view.members),
            MemoryStore(),
            keys=transport.keys,
            network_id=NETWORK,
            name=lambda: "device",
            supervisor=supervisor,
            clock=SystemClock(),
            observe=transport.seen.append,
            rng=random.Random(int.from_bytes(transport.peer_id[:4], "big")),
            mesh_members=MESH,
        )
        self.overlay.handle(TOPIC, self.handler)
        transport.transport.register(self.overlay)

    @property
    def peer_id(self) -> bytes:
        return self.transport.peer_id

    @property
    def links(self) -> list[bytes]:
        machine = self.overlay._substrate._machine
        return machine.plumtree.eager + machine.plumtree.lazy

    @property
    def sessions(self) -> set[bytes]:
        return {session.peer_id for session in self.transport.transport.sessions()}


class Lost:
    """Notes neighbours that come and go."""

    def __init__(self, seen: list[bytes]) -> None:
        self.seen = seen

    def on_link_up(self, now: float, peer: bytes, out: list[Effect]) -> None:
        self.seen.append(peer)

    def on_link_down(self, now: float, peer: bytes, out: list[Effect]) -> None:
        self.seen.append(peer)


class Network:
    """Nodes on loopback; each is told one earlier address."""

    def __init__(self, transports: object, supervisor: Supervisor) -> None:
        self.transports = transports
        self.supervisor = supervisor
        self.nodes: list[Node] = []

    async def grow(self, count: int) -> None:
        for _ in range(count):
            node = Node(await self.transports.add(), self.supervisor)  # type: ignore[attr-defined]
            await node.overlay.start()
            for known in self.nodes[:1]:
                node.overlay.add_contact(known.peer_id, known.overlay.own_addresses())
            self.nodes.append(node)
            for other in self.nodes:
                other.overlay.members_changed()

    async def remove(self, gone: Node) -> None:
        self.nodes.remove(gone)
        gone.transport.view.members.discard(gone.peer_id)
        for node in self.nodes:
            node.transport.transport.close_peer(gone.peer_id, "removed")
            node.overlay.drop(gone.peer_id)
        await gone.overlay.close()
        await gone.transport.transport.close()

    def is_one(self) -> bool:
        """Whether links connect everybody, both ways."""
        nodes = {node.peer_id: node for node in self.nodes}
        seen = {self.nodes[0].peer_id}
        queue = [self.nodes[0]]
        while queue:
            for peer in queue.pop().links:
                if peer in nodes and peer not in seen and nodes[peer].links:
                    seen.add(peer)
                    queue.append(nodes[peer])
        return len(seen) == len(nodes)


@asynccontextmanager
async def open_network() -> AsyncIterator[Network]:
    async with transport_network() as transports:
        network = Network(transports, transports.supervisor)
        try:
            yield network
        finally:
            for node in network.nodes:
                await node.overlay.close()


async def reach_all(network: Network, payload: bytes) -> None:
    """Broadcast from the last node and wait until all others have it, once each."""
    network.nodes[-1].overlay.broadcast(TOPIC, payload)
    await wait_until(lambda: all(payload in node.handler.taken for node in network.nodes[:-1]), 15.0)
    assert all(node.handler.taken.count(payload) == 1 for node in network.nodes[:-1])


async def test_a_mesh_becomes_views_and_a_mesh_again() -> None:
    async with open_network() as network:
        await network.grow(4)
        await wait_until(lambda: all(len(node.links) == 3 for node in network.nodes), 15.0)
        assert {node.overlay.substrate_status().mode for node in network.nodes} == {"mesh"}
        await reach_all(network, b"good: in the mesh")
        await network.grow(8)
        assert {node.overlay.substrate_status().mode for node in network.nodes} == {"views"}
        await wait_until(network.is_one, 40.0)
        await wait_until(lambda: all(node.sessions >= set(node.links) for node in network.nodes), 15.0)
        for number in range(3):
            await reach_all(network, b"good: in views %d" % number)
        assert all(len(node.links) <= 6 for node in network.nodes)
        gone = network.nodes[5]
        await network.remove(gone)
        assert all(gone.peer_id not in node.links for node in network.nodes)
        assert all(
            gone.peer_id not in node.overlay._substrate._machine.views.passive for node in network.nodes
        )
        await reach_all(network, b"good: after a removal")
        while len(network.nodes) > 3:
            await network.remove(network.nodes[3])
        assert {node.overlay.substrate_status().mode for node in network.nodes} == {"mesh"}
        await wait_until(lambda: all(len(node.links) == 2 for node in network.nodes), 15.0)
        await reach_all(network, b"good: in the mesh again")


async def test_a_neighbour_whose_session_is_replaced_stays_one() -> None:
    async with open_network() as network:
        await network.grow(6)
        await wait_until(network.is_one, 40.0)
        pairs = [(a, b) for a in network.nodes for b in network.nodes if b.peer_id in a.links and a is not b]
        one, other = next((a, b) for a, b in pairs if a.peer_id in b.links)
        seen: list[bytes] = []
        machines = [node.overlay._substrate._machine for node in (one, other)]
        for machine, peer in zip(machines, (other.peer_id, one.peer_id), strict=True):
            assert peer in machine.views.active
        for node in (one, other):
            node.overlay._substrate._machine.views._listener = Lost(seen)
        before = one.transport.transport.find_session(other.peer_id)
        after = await one.transport.transport.replace(other.peer_id, other.transport.address)
        assert after is not before
        await wait_until(lambda: other.transport.transport.find_session(one.peer_id) is not None)
        assert {one.peer_id, other.peer_id}.isdisjoint(seen)
        assert other.peer_id in one.links
        assert one.peer_id in other.links


async def test_who_is_no_neighbour_is_dialled_when_needed_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(substrate, "SWEEP_S", 0.1)
    async with open_network() as network:
        await network.grow(10)
        await wait_until(network.is_one, 40.0)
        monkeypatch.setattr(substrate, "IDLE_S", 0.5)
        one = network.nodes[0]

        def find_stranger() -> Node | None:
            others = network.nodes[1:]
            return next((n for n in others if n.peer_id not in one.sessions | set(one.links)), None)

        await wait_until(lambda: find_stranger() is not None, 15.0)
        other = find_stranger()
        assert other is not None
        await wait_until(lambda: bool(one.overlay._machine.addresses(other.peer_id)), 15.0)
        assert one.overlay.find_session(other.peer_id) is None
        await wait_until(lambda: one.overlay.find_session(other.peer_id) is not None, 15.0)
        monkeypatch.setattr(one.overlay._substrate, "_is_busy", lambda peer: True)
        assert one.overlay._substrate._find_extra() == []
        monkeypatch.setattr(one.overlay._substrate, "_is_busy", lambda peer: False)
        one.overlay._substrate._sweep()
        resting = {s.peer_id for s in one.transport.transport.sessions() if s.may_rest}
        assert resting == one.sessions - set(one.overlay._substrate._machine.views.active)
        await wait_until(lambda: other.peer_id not in one.sessions or other.peer_id in one.links, 15.0)
        status = next(s for s in one.overlay.peers_status() if s.peer_id == other.peer_id)
        assert (status.state, status.ended) == ("known", "idle") or status.neighbour


async def test_forged_broadcasts_are_not_passed_on_and_cost_their_sender() -> None:
    async with open_network() as network:
        await network.grow(3)
        await wait_until(lambda: all(len(node.links) == 2 for node in network.nodes), 15.0)
        liar, *others = network.nodes
        session = liar.transport.transport.find_session(others[0].peer_id)
        assert session is not None
        forged = b"bad"
        for number in range(8):
            payload = forged + bytes([number])
            identifier = substrate.make_identifier(TOPIC, payload)
            session.notify(ServiceNumber.OVERLAY, Gossip(identifier, 1, TOPIC, payload))
        session.notify(ServiceNumber.OVERLAY, Gossip(b"i" * 16, 1, TOPIC, b"good, by another name"))
        await wait_until(lambda: session.closed, 15.0)
        assert others[0].handler.taken == others[1].handler.taken == []
        assert "forged_broadcast" in [o.rule for o in others[0].transport.seen]


async def test_a_storm_of_one_author_ends_at_its_neighbours_and_others_are_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(substrate, "AUTHOR_BURST", 10.0)
    monkeypatch.setattr(substrate, "AUTHOR_S", 0.001)
    async with open_network() as network:
        await network.grow(3)
        await wait_until(lambda: all(len(node.links) == 2 for node in network.nodes), 15.0)
        liar, *others = network.nodes
        for number in range(150):
            liar.overlay.broadcast(TOPIC, b"good by " + b"liar" * 8 + bytes([number]))
        liar.overlay.broadcast(TOPIC, b"good by " + b"anna" * 8)
        await wait_until(lambda: all(b"good by " + b"anna" * 8 in o.handler.taken for o in others), 15.0)
        for other in others:
            assert sum(payload[8:12] == b"liar" for payload in other.handler.taken) == 10
        seen = [observed.rule for other in others for observed in other.transport.seen]
        assert "too_many_broadcasts" in seen
        assert all(len(node.links) == 2 for node in network.nodes)  # nobody is blamed for passing on


async def test_who_pushes_itself_in_evicts_one_link_in_ten_seconds() -> None:
    async with open_network() as network:
        await network.grow(8)
        await wait_until(network.is_one, 40.0)
        victim = max(network.nodes, key=lambda node: len(node.links))
        views = victim.overlay._substrate._machine.views
        await wait_until(lambda: len(views.active) >= 5, 15.0)
        before = list(views.active)
        for node in network.nodes:
            if node.peer_id not in before and node is not victim:
                victim.overlay._substrate.on_message(node.peer_id, Neighbour(True))
        assert len(set(before) - set(views.active)) <= 1


async def test_keys_are_found_from_everywhere_in_views_and_after_a_withdrawal_no_more() -> None:
    async with open_network() as network:
        await network.grow(10)
        await wait_until(network.is_one, 40.0)
        key, late = b"k" * 32, b"l" * 32
        first, last = network.nodes[0], network.nodes[-1]
        await last.overlay.publish(key)

        async def find(node: Node, wanted: bytes) -> list[bytes]:
            return (await node.overlay.locate(wanted, 0.2)).hits

        for node in network.nodes[:-1]:
            await wait_until(lambda node=node: bool(node.overlay._machine._index.find(key, 0.0)), 15.0)
            assert await find(node, key) == [last.peer_id]
        await last.overlay.withdraw(key)
        await wait_until(lambda: not first.overlay._machine._index.find(key, 0.0), 15.0)
        # whoever comes later gets what was broadcast before
        await first.overlay.publish(late)
        await network.grow(1)
        newest = network.nodes[-1]
        await wait_until(lambda: bool(newest.overlay._machine._index.find(late, 0.0)), 15.0)
        known = newest.overlay._machine._book
        await wait_until(lambda: len(known.records()) == len(network.nodes), 15.0)
