"""A newer version over an older one: what is fetched, what is taken from this disk, what may be replaced."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world

from shoal.apps.files.status import GetResult, TransferStatus
from shoal.content.link import Link
from shoal.core.units import MIB
from shoal.storage.transfers import TransferState
from shoal.testing.trees import find_difference


def result_of(status: TransferStatus) -> GetResult:
    assert status.state is TransferState.DONE, status.error
    assert status.result is not None
    return status.result


async def get(node: FilesNode, link: Link, dest: Path) -> GetResult:
    return result_of(await node.get(link, dest))


@pytest.mark.parametrize("seed", range(3))
async def test_one_byte_at_the_front_of_a_large_file(tmp_path: Path, seed: int) -> None:
    """The bar is a median of 1 MiB over 20 seeds, at worst 2 MiB: tools/measure_delta.py."""
    print(f"seed {seed}")
    tree = tmp_path / "tree"
    tree.mkdir()
    data = random.Random(seed).randbytes(64 * MIB)
    (tree / "large").write_bytes(data)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        first = await get(b, share.link, tmp_path / "dest")
        assert first.reused_bytes == 0
        (tree / "large").write_bytes(b"!" + data)
        await a.share(tree)
        second = await get(b, share.link, tmp_path / "dest")
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert second.fetched_bytes + second.manifest_bytes <= 2 * MIB
        assert second.fetched_bytes + second.reused_bytes == len(data) + 1
        assert 0 < second.manifest_bytes < 64 * 1024


async def test_moved_renamed_and_removed_files_are_not_fetched(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    rng = random.Random(1)
    for name in ("one", "two", "three"):
        (tree / "a" / name).write_bytes(rng.randbytes(3 * MIB))
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        await get(b, share.link, tmp_path / "dest")
        (tree / "a" / "one").rename(tree / "uno")
        (tree / "a").rename(tree / "b")
        (tree / "b" / "two").unlink()
        await a.share(tree)
        second = await get(b, share.link, tmp_path / "dest")
        assert second.fetched_bytes == 0
        assert second.reused_bytes == 6 * MIB
        assert (tmp_path / "dest" / "tree" / "uno").read_bytes() == (tree / "uno").read_bytes()
        assert (tmp_path / "dest" / "tree" / "a" / "two").exists()  # a get removes nothing
        elsewhere = await get(b, share.link, tmp_path / "elsewhere")
        assert elsewhere.fetched_bytes == 0
        assert find_difference(tree, tmp_path / "elsewhere" / "tree") is None


async def test_what_another_share_holds_is_taken_from_there(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(5 * MIB)
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"file of {name}").write_bytes(data)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        await b.share(tmp_path / "mine")
        share = await a.share(tmp_path / "theirs")
        done = await get(b, share.link, tmp_path / "dest")
        assert (done.fetched_bytes, done.reused_bytes) == (0, 5 * MIB)
        assert find_difference(tmp_path / "theirs", tmp_path / "dest" / "theirs") is None
        os.truncate(tmp_path / "mine" / "file of mine", MIB)  # not what it was: fetched
        done = await get(b, (await a.share(tmp_path / "theirs")).link, tmp_path / "dest 2")
        assert find_difference(tmp_path / "theirs", tmp_path / "dest 2" / "theirs") is None


async def test_only_what_the_get_put_there_is_replaced(tmp_path: Path) -> None:
    tree, dest = tmp_path / "tree", tmp_path / "dest"
    tree.mkdir()
    for number in range(30):
        (tree / f"{number:02}").write_bytes(os.urandom(9000))
    (tree / "link").symlink_to("00")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        await get(b, share.link, dest)
        (tree / "03").write_bytes(b"shorter")
        (tree / "04").write_bytes(os.urandom(9000))
        (tree / "link").unlink()
        (tree / "link").symlink_to("01")
        await a.share(tree)
        await get(b, share.link, dest)
        assert find_difference(tree, dest / "tree") is None
        (dest / "tree" / "05").write_bytes(b"written here")
        (tree / "05").write_bytes(b"and there")
        await a.share(tree)
        refused = await b.get(share.link, dest)
        assert refused.error is not None
        assert refused.error.code == "exists"
        assert (dest / "tree" / "05").read_bytes() == b"written here"
        result_of(await b.get(share.link, dest, overwrite=True))
        assert find_difference(tree, dest / "tree") is None


async def test_ownership_survives_a_restart(tmp_path: Path) -> None:
    tree, dest = tmp_path / "tree", tmp_path / "dest"
    tree.mkdir()
    (tree / "file").write_bytes(b"1")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        await get(b, share.link, dest)
        await world.stop(b)
        (tree / "file").write_bytes(b"22")
        await a.share(tree)
        b = await world.add(again=b)
        await get(b, share.link, dest)
        assert find_difference(tree, dest / "tree") is None
