"""Lanes over real sessions: TLS, tokens through the session, the listener that tells both apart by a byte."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support.transport_nodes import NETWORK, TransportNode, transport_network, wait_until

from shoal.core.errors import Refused, ShoalError
from shoal.transport.lane import Lane
from shoal.transport.lane_broker import LaneBroker
from shoal.transport.lane_record import pack_preamble
from shoal.transport.ports import BaseService
from shoal.wire.registry import MessageTable, ServiceNumber

OVERLAY = ServiceNumber.OVERLAY


class Taker(BaseService):
    """A service that takes lanes for one purpose."""

    number = OVERLAY
    table = MessageTable(OVERLAY, {})

    def __init__(self) -> None:
        self.lanes: asyncio.Queue[Lane] = asyncio.Queue()

    def may_open_lane(self, session: Any, purpose: bytes) -> bool:
        return purpose == b"bulk"

    def on_lane(self, session: Any, lane: Lane, purpose: bytes) -> None:
        self.lanes.put_nowait(lane)


class Pair:
    """Two nodes with a session."""

    def __init__(self, one: TransportNode, two: TransportNode, brokers: list[LaneBroker]) -> None:
        self.one, self.two, self.brokers = one, two, brokers
        self.takers = {}
        for node in (one, two):
            taker = Taker()
            node.transport.register(taker)
            self.takers[node.peer_id] = taker


@asynccontextmanager
async def lane_nodes() -> AsyncIterator[Pair]:
    async with transport_network() as network:
        nodes = [await network.add(), await network.add()]
        brokers = []
        for node in nodes:
            broker = LaneBroker(
                node.transport,
                own_id=node.peer_id,
                network_id=NETWORK,
                supervisor=network.supervisor,
                monotonic=node.transport.monotonic,
                observe=node.seen.append,
            )
            node.transport.attach_lanes(broker)
            brokers.append(broker)
        pair = Pair(nodes[0], nodes[1], brokers)
        await nodes[0].dial(nodes[1])
        await nodes[1].wait_session(nodes[0])
        yield pair
        for broker in brokers:
            broker.close()


def _send(lane: Lane) -> None:
    for number in range(40):
        lane.plaintext[:4] = number.to_bytes(4, "big")
        lane.send(512 * 1024)
    lane.finish()


def _receive(lane: Lane) -> list[int]:
    numbers = []
    while (view := lane.receive()) is not None:
        assert len(view) == 512 * 1024
        numbers.append(int.from_bytes(view[:4], "big"))
    return numbers


@pytest.mark.parametrize("dialler_asks", [True, False])
async def test_bulk_over_a_lane_of_a_real_session(dialler_asks: bool) -> None:
    async with lane_nodes() as pair:
        asker, other = (pair.one, pair.two) if dialler_asks else (pair.two, pair.one)
        session = asker.transport.find_session(other.peer_id)
        assert session is not None
        lane = await session.open_lane(OVERLAY, b"bulk", send=True)
        taken = await asyncio.wait_for(pair.takers[other.peer_id].lanes.get(), 3)
        thread = threading.Thread(target=_send, args=(lane,), daemon=True)
        thread.start()
        assert await asyncio.to_thread(_receive, taken) == list(range(40))
        assert await session.ping() > 0
        lane.close()
        taken.close()
        await wait_until(lambda: all(broker.slots_taken == 0 for broker in pair.brokers))


async def test_a_purpose_that_the_service_does_not_want_is_refused() -> None:
    async with lane_nodes() as pair:
        session = pair.one.transport.find_session(pair.two.peer_id)
        assert session is not None
        with pytest.raises(Refused):
            await session.open_lane(OVERLAY, b"else", send=True)


async def test_closing_the_peer_ends_its_lanes_at_both_ends_at_once() -> None:
    async with lane_nodes() as pair:
        session = pair.one.transport.find_session(pair.two.peer_id)
        assert session is not None
        lane = await session.open_lane(OVERLAY, b"bulk", send=False)
        taken = await asyncio.wait_for(pair.takers[pair.two.peer_id].lanes.get(), 3)
        ends = [asyncio.create_task(asyncio.to_thread(end.receive)) for end in (lane, taken)]
        await asyncio.sleep(0.05)
        pair.one.transport.close_peer(pair.two.peer_id, "removed")
        assert lane.is_closed
        for end in ends:
            with pytest.raises(ShoalError):
                await asyncio.wait_for(end, 3)
        await wait_until(lambda: all(broker.slots_taken == 0 for broker in pair.brokers))


async def test_a_preamble_with_an_unknown_token_is_charged_and_closed_unanswered() -> None:
    async with lane_nodes() as pair:
        reader, writer = await asyncio.open_connection("127.0.0.1", pair.two.address.port)
        writer.write(pack_preamble(b"?" * 16))
        assert await asyncio.wait_for(reader.read(), 3) == b""
        assert "lane_token" in pair.two.rules
        writer.close()
