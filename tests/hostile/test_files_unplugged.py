"""A disk that is pulled out under a share: said in words, nothing wrong delivered, and it comes back."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world

from shoal.core.units import MIB
from shoal.storage.transfers import TransferState
from shoal.testing.disk import UnpluggedDisk, can_mount
from shoal.testing.liar import Lie, make_liar
from shoal.testing.trees import find_difference, write_seeded_tree

pytestmark = pytest.mark.skipif(not can_mount(), reason="mounting a small disk is not allowed here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[UnpluggedDisk]:
    with UnpluggedDisk(tmp_path / "disk", 256 * MIB) as made:
        yield made


def make_tree(path: Path, size_bytes: int) -> Path:
    write_seeded_tree(path, random.Random(5), size_bytes)
    return path


def let_go(node: FilesNode) -> None:
    """Close what is open on the disk: of one that was really pulled out it could not be read."""
    offer = node.swarm.find_offer(node.files.shares()[0].share_id)
    assert offer is not None
    for version in offer.versions.values():
        version.source.rest()


async def wait_state(node: FilesNode, state: str, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while node.files.shares()[0].state != state:
            await asyncio.sleep(0.02)


async def test_a_share_on_it_says_so_and_comes_back(tmp_path: Path, disk: UnpluggedDisk) -> None:
    tree = make_tree(disk.place / "tree", 48 * MIB)
    async with files_world(tmp_path) as world:
        a, c = await world.add(), await world.add()
        share = await a.share(tree)
        a.swarm.uploads.set_limits(20.0 * MIB, {})
        started = await c.files.get(share.link, os.fsencode(tmp_path / "dest"), wait_s=None)
        await c.wait_transfer(started.id, lambda s: s.done_bytes > 0)
        disk.unplug()
        let_go(a)
        await wait_state(a, "changed")
        error = a.files.shares()[0].error
        assert error is not None
        print(error, "|", error.next_step)
        assert "tree" in error.message
        assert "disk" in error.cause or "disk" in error.next_step
        status = c.files.find_transfer(started.id)
        assert status is not None
        assert status.state is TransferState.FETCHING
        assert not (tmp_path / "dest" / "tree").exists()
        disk.plug()
        done = await c.wait_end(started.id)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert a.files.shares()[0].state == "complete"


async def test_another_provider_takes_over(tmp_path: Path, disk: UnpluggedDisk) -> None:
    tree = make_tree(disk.place / "tree", 48 * MIB)
    async with files_world(tmp_path) as world:
        a, b, c = await world.add(), await world.add(), await world.add()
        share = await a.share(tree)
        await b.get(share.link, tmp_path / "second")
        make_liar(a.swarm, share.share_id, Lie.SLOW)
        started = await c.files.get(share.link, os.fsencode(tmp_path / "dest"))
        await c.wait_transfer(started.id, lambda s: s.done_bytes > 0)
        disk.unplug()
        let_go(a)
        done = await c.wait_end(started.id)
        assert done.state is TransferState.DONE, done.error
        assert done.result is not None
        assert done.result.blamed == []
        assert find_difference(tmp_path / "second" / "tree", tmp_path / "dest" / "tree") is None


async def test_a_watched_share_on_it_makes_no_empty_version(tmp_path: Path, disk: UnpluggedDisk) -> None:
    tree = make_tree(disk.place / "tree", 4 * MIB)
    async with files_world(tmp_path) as world:
        a, c = await world.add(), await world.add()
        started = await a.files.share([os.fsencode(tree)], watch=True)
        share = await a.wait_hashed(started.share_id)
        disk.unplug()
        (disk.place / "tree").mkdir()  # as a system that makes mount points anew
        again = await a.files.share([os.fsencode(tree)])
        async with asyncio.timeout(20):
            while (found := a.files.find_share(again.share_id)) is None or found.state == "hashing":
                await asyncio.sleep(0.02)
        (disk.place / "tree").rmdir()
        disk.plug()
        assert (await a.share(tree)).version in (1, 3)
        done = await c.get(share.link, tmp_path / "dest")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
