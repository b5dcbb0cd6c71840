"""Pins over real sessions: a copy in the store that is served when everybody else and the files are gone."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world
from tests.support.transport_nodes import wait_until

from shoal.apps.files import pins
from shoal.apps.files.pins import PinStatus
from shoal.content.link import Link
from shoal.core.errors import LocalMisuse, Refused
from shoal.core.units import MIB
from shoal.storage.segment_index import find_between
from shoal.storage.transfers import TransferState
from shoal.testing.liar import Lie, make_liar
from shoal.testing.trees import find_difference, write_seeded_tree

SEED = 20261122


def make_tree(path: Path, size_bytes: int = 6 * MIB) -> Path:
    write_seeded_tree(path, random.Random(SEED), size_bytes)
    return path


async def wait_pin(
    node: FilesNode, number: int, condition: Callable[[PinStatus], bool], timeout_s: float = 30.0
) -> PinStatus:
    status = await node.pins.wait(number, None, 0.0)
    try:
        async with asyncio.timeout(timeout_s):
            while not condition(status):
                await asyncio.sleep(0.05)
                status = await node.pins.wait(number, None, 0.0)
    except TimeoutError:
        raise AssertionError(f"it did not happen: {status}") from None
    return status


async def pin(node: FilesNode, link: Link, **options: object) -> PinStatus:
    status = await node.pins.pin(link, **options)  # type: ignore[arg-type]
    return await wait_pin(node, status.number, lambda s: s.state in ("complete", "failed"))


async def test_a_pin_serves_when_the_sharer_is_gone_and_after_a_restart(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        kept = await pin(ben, share.link)
        assert kept.state == "complete", kept
        assert kept.done == kept.chunks > 5
        assert (await ben.store.use()).chunks == kept.chunks
        await world.stop(ada)
        await world.stop(ben)
        ben = await world.add(again=ben)
        cem = await world.add()
        done = await cem.get(share.link, tmp_path / "cem")
        assert done.state is TransferState.DONE, done.error
        assert done.result is not None
        assert set(done.result.providers) == {ben.peer_id}
        assert find_difference(tree, tmp_path / "cem" / "tree") is None
        ended = await ben.pins.unpin(share.share_id)
        assert [p.state for p in ended] == ["ended"]
        assert (await ben.store.use()).chunks == 0
        assert ben.swarm.find_offer(share.share_id) is None
        with pytest.raises(LocalMisuse):
            await ben.pins.unpin(share.share_id)


async def test_a_pin_that_was_cut_goes_on(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 24 * MIB)
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        begun = await ben.pins.pin(share.link, wait_s=None)
        part = await wait_pin(ben, begun.number, lambda s: s.done > 2)
        await world.stop(ben)
        before = part.done
        ben = await world.add(again=ben)
        kept = await wait_pin(ben, begun.number, lambda s: s.state == "complete")
        assert kept.done == kept.chunks >= before
        found = await asyncio.to_thread(ben.store.verify_blocking)
        assert (found.lost, found.missing, found.repaired_rows) == (0, 0, 0)


async def test_a_copy_of_an_own_share_outlives_its_files(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    shutil.copytree(tree, tmp_path / "same", symlinks=True)
    async with files_world(tmp_path) as world:
        ada = await world.add()
        share = await ada.share(tree)
        assert (await pin(ada, share.link)).state == "complete"
        shutil.rmtree(tree)
        await world.stop(ada)
        ada = await world.add(again=ada)
        await asyncio.sleep(1.2)  # the offer of files is replaced
        ben = await world.add()
        done = await ben.get(share.link, tmp_path / "ben")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tmp_path / "same", tmp_path / "ben" / "tree") is None


async def test_what_rots_is_fetched_again_and_never_served(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        kept = await pin(ben, share.link)
        path = min((ben.home / "store").iterdir())
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        path.write_bytes(data)
        found = await asyncio.to_thread(ben.store.verify_blocking)
        assert found.lost == 1 or found.missing == 1 or (await ben.store.use()).lost == 0
        healed = await wait_pin(ben, kept.number, lambda s: s.state == "complete" and s.done == s.chunks)
        assert healed.version == kept.version
        async with asyncio.timeout(10):
            while (await ben.store.use()).lost:
                await asyncio.sleep(0.05)
        await world.stop(ada)
        cem = await world.add()
        done = await cem.get(share.link, tmp_path / "cem")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "cem" / "tree") is None


async def test_what_is_lost_while_the_pin_is_repaired_is_repaired_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "REPAIR_S", 1e9)  # nobody looks but when something is lost
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        kept = await pin(ben, share.link)
        (held,) = make_liar(ada.swarm, share.share_id, Lie.SILENT)
        ids = await asyncio.to_thread(find_places, ben)
        await asyncio.to_thread(ben.store.segments.lose, ids[:1])
        await wait_until(lambda: held.told == 1)
        await asyncio.to_thread(ben.store.segments.lose, ids[1:2])
        await asyncio.sleep(1.0)  # the pins are looked at meanwhile; the one that is repaired is passed over
        held.release()
        async with asyncio.timeout(30):
            while (await ben.store.use()).lost:
                await asyncio.sleep(0.05)
        assert (await ben.pins.wait(kept.number, None, 0.0)).state == "complete"


def find_places(node: FilesNode) -> list[tuple[bytes, int]]:
    """Return the chunks in a node's store, as (key, place)."""
    return node.store.segments.index.read(lambda connection: find_between(connection, 1, 0))


