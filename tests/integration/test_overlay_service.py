"""The overlay's driver over real sessions on loopback: finding each other, keys, the book on disk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
from tests.support.transport_nodes import NETWORK, TransportNode, transport_network, wait_until

from shoal.core.clock import SystemClock
from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage, StorageFault, Unavailable
from shoal.core.supervisor import Supervisor
from shoal.identity.keys import DeviceKeys
from shoal.overlay import service as service_module
from shoal.overlay.messages import Query, Wanted
from shoal.overlay.service import OverlayService
from shoal.storage.peers import PeerRow
from shoal.wire.registry import ServiceNumber

KEY = b"k" * 32


class MemoryStore:
    """A peer table in memory, which can fail."""

    def __init__(self) -> None:
        self.rows: dict[bytes, PeerRow] = {}
        self.failing = False

    async def load(self) -> list[PeerRow]:
        return list(self.rows.values())

    async def save(self, rows: Iterable[PeerRow]) -> None:
        if self.failing:
            raise StorageFault("the disk is full")
        self.rows.update({row.peer_id: row for row in rows})

    async def drop(self, peer_ids: Iterable[bytes]) -> None:
        for peer_id in peer_ids:
            self.rows.pop(peer_id, None)


class SharedMembers:
    """Membership of all nodes of a test."""

    def __init__(self, members: set[bytes]) -> None:
        self.members = members

    def active_members(self) -> set[bytes]:
        return set(self.members)


class Node:
    """A transport and its overlay."""

    def __init__(self, transport: TransportNode, store: MemoryStore, supervisor: Supervisor) -> None:
        self.transport = transport
        self.store = store
        self.name = "device"
        self.overlay = OverlayService(
            transport.transport,
            SharedMembers(transport.view.members),
            store,
            keys=transport.keys,
            network_id=NETWORK,
            name=lambda: self.name,
            supervisor=supervisor,
            clock=SystemClock(),
            observe=transport.seen.append,
            rng=random.Random(1),
            poll_s=0.05,
        )
        transport.transport.register(self.overlay)

    @property
    def peer_id(self) -> bytes:
        return self.transport.peer_id

    async def close(self) -> None:
        await self.overlay.close()
        await self.transport.transport.close()


class Network:
    """Nodes on loopback; each join names the address of one earlier node."""

    def __init__(self, network: object, supervisor: Supervisor) -> None:
        self.network = network
        self.supervisor = supervisor
        self.nodes: list[Node] = []

    async def add(self, keys: DeviceKeys | None = None, store: MemoryStore | None = None) -> Node:
        transport = await self.network.add(keys=keys)  # type: ignore[attr-defined]
        node = Node(transport, store or MemoryStore(), self.supervisor)
        await node.overlay.start()
        self.nodes.append(node)
        for other in self.nodes:
            other.overlay.members_changed()
        return node

    def is_full(self) -> bool:
        return all(len(node.overlay.neighbours()) == len(self.nodes) - 1 for node in self.nodes)


@asynccontextmanager
async def overlay_network() -> AsyncIterator[Network]:
    async with transport_network() as transports:
        network = Network(transports, transports.supervisor)
        try:
            yield network
        finally:
            for node in network.nodes:
                await node.overlay.close()


async def make_full(network: Network, count: int) -> None:
    first = await network.add()
    for _ in range(count - 1):
        node = await network.add()
        node.overlay.add_contact(first.peer_id, first.overlay.own_addresses())
    await wait_until(network.is_full, 15.0)


async def test_everybody_finds_everybody_through_one() -> None:
    async with overlay_network() as network:
        await make_full(network, 4)
        for node in network.nodes:
            status = node.overlay.peers_status()
            assert [s.state for s in status] == ["connected"] * 3
            assert all(s.addresses for s in status)
            await wait_until(lambda node=node: all(s.rtt_ms for s in node.overlay.peers_status()))


async def test_keys_are_published_located_and_withdrawn() -> None:
    async with overlay_network() as network:
        await make_full(network, 3)
        one, two, three = network.nodes
        await one.overlay.publish(KEY)
        await two.overlay.publish(KEY)
        result = await three.overlay.locate(KEY, 2.0)
        assert result.hits
        find = three.overlay._machine._index.find
        await wait_until(lambda: set(find(KEY, 0.0)) == {one.peer_id, two.peer_id})
        assert set((await three.overlay.locate(KEY, 2.0)).hits) == {one.peer_id, two.peer_id}
        await one.overlay.withdraw(KEY)
        await wait_until(lambda: find(KEY, 0.0) == [two.peer_id])
        assert (await three.overlay.locate(KEY, 2.0)).hits == [two.peer_id]
        missing = await three.overlay.locate(b"m" * 32, 5.0)
        assert (missing.hits, missing.asked, missing.answered) == ([], 2, 2)
        assert missing.elapsed_s < 4.0
        with pytest.raises(LocalMisuse):
            await three.overlay.locate(b"short", 1.0)


async def test_nodes_come_back_on_other_ports_and_are_found_through_the_one_that_stayed() -> None:
    async with overlay_network() as network:
        await make_full(network, 3)
        await asyncio.sleep(service_module.SAVE_S + 0.3)
        stayed, *moved = network.nodes
        network.nodes = [stayed]
        for node in moved:
            await node.close()
        for node in moved:
            assert stayed.peer_id in node.store.rows
            await network.add(node.transport.keys, node.store)
        await wait_until(network.is_full, 20.0)
        # the record was counted on from what the book said
        records = [node.overlay._machine.own_record for node in network.nodes[1:]]
        assert all(record is not None and record.seq >= 2 for record in records)


async def test_who_was_removed_is_dropped_everywhere() -> None:
    async with overlay_network() as network:
        await make_full(network, 3)
        one, two, gone = network.nodes
        await gone.overlay.publish(KEY)
        await wait_until(lambda: bool(one.overlay._machine._index.find(KEY, 0.0)))
        one.transport.view.members.discard(gone.peer_id)
        for node in (one, two):
            node.transport.transport.close_peer(gone.peer_id, "removed")
            node.overlay.drop(gone.peer_id)
            assert gone.peer_id not in [s.peer_id for s in node.overlay.peers_status()]
        assert (await one.overlay.locate(KEY, 0.3)).hits == []
        await asyncio.sleep(service_module.SAVE_S + 0.3)
        assert gone.peer_id not in one.store.rows


async def test_a_new_name_and_new_addresses_are_told_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with overlay_network() as network:
        await make_full(network, 2)
        one, two = network.nodes
        one.name = "renamed"
        one.overlay.members_changed()

        def record_at_two() -> object:
            contact = two.overlay._machine._book.find(one.peer_id)
            return contact.record if contact is not None else None

        await wait_until(lambda: getattr(record_at_two(), "name", "") == "renamed")
        probed = []
        monkeypatch.setattr(one.transport.transport, "probe_sessions", lambda: probed.append(1))
        monkeypatch.setattr(one.overlay, "own_addresses", lambda: ["192.0.2.55:1"])
        await wait_until(lambda: getattr(record_at_two(), "addresses", ()) == ("192.0.2.55:1",))
        assert probed


async def test_a_peer_that_cannot_be_reached_is_shown_with_the_reason() -> None:
    async with overlay_network() as network:
        one = await network.add()
        absent = DeviceKeys.generate()
        one.transport.view.members.add(absent.peer_id)
        one.overlay.members_changed()
        one.overlay.add_contact(absent.peer_id, ["127.0.0.1:1"])
        await wait_until(lambda: one.overlay.peers_status()[0].state == "offline")
        [status] = one.overlay.peers_status()
        assert status.addresses == ["127.0.0.1:1"]
        assert status.why.startswith("127.0.0.1:1: ")
        assert (await one.overlay.locate(KEY, 0.2)).asked == 0


async def test_contacts_before_the_start_are_kept_and_searches_refused() -> None:
    async with transport_network() as transports:
        transport = await transports.add()
        node = Node(transport, MemoryStore(), transports.supervisor)
        peer = DeviceKeys.generate().peer_id
        transport.view.members.add(peer)
        node.overlay.add_contact(peer, ["127.0.0.1:1"])
        with pytest.raises(Unavailable):
            await node.overlay.locate(KEY, 1.0)
        await node.overlay.start()
        assert node.overlay.peers_status()[0].addresses == ["127.0.0.1:1"]
        await node.overlay.close()
        await node.overlay.close()
        with pytest.raises(Unavailable):
            await node.overlay.locate(KEY, 1.0)


async def test_what_a_session_brings_before_the_start_is_not_lost() -> None:
    async with overlay_network() as network:
        first = await network.add()
        await first.overlay.publish(KEY)
        transport = await network.network.add()  # type: ignore[attr-defined]
        late = Node(transport, MemoryStore(), network.supervisor)
        first.overlay.members_changed()
        await transport.dial(first.transport)
        await asyncio.sleep(0.2)
        await late.overlay.start()
        network.nodes.append(late)
        assert late.overlay._machine.state_of(first.peer_id) == ("connected", "")
        assert late.overlay._machine.addresses(first.peer_id) == first.overlay.own_addresses()
        await wait_until(lambda: bool(late.overlay._machine._index.find(KEY, 0.0)))
        result = await late.overlay.locate(KEY, 2.0)
        assert (result.hits, result.messages) == ([first.peer_id], 0)


async def test_a_full_disk_is_survived_and_the_book_saved_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "SAVE_S", 0.05)
    async with overlay_network() as network:
        await make_full(network, 2)
        one, two = network.nodes
        one.store.failing = True
        one.store.rows.clear()
        one.overlay.add_contact(two.peer_id, ["127.0.0.1:2"])
        await asyncio.sleep(0.3)
        assert network.is_full()
        one.store.failing = False
        await wait_until(lambda: two.peer_id in one.store.rows)


async def test_messages_that_break_a_rule_are_faults() -> None:
    async with overlay_network() as network:
        await make_full(network, 2)
        one, two = network.nodes
        session = one.transport.transport.find_session(two.peer_id)
        assert session is not None
        for message, fault in (
            (Wanted([(b"short", 0)]), MalformedMessage),
            (Wanted([(KEY, 0)] * 257), LimitExceeded),
            (Query(2**32, KEY), MalformedMessage),
        ):
            with pytest.raises(fault):
                one.overlay.on_notice(session, message)
        with pytest.raises(MalformedMessage):
            await one.overlay.on_request(session, Query(1, KEY))
        # sent for real: the peer is observed, and the session lives while it is not often
        session.notify(ServiceNumber.OVERLAY, Wanted([(b"short", 0)]))
        await wait_until(lambda: bool(two.transport.seen))
        assert network.is_full()


async def test_a_dial_that_fails_as_nothing_should_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with overlay_network() as network:
        first = await network.add()
        peer = DeviceKeys.generate().peer_id

        async def fail(*_: object) -> None:
            raise RuntimeError("not one of ours")

        monkeypatch.setattr(first.transport.transport, "dial", fail)
        first.transport.view.members.add(peer)
        first.overlay.members_changed()
        first.overlay.add_contact(peer, ["127.0.0.1:1"])

        def why() -> str:
            return next(s.why for s in first.overlay.peers_status() if s.peer_id == peer)

        await wait_until(lambda: "unexpected RuntimeError" in why())
        assert not first.overlay._dials
