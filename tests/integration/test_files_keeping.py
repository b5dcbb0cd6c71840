"""Old versions over real sessions: their descriptions go, everywhere, and who wanted one is told."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world

from shoal.core.errors import StorageFault, Unavailable
from shoal.core.units import KIB
from shoal.storage.database import Connection
from shoal.storage.transfers import TransferState
from shoal.testing.trees import find_difference

SEED = 20261123


def write_many(tree: Path, count: int = 1500) -> Path:
    rng = random.Random(SEED)
    tree.mkdir()
    for number in range(count):
        (tree / f"a longer name for file {number:05}").write_bytes(rng.randbytes(200))
    return tree


async def count_objects(node: FilesNode) -> tuple[int, int]:
    """Return how many objects are stored, and how many of them nobody holds."""

    def run(connection: Connection) -> tuple[int, int]:
        count = connection.execute("SELECT count(*) FROM objects").fetchone()[0]
        orphans = connection.execute(
            "SELECT count(*) FROM objects WHERE id NOT IN (SELECT id FROM object_holders)"
        ).fetchone()[0]
        return count, orphans

    return await node.database.read(run)


async def wait_bounded(node: FilesNode, limit: int) -> None:
    async with asyncio.timeout(20):
        while (await count_objects(node))[0] > limit:
            await asyncio.sleep(0.05)
    assert (await count_objects(node))[1] == 0


async def test_descriptions_of_old_versions_go_at_every_end(tmp_path: Path) -> None:
    tree = write_many(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        ada, ben, cem = await world.add(), await world.add(), await world.add()
        share = await ada.share(tree)
        one, _ = await count_objects(ada)
        assert one >= 3  # the root, entries, chunks: where they are cut is random
        await ben.get(share.link, tmp_path / "ben")
        begun = await cem.pins.pin(share.link)
        while (await cem.pins.wait(begun.number, None, 1.0)).state != "complete":
            await asyncio.sleep(0.05)
        for number in range(5):
            (tree / "changing").write_bytes(random.Random(number).randbytes(100 * KIB))
            newest = await ada.share(tree)
            done = await ben.get(share.link, tmp_path / "ben")
            assert done.state is TransferState.DONE, done.error
        for node in (ada, ben):
            await wait_bounded(node, 2 * one + 2)
        async with asyncio.timeout(20):
            while [p.version for p in cem.pins.pins() if p.state == "complete"] != [newest.version]:
                await asyncio.sleep(0.05)
        await wait_bounded(cem, one + 2)
        for node in (ada, ben, cem):  # and what stayed is enough
            await world.stop(node)
        for gone in (ada, ben):
            world.remove(gone)
        cem, dan = await world.add(again=cem), await world.add()
        done = await dan.get(share.link, tmp_path / "dan")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dan" / "tree") is None


async def test_who_asks_for_a_version_that_is_gone_is_told(tmp_path: Path) -> None:
    tree = write_many(tmp_path / "tree", 100)
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        old = share.link.pinned(share.content_id)
        for number in range(3):
            (tree / "changing").write_bytes(b"%d" % number)
            await ada.share(tree)
        failed = await ben.get(old, tmp_path / "old")
        assert failed.state is TransferState.FAILED
        assert isinstance(failed.error, Unavailable)
        assert failed.error.code == "version_gone"
        assert "newest is 4" in failed.error.cause
        done = await ben.get(share.link, tmp_path / "new")
        assert done.state is TransferState.DONE, done.error


async def test_what_a_crash_left_goes_at_the_next_start(tmp_path: Path) -> None:
    tree = write_many(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        ada = await world.add()
        share = await ada.share(tree)
        one, _ = await count_objects(ada)

        async def cut(*arguments: object, **options: object) -> int:
            raise StorageFault("it was cut", code="io")

        ada.stores.objects.drop_share = cut  # type: ignore[method-assign]
        for number in range(6):
            (tree / "changing").write_bytes(random.Random(number).randbytes(100 * KIB))
            newest = await ada.share(tree)
        left, _ = await count_objects(ada)
        assert newest.version == 7
        assert left > 2 * one + 2
        await world.stop(ada)
        ada, ben = await world.add(again=ada), await world.add()
        await wait_bounded(ada, 2 * one + 2)
        done = await ben.get(share.link, tmp_path / "ben")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "ben" / "tree") is None


async def test_done_transfers_are_listed_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.apps.files.keeping.DONE_KEPT", 3)
    tree = write_many(tmp_path / "tree", 3)
    async with files_world(tmp_path) as world:
        ada, ben = await world.add(), await world.add()
        share = await ada.share(tree)
        for number in range(6):
            done = await ben.get(share.link, tmp_path / f"dest {number}")
            assert done.state is TransferState.DONE, done.error
        async with asyncio.timeout(10):
            while len(ben.files.transfers()) > 3:
                await asyncio.sleep(0.05)
        assert [os.path.basename(t.dest) for t in ben.files.transfers()] == [b"dest 3", b"dest 4", b"dest 5"]
        await world.stop(ben)
        ben = await world.add(again=ben)
        assert len(ben.files.transfers()) == 3
