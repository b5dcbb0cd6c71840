"""Members that send or ask too much: it costs them their place, not the node its memory or its time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path

import pytest
from tests.support.files_nodes import files_world

from shoal.core.errors import MalformedMessage, ShoalError, StorageFault
from shoal.core.units import MIB
from shoal.storage.transfers import TransferState
from shoal.swarm.chunk_set import split
from shoal.swarm.lane_header import LANE_HEADER_BYTES, LaneKind, pack_header_into
from shoal.swarm.receive import EndReport, LaneReceiver, ObjectReport
from shoal.testing.lanes import make_lane_pair
from shoal.testing.trees import write_seeded_tree
from shoal.transport.lane import Lane


def send_objects(lane: Lane, count: int) -> None:
    """Send objects nobody has to have asked for, until the lane ends."""
    with contextlib.suppress(ShoalError):
        for number in range(count):
            pack_header_into(lane.plaintext, LaneKind.OBJECT, 0, number)
            lane.send(LANE_HEADER_BYTES + 1000)


async def test_records_that_were_not_asked_for_end_the_lane() -> None:
    sender, lane = make_lane_pair()
    receiver = LaneReceiver(lane, asyncio.get_running_loop(), lambda _: None)
    receiver.allow(2)
    receiver.start()
    await asyncio.to_thread(send_objects, sender, 50)
    async with asyncio.timeout(5):
        await receiver.ended.wait()
    *objects, end = receiver.take()
    assert [report.number for report in objects if isinstance(report, ObjectReport)] == [0, 1]
    assert isinstance(end, EndReport)
    assert isinstance(end.error, MalformedMessage)
    sender.close()


async def test_a_feed_of_garbage_is_read_for_one_page(tmp_path: Path) -> None:
    """Who has the link may say anything about the feed; each page is verified before the next is asked."""
    tree = tmp_path / "tree"
    write_seeded_tree(tree, random.Random(1), MIB)
    pages = 0

    async def read_garbage(first: int) -> list[bytes]:
        nonlocal pages
        pages += 1
        if pages > 100:
            raise StorageFault("that is enough")
        return [bytes(50_000)]

    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(tree)
        offer = a.swarm.find_offer(shared.share_id)
        assert offer is not None
        offer.entries, offer.read_feed = 1 << 30, read_garbage
        failed = await b.get(shared.link, tmp_path / "dest")
        assert failed.state is TransferState.FAILED
        assert pages == 1
        assert "swarm_fault" in b.rules


def test_wants_cost_one_pass_over_a_large_share() -> None:
    """A session may send 400 of them a second: at 19 ms each for a terabyte they stopped the loop."""
    total = 2_000_000
    everything = (1 << total) - 1 & ~(1 << 5)
    ordinals = [7, 5, *range(total - 250, total + 4)]
    best = min(_time_split(ordinals, everything) for _ in range(5))
    assert best < 0.004
    assert split(ordinals, everything) == ([7, *range(total - 250, total)], [5, *range(total, total + 4)])
    assert split([2**32 - 1, 0], 0) == ([], [2**32 - 1, 0])


def _time_split(ordinals: list[int], chunks: int) -> float:
    began = time.perf_counter()
    split(ordinals, chunks)
    return time.perf_counter() - began


@pytest.mark.parametrize("chunks", [0, 1, 0b1011, (1 << 70) - 1])
def test_split_is_what_the_bits_say(chunks: int) -> None:
    ordinals = list(range(80))
    there, absent = split(ordinals, chunks)
    assert there == [o for o in ordinals if chunks >> o & 1]
    assert absent == [o for o in ordinals if not chunks >> o & 1]
