"""Lane broker: who dials, who gets the lane, what limits it. Real loopback sockets, no TLS."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import uvloop
from tests.support.lane_brokers import CLIENT, SERVER, make_world, wait_until

from shoal.core.errors import LocalMisuse, MalformedMessage, Refused, Unavailable
from shoal.transport.lane import BUFFER_BYTES, Lane
from shoal.transport.lane_broker import LANES_A_PEER
from shoal.transport.lane_messages import LaneAccept, LaneOpen
from shoal.wire.registry import ServiceNumber

SWARM = ServiceNumber.SWARM


def _send_some(lane: Lane, data: bytes, count: int) -> None:
    for _ in range(count):
        lane.plaintext[: len(data)] = data
        lane.send(len(data))
    lane.finish()


def _receive_all(lane: Lane) -> int:
    total = 0
    while (view := lane.receive()) is not None:
        total += len(view)
    return total


@pytest.mark.parametrize("asker", [CLIENT, SERVER])
@pytest.mark.parametrize("send", [True, False])
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_either_end_asks_and_data_flows_either_way(asker: bytes, send: bool, loop_factory: Any) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_open_and_use(asker, send))


async def _open_and_use(asker: bytes, send: bool) -> None:
    async with make_world() as world:
        mine, other = (world.client, SERVER) if asker == CLIENT else (world.server, CLIENT)
        session = world.at_client if asker == CLIENT else world.at_server
        lane = await mine.open(session, SWARM, b"why", send)
        taken, purpose = await asyncio.wait_for(world.taker[other].lanes.get(), 3)
        assert purpose == b"why"
        assert (lane.sends, taken.sends) == (send, not send)
        assert (lane.session_peer, taken.session_peer) == (session.peer_id, asker)
        assert world.answers == [True]  # the server accepted: the client dialled, whoever asked
        sender, receiver = (lane, taken) if send else (taken, lane)
        thread = threading.Thread(target=_send_some, daemon=True, args=(sender, b"d" * 100_000, 50))
        thread.start()
        assert await asyncio.to_thread(_receive_all, receiver) == 5_000_000
        await asyncio.to_thread(thread.join)
        assert (sender.sent_bytes, receiver.received_bytes) == (5_000_000, 5_000_000)
        lane.close()
        taken.close()
        await wait_until(lambda: world.client.slots_taken + world.server.slots_taken == 0)
        assert world.client.lane_count + world.server.lane_count == 0


async def test_the_service_may_refuse() -> None:
    async with make_world() as world:
        world.taker[SERVER].willing = world.taker[CLIENT].willing = False
        with pytest.raises(Refused):
            await world.client.open(world.at_client, SWARM, b"", True)
        with pytest.raises(Refused):
            await world.server.open(world.at_server, SWARM, b"", True)
        with pytest.raises(Refused):
            await world.client.open(world.at_client, ServiceNumber.OVERLAY, b"", True)
        assert world.client.slots_taken + world.server.slots_taken == 0


async def test_lanes_of_a_peer_are_limited_and_closing_makes_room() -> None:
    async with make_world() as world:
        lanes = [await world.client.open(world.at_client, SWARM, b"", True) for _ in range(LANES_A_PEER)]
        with pytest.raises(Unavailable) as caught:
            await world.client.open(world.at_client, SWARM, b"", True)
        assert caught.value.code == "lane_limit"
        with pytest.raises(Unavailable):
            await world.server.open(world.at_server, SWARM, b"", True)
        await wait_until(lambda: world.server.lane_count == LANES_A_PEER)
        lanes[0].close()
        world.taker[SERVER].lanes.get_nowait()[0].close()
        await wait_until(lambda: world.client.slots_taken == world.server.slots_taken == LANES_A_PEER - 1)
        await world.client.open(world.at_client, SWARM, b"", True)


async def test_the_memory_of_all_lanes_is_limited_and_a_part_is_kept_for_own_ones() -> None:
    async with make_world() as world:
        world.client.memory_bytes = 4 * BUFFER_BYTES
        lanes = [await world.server.open(world.at_server, SWARM, b"", True) for _ in range(3)]
        with pytest.raises(Unavailable) as caught:
            await world.server.open(world.at_server, SWARM, b"", True)
        assert caught.value.code == "lane_memory"
        assert "MiB" in caught.value.cause
        await world.client.open(world.at_client, SWARM, b"", True)
        with pytest.raises(Unavailable):
            await world.client.open(world.at_client, SWARM, b"", True)
        assert world.client.buffer_bytes == 0, "they are made at the first use"
        lanes[0].send_record(b"x")
        assert 0 < world.server.buffer_bytes <= BUFFER_BYTES
        taken = world.taker[CLIENT].lanes.get_nowait()[0]
        assert (await asyncio.to_thread(taken.receive)) == b"x"
        assert 0 < world.client.buffer_bytes <= BUFFER_BYTES
        lanes[0].close()
        taken.close()
        await wait_until(lambda: world.client.slots_taken == 3)
        await world.client.open(world.at_client, SWARM, b"", True)


async def test_a_session_takes_its_lanes_with_it_and_wakes_their_threads() -> None:
    async with make_world() as world:
        lane = await world.client.open(world.at_client, SWARM, b"", False)
        blocked = asyncio.create_task(asyncio.to_thread(lane.receive))
        await asyncio.sleep(0.05)
        world.at_client.closed = True
        world.client.close_session(world.at_client)
        with pytest.raises(Unavailable) as caught:
            await asyncio.wait_for(blocked, 2)
        assert caught.value.code == "lane_closed"
        with pytest.raises(Unavailable):
            await world.client.open(world.at_client, SWARM, b"", False)
        await wait_until(lambda: world.client.slots_taken == 0)


async def test_a_session_that_ends_while_the_peer_dials_fails_the_waiting_opener() -> None:
    async with make_world() as world:
        gate = asyncio.Event()

        async def slow(session: object, message: object) -> LaneAccept:
            await gate.wait()
            assert isinstance(message, LaneOpen)
            return LaneAccept(message.lane_id)

        world.client.on_request = slow
        opening = asyncio.create_task(world.server.open(world.at_server, SWARM, b"", True))
        await wait_until(lambda: world.server.slots_taken == 1)
        world.at_server.closed = True
        world.server.close_session(world.at_server)
        gate.set()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(opening, 2)
        assert world.server.slots_taken == 0


async def test_no_lane_before_the_session_is_settled() -> None:
    async with make_world() as world:
        world.at_client.settled = False
        with pytest.raises(Unavailable) as caught:
            await world.client.open(world.at_client, SWARM, b"", True)
        assert caught.value.code == "lane_session"
        world.at_server.settled = False
        with pytest.raises(Unavailable):
            await world.server.on_request(world.at_server, LaneOpen(SWARM, b"", True, b""))


@pytest.mark.parametrize("asker", [CLIENT, SERVER])
@pytest.mark.parametrize("turns", range(8))
async def test_cancelling_an_opener_leaves_nothing(asker: bytes, turns: int) -> None:
    async with make_world() as world:
        broker = world.client if asker == CLIENT else world.server
        session = world.at_client if asker == CLIENT else world.at_server
        opening = asyncio.create_task(broker.open(session, SWARM, b"", True))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        try:
            lane = await opening
        except (asyncio.CancelledError, Unavailable):
            pass
        else:
            lane.close()
        await wait_until(lambda: broker.slots_taken == 0)


async def test_unreachable_peer_is_an_error_with_a_cause() -> None:
    async with make_world() as world:
        world.close()
        with pytest.raises(Unavailable):
            await world.client.open(world.at_client, SWARM, b"", True)
        assert world.client.slots_taken == 0


async def test_lane_open_is_checked() -> None:
    async with make_world() as world:
        wrong = [
            (world.server, world.at_server, LaneOpen(SWARM, b"", True, b"i" * 16)),
            (world.client, world.at_client, LaneOpen(SWARM, b"", True, b"")),
            (world.client, world.at_client, LaneOpen(SWARM, b"", True, b"i" * 15)),
            (world.server, world.at_server, LaneOpen(999, b"", True, b"")),
            (world.server, world.at_server, LaneAccept(b"i" * 16)),
        ]
        for broker, session, message in wrong:
            with pytest.raises(MalformedMessage):
                await broker.on_request(session, message)
        with pytest.raises(LocalMisuse):
            await world.client.open(world.at_client, SWARM, b"p" * 257, True)
        with pytest.raises(MalformedMessage):
            world.client.on_notice(world.at_client, LaneAccept(b"i" * 16))
