"""Transfers that are interrupted, and what they fetch again."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, FilesWorld, files_world

from shoal.core.units import MIB
from shoal.storage.transfers import TransferState
from shoal.testing.liar import Lie, LyingSource, make_liar
from shoal.testing.trees import find_difference, write_seeded_tree


def make_tree(path: Path, size_bytes: int, seed: int = 1) -> Path:
    write_seeded_tree(path, random.Random(seed), size_bytes)
    return path


async def start_slow_get(
    world: FilesWorld, tree: Path, dest: Path, enough_bytes: int
) -> tuple[FilesNode, FilesNode, bytes]:
    """Return sharer, getter and the transfer, `enough_bytes` of which have arrived."""
    a, b = await world.add(), await world.add()
    share = await a.share(tree)
    make_liar(a.swarm, share.share_id, Lie.SLOW, truthful_chunks=20)
    started = await b.files.get(share.link, os.fsencode(dest))
    await b.wait_transfer(started.id, lambda s: s.done_bytes >= enough_bytes)
    return a, b, started.id


def forget_progress(node: FilesNode) -> None:
    """Undo what the ledger of a stopped node saved: bits and counters go together."""
    with sqlite3.connect(node.home / "shoal.db") as database:
        assert database.execute("DELETE FROM transfer_pages").rowcount > 0
        database.execute("UPDATE transfers SET fetched_bytes = 0, done_bytes = 0, refetched_bytes = 0")


def release(liar: FilesNode) -> None:
    """Let a slow node go on honestly."""
    for share in liar.files.shares():
        offer = liar.swarm.find_offer(share.share_id)
        assert offer is not None
        for version in offer.versions.values():
            assert isinstance(version.source, LyingSource)
            version.source.release()


async def test_a_stopped_node_resumes_by_itself_and_fetches_nothing_twice(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 48 * MIB)
    async with files_world(tmp_path) as world:
        a, b, transfer = await start_slow_get(world, tree, tmp_path / "dest", 4 * MIB)
        await world.stop(b)
        release(a)
        b = await world.add(again=b)
        done = await b.wait_end(transfer)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        result = done.result
        assert result is not None
        assert result.resumed
        assert result.refetched_bytes == 0
        assert result.fetched_bytes == done.bytes
        assert sum(result.providers.values()) == result.fetched_bytes


async def test_unrecorded_chunks_are_found_by_the_journal(tmp_path: Path) -> None:
    """As after kill -9: the ledger's last bits are lost, the journal and the bytes are there."""
    tree = make_tree(tmp_path / "tree", 48 * MIB)
    async with files_world(tmp_path) as world:
        a, b, transfer = await start_slow_get(world, tree, tmp_path / "dest", 4 * MIB)
        await world.stop(b)
        forget_progress(b)
        release(a)
        b = await world.add(again=b)
        done = await b.wait_end(transfer)
        assert done.state is TransferState.DONE, done.error
        assert done.result is not None
        assert done.result.resumed
        assert done.result.refetched_bytes == 0
        assert done.result.fetched_bytes == done.bytes
        assert find_difference(tree, tmp_path / "dest" / "tree") is None


async def test_received_and_lost_chunks_count_as_refetched(tmp_path: Path) -> None:
    """As after kill -9 with a disk that lost what was written last: the journal knows, the bytes are gone."""
    tree = make_tree(tmp_path / "tree", 48 * MIB)
    async with files_world(tmp_path) as world:
        a, b, transfer = await start_slow_get(world, tree, tmp_path / "dest", 4 * MIB)
        received = b.files.transfers()[0].done_bytes
        await world.stop(b)
        forget_progress(b)
        for folder, _, files in os.walk(tmp_path / "dest"):
            for name in files:
                os.truncate(os.path.join(folder, name), 0)
        release(a)
        b = await world.add(again=b)
        done = await b.wait_end(transfer)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert done.result is not None
        assert done.result.refetched_bytes >= received
        assert done.result.fetched_bytes == done.bytes + done.result.refetched_bytes