async def test_a_quota_refuses_before_anything_is_fetched(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        ben.store.quota_bytes = 1 * MIB
        kept = await pin(ben, share.link)
        assert kept.state == "failed"
        assert isinstance(kept.error, Refused)
        assert kept.error.code == "quota"
        assert (await ben.store.use()).file_bytes == 0
        ben.store.quota_bytes = 100 * MIB
        assert (await pin(ben, share.link)).state == "complete"


async def test_pins_at_once_are_not_promised_the_same_room(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        links: list[Link] = []
        for number in range(4):
            file = tmp_path / f"file {number}"
            file.write_bytes(random.Random(number).randbytes(6 * MIB))
            links.append((await ada.share(file)).link)
        quota = ben.store.quota_bytes = 14 * MIB
        ended = await asyncio.gather(*(pin(ben, link) for link in links))
        assert sorted(status.state for status in ended) == ["complete", "complete", "failed", "failed"]
        assert (await ben.store.use()).live_bytes <= quota
        await ben.pins.unpin(next(status.share_id for status in ended if status.state == "complete"))
        last = next(status.link for status in ended if status.state == "failed")
        assert (await pin(ben, last)).state == "complete"  # what ended has no promise left


async def test_a_new_version_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        first = await pin(ben, share.link)
        (tree / "new file").write_bytes(random.Random(2).randbytes(300_000))
        newer = await ada.share(tree)
        assert newer.version == 2
        second = await pin(ben, share.link)
        assert (second.state, second.version) == ("complete", 2)
        async with asyncio.timeout(10):
            while len(ben.pins.pins()) > 1:  # the old one goes once the new one is complete
                await asyncio.sleep(0.02)
        assert [p.number for p in ben.pins.pins()] == [second.number] != [first.number]
        use = await ben.store.use()
        assert use.chunks == second.chunks


async def test_a_pin_of_a_version_that_nobody_has_any_more_takes_the_newest(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 16 * MIB)
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        begun = await ben.pins.pin(share.link, wait_s=None)
        await wait_pin(ben, begun.number, lambda s: s.done > 1)
        await world.stop(ben)
        for path in list(tree.iterdir())[1:]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for number in range(3):  # a sharer serves two versions
            (tree / "changing").write_bytes(random.Random(number).randbytes(200_000))
            newest = await ada.share(tree)
        ben = await world.add(again=ben)
        kept = await wait_pin(ben, begun.number, lambda s: s.state == "complete")
        if kept.version != 1:  # else it was complete before the stop
            assert kept.version == newest.version
            assert (await ben.store.use()).chunks == kept.chunks


async def test_a_lease_ends(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        kept = await pin(ben, share.link, lease_s=2.0)
        assert kept.lease is not None
        async with asyncio.timeout(10):
            while ben.pins.pins() or (await ben.store.use()).chunks:
                await asyncio.sleep(0.1)


async def test_a_pin_keeps_up_with_new_versions(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 12 * MIB)
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        first = await pin(ben, share.link)
        before = ben.swarm.downloads.moved_bytes
        for number in range(2):
            (tree / "new file").write_bytes(random.Random(number).randbytes(300_000))
            newest = await ada.share(tree)
        kept = await wait_newest(ben, newest.version)
        assert kept.number != first.number
        assert ben.swarm.downloads.moved_bytes - before < 4 * MIB
        async with asyncio.timeout(10):  # the older one is let go of
            while len(ben.pins.pins()) > 1 or (await ben.store.use()).chunks != kept.chunks:
                await asyncio.sleep(0.05)
        found = await asyncio.to_thread(ben.store.verify_blocking)
        assert (found.lost, found.missing, found.repaired_rows) == (0, 0, 0)
        await world.stop(ada)
        await world.stop(ben)
        ben, cem = await world.add(again=ben), await world.add()
        done = await cem.get(share.link, tmp_path / "cem")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "cem" / "tree") is None


async def test_a_pin_of_one_version_stays_at_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        kept = await pin(ben, share.link.pinned(share.content_id))
        moving = await pin(ada, share.link)  # the author's own copy goes on
        (tree / "new file").write_bytes(b"new")
        newest = await ada.share(tree)
        assert (await wait_newest(ada, newest.version)).number != moving.number
        assert [(p.number, p.version) for p in ben.pins.pins()] == [(kept.number, 1)]


async def test_a_new_version_beyond_the_quota_leaves_the_one_that_is_kept(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        first = await pin(ben, share.link)
        ben.store.quota_bytes = first.size_bytes + MIB
        (tree / "new file").write_bytes(random.Random(1).randbytes(3 * MIB))
        await ada.share(tree)
        async with asyncio.timeout(30):
            while [p.state for p in ben.pins.pins()] != ["complete", "failed"]:
                await asyncio.sleep(0.05)
        error = ben.pins.pins()[1].error
        assert error is not None
        assert error.code == "quota"
        assert ben.pins.pins()[0].done == first.chunks


async def wait_newest(node: FilesNode, version: int, timeout_s: float = 30.0) -> PinStatus:
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                for status in node.pins.pins():
                    if status.version == version and status.state == "complete":
                        return status
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"it did not happen: {node.pins.pins()}") from None
