"""What shares and transfers leave behind when they end, fail or stand still: files, announcements, places."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import shutil
import sys
import time
from pathlib import Path

import pytest
from tests.support.files_nodes import files_world
from tests.support.transport_nodes import wait_until

from shoal.apps.files.patience import FIND_S
from shoal.apps.files.target import MovingSource
from shoal.core.errors import ShoalError
from shoal.core.units import MIB
from shoal.storage.transfers import TransferState
from shoal.testing.disk import FailingDisk
from shoal.testing.liar import Lie, make_liar
from shoal.testing.trees import find_difference


def make_files(path: Path, count: int, size_bytes: int, seed: int = 1) -> Path:
    rng = random.Random(seed)
    for number in range(count):
        folder = path / f"folder {number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file {number}").write_bytes(rng.randbytes(size_bytes))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
async def test_shares_that_nobody_reads_hold_no_files_open(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        before = 0
        for number in range(8):
            share = await a.share(make_files(tmp_path / f"tree {number}", 8, 300_000, number))
            done = await b.get(share.link, tmp_path / f"dest {number}")
            assert done.state is TransferState.DONE, done.error
            await wait_until(lambda: not a.swarm._senders)
            gc.collect()
            now = len(os.listdir("/proc/self/fd"))
            before = before or now
        assert now <= before + 4, "each of them left descriptors behind"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at descriptors in /proc")
async def test_a_share_that_is_got_again_does_not_keep_its_earlier_files_open(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 8, 300_000)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        for number in range(4):
            await b.get(share.link, tmp_path / f"dest {number}")
            offer = b.swarm.find_offer(share.share_id)
            assert offer is not None
            offer.versions[1].source.read_into(0, memoryview(bytearray(2 * MIB)))
        await b.files.unshare(share.share_id)
        links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        assert not [link for link in links if f"{tmp_path}/dest " in link]


async def test_a_fetched_file_that_changes_marks_the_share(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 4, 300_000)
    async with files_world(tmp_path) as world:
        a, b, c = [await world.add() for _ in range(3)]
        share = await a.share(tree)
        await b.get(share.link, tmp_path / "second")
        await world.stop(a)
        (tmp_path / "second" / "tree" / "folder 0" / "file 0").write_bytes(b"mine now")
        started = await c.files.get(share.link, os.fsencode(tmp_path / "dest"), wait_s=None)
        await wait_until(lambda: b.files.shares()[0].state == "changed", timeout_s=10)
        error = b.files.shares()[0].error
        assert error is not None
        assert "file 0" in str(error)
        await c.files.cancel(started.id)


async def test_who_lacks_a_chunk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.apps.files.lack.CHANGED_S", 1.0)
    tree = make_files(tmp_path / "tree", 2, 300_000)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        make_liar(a.swarm, share.share_id, Lie.MISSING)
        failed = await b.get(share.link, tmp_path / "dest")
        assert failed.error is not None
        assert failed.error.code == "source_changed"
        assert failed.error.message.startswith("tree/folder 0/file 0 and 1 more changed at ")


@pytest.mark.parametrize("verb", ["pause", "cancel"])
async def test_a_transfer_that_stops_is_not_announced_any_more(tmp_path: Path, verb: str) -> None:
    tree = make_files(tmp_path / "tree", 8, 3 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        make_liar(a.swarm, share.share_id, Lie.SLOW)
        started = await b.files.get(share.link, os.fsencode(tmp_path / "dest"))
        await b.wait_transfer(started.id, lambda s: s.done_bytes > 0)
        assert [key for key, peers in world.keys.items() if b.peer_id in peers]
        await getattr(b.files, verb)(started.id)
        assert b.swarm.find_offer(share.share_id) is None
        assert not [key for key, peers in world.keys.items() if b.peer_id in peers]


async def test_a_cancelled_transfer_leaves_no_description(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 8, 3 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        make_liar(a.swarm, share.share_id, Lie.SLOW)
        started = await b.files.get(share.link, os.fsencode(tmp_path / "dest"))
        await b.wait_transfer(started.id, lambda s: s.done_bytes > 0)
        assert await b.stores.entries.load(share.share_id)
        await b.files.cancel(started.id)
        assert await b.stores.entries.load(share.share_id) == []
        count = await b.database.read(lambda c: c.execute("SELECT count(*) FROM objects").fetchone()[0])
        assert count == 0


async def test_a_share_that_failed_is_neither_announced_nor_waited_for(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 1, 1000)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        begun = await a.files.share([os.fsencode(tree)])
        shutil.rmtree(tree)
        assert (await a.wait_hashed(begun.share_id)).state == "failed"
        assert not [key for key, peers in world.keys.items() if a.peer_id in peers]
        await world.stop(a)
        a = await world.add(again=a)
        failed = await b.get(begun.link, tmp_path / "dest", timeout_s=FIND_S + 10)
        assert failed.state is TransferState.FAILED
        assert failed.error is not None
        assert failed.error.code == "no_provider"
        # once the path is back, sharing it again makes the same link good
        make_files(tmp_path / "tree", 1, 1000)
        assert (await a.share(tree)).link == begun.link
        assert (await b.get(begun.link, tmp_path / "dest")).state is TransferState.DONE


async def test_transfers_that_wait_for_somebody_leave_the_others_their_place(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        a, b, gone = [await world.add() for _ in range(3)]
        links = [(await gone.share(make_files(tmp_path / f"tree {n}", 2, 1000, n))).link for n in range(4)]
        here = await a.share(make_files(tmp_path / "here", 2, 1000))
        await world.stop(gone)
        for number, link in enumerate(links):
            await b.files.get(link, os.fsencode(tmp_path / f"dest {number}"), wait_s=None)
        done = await b.get(here.link, tmp_path / "dest", timeout_s=20)
        assert done.state is TransferState.DONE, done.error
        await world.add(again=gone)
        for number, status in enumerate(b.files.transfers()[:4]):
            assert (await b.wait_end(status.id)).state is TransferState.DONE
            assert (
                find_difference(tmp_path / f"tree {number}", tmp_path / f"dest {number}/tree {number}")
                is None
            )


async def test_transfers_that_stand_still_in_the_middle_leave_the_others_their_place(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        a, b, gone = [await world.add() for _ in range(3)]
        started = []
        for number in range(3):
            share = await gone.share(make_files(tmp_path / f"tree {number}", 4, 3 * MIB, number))
            make_liar(gone.swarm, share.share_id, Lie.SLOW)
            started.append(
                await b.files.get(share.link, os.fsencode(tmp_path / f"dest {number}"), wait_s=None)
            )
        here = await a.share(make_files(tmp_path / "here", 2, 1000))
        for status in started:
            await b.wait_transfer(status.id, lambda s: s.done_bytes > 0)
        await world.stop(gone)
        done = await b.get(here.link, tmp_path / "dest", timeout_s=20)
        assert done.state is TransferState.DONE, done.error


async def test_who_asks_again_without_patience_is_not_kept_waiting(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 2, 1000)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        await world.stop(a)
        dest = os.fsencode(tmp_path / "dest")
        waiting = await b.files.get(share.link, dest, wait_s=None)
        await asyncio.sleep(0.3)
        began = time.monotonic()
        attached = await b.files.get(share.link, dest)
        assert attached.id == waiting.id
        failed = await b.wait_end(waiting.id, timeout_s=FIND_S + 5)
        assert failed.error is not None
        assert failed.error.code == "no_provider"
        assert time.monotonic() - began > 3, "it has the same time to find somebody as a new one"


async def test_who_asks_again_with_patience_gets_it(tmp_path: Path) -> None:
    tree = make_files(tmp_path / "tree", 2, 1000)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        await world.stop(a)
        dest = os.fsencode(tmp_path / "dest")
        await b.files.get(share.link, dest)
        await asyncio.sleep(0.5)
        attached = await b.files.get(share.link, dest, wait_s=None)
        await asyncio.sleep(FIND_S / 2)
        still = b.files.find_transfer(attached.id)
        assert still is not None
        assert not still.state.is_end
        await world.add(again=a)
        assert (await b.wait_end(attached.id)).state is TransferState.DONE


async def test_what_could_not_be_stored_of_a_feed_is_stored_later(tmp_path: Path) -> None:
    """A gap in the stored feed would make it unreadable for ever after the next start."""
    tree = make_files(tmp_path / "tree", 8, 3 * MIB)
    disk = FailingDisk()
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add(connect=disk.connect)
        share = await a.share(tree)
        (source,) = make_liar(a.swarm, share.share_id, Lie.SLOW)
        started = await b.files.get(share.link, os.fsencode(tmp_path / "dest"), wait_s=None)
        await b.wait_transfer(started.id, lambda s: s.done_bytes > 0)
        stored = len(await b.stores.entries.load(share.share_id))
        disk.fault = "io"
        make_files(tree / "second", 1, 1000)
        assert (await a.share(tree)).version == 2
        get = b.swarm._fetches[share.share_id]._owner
        await wait_until(lambda: get.entry_count > stored and disk.failures > 0)
        await asyncio.sleep(0.2)
        disk.fault = None
        make_files(tree / "third", 1, 1000)
        assert (await a.share(tree)).version == 3
        source.release()
        assert (await b.wait_end(started.id)).state is TransferState.DONE
        await b.get(share.link, tmp_path / "dest 2")
        await world.stop(b)
        b = await world.add(again=b)
        await asyncio.sleep(0.3)
        assert b.files.shares()[0].state == "complete", b.files.shares()[0].error


async def test_a_get_that_fails_at_the_very_end_lets_its_readers_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_files(tmp_path / "tree", 2, 300_000)
    disk = FailingDisk()
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add(connect=disk.connect)
        share = await a.share(tree)
        started = await b.files.get(share.link, os.fsencode(tmp_path / "dest"))
        offer = None
        while offer is None or not offer.versions:
            await asyncio.sleep(0)
            offer = b.swarm.find_offer(share.share_id)
        source = offer.versions[1].source
        original = b.stores.shares.replace

        async def fail(row: object) -> None:
            disk.fault = "io"
            await original(row)  # type: ignore[arg-type]

        monkeypatch.setattr(b.stores.shares, "replace", fail)
        failed = await b.wait_end(started.id)
        assert failed.state is TransferState.FAILED
        disk.fault = None

        def read() -> float:
            began = time.monotonic()
            with contextlib.suppress(ShoalError):  # only how long it takes matters
                source.read_into(0, memoryview(bytearray(2 * MIB)))
            return time.monotonic() - began

        assert await asyncio.to_thread(read) < 5
        monkeypatch.undo()
        assert (await b.get(share.link, tmp_path / "dest")).state is TransferState.DONE


async def test_sharing_again_right_after_a_start(tmp_path: Path) -> None:
    """While shares are still being brought back, as by a script that starts a node and shares."""
    tree = make_files(tmp_path / "tree", 3, 1000)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        first = await a.share(tree)
        for number in range(30):
            await a.files.share([os.fsencode(make_files(tmp_path / f"other {number}", 1, 10, number))])
        while any(share.state == "hashing" for share in a.files.shares()):
            await asyncio.sleep(0.05)
        await world.stop(a)
        make_files(tree / "more", 1, 1000)
        a = await world.add(again=a)
        last = a.files.shares()[-1]
        await a.files.unshare(last.share_id)
        again = await a.share(tree)
        assert again.state == "complete", again.error
        assert (again.link, again.version) == (first.link, 2)
        done = await b.get(first.link, tmp_path / "dest")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        await asyncio.sleep(0.5)
        assert a.swarm.find_offer(last.share_id) is None, "it was unshared"


async def test_getting_again_elsewhere_takes_nothing_away_from_others(tmp_path: Path) -> None:
    """A second get of what is served already must not replace it by its own empty part files."""
    tree = make_files(tmp_path / "tree", 2, 300_000)
    async with files_world(tmp_path) as world:
        a, b, c = [await world.add() for _ in range(3)]
        share = await a.share(tree)
        await b.get(share.link, tmp_path / "one")
        make_liar(a.swarm, share.share_id, Lie.SILENT)
        started = await b.files.get(share.link, os.fsencode(tmp_path / "two"))
        await b.wait_transfer(started.id, lambda s: s.state is TransferState.FETCHING)
        done = await c.get(share.link, tmp_path / "dest", timeout_s=20)
        assert done.state is TransferState.DONE, done.error
        await b.files.cancel(started.id)
        offer = b.swarm.find_offer(share.share_id)
        assert offer is not None
        assert offer.versions[1].is_complete
        offer.versions[1].source.read_into(0, memoryview(bytearray(2 * MIB)))


async def test_a_provider_that_is_slow_to_finish_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes minutes to sync keeps readers waiting; what it has is not missing."""
    monkeypatch.setattr("shoal.apps.files.target.HOLD_S", 0.3)
    tree = make_files(tmp_path / "tree", 4, 300_000)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        offer = a.swarm.find_offer(share.share_id)
        assert offer is not None
        version = offer.versions[1]
        version.source = source = MovingSource(version.source)
        await asyncio.to_thread(source.hold)
        started = await b.files.get(share.link, os.fsencode(tmp_path / "dest"))
        await b.wait_transfer(started.id, lambda s: s.state is TransferState.FETCHING)
        await asyncio.sleep(1.0)
        source.switch(None)
        done = await b.wait_end(started.id, timeout_s=20)
        assert done.state is TransferState.DONE, done.error