@pytest.mark.parametrize("harm", ["edited", "lost"])
async def test_part_files_that_somebody_touched_are_not_believed(tmp_path: Path, harm: str) -> None:
    """In the same boot, recorded and all: what lies there is still not what was verified."""
    tree = make_tree(tmp_path / "tree", 48 * MIB)
    async with files_world(tmp_path) as world:
        a, b, transfer = await start_slow_get(world, tree, tmp_path / "dest", 4 * MIB)
        await world.stop(b)
        await asyncio.sleep(1.2)  # longer than a chunk may be on its way from the journal to its file
        parts = [path for path in (tmp_path / "dest").rglob("*") if path.is_file() and path.stat().st_blocks]
        assert parts
        for path in parts:
            if harm == "lost":
                path.unlink()
            else:
                with path.open("r+b") as file:
                    file.write(b"mine, not the share's")
        release(a)
        b = await world.add(again=b)
        done = await b.wait_end(transfer)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert done.result is not None
        assert done.result.refetched_bytes > 0
        assert done.result.fetched_bytes == done.bytes + done.result.refetched_bytes


async def test_what_a_disk_did_not_save_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "tree", 8 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)

        def fail(fd: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", fail)
            failed = await b.get(share.link, tmp_path / "dest")
        assert failed.error is not None
        assert failed.error.code == "sync"
        assert not (tmp_path / "dest").exists()
        done = await b.get(share.link, tmp_path / "dest")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert done.result is not None
        assert done.result.refetched_bytes == done.bytes
        assert done.result.fetched_bytes == 2 * done.bytes


async def test_pause_resume_and_cancel(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 48 * MIB)
    async with files_world(tmp_path) as world:
        _, b, transfer = await start_slow_get(world, tree, tmp_path / "dest", 4 * MIB)
        paused = await b.files.pause(transfer)
        assert paused.state is TransferState.PAUSED
        await world.stop(b)
        b = await world.add(again=b)
        still = b.files.find_transfer(transfer)
        assert still is not None
        assert still.state is TransferState.PAUSED
        assert still.done_bytes == paused.done_bytes
        await b.files.resume(transfer)
        await b.wait_transfer(transfer, lambda s: s.state is TransferState.FETCHING)
        await b.files.cancel(transfer)
        assert b.files.transfers() == []
        assert os.listdir(tmp_path / "dest") == []
        assert os.listdir(b.home / "transfers") == []


async def test_attaching_gives_the_same_transfer(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 16 * MIB)
    async with files_world(tmp_path) as world:
        a, b, transfer = await start_slow_get(world, tree, tmp_path / "dest", 1)
        again = await b.files.get(a.files.shares()[0].link, os.fsencode(tmp_path / "dest"))
        assert again.id == transfer
        assert len(b.files.transfers()) == 1


async def test_an_interrupted_hashing_goes_on(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 64 * MIB)
    async with files_world(tmp_path) as world:
        a = await world.add()
        begun = await a.files.share([os.fsencode(tree)])
        await world.stop(a)
        a = await world.add(again=a)
        share = await a.wait_hashed(begun.share_id)
        assert share.complete, share.error
        assert share.link == begun.link
        b = await world.add()
        done = await b.get(share.link, tmp_path / "dest")
        assert done.state is TransferState.DONE, done.error


async def test_a_transfer_that_ended_unseen_is_handed_over_once(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 48 * MIB)
    async with files_world(tmp_path) as world:
        a, b, transfer = await start_slow_get(world, tree, tmp_path / "dest", 4 * MIB)
        link = a.files.shares()[0].link
        await world.stop(b)
        release(a)
        b = await world.add(again=b)
        while b.files.transfers()[0].state is not TransferState.DONE:
            await asyncio.sleep(0.02)
        await world.stop(b)  # nobody asked yet
        b = await world.add(again=b)
        found = await b.files.get(link, os.fsencode(tmp_path / "dest"))
        assert found.id == transfer
        assert found.state is TransferState.DONE
        assert found.result is not None
        assert found.result.resumed
        assert set(found.result.providers) == {a.peer_id}
        again = await b.get(link, tmp_path / "dest")
        assert again.result is not None
        assert again.result.fetched_bytes == 0
        assert again.result.reused_bytes == again.bytes
