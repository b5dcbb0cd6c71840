"""A disk that is pulled out under a get: nothing goes to the folder below it, and its records are doubted."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.files_nodes import files_world

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


async def test_a_destination_on_it(tmp_path: Path, disk: UnpluggedDisk) -> None:
    tree = make_tree(tmp_path / "tree", 64 * MIB)
    async with files_world(tmp_path) as world:
        a, c = await world.add(), await world.add()
        share = await a.share(tree)
        make_liar(a.swarm, share.share_id, Lie.SLOW)
        dest = disk.place / "dest"
        started = await c.files.get(share.link, os.fsencode(dest))
        await c.wait_transfer(started.id, lambda s: s.done_bytes > 0)
        await world.stop(c)
        disk.unplug()
        again = await world.add(again=c)
        failed = await again.wait_end(started.id)
        assert failed.state is TransferState.FAILED
        assert failed.error is not None
        print(failed.error, "|", failed.error.next_step)
        assert "disk" in failed.error.next_step
        assert os.listdir(disk.place) == []  # nothing goes to the disk below
        disk.plug()
        done = await again.get(share.link, dest)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, dest / "tree") is None
        assert os.listdir(dest) == ["tree"]


async def test_what_a_disk_forgot_when_it_was_pulled_out_is_fetched_again(
    tmp_path: Path, disk: UnpluggedDisk
) -> None:
    """What was written was not on the disk yet: it comes back with zeros, in the same boot."""
    tree = make_tree(tmp_path / "tree", 48 * MIB)
    async with files_world(tmp_path) as world:
        a, c = await world.add(), await world.add()
        share = await a.share(tree)
        make_liar(a.swarm, share.share_id, Lie.SLOW)
        started = await c.files.get(share.link, os.fsencode(disk.place / "dest"))
        await c.wait_transfer(started.id, lambda s: s.done_bytes > 16 * MIB)
        await c.files.pause(started.id)
        disk.unplug()
        disk.plug_in_copy(forgets=True)
        done = await c.get(share.link, disk.place / "dest")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, disk.place / "dest" / "tree") is None
