"""Copies that follow their share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world
from tests.support.transport_nodes import NETWORK

from shoal.apps.files import follow as follow_module
from shoal.apps.files.follow import Follower
from shoal.apps.files.status import FollowStatus, ShareStatus
from shoal.apps.files.transfer_state import FollowOptions, TransferRecord
from shoal.content.link import Link
from shoal.core.errors import Refused
from shoal.storage.transfers import TransferState
from shoal.testing.trees import find_difference


async def wait_follow(
    node: FilesNode, condition: Callable[[FollowStatus], bool], timeout_s: float = 15.0
) -> FollowStatus:
    """Wait until the only follow of a node is as expected."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition(status := node.files.follows.statuses()[0]):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it did not happen: {node.files.follows.statuses()}") from None
    return status


async def follow(node: FilesNode, link: Link, dest: Path, *, overwrite: bool = False) -> FollowStatus:
    await node.files.follows.follow(
        link, os.fsencode(dest), overwrite=overwrite, keep_s=86400.0, keep_count=5
    )
    return await wait_follow(node, lambda s: s.state in ("current", "failed"))


async def publish(node: FilesNode, tree: Path) -> ShareStatus:
    status = await node.share(tree)
    assert status.complete, status.error
    return status


def versions_of(dest: Path, path: str) -> list[bytes]:
    """Return all kept contents of a path."""
    return [found.read_bytes() for found in sorted((dest / ".shoal-versions").glob(f"*/{path}"))]


def make_tree(path: Path) -> Path:
    (path / "folder").mkdir(parents=True)
    for number in range(20):
        (path / "folder" / f"file {number}").write_bytes(b"%d " % number * 900)
    (path / "large").write_bytes(os.urandom(700_000))
    return path


async def test_followers_get_every_version_and_keep_what_it_replaced(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a, b, c, d = [await world.add() for _ in range(4)]
        share = await publish(a, tree)
        for node, name in ((b, "b"), (c, "c")):
            assert (await follow(node, share.link, tmp_path / name)).state == "current"
        old = (tree / "folder" / "file 3").read_bytes()
        (tree / "folder" / "file 3").write_bytes(b"new")
        gone = (tree / "folder" / "file 4").read_bytes()
        (tree / "folder" / "file 4").unlink()
        (tree / "large").unlink()
        (tree / "large").mkdir()
        (tree / "large" / "inside").write_bytes(b"x")
        await publish(a, tree)
        for node, name in ((b, "b"), (c, "c")):
            status = await wait_follow(node, lambda s: s.version == 2 and s.state == "current")
            assert status.lag_s == 0
            dest = tmp_path / name
            assert find_difference(tree, dest / "tree") is None
            assert versions_of(dest, "tree/folder/file 3") == [old]
            assert versions_of(dest, "tree/folder/file 4") == [gone]
        await world.stop(a)  # one follower alone brings another one up to date
        assert (await follow(d, share.link, tmp_path / "d")).version == 2
        assert find_difference(tree, tmp_path / "d" / "tree") is None


async def test_what_a_person_changes_is_moved_away_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow_module, "CHECK_S", 0.5)
    tree, dest = make_tree(tmp_path / "tree"), tmp_path / "dest"
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await publish(a, tree)
        await follow(b, share.link, dest)
        (dest / "tree" / "folder" / "file 7").write_bytes(b"mine")
        (dest / "tree" / "folder" / "file 8").unlink()
        (dest / "tree" / "folder" / "added").write_bytes(b"also mine")
        async with asyncio.timeout(15):
            while not versions_of(dest, "tree/folder/file 7"):
                await asyncio.sleep(0.05)
            while not (dest / "tree" / "folder" / "file 8").exists():
                await asyncio.sleep(0.05)
        assert versions_of(dest, "tree/folder/file 7") == [b"mine"]
        assert (dest / "tree" / "folder" / "added").read_bytes() == b"also mine"
        (dest / "tree" / "folder" / "added").unlink()
        os.utime(
            dest / "tree" / "folder", ns=(0, (tree / "folder").stat().st_mtime_ns)
        )  # what we just did to it
        assert find_difference(tree, dest / "tree") is None


