"""Providers that lie, stall, vanish, and files that change while they are served."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, FilesWorld, files_world
from tests.support.liars import release_when

from shoal.apps.files.status import TransferStatus
from shoal.apps.files.stream_get import StreamEnd
from shoal.core.errors import Unavailable
from shoal.core.units import MIB
from shoal.storage.transfers import TransferState
from shoal.swarm.fetch import ShareFetch
from shoal.swarm.receive import LaneReceiver
from shoal.testing.liar import Lie, make_liar
from shoal.testing.trees import find_difference, write_seeded_tree


def make_tree(path: Path, size_bytes: int, seed: int = 1) -> Path:
    write_seeded_tree(path, random.Random(seed), size_bytes)
    return path


async def two_providers(world: FilesWorld, tree: Path, tmp_path: Path) -> tuple[FilesNode, FilesNode]:
    """Return the sharer and a second complete provider."""
    a, b = await world.add(), await world.add()
    shared = await a.share(tree)
    done = await b.get(shared.link, tmp_path / "second")
    assert done.state is TransferState.DONE, done.error
    return a, b


def assert_right(status: TransferStatus, tree: Path, dest: Path) -> None:
    assert status.state is TransferState.DONE, status.error
    assert find_difference(tree, dest / tree.name) is None


@pytest.mark.parametrize("lie", [Lie.FLIPPED, Lie.SHORT, Lie.LONG, Lie.FOREIGN])
async def test_a_liar_is_named_and_its_chunks_come_from_elsewhere(tmp_path: Path, lie: Lie) -> None:
    tree = make_tree(tmp_path / "tree", 32 * MIB)
    async with files_world(tmp_path) as world:
        a, liar = await two_providers(world, tree, tmp_path)
        share = a.files.shares()[0]
        (honest,) = make_liar(a.swarm, share.share_id, Lie.SILENT)  # else it may do all of it
        (source,) = make_liar(liar.swarm, share.share_id, lie)
        c = await world.add()
        done, _ = await asyncio.gather(
            c.get(share.link, tmp_path / "dest"),
            release_when(honest, lambda: c.rules.count("wrong_chunk") >= 2),
        )
        assert_right(done, tree, tmp_path / "dest")
        assert done.result is not None
        assert done.result.blamed == [liar.peer_id]
        assert liar.peer_id not in done.result.providers
        assert "wrong_chunk" in c.rules
        assert source.told <= 64 + 4, "it was not asked again after it was blamed"


async def test_an_only_provider_that_lies_gives_nothing_and_is_named(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 8 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        make_liar(a.swarm, share.share_id, Lie.FLIPPED)
        failed = await b.get(share.link, tmp_path / "dest", timeout_s=60)
        assert failed.state is TransferState.FAILED
        assert failed.error is not None
        assert failed.error.code == "no_provider"
        assert "sent wrong data" in failed.error.cause
        assert not (tmp_path / "dest" / "tree").exists()


async def test_a_silent_provider_does_not_stop_the_transfer(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 32 * MIB)
    async with files_world(tmp_path) as world:
        a, silent = await two_providers(world, tree, tmp_path)
        share = a.files.shares()[0]
        (source,) = make_liar(silent.swarm, share.share_id, Lie.SILENT)
        c = await world.add()
        done = await c.get(share.link, tmp_path / "dest")
        source.release()
        assert_right(done, tree, tmp_path / "dest")
        assert done.result is not None
        assert done.result.blamed == []


async def test_announced_and_missing_is_fetched_elsewhere_without_blame(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 16 * MIB)
    async with files_world(tmp_path) as world:
        a, poor = await two_providers(world, tree, tmp_path)
        share = a.files.shares()[0]
        make_liar(poor.swarm, share.share_id, Lie.MISSING)
        c = await world.add()
        done = await c.get(share.link, tmp_path / "dest")
        assert_right(done, tree, tmp_path / "dest")
        assert done.result is not None
        assert done.result.blamed == []


async def test_a_file_that_changed_is_not_served_and_the_share_says_so(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 4 * MIB)
    (tmp_path / "tree" / "victim").write_bytes(os.urandom(3 * MIB))
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        with (tree / "victim").open("r+b") as file:
            file.write(b"something else")
        os.utime(tree / "victim")
        started = await b.files.get(share.link, os.fsencode(tmp_path / "dest"), wait_s=None)
        while a.files.shares()[0].state != "changed":
            await asyncio.sleep(0.02)
        changed = a.files.shares()[0]
        assert changed.error is not None
        assert "victim" in str(changed.error)
        assert not (tmp_path / "dest" / "tree").exists()
        status = await b.files.pause(started.id)
        assert status.state is TransferState.PAUSED
        # sharing again publishes what it is now, and the same get brings that
        assert (await a.share(tree)).version == 2
        done = await b.get(share.link, tmp_path / "dest")
        assert_right(done, tree, tmp_path / "dest")


async def test_a_provider_that_vanishes_in_the_middle(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 48 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await two_providers(world, tree, tmp_path)
        share = a.files.shares()[0]
        make_liar(a.swarm, share.share_id, Lie.SLOW)
        c = await world.add()
        started = await c.files.get(share.link, os.fsencode(tmp_path / "dest"))
        await c.wait_transfer(started.id, lambda s: a.peer_id in s.providers)
        await world.stop(a)
        assert_right(await c.wait_end(started.id), tree, tmp_path / "dest")
        assert b.peer_id in c.files.transfers()[0].providers


async def test_a_removal_in_the_middle_ends_everything_with_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 32 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        make_liar(a.swarm, share.share_id, Lie.SLOW)
        started = await b.files.get(share.link, os.fsencode(tmp_path / "dest"), wait_s=None)
        status = await b.wait_transfer(started.id, lambda s: s.done_bytes > 0)
        world.remove(b)
        status = await b.wait_end(started.id)
        assert status.state is TransferState.FAILED
        assert status.error is not None
        assert status.error.code == "removed"
        received = status.done_bytes
        await asyncio.sleep(0.5)
        assert b.files.transfers()[0].done_bytes == received
        assert not a.swarm._senders  # nothing is served to it any more
        assert not (tmp_path / "dest" / "tree").exists()


async def test_nobody_serves_it_says_who_was_asked(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 1 * MIB)
    async with files_world(tmp_path) as world:
        a, b, c = [await world.add() for _ in range(3)]
        share = await a.share(tree)
        await world.stop(a)
        failed = await b.get(share.link, tmp_path / "dest")
        assert failed.state is TransferState.FAILED
        assert failed.error is not None
        assert failed.error.code == "no_provider"
        assert "does not have it" in failed.error.cause
        # with patience it goes on as soon as the sharer is back
        waiting = await b.files.get(share.link, os.fsencode(tmp_path / "dest"), wait_s=30.0)
        await world.add(again=a)
        assert_right(await b.wait_end(waiting.id), tree, tmp_path / "dest")
        assert c.files.transfers() == []


@pytest.mark.parametrize("lie", [Lie.FLIPPED, Lie.MISSING])
async def test_a_stream_is_right_beside_a_liar(tmp_path: Path, lie: Lie) -> None:
    """Nothing wrong is ever written: the chunks of a liar come from elsewhere, in order all the same."""
    tree = tmp_path / "tree"
    tree.mkdir()
    data = random.Random(8).randbytes(24 * MIB)
    (tree / "file").write_bytes(data)
    async with files_world(tmp_path) as world:
        a, liar = await two_providers(world, tree, tmp_path)
        share = a.files.shares()[0]
        make_liar(liar.swarm, share.share_id, lie)
        c = await world.add()
        stream = c.files.get_stream(share.link)
        got = [item async for item in stream.read()]
        end = got.pop()
        assert isinstance(end, StreamEnd)
        assert b"".join(item for item in got if isinstance(item, bytes)) == data
        assert end.providers == {a.peer_id: len(data)}


async def test_a_stream_counts_what_came_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk may be read before its report is: who gave how much has to be right all the same."""
    drain = ShareFetch._drain

    def drain_late(self: ShareFetch, receiver: LaneReceiver) -> None:
        asyncio.get_running_loop().call_later(0.1, drain, self, receiver)

    monkeypatch.setattr(ShareFetch, "_drain", drain_late)
    data = random.Random(8).randbytes(3 * MIB)
    (tmp_path / "file").write_bytes(data)
    async with files_world(tmp_path) as world:
        a, c = await world.add(), await world.add()
        share = await a.share(tmp_path / "file")
        end = [item async for item in c.files.get_stream(share.link).read()][-1]
        assert isinstance(end, StreamEnd)
        assert end.fetched_bytes == len(data)
        assert end.providers == {a.peer_id: len(data)}


