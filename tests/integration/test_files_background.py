"""Shares and transfers in the background give way to others, and come to their end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.support.files_nodes import files_world
from tests.support.transport_nodes import wait_until

from shoal.core.units import KIB, MIB
from shoal.storage.transfers import TransferState
from shoal.testing.trees import write_random_file
from shoal.transport.lane import BUFFER_BYTES
from shoal.transport.lane_broker import LaneBroker

MB = 1_000_000


async def test_a_get_in_the_background_comes_after_another_and_is_brought_forward(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        links = []
        for number in range(2):
            source = tmp_path / f"source{number}"
            write_random_file(source, 8 * MIB)
            links.append((await anna.share(source)).link)
        bert.swarm.downloads.set_limits(5.0 * MB, {})
        behind = await bert.files.get(links[0], os.fsencode(tmp_path / "behind"), background=True)
        assert behind.background
        before = await bert.files.get(links[1], os.fsencode(tmp_path / "before"))
        await bert.wait_transfer(before.id, lambda s: s.done_bytes > 5 * MB)
        status = bert.files.find_transfer(behind.id)
        assert status is not None
        assert not status.state.is_end
        assert status.done_bytes < MB
        assert (await bert.wait_end(before.id)).state is TransferState.DONE
        await bert.wait_transfer(behind.id, lambda s: s.done_bytes > 3 * MB)
        again = await bert.files.get(links[0], os.fsencode(tmp_path / "behind"))
        assert not again.background
        bert.swarm.downloads.set_limits(None, {})
        ended = await bert.wait_end(behind.id)
        assert ended.state is TransferState.DONE
        assert ended.result is not None
        assert ended.result.refetched_bytes == 0
        assert (tmp_path / "behind" / "source0").read_bytes() == (tmp_path / "source0").read_bytes()


async def test_a_get_comes_before_one_in_the_background_of_the_same_share(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        write_random_file(tmp_path / "source", 8 * MIB)
        link = (await anna.share(tmp_path / "source")).link
        bert.swarm.downloads.set_limits(1.0 * MB, {})
        behind = await bert.files.get(link, os.fsencode(tmp_path / "behind"), background=True)
        await bert.wait_transfer(behind.id, lambda s: s.done_bytes > 0)
        first = await bert.files.get(link, os.fsencode(tmp_path / "first"))
        waiting = await bert.wait_transfer(
            behind.id, lambda s: s.state is TransferState.QUEUED and s.note != ""
        )
        assert waiting.note == f"waits for another of the same share: the get into {tmp_path / 'first'}"
        second = await bert.files.get(link, os.fsencode(tmp_path / "second"))
        await bert.wait_transfer(second.id, lambda s: s.note == waiting.note)  # the first goes on
        await bert.wait_transfer(first.id, lambda s: s.done_bytes > 0)
        bert.swarm.downloads.set_limits(None, {})
        for transfer_id in (first.id, second.id, behind.id):
            ended = await bert.wait_end(transfer_id)
            assert ended.state is TransferState.DONE, ended.error
            assert ended.note == ""
            status = bert.files.find_transfer(behind.id)
            assert status is not None
            assert status.state.is_end is (transfer_id == behind.id)
        copied = bert.files.find_transfer(second.id)
        assert copied is not None
        assert copied.result is not None
        assert copied.result.fetched_bytes == 0
        for name in ("first", "second", "behind"):
            assert (tmp_path / name / "source").read_bytes() == (tmp_path / "source").read_bytes()


async def test_who_waits_for_an_absent_device_lets_another_get_of_the_share_try(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        write_random_file(tmp_path / "source", 8 * MIB)
        link = (await anna.share(tmp_path / "source")).link
        await world.stop(anna)
        patient = await bert.files.get(link, os.fsencode(tmp_path / "patient"), wait_s=None)
        await bert.wait_transfer(patient.id, lambda s: "looking" in s.note)
        await wait_until(lambda: bert.files.gets.places.standing == 1)
        failed = await bert.get(link, tmp_path / "other")
        assert failed.error is not None
        assert failed.error.code == "no_provider"
        await world.add(again=anna)
        assert (await bert.wait_end(patient.id)).state is TransferState.DONE


async def test_who_came_before_it_was_seen_that_the_device_is_absent_tries_too(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        write_random_file(tmp_path / "source", MIB)
        link = (await anna.share(tmp_path / "source")).link
        await world.stop(anna)
        patient = await bert.files.get(link, os.fsencode(tmp_path / "patient"), wait_s=None)
        failed = await bert.get(link, tmp_path / "other")
        assert failed.error is not None
        assert failed.error.code == "no_provider"
        status = bert.files.find_transfer(patient.id)
        assert status is not None
        assert not status.state.is_end


async def test_what_is_sent_of_a_share_in_the_background_comes_after_others(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        anna, bert, carl = await world.add(), await world.add(), await world.add()
        for name in ("behind", "before"):
            write_random_file(tmp_path / name, 8 * MIB)
        first = await anna.files.share([os.fsencode(tmp_path / "behind")], background=True)
        behind = await anna.wait_hashed(first.share_id)
        assert behind.background
        before = await anna.share(tmp_path / "before")
        anna.swarm.uploads.set_limits(4.0 * MB, {})
        slow = await bert.files.get(behind.link, os.fsencode(tmp_path / "bert"))
        fast = await carl.files.get(before.link, os.fsencode(tmp_path / "carl"))
        await carl.wait_transfer(fast.id, lambda s: s.done_bytes > 4 * MB)
        status = bert.files.find_transfer(slow.id)
        assert status is not None
        assert status.done_bytes < 700 * KIB
        assert (await carl.wait_end(fast.id)).state is TransferState.DONE
        anna.swarm.uploads.set_limits(None, {})
        assert (await bert.wait_end(slow.id)).state is TransferState.DONE


async def test_background_is_kept_over_a_restart(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        write_random_file(tmp_path / "source", 8 * MIB)
        shared = await anna.files.share([os.fsencode(tmp_path / "source")], background=True)
        link = (await anna.wait_hashed(shared.share_id)).link
        bert.swarm.downloads.set_limits(1.0 * MB, {})
        status = await bert.files.get(link, os.fsencode(tmp_path / "got"), background=True)
        await bert.wait_transfer(status.id, lambda s: s.done_bytes > MB)
        await world.stop(bert)
        await world.stop(anna)
        anna = await world.add(again=anna)
        bert = await world.add(again=bert)
        share = anna.files.find_share(shared.share_id)
        assert share is not None
        assert share.background
        found = bert.files.find_transfer(status.id)
        assert found is not None
        assert found.background
        assert (await bert.wait_end(status.id)).state is TransferState.DONE
        await asyncio.sleep(0)
        await anna.share(tmp_path / "source")
        share = anna.files.find_share(shared.share_id)
        assert share is not None
        assert not share.background


async def test_getters_for_whom_memory_is_missing_wait_and_come_to_their_end(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        anna = await world.add()
        getters = [await world.add() for _ in range(3)]
        write_random_file(tmp_path / "source", 16 * MIB)
        link = (await anna.share(tmp_path / "source")).link
        broker = anna.transport.lanes
        assert isinstance(broker, LaneBroker)
        broker.memory_bytes = 2 * BUFFER_BYTES  # one lane for others
        ids = [(await n.files.get(link, os.fsencode(tmp_path / f"got {n.home.name}"))).id for n in getters]
        for node, transfer_id in zip(getters, ids, strict=True):
            assert (await node.wait_end(transfer_id)).state is TransferState.DONE
            assert broker.buffer_bytes <= broker.memory_bytes
        assert "lane_memory" in anna.rules