async def test_a_follow_goes_on_after_a_restart_and_ends(tmp_path: Path) -> None:
    tree, dest = make_tree(tmp_path / "tree"), tmp_path / "dest"
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await publish(a, tree)
        await follow(b, share.link, dest)
        await world.stop(b)
        (tree / "folder" / "file 1").write_bytes(b"while it was down")
        await publish(a, tree)
        b = await world.add(again=b)
        await wait_follow(b, lambda s: s.version == 2 and s.state == "current")
        assert find_difference(tree, dest / "tree") is None
        with pytest.raises(Refused):
            await b.files.get(share.link, os.fsencode(tmp_path / "other"))
        with pytest.raises(Refused):
            await b.files.unshare(share.share_id)
        await b.files.follows.unfollow(share.share_id)
        assert b.files.follows.statuses() == []
        assert b.files.transfers() == []
        assert (dest / "tree").exists()
        (tree / "folder" / "file 1").write_bytes(b"not followed any more")
        await publish(a, tree)
        await asyncio.sleep(0.5)
        assert (dest / "tree" / "folder" / "file 1").read_bytes() == b"while it was down"


async def test_what_lies_there_is_not_replaced_at_the_beginning(tmp_path: Path) -> None:
    tree, dest = make_tree(tmp_path / "tree"), tmp_path / "dest"
    (dest / "tree").mkdir(parents=True)
    (dest / "tree" / "large").write_bytes(b"somebody's")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await publish(a, tree)
        assert (await follow(b, share.link, dest)).state == "failed"
        assert (dest / "tree" / "large").read_bytes() == b"somebody's"
        await b.files.follows.unfollow(share.share_id)
        assert (await follow(b, share.link, dest, overwrite=True)).state == "current"
        assert versions_of(dest, "tree/large") == [b"somebody's"]


async def test_an_author_from_an_old_backup_is_refused(tmp_path: Path) -> None:
    tree, dest = make_tree(tmp_path / "tree"), tmp_path / "dest"
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await publish(a, tree)
        await world.stop(a)
        backup = {file.name: file.read_bytes() for file in a.home.glob("shoal.db*")}
        a = await world.add(again=a)
        (tree / "folder" / "file 1").write_bytes(b"second version")
        await publish(a, tree)
        await follow(b, share.link, dest)
        await world.stop(a)
        for file in a.home.glob("shoal.db*"):
            file.unlink()
        for name, data in backup.items():
            (a.home / name).write_bytes(data)
        a = await world.add(again=a)
        refused = await wait_follow(b, lambda s: s.state == "refused")
        assert "backup" in refused.why or "histories" in refused.why
        assert (dest / "tree" / "folder" / "file 1").read_bytes() == b"second version"


async def test_news_that_are_none_do_not_keep_a_follow_busy(tmp_path: Path) -> None:
    """Any member may say at any time that there is news; a look for it costs the disk and the others."""
    async with files_world(tmp_path) as world:
        a = await world.add()
        link = Link(NETWORK, b"s" * 32, b"r" * 32, 0)
        record = await a.files.gets.claim(link, os.fsencode(tmp_path / "dest"))
        record.options.follow = FollowOptions(1000.0, 10, version=1)
        runs = 0

        async def run(_: TransferRecord) -> str:
            nonlocal runs
            runs += 1
            record.state = TransferState.DONE
            follower.look_again()
            return ""

        follower = Follower(a.files.context, record, run, lambda: 1, lambda: None)
        follower.start()
        await asyncio.sleep(2.0)
        task = follower.cancel()
        assert task is not None
        await asyncio.wait([task])
        assert 2 <= runs <= 6