async def test_a_stream_from_a_liar_alone_ends_before_the_first_wrong_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.apps.files.patience.STUCK_S", 0.5)
    monkeypatch.setattr("shoal.apps.files.patience.FIND_MIN_S", 0.5)
    data = random.Random(9).randbytes(8 * MIB)
    (tmp_path / "file").write_bytes(data)
    async with files_world(tmp_path) as world:
        a, c = await world.add(), await world.add()
        share = await a.share(tmp_path / "file")
        make_liar(a.swarm, share.share_id, Lie.FLIPPED, truthful_chunks=4)
        got = b""
        items = c.files.get_stream(share.link).read()
        while data.startswith(got) and len(got) < len(data):
            try:
                item = await anext(items)
            except Unavailable:
                break
            assert isinstance(item, bytes)
            got += item
        assert data.startswith(got)
        assert len(got) < len(data)


@pytest.mark.parametrize("lie", [Lie.FLIPPED, Lie.FOREIGN])
async def test_a_part_is_right_beside_a_liar(tmp_path: Path, lie: Lie) -> None:
    tree = make_tree(tmp_path / "tree", 32 * MIB)
    async with files_world(tmp_path) as world:
        a, liar = await two_providers(world, tree, tmp_path)
        share = a.files.shares()[0]
        make_liar(liar.swarm, share.share_id, lie)
        c = await world.add()
        done = await c.get(share.link, tmp_path / "dest", only=[b"folder [0-3]"])
        assert done.state is TransferState.DONE, done.error
        folders = [name for name in os.listdir(tree) if name in {f"folder {n}" for n in range(4)}]
        assert sorted(os.listdir(tmp_path / "dest" / "tree")) == sorted(folders)
        for name in folders:
            assert find_difference(tree / name, tmp_path / "dest" / "tree" / name) is None
        assert done.result is not None
        assert liar.peer_id not in done.result.providers
