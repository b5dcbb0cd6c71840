"""Relays that lie: who calls over one takes another in bounded time, who is called finds it out."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from tests.support.lying_relay import LIES, LyingRelay
from tests.support.transport_nodes import (
    QUICK,
    TransportNetwork,
    TransportNode,
    transport_network,
    wait_until,
)

from shoal.core.errors import ShoalError
from shoal.transport.address import Address
from shoal.transport.reach import self_calls, service
from shoal.transport.reach.messages import RelayOffer
from shoal.transport.reach.relay import Relay
from shoal.transport.reach.relay_machine import RelayLimits
from shoal.transport.reach.service import OFFERS_A_RELAY, ReachService
from shoal.wire.registry import ServiceNumber

PATIENT = replace(QUICK, heartbeat_s=2.0, silence_s=4.0, probe_s=2.0)
DIAL_S = 5.0  # of the overlay, for one way


@dataclass
class World:
    """`liar` and `honest` relay between Ann and Bob, who have sessions with both and none with each other."""

    network: TransportNetwork
    liar: TransportNode
    honest: TransportNode
    ann: TransportNode
    bob: TransportNode
    lying: LyingRelay
    services: dict[bytes, ReachService]

    def of(self, node: TransportNode) -> ReachService:
        return self.services[node.peer_id]


def add_reach(world: World, node: TransportNode, relay: Relay | None) -> None:
    transport = node.transport
    addresses = {n.peer_id: [n.address] for n in (world.liar, world.honest)}
    service = ReachService(
        transport,
        own_id=node.peer_id,
        relay=relay,
        is_member=node.view.is_active,
        addresses_of=lambda peer: addresses.get(peer, []),
        relays_of=lambda peer: [world.liar.peer_id, world.honest.peer_id],
        own_addresses=lambda: [str(node.address)],
        on_standing=lambda: None,
        supervisor=world.network.supervisor,
        monotonic=transport.monotonic,
        observe=node.seen.append,
        rng=random.Random(1),
    )
    transport.register(service)
    transport.attach_reach(service)
    world.services[node.peer_id] = service


@asynccontextmanager
async def make_world(lie: str) -> AsyncIterator[World]:
    async with transport_network() as network:
        liar, honest, ann, bob = [await network.add(timing=PATIENT) for _ in range(4)]
        supervisor, monotonic = network.supervisor, liar.transport.monotonic
        lying = LyingRelay(liar.transport, RelayLimits(), supervisor, monotonic, liar.seen.append)
        lying.lie = lie
        world = World(network, liar, honest, ann, bob, lying, {})
        add_reach(world, liar, lying)
        add_reach(
            world,
            honest,
            Relay(honest.transport, RelayLimits(), supervisor, monotonic, honest.seen.append),
        )
        add_reach(world, ann, None)
        add_reach(world, bob, None)
        try:
            for node in (ann, bob):
                for relay in (liar, honest):
                    await node.dial(relay)
                    await relay.wait_session(node)
            yield world
        finally:
            for service in world.services.values():
                service.close()


@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_ends_in_bounded_time_and_the_other_relay_is_there(lie: str) -> None:
    async with make_world(lie) as world:
        began = asyncio.get_running_loop().time()
        try:
            found = await world.ann.transport.dial(world.bob.peer_id, Address.via(world.liar.peer_id), DIAL_S)
        except ShoalError:
            assert world.ann.transport.find_session(world.bob.peer_id) is None
        else:  # it passes the handshake on: then the session says itself that it is over
            assert lie == "stalls"
            assert found.peer_id == world.bob.peer_id
            await wait_until(lambda: found.closed, 30.0)
            assert found.close_reason in ("dead", "reset", "fault")
        assert asyncio.get_running_loop().time() - began < 40.0
        over = Address.via(world.honest.peer_id)
        session = await world.ann.transport.dial(world.bob.peer_id, over, DIAL_S)
        assert (session.peer_id, session.relay) == (world.bob.peer_id, world.honest.peer_id)


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != "stalls"])
async def test_a_relay_that_brings_no_call_is_found_out_by_who_calls_itself(
    lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ASK_TIMEOUT_S", 2.0)
    monkeypatch.setattr(self_calls, "CALL_S", 3.0)
    async with make_world(lie) as world:
        found: dict[bytes, bool] = {}
        bob = world.of(world.bob)
        bob.check_relay(world.liar.peer_id, found.__setitem__)
        bob.check_relay(world.honest.peer_id, found.__setitem__)
        await wait_until(lambda: len(found) == 2, 30.0)
        assert found == {world.liar.peer_id: False, world.honest.peer_id: True}
        assert "relay_useless" in world.bob.rules
        await wait_until(lambda: world.lying.status().streams == 0, 30.0)


async def test_an_honest_relay_passes_the_check_again_and_again_and_keeps_nothing_of_it() -> None:
    async with make_world("") as world:
        found: list[tuple[bytes, bool]] = []
        relay = world.of(world.honest).relay
        assert relay is not None
        for count in range(1, 4):
            world.of(world.bob).check_relay(world.honest.peer_id, lambda *done: found.append(done))
            await wait_until(lambda n=count: len(found) == n, 20.0)
            await wait_until(lambda: relay.status().streams == 0, 20.0)
        assert found == [(world.honest.peer_id, True)] * 3
        assert "relay_useless" not in world.bob.rules


async def test_an_offer_of_our_own_call_that_we_did_not_make_is_refused() -> None:
    async with make_world("") as world:
        session = await world.liar.wait_session(world.bob)
        with pytest.raises(ShoalError) as caught:
            await session.request(ServiceNumber.REACH, RelayOffer(world.bob.peer_id, b"t" * 16))
        assert caught.value.code == "unasked"


async def test_a_relay_that_floods_with_calls_leaves_room_for_the_other_one() -> None:
    async with make_world("") as world:
        session = await world.liar.wait_session(world.bob)
        bob = world.of(world.bob)
        never: asyncio.Event = asyncio.Event()

        async def hang(session: object, token: bytes, timeout_s: float) -> object:
            await never.wait()
            raise AssertionError

        connect = bob._connect_relay
        bob._connect_relay = hang  # type: ignore[method-assign, assignment]
        refused = 0
        for number in range(OFFERS_A_RELAY + 8):
            offer = RelayOffer(world.ann.peer_id, number.to_bytes(16, "big"))
            try:
                await session.request(ServiceNumber.REACH, offer)
            except ShoalError:
                refused += 1
        assert refused == 8
        assert bob._offers == {world.liar.peer_id: OFFERS_A_RELAY}
        bob._connect_relay = connect  # type: ignore[method-assign]
        over = Address.via(world.honest.peer_id)
        found = await world.ann.transport.dial(world.bob.peer_id, over, DIAL_S)
        assert found.relay == world.honest.peer_id


async def test_calls_that_a_relay_brings_all_at_once_are_no_more_than_one_after_the_other() -> None:
    async with make_world("") as world:
        session = await world.liar.wait_session(world.bob)
        bob = world.of(world.bob)
        most = 0

        async def hang(session: object, token: bytes, timeout_s: float) -> object:
            nonlocal most
            most = max(most, sum(bob._offers.values()))
            await asyncio.Event().wait()
            raise AssertionError

        bob._connect_relay = hang  # type: ignore[method-assign, assignment]
        at_once = bob.budget.requests_in_flight
        taken = 0
        for _ in range(OFFERS_A_RELAY // at_once + 2):
            offers = [RelayOffer(world.ann.peer_id, bytes(16)) for _ in range(at_once)]
            answers = await asyncio.gather(
                *(session.request(ServiceNumber.REACH, offer) for offer in offers), return_exceptions=True
            )
            taken += sum(not isinstance(answer, ShoalError) for answer in answers)
        assert taken == OFFERS_A_RELAY
        await wait_until(lambda: most > 0)
        assert most == OFFERS_A_RELAY


async def test_a_check_of_a_relay_takes_the_place_of_an_earlier_one() -> None:
    """After a session was replaced: what the first would have said is of the old one."""
    async with make_world("") as world:
        session = await world.bob.wait_session(world.honest)
        calls = self_calls.SelfCalls(world.bob.seen.append)
        told: list[tuple[bytes, bool]] = []
        near, far = socket.socketpair()
        for end in (near, far):
            end.setblocking(False)

        async def never() -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

        async def ask() -> bytes:
            assert calls.take_offer(world.honest.peer_id, b"far")
            return b"near"

        async def connect(token: bytes) -> socket.socket:
            return near if token == b"near" else far

        first = asyncio.create_task(calls.check(session, never, connect, lambda *done: told.append(done)))
        await asyncio.sleep(0)
        await calls.check(session, ask, connect, lambda *done: told.append(done))
        assert told == [(world.honest.peer_id, True)]
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len(told) == 1
