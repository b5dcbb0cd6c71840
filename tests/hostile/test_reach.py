"""Relays that lie, members that ask for too much, and tokens that come twice. Real sockets on loopback."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from tests.support.lying_relay import open_to_nobody
from tests.support.transport_nodes import (
    QUICK,
    Say,
    TransportNetwork,
    TransportNode,
    transport_network,
    wait_until,
)

from shoal.core.errors import RemoteFault, ShoalError, Unavailable
from shoal.transport.address import Address
from shoal.transport.reach.messages import (
    DialBack,
    DialedBack,
    Observe,
    Observed,
    Punch,
    RelayAsk,
    RelayGrant,
    RelayOffer,
    RelayTaken,
    pack_preamble,
)
from shoal.transport.reach.relay import COPY_BYTES, Relay
from shoal.transport.reach.relay_machine import BURST_S, RelayLimits
from shoal.transport.reach.service import PUNCHES_BURST, TOKEN_VALID_S, ReachService
from shoal.transport.session import Session
from shoal.wire.registry import ServiceNumber

REACH = ServiceNumber.REACH
PATIENT = replace(QUICK, heartbeat_s=2.0, silence_s=4.0, probe_s=2.0)


@dataclass
class World:
    relay: TransportNode
    ann: TransportNode
    bob: TransportNode
    network: TransportNetwork
    services: dict[bytes, ReachService]

    def via(self) -> Address:
        return Address.via(self.relay.peer_id)


def add_reach(world: World, node: TransportNode, limits: RelayLimits | None) -> None:
    transport, monotonic = node.transport, node.transport.monotonic
    supervisor = world.network.supervisor
    relay = Relay(transport, limits, supervisor, monotonic, node.seen.append) if limits is not None else None
    nodes = {n.peer_id: n for n in (world.relay, world.ann, world.bob)}
    service = ReachService(
        transport,
        own_id=node.peer_id,
        relay=relay,
        is_member=node.view.is_active,
        addresses_of=lambda peer: [nodes[peer].address] if peer == world.relay.peer_id else [],
        relays_of=lambda peer: [world.relay.peer_id],
        own_addresses=lambda: [str(node.address)],
        on_standing=lambda: None,
        supervisor=supervisor,
        monotonic=monotonic,
        observe=node.seen.append,
        rng=random.Random(1),
    )
    transport.register(service)
    transport.attach_reach(service)
    world.services[node.peer_id] = service


@asynccontextmanager
async def make_world(limits: RelayLimits | None = None) -> AsyncIterator[World]:
    async with transport_network() as network:
        nodes = [await network.add(timing=PATIENT) for _ in range(3)]
        world = World(nodes[0], nodes[1], nodes[2], network, {})
        for node in nodes:
            add_reach(world, node, (limits or RelayLimits()) if node is world.relay else None)
        try:
            for node in (world.ann, world.bob):
                await node.dial(world.relay)
                await world.relay.wait_session(node)
            yield world
        finally:
            for service in world.services.values():
                service.close()


async def ask(node: TransportNode, world: World, peer: bytes) -> bytes:
    session = await node.wait_session(world.relay)
    answer = await session.request(REACH, RelayAsk(peer))
    assert isinstance(answer, RelayGrant)
    return answer.token


async def dial_over(world: World) -> Session:
    return await world.ann.transport.dial(world.bob.peer_id, world.via(), 5.0)


def count_moved(world: World) -> int:
    relay = world.services[world.relay.peer_id].relay
    assert relay is not None
    return relay.status().day_bytes


async def connect(address: Address, data: bytes) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (address.host, address.port))
    await loop.sock_sendall(sock, data)
    return sock


async def is_closed(sock: socket.socket) -> bool:
    try:
        async with asyncio.timeout(3.0):
            return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    except ConnectionError:
        return True
    finally:
        sock.close()


async def test_a_session_over_a_relay_is_one_like_any_other_and_knows_it() -> None:
    async with make_world() as world:
        session = await dial_over(world)
        other = await world.bob.wait_session(world.ann)
        assert (session.path, session.relay) == ("relay", world.relay.peer_id)
        assert (other.path, other.relay) == ("relay", world.relay.peer_id)
        assert not session.over_loopback
        assert await session.ping() >= 0
        relay = world.services[world.relay.peer_id].relay
        assert relay is not None
        assert relay.status().streams == 1
        assert relay.status().day_bytes > 1000
        session.close()
        await wait_until(lambda: relay.status().streams == 0)


async def test_who_does_not_relay_refuses_and_a_stranger_is_not_offered() -> None:
    async with make_world() as world:
        to_relay = await world.relay.wait_session(world.ann)
        with pytest.raises(ShoalError) as caught:  # ann is no relay
            await to_relay.request(REACH, RelayAsk(world.bob.peer_id))
        assert caught.value.code == "not_a_relay"
        with pytest.raises(Unavailable) as missing:
            await ask(world.ann, world, b"?" * 32)
        assert missing.value.code == "relay_no_session"


async def test_who_is_no_member_gets_nothing_from_a_relay() -> None:
    async with make_world() as world:
        for data in (pack_preamble(b"x" * 16), b"REACHSH2" + bytes(16), b"R" * 24):
            assert await is_closed(await connect(world.relay.address, data))
        assert "unknown_token" in world.relay.rules
        stranger = await world.network.add(timing=PATIENT, members=set())
        world.bob.view.members.discard(stranger.peer_id)
        with pytest.raises(ShoalError):
            await stranger.transport.dial(world.relay.peer_id, world.relay.address, 2.0)


async def test_what_is_relayed_for_a_device_ends_with_its_membership_though_its_session_ended_before() -> (
    None
):
    async with make_world() as world:
        over = await dial_over(world)
        (await world.relay.wait_session(world.ann)).close("shutdown")
        service = world.services[world.relay.peer_id]
        assert service.relay is not None
        assert await over.ping() >= 0  # the stream needs no session of the relay
        service.drop(world.ann.peer_id)
        await wait_until(lambda: service.relay is not None and service.relay.status().streams == 0)
        await wait_until(lambda: over.closed)


async def test_a_token_is_good_once() -> None:
    async with make_world() as world:
        token = await ask(world.ann, world, world.bob.peer_id)
        first = await connect(world.relay.address, pack_preamble(token))
        await asyncio.sleep(0.1)
        assert await is_closed(await connect(world.relay.address, pack_preamble(token)))
        first.close()


async def test_a_relay_that_connects_to_somebody_else_is_found_out() -> None:
    """The relay swaps streams: ann wants bob and gets the relay's own TLS, or cyd's."""
    async with make_world() as world:
        reach = world.services[world.ann.peer_id]
        original = reach.open_socket

        async def swapped(way: Address, peer_id: bytes, timeout_s: float, fall_back: bool) -> socket.socket:
            sock = socket.socket()
            sock.setblocking(False)
            address = world.relay.address
            await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
            return sock

        reach.open_socket = swapped  # type: ignore[method-assign]
        with pytest.raises((RemoteFault, Unavailable, ShoalError)):
            await dial_over(world)
        assert world.ann.transport.find_session(world.bob.peer_id) is None
        reach.open_socket = original  # type: ignore[method-assign]
        assert (await dial_over(world)).peer_id == world.bob.peer_id


@pytest.mark.parametrize("lie", ["cuts", "floods", "is silent"])
async def test_a_relay_that_cuts_floods_or_says_nothing_ends_in_bounded_time(lie: str) -> None:
    async with make_world() as world:
        ends: list[socket.socket] = []
        reach = world.services[world.ann.peer_id]

        async def lying(way: Address, peer_id: bytes, timeout_s: float, fall_back: bool) -> socket.socket:
            return open_to_nobody(lie, ends)

        reach.open_socket = lying  # type: ignore[method-assign]
        began = asyncio.get_running_loop().time()
        with pytest.raises(ShoalError):
            await dial_over(world)
        assert asyncio.get_running_loop().time() - began < 6
        for end in ends:
            end.close()


async def test_a_spent_budget_ends_streams_and_says_so() -> None:
    async with make_world(RelayLimits(day_bytes=20_000)) as world:
        session = await dial_over(world)
        asks = [session.request(ServiceNumber.SWARM, Say(bytes(4000)), 3.0) for _ in range(10)]
        assert any(isinstance(x, Unavailable) for x in await asyncio.gather(*asks, return_exceptions=True))
        await wait_until(lambda: session.closed)
        with pytest.raises(Unavailable) as caught:
            await ask(world.ann, world, world.bob.peer_id)
        assert caught.value.code == "relay_day"
        assert caught.value.retry_after_s


async def test_streams_beyond_the_limit_are_refused() -> None:
    async with make_world(RelayLimits(streams=1)) as world:
        await dial_over(world)
        with pytest.raises(Unavailable) as caught:
            await ask(world.ann, world, world.bob.peer_id)
        assert caught.value.code == "relay_full"


async def test_dial_back_reaches_only_the_host_that_asks() -> None:
    async with make_world() as world:
        session = await world.ann.wait_session(world.relay)
        seen = await session.request(REACH, Observe(True))
        assert isinstance(seen, Observed)
        assert seen.address.startswith("127.0.0.1:")
        proof = b"p" * 16
        token = world.services[world.ann.peer_id]._add_token(proof)
        other = "127.0.0.2:7"  # another host, as far as the relay can tell
        answer = await session.request(REACH, DialBack([other, str(world.ann.address)], token, proof))
        assert answer == DialedBack(["other", "ok"])
        answer = await session.request(REACH, DialBack([str(world.ann.address)], token, proof))
        assert answer == DialedBack(["wrong"])  # a token is good once


async def test_dial_backs_are_limited() -> None:
    async with make_world() as world:
        session = await world.ann.wait_session(world.relay)
        ask_it = DialBack(["127.0.0.2:7"], b"t" * 16, b"p" * 16)
        for _ in range(4):
            await session.request(REACH, ask_it)
        with pytest.raises(Unavailable) as caught:
            await session.request(REACH, ask_it)
        assert caught.value.code == "busy"


async def test_a_token_that_came_late_is_worth_nothing() -> None:
    async with make_world() as world:
        session = await world.ann.wait_session(world.relay)
        seen = await session.request(REACH, Observe(True))
        assert isinstance(seen, Observed)
        service = world.services[world.relay.peer_id]
        found = service._tokens.find(seen.token)
        assert found is not None
        service._tokens.put(seen.token, (found[0] - TOKEN_VALID_S - 1, found[1]))
        assert await is_closed(await connect(world.relay.address, pack_preamble(seen.token)))


async def test_an_offer_for_a_stranger_is_refused() -> None:
    async with make_world() as world:
        session = await world.relay.wait_session(world.ann)
        with pytest.raises(ShoalError) as caught:
            await session.request(REACH, RelayOffer(b"?" * 32, b"t" * 16))
        assert caught.value.code == "stranger"
        assert isinstance(await session.request(REACH, RelayOffer(world.bob.peer_id, b"t" * 16)), RelayTaken)


async def test_punches_of_one_peer_are_limited() -> None:
    async with make_world() as world:
        session = await world.ann.wait_session(world.relay)
        codes = []
        for _ in range(int(PUNCHES_BURST) + 4):
            try:
                await session.request(REACH, Punch(["192.0.2.1:9"], b"t" * 16, 0))
            except ShoalError as error:
                codes.append(error.code)
        assert "busy" in codes


async def test_a_relay_moves_no_more_than_its_owner_gives() -> None:
    rate = 200_000
    async with make_world(RelayLimits(rate_bytes_s=rate)) as world:
        session = await dial_over(world)
        loop = asyncio.get_running_loop()
        began, before = loop.time(), count_moved(world)
        while loop.time() < began + 1.0:  # as much as it takes
            await session.request(ServiceNumber.SWARM, Say(bytes(4000)), 30.0)
        moved, took_s = count_moved(world) - before, loop.time() - began
        assert moved <= rate * (took_s + BURST_S) + 2 * COPY_BYTES


async def test_a_reflection_shows_the_port_it_came_from() -> None:
    async with make_world() as world:
        session = await world.ann.wait_session(world.relay)
        seen = await session.request(REACH, Observe(True))
        assert isinstance(seen, Observed)
        sock = await connect(world.relay.address, pack_preamble(seen.token))
        data = await asyncio.get_running_loop().sock_recv(sock, 200)
        name = sock.getsockname()
        assert data[1 : 1 + data[0]].decode() == f"{name[0]}:{name[1]}"
        sock.close()
