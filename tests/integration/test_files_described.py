"""Descriptions in memory: what nobody uses is let go of, and what is asked for is right all the same."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world
from tests.support.transport_nodes import wait_until

from shoal.apps.files.served import ServedShare
from shoal.apps.files.status import ShareStatus
from shoal.content.feed_log import FeedWriter
from shoal.core.errors import StorageFault
from shoal.storage.shares import ShareState
from shoal.storage.transfers import TransferState
from shoal.testing.trees import find_difference


def make_files(tree: Path, files: int = 300, size: int = 20_000) -> Path:
    tree.mkdir()
    for number in range(files):
        (tree / f"file {number:04}").write_bytes(number.to_bytes(4, "big") * (size // 4))
    return tree


def served(node: FilesNode, status: ShareStatus) -> ServedShare:
    """Return the share inside; from now on nothing stays in memory because it was used lately."""
    share = node.files._shares[status.share_id]
    keep = share.context.manifests
    keep.limit_bytes = 0
    if share.kept is not None:
        share.kept.close()
    return share


def is_held(share: ServedShare) -> bool:
    gc.collect()
    return share.kept is not None and share.kept.find() is not None


async def test_what_nobody_uses_is_let_go_of_and_served_right_when_asked_for(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        one = served(a, share)
        assert not is_held(one)
        first = await b.get(share.link, tmp_path / "first")
        assert first.state is TransferState.DONE, first.error
        await wait_until(lambda: not is_held(one))
        two = served(b, share)
        await wait_until(lambda: not is_held(two))
        c = await world.add()
        getting = await c.files.get(share.link, bytes(tmp_path / "second"))
        assert (await c.wait_end(getting.id)).state is TransferState.DONE
        assert find_difference(tree, tmp_path / "second" / "tree") is None
        await wait_until(lambda: not is_held(one) and not is_held(two))
        listing = await a.files.ls(share.link)
        assert listing.files == 300
        await wait_until(lambda: not is_held(one))


async def test_letting_go_while_several_read_breaks_nothing(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 400, 50_000)
    async with files_world(tmp_path) as world:
        a, *getters = [await world.add() for _ in range(4)]
        share = await a.share(tree)
        one = served(a, share)
        assert one.kept is not None
        source = one._files
        assert source is not None
        gets = [
            await node.files.get(share.link, bytes(tmp_path / f"dest{i}")) for i, node in enumerate(getters)
        ]
        ends = asyncio.gather(*(n.wait_end(t.id) for n, t in zip(getters, gets, strict=True)))
        times = 0
        while not ends.done():
            source.rest()  # as if nobody read
            times += 1
            await asyncio.sleep(0.002)
        assert times > 10
        for i, status in enumerate(await ends):
            assert status.state is TransferState.DONE, status.error
            assert find_difference(tree, tmp_path / f"dest{i}" / "tree") is None
        assert one.row.state is ShareState.COMPLETE


async def test_after_a_restart_nothing_is_loaded_before_it_is_asked_for(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        await world.stop(a)
        a = await world.add(again=a)
        await wait_until(lambda: a.swarm.find_offer(share.share_id) is not None)
        inside = a.files._shares[share.share_id]
        await wait_until(lambda: inside.kept is not None)
        assert not is_held(inside)
        got = await b.get(share.link, tmp_path / "dest")
        assert got.state is TransferState.DONE, got.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        (tree / "file 0000").write_bytes(b"new")
        again = await a.share(tree)
        assert again.version == 2
        newer = await b.get(share.link, tmp_path / "dest")
        assert newer.state is TransferState.DONE, newer.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None


async def test_a_chunk_that_is_wanted_of_a_damaged_share_marks_it_and_sharing_mends_it(
    tmp_path: Path,
) -> None:
    tree = make_files(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        part = await b.get(share.link, tmp_path / "dest", only=[b"**/file 0000"])
        assert part.state is TransferState.DONE, part.error  # the description is at the getter now
        one = served(a, share)
        await wait_until(lambda: not is_held(one))
        _damage(a)
        started = await b.files.get(share.link, bytes(tmp_path / "dest"), wait_s=None)
        await wait_until(lambda: one.row.state is ShareState.CHANGED)
        assert "description is not complete" in str(one.status().error)
        again = await a.share(tree)
        assert again.state == "complete", again.error
        assert again.version == 1
        got = await b.wait_end(started.id)
        assert got.state is TransferState.DONE, got.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        c = await world.add()
        whole = await c.get(share.link, tmp_path / "other")
        assert whole.state is TransferState.DONE, whole.error


async def test_a_damaged_description_is_noticed_at_the_start(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        await world.stop(a)
        _damage(a)
        a = await world.add(again=a)
        await wait_until(lambda: a.files._shares[share.share_id].row.state is ShareState.CHANGED)
        status = a.files.find_share(share.share_id)
        assert status is not None
        assert "description is not complete" in str(status.error)
        again = await a.share(tree)
        assert again.state == "complete", again.error
        got = await b.get(share.link, tmp_path / "dest")
        assert got.state is TransferState.DONE, got.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None


async def test_a_watched_share_keeps_what_it_is_compared_with(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a = await world.add()
        status = await a.files.share([bytes(tree)], True)
        share = await a.wait_hashed(status.share_id)
        one = served(a, share)
        assert is_held(one)
        await a.files.share([bytes(tree)], False)
        await a.wait_hashed(status.share_id)
        await wait_until(lambda: not is_held(one))


def _damage(node: FilesNode) -> None:
    with sqlite3.connect(f"{node.home}/shoal.db") as connection:
        connection.execute("DELETE FROM objects")


async def test_a_feed_that_could_not_be_read_is_read_again_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry is made and not stored, and the store cannot be read at that moment."""
    tree = make_files(tmp_path / "tree", files=3)

    async def fail(*_: object) -> list[bytes]:
        raise StorageFault("The database could not be read", cause="a test", code="test")

    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = served(a, await a.share(tree))
        stored = share.reader.next_seq
        FeedWriter(share.context.network.keys, share.reader).begin_draft(
            entries=1, files=1, total_bytes=1, stream_bytes=1, time=1
        )
        with monkeypatch.context() as broken:
            broken.setattr(type(share.context.stores.entries), "load", fail)
            with pytest.raises(StorageFault):
                await share.load_feed()
        assert share.reader.next_seq == stored + 1
        assert share.reader.opening is not None
        (tree / "new").write_bytes(b"new")
        again = await a.share(tree)
        assert again.version == 2
        await share.load_feed()  # without a hole
        done = await b.get(again.link, tmp_path / "dest")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
