"""Getting a part of a share, between real nodes in one process."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world
from tests.support.transport_nodes import wait_until

from shoal.apps.files.status import GetResult, TransferStatus
from shoal.core.errors import LocalMisuse
from shoal.core.units import KIB, MIB
from shoal.storage.transfers import TransferState
from shoal.testing.trees import find_difference

RNG_SEED = 5


def make_photos(root: Path) -> Path:
    """Two years of photos: large ones of their own chunks, and small ones that share them."""
    rng = random.Random(RNG_SEED)
    for year in ("2023", "2024"):
        folder = root / year
        folder.mkdir(parents=True)
        for number in range(4):
            (folder / f"large {number}.raw").write_bytes(rng.randbytes(2 * MIB))
        for number in range(20):
            (folder / f"small {number:02}.txt").write_bytes(rng.randbytes(10 * KIB))
    (root / "index").write_bytes(rng.randbytes(3 * KIB))
    return root


def names(root: Path) -> set[str]:
    return {os.path.relpath(os.path.join(d, f), root) for d, _, files in os.walk(root) for f in files}


def result_of(status: TransferStatus) -> GetResult:
    assert status.state is TransferState.DONE, status.error
    assert status.result is not None
    return status.result


def served_chunks(node: FilesNode, share_id: bytes) -> tuple[int, int]:
    """Return how many chunks of the newest version a node offers, and how many there are."""
    offer = node.swarm.find_offer(share_id)
    assert offer is not None
    version = offer.versions[offer.newest]
    return version.have.bit_count(), version.total


async def test_a_part_and_later_all_of_it(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(photos)
        dest = tmp_path / "dest"
        got = await b.get(shared.link, dest, only=[b"2024", b"nothing like this"])
        result = result_of(got)
        assert find_difference(photos / "2024", dest / "photos" / "2024") is None
        assert os.listdir(dest) == ["photos"]
        assert os.listdir(dest / "photos") == ["2024"]
        assert (result.files, result.bytes) == (24, 8 * MIB + 200 * KIB)
        assert got.bytes == got.done_bytes == result.fetched_bytes
        assert 8 * MIB < result.fetched_bytes <= 8 * MIB + 201 * KIB + 2 * MIB
        assert result.unmatched == [b"nothing like this"]
        have, total = served_chunks(b, shared.share_id)
        assert 0 < have < total
        await wait_until(lambda: b.files.find_share(shared.share_id) is not None)
        listed = b.files.find_share(shared.share_id)
        assert listed is not None
        assert (listed.files, listed.bytes, listed.only) == (
            24,
            8 * MIB + 200 * KIB,
            [b"2024", b"nothing like this"],
        )

        again = result_of(await b.get(shared.link, dest, only=[b"nothing like this", b"2024"]))
        assert again.fetched_bytes == 0
        other = result_of(await b.get(shared.link, dest, only=[b"/index"]))
        assert other.files == 1
        assert names(dest / "photos") >= {"index", "2024/small 00.txt"}
        await wait_until(lambda: len(b.files.shares()[0].only) == 3)
        assert b.files.shares()[0].only == [b"/index", b"2024", b"nothing like this"]

        whole = result_of(await b.get(shared.link, dest))
        assert find_difference(photos, dest / "photos") is None
        assert whole.reused_bytes >= 8 * MIB
        assert whole.fetched_bytes <= 9 * MIB + 300 * KIB
        assert served_chunks(b, shared.share_id) == (total, total)
        assert len(b.files.transfers()) == 3
        part = result_of(await b.get(shared.link, dest, only=[b"2023"]))
        assert part.fetched_bytes == 0
        assert served_chunks(b, shared.share_id) == (total, total)


async def test_two_halves_serve_a_third_node_and_after_a_restart(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    async with files_world(tmp_path) as world:
        a, b, c, d = [await world.add() for _ in range(4)]
        shared = await a.share(photos)
        result_of(await b.get(shared.link, tmp_path / "b", only=[b"2023", b"index"]))
        result_of(await c.get(shared.link, tmp_path / "c", only=[b"2024"]))
        before = served_chunks(b, shared.share_id)
        await world.stop(a)
        await world.stop(b)
        b = await world.add(again=b)
        async with asyncio.timeout(10):
            while not (offer := b.swarm.find_offer(shared.share_id)) or not offer.newest:
                await asyncio.sleep(0.02)
        assert served_chunks(b, shared.share_id) == before
        done = result_of(await d.get(shared.link, tmp_path / "d", only=[b"*.raw"]))
        assert done.files == 8
        assert set(done.providers) == {b.peer_id, c.peer_id}
        for year in ("2023", "2024"):
            for number in range(4):
                name = f"{year}/large {number}.raw"
                assert find_difference(photos / name, tmp_path / "d" / "photos" / name) is None


async def test_an_interrupted_part_goes_on(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(photos)
        started = await b.files.get(
            shared.link, os.fsencode(tmp_path / "dest"), only=[b"2023", b"2024/*.txt"]
        )
        attached = await b.files.get(
            shared.link, os.fsencode(tmp_path / "dest"), only=[b"2024/*.txt", b"2023"]
        )
        assert attached.id == started.id
        await b.wait_transfer(started.id, lambda s: s.done_bytes > 0 or s.state.is_end)
        await world.stop(b)
        b = await world.add(again=b)
        done = await b.wait_end(started.id)
        result = result_of(done)
        assert result.refetched_bytes == 0
        assert result.fetched_bytes + result.reused_bytes == done.bytes
        assert names(tmp_path / "dest" / "photos") == {
            name for name in names(photos) if name.startswith(("2023/", "2024/small"))
        }


@pytest.mark.parametrize("pattern", [b"*.png", b"photos/2025", b"2023/"])
async def test_nothing_selected(tmp_path: Path, pattern: bytes) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "2023").write_text("a file")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(tmp_path / "photos")
        done = await b.get(shared.link, tmp_path / "dest", only=[pattern])
        assert done.state is TransferState.FAILED
        assert done.error is not None
        assert done.error.code == "nothing_selected"
        assert "photos, photos/2023" in done.error.cause
        assert not (tmp_path / "dest").exists()
        with pytest.raises(LocalMisuse):
            await b.files.get(shared.link, os.fsencode(tmp_path / "dest"), only=[b"!x"])


async def test_a_cancelled_part_leaves_nothing(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(photos)
        started = await b.files.get(shared.link, os.fsencode(tmp_path / "dest"), only=[b"2023"])
        await b.wait_transfer(started.id, lambda s: s.done_bytes > 0 or s.state.is_end)
        await b.files.pause(started.id)
        await b.files.cancel(started.id)
        assert not list((b.home / "transfers").iterdir())
        forgotten = b.home / "transfers" / f"{'ab' * 16}.pieces"
        forgotten.write_bytes(b"notes")
        kept = result_of(await b.get(shared.link, tmp_path / "dest", only=[b"2023/*.txt"]))
        assert kept.files == 20
        await world.stop(b)
        b = await world.add(again=b)
        await wait_until(lambda: not forgotten.exists())
        assert [path.suffix for path in (b.home / "transfers").iterdir()] == [".pieces"]
        assert not [n for n in os.listdir(tmp_path / "dest") if n.startswith(".shoal")]


async def test_a_newer_version_of_a_part_replaces_what_is_as_it_was_left(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    mine = tmp_path / "dest" / "photos" / "2024" / "small 03.txt"
    mine.parent.mkdir(parents=True)
    shutil.copy2(photos / "2024" / "small 03.txt", mine)  # put there by somebody else
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = (await a.share(photos)).link
        dest = tmp_path / "dest"
        assert result_of(await b.get(link, dest, only=[b"2023"])).files == 24
        for year in ("2023", "2024"):
            (photos / year / "small 03.txt").write_bytes(b"new")
        assert (await a.share(photos)).version == 2
        again = result_of(await b.get(link, dest, only=[b"2023"]))
        assert again.fetched_bytes < MIB
        assert find_difference(photos / "2023", dest / "photos" / "2023") is None
        refused = await b.get(link, dest, only=[b"2024"])
        assert refused.error is not None
        assert refused.error.code == "exists"
        assert "2024/small 03.txt" in refused.error.cause
        (dest / "photos" / "2023" / "small 04.txt").write_bytes(b"mine")
        (photos / "2023" / "small 04.txt").write_bytes(b"newer")
        assert (await a.share(photos)).version == 3
        refused = await b.get(link, dest, only=[b"2023"])
        assert refused.error is not None
        assert refused.error.code == "exists"
