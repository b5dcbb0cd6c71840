"""Disks that run full under a transfer: a clear error, nothing lost, and the same get goes on."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.support.files_nodes import files_world

from shoal.core.errors import Refused, StorageFault
from shoal.core.units import MIB
from shoal.storage.transfers import TransferState
from shoal.storage.tree_writer import TreeWriter
from shoal.testing.disk import FailingDisk, can_mount, fill_disk, small_disk
from shoal.testing.liar import Lie, make_liar

needs_mount = pytest.mark.skipif(not can_mount(), reason="mounting a small disk is not allowed here")


def make_files(path: Path, count: int, size_bytes: int) -> Path:
    path.mkdir()
    rng = random.Random(3)
    for number in range(count):
        (path / f"file {number}").write_bytes(rng.randbytes(size_bytes))
    return path


@needs_mount
async def test_space_is_checked_before(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 8, 2 * MIB)
    dest = tmp_path / "dest"
    dest.mkdir()
    with small_disk(str(dest), 8 * MIB):
        async with files_world(tmp_path) as world:
            a, b = await world.add(), await world.add()
            share = await a.share(tree)
            failed = await b.get(share.link, dest)
            assert failed.state is TransferState.FAILED
            assert failed.error is not None
            assert failed.error.code == "disk_full"
            assert failed.done_bytes == 0
            assert failed.error.next_step


@needs_mount
async def test_a_disk_that_fills_in_the_middle_leaves_a_resumable_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_files(tmp_path / "tree", 40, 200_000)  # small files: nothing is reserved for them
    dest = tmp_path / "dest"
    dest.mkdir()
    with small_disk(str(dest), 16 * MIB):
        async with files_world(tmp_path) as world:
            a, b = await world.add(), await world.add()
            share = await a.share(tree)
            checked: list[int] = []
            original = TreeWriter.check_space

            def fill_after_check(self: TreeWriter, missing: set[int]) -> None:
                original(self, missing)
                if not checked:
                    checked.append(fill_disk(str(dest / "ballast")))
                    os.truncate(dest / "ballast", checked[0] - 3 * MIB)

            monkeypatch.setattr(TreeWriter, "check_space", fill_after_check)
            failed = await b.get(share.link, dest)
            assert failed.state is TransferState.FAILED
            assert failed.error is not None
            assert failed.error.code == "disk_full", failed.error
            assert not (dest / "tree").exists()
            (dest / "ballast").unlink()
            done = await b.get(share.link, dest)
            assert done.state is TransferState.DONE, done.error
            assert done.result is not None
            assert done.result.resumed == (failed.done_bytes > 0)
            for file in tree.iterdir():
                assert (dest / "tree" / file.name).read_bytes() == file.read_bytes()


@needs_mount
async def test_a_store_whose_disk_fills_in_the_middle_goes_on_when_there_is_room(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 12, 2 * MIB)
    (tmp_path / "home1").mkdir()
    with small_disk(str(tmp_path / "home1"), 96 * MIB):
        async with files_world(tmp_path) as world:
            a, b = await world.add(), await world.add()
            share = await a.share(tree)
            make_liar(a.swarm, share.share_id, Lie.SLOW)
            pin = await b.pins.pin(share.link)
            while pin.done < 4:
                assert pin.error is None
                pin = await b.pins.wait(pin.number, pin.revision, 5.0)
            fill_disk(str(tmp_path / "home1" / "ballast"))
            while pin.error is None:
                assert pin.state == "fetching"
                pin = await b.pins.wait(pin.number, pin.revision, 5.0)
            assert isinstance(pin.error, StorageFault)
            assert pin.error.code == "disk_full"
            assert "space" in pin.error.next_step
            kept = pin.done
            (tmp_path / "home1" / "ballast").unlink()
            pin = await b.pins.pin(share.link)
            while pin.state != "complete":
                assert pin.error is None
                pin = await b.pins.wait(pin.number, pin.revision, 5.0)
            assert kept >= 4
            await world.stop(a)
            c = await world.add()
            done = await c.get(share.link, tmp_path / "dest")
            assert done.state is TransferState.DONE, done.error
            for file in tree.iterdir():
                assert (tmp_path / "dest" / "tree" / file.name).read_bytes() == file.read_bytes()


async def test_a_full_disk_of_the_home_is_said_and_passes(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 4, 2 * MIB)
    disk = FailingDisk()
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add(connect=disk.connect)
        share = await a.share(tree)
        started = await b.files.get(share.link, os.fsencode(tmp_path / "dest"))
        disk.fault = "full"
        failed = await b.wait_end(started.id)
        assert failed.state in (TransferState.FAILED, TransferState.DONE)
        disk.fault = None
        done = await b.get(share.link, tmp_path / "dest")
        assert done.state is TransferState.DONE, done.error


async def test_nothing_is_written_into_the_home(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 1, 1000)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        (tmp_path / "alias").symlink_to(b.home)
        for dest in (b.home, b.home / "keys", tmp_path / "alias"):
            with pytest.raises(Refused, match="own home"):
                await b.files.get(share.link, os.fsencode(dest))


async def test_the_home_is_not_shared(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        a = await world.add()
        for path in (a.home, a.home / "shoal.db"):
            with pytest.raises(Refused, match="cannot be shared"):
                await a.files.share([os.fsencode(path)])
