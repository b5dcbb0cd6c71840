"""Share and get between real nodes in one process: the plain ways."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.support.files_nodes import files_world
from tests.support.transport_nodes import wait_until

from shoal.core.errors import Refused
from shoal.core.units import KIB, MIB
from shoal.identity.entry import parse_entry
from shoal.identity.operations import Role
from shoal.storage.transfers import TransferState
from shoal.testing.liar import Lie, make_liar
from shoal.testing.trees import find_difference, write_seeded_tree


def make_tree(path: Path, size_bytes: int, seed: int = 1) -> Path:
    write_seeded_tree(path, random.Random(seed), size_bytes)
    return path


async def test_one_provider(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 40 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(tree)
        assert shared.complete
        assert shared.content_id
        (tmp_path / "dest").mkdir()
        done = await b.get(shared.link, tmp_path / "dest")
        assert done.error is None
        assert done.state is TransferState.DONE
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        result = done.result
        assert result is not None
        assert result.fetched_bytes == done.bytes == sum(result.providers.values())
        assert set(result.providers) == {a.peer_id}
        assert result.files == shared.files
        assert result.bytes == shared.bytes
        assert (result.refetched_bytes, result.reused_bytes, result.resumed) == (0, 0, False)
        assert os.listdir(tmp_path / "dest") == ["tree"]
        assert not list((b.home / "transfers").iterdir())
        stages = b.swarm.stage_seconds()
        assert stages["verify"] > 0
        assert stages["write"] > 0


async def test_getting_again_reuses_and_a_single_file_works(tmp_path: Path) -> None:
    file = tmp_path / "big file"
    file.write_bytes(random.Random(2).randbytes(5 * MIB + 17))
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(file)
        dest = tmp_path / "dest"
        first = await b.get(shared.link, dest)
        assert first.state is TransferState.DONE, first.error
        assert (dest / "big file").read_bytes() == file.read_bytes()
        second = await b.get(shared.link, dest)
        assert second.id == first.id
        assert second.state is TransferState.DONE, second.error
        assert second.result is not None
        assert second.result.fetched_bytes == 0
        assert second.result.reused_bytes == 5 * MIB + 17


@pytest.mark.parametrize("content", [b"", b"x"])
async def test_tiny_shares(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "only").write_bytes(content)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(tmp_path / "tree")
        done = await b.get(shared.link, tmp_path / "dest")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tmp_path / "tree", tmp_path / "dest" / "tree") is None


async def test_three_providers_share_the_work_and_a_getter_provides(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 96 * MIB)
    async with files_world(tmp_path) as world:
        a, b, c, d = [await world.add() for _ in range(4)]
        shared = await a.share(tree)
        for node, name in ((b, "b"), (c, "c")):
            done = await node.get(shared.link, tmp_path / name)
            assert done.state is TransferState.DONE, done.error
        done = await d.get(shared.link, tmp_path / "d")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "d" / "tree") is None
        assert done.result is not None
        assert set(done.result.providers) == {a.peer_id, b.peer_id, c.peer_id}


async def test_getters_serve_each_other_while_they_get(tmp_path: Path) -> None:
    """The sharer leaves when the two getters have everything only together."""
    tree = make_tree(tmp_path / "tree", 64 * MIB)
    async with files_world(tmp_path) as world:
        a, b, c = [await world.add() for _ in range(3)]
        shared = await a.share(tree)
        one = await b.files.get(shared.link, os.fsencode(tmp_path / "b"))
        other = await c.files.get(shared.link, os.fsencode(tmp_path / "c"))
        for node, transfer in ((b, one), (c, other)):
            done = await node.wait_end(transfer.id)
            assert done.state is TransferState.DONE, done.error
        for name in "bc":
            assert find_difference(tree, tmp_path / name / "tree") is None


async def test_a_getter_alone_serves_others_when_the_sharer_is_gone(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 20 * MIB)
    async with files_world(tmp_path) as world:
        a, b, c = [await world.add() for _ in range(3)]
        shared = await a.share(tree)
        assert (await b.get(shared.link, tmp_path / "b")).state is TransferState.DONE
        await world.stop(a)
        done = await c.get(shared.link, tmp_path / "c")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "c" / "tree") is None
        restarted = b
        await world.stop(b)
        await world.add(again=restarted)
        done = await c.get(shared.link, tmp_path / "c2")
        assert done.state is TransferState.DONE, done.error


async def test_a_get_waits_for_the_sharer_to_finish_hashing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 100 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        status = await a.files.share([os.fsencode(tree)])
        assert not status.complete
        assert status.content_id is None
        done = await b.get(status.link, tmp_path / "dest")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None


async def test_a_changed_tree_is_a_new_version_of_the_same_share(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 10 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        first = await a.share(tree)
        same = await a.share(tree)
        assert same.link == first.link
        assert (same.version, same.content_id) == (1, first.content_id)
        assert (await b.get(first.link, tmp_path / "one")).state is TransferState.DONE
        (tree / "new").write_bytes(b"more")
        second = await a.share(tree)
        assert second.link == first.link
        assert second.version == 2
        assert second.content_id != first.content_id
        done = await b.get(first.link, tmp_path / "two")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "two" / "tree") is None


async def test_storage_only_members_get_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 1 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add(Role.STORAGE)
        shared = await a.share(tree)
        failed = await b.get(shared.link, tmp_path / "dest")
        assert failed.state is TransferState.FAILED
        assert not list((tmp_path / "dest").glob("**/*")) if (tmp_path / "dest").exists() else True
        with pytest.raises(Exception, match="storage-only"):
            await b.files.share([os.fsencode(tree)])


async def test_unshare_ends_serving(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 1 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(tree)
        await a.files.unshare(shared.share_id)
        assert a.files.shares() == []
        failed = await b.get(shared.link, tmp_path / "dest")
        assert failed.state is TransferState.FAILED
        assert failed.error is not None
        assert failed.error.code == "no_provider"
        assert "does not have it" in failed.error.cause


async def test_conflicts_and_overwrite(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"right" * 100 * KIB)
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "file").write_bytes(b"mine")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(file)
        refused = await b.get(shared.link, dest)
        assert refused.state is TransferState.FAILED
        assert refused.error is not None
        assert refused.error.code == "exists"
        assert (dest / "file").read_bytes() == b"mine"
        done = await b.get(shared.link, dest, overwrite=True)
        assert done.state is TransferState.DONE, done.error
        assert (dest / "file").read_bytes() == file.read_bytes()


async def test_sharing_again_in_the_middle_of_a_get_brings_one_version_whole(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 32 * MIB)
    (tree / "victim").write_bytes(os.urandom(3 * MIB))
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        (tree / "victim").write_bytes(os.urandom(2 * MIB))  # version 1 is not to be had whole any more
        started = await b.files.get(share.link, os.fsencode(tmp_path / "dest"), wait_s=None)
        await b.wait_transfer(started.id, lambda s: bool(s.note))
        assert (await a.share(tree)).version == 2
        done = await b.wait_end(started.id)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert done.result is not None
        assert done.result.fetched_bytes < (done.bytes or 0) + 4 * MIB, "what both versions have is kept"
        assert os.listdir(tmp_path / "dest") == ["tree"]


async def test_a_node_that_serves_all_it_may_says_so_before_it_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        first = await a.share(make_tree(tmp_path / "one", 100_000))
        second = await a.share(make_tree(tmp_path / "two", 100_000))
        monkeypatch.setattr("shoal.apps.files.checks.SHARE_LIMIT", 1)
        assert (await b.get(first.link, tmp_path / "dest")).state is TransferState.DONE
        assert b.files.find_share(first.share_id) is not None  # at once
        with pytest.raises(Refused) as caught:
            await b.get(second.link, tmp_path / "dest")
        assert caught.value.code == "too_many_shares"
        assert (await b.get(first.link, tmp_path / "dest")).state is TransferState.DONE


async def test_shared_again_after_unshare_the_link_is_a_new_one_and_the_old_one_opens_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        first = await a.share(tmp_path / "file")
        assert (await a.share(tmp_path / "file")).link == first.link
        await a.files.unshare(first.share_id)
        second = await a.share(tmp_path / "file")
        assert second.share_id != first.share_id
        assert second.link.read_key != first.link.read_key
        ended = await b.get(first.link, tmp_path / "old")
        assert ended.state is TransferState.FAILED
        assert (await b.get(second.link, tmp_path / "new")).state is TransferState.DONE


async def test_unshare_in_the_middle_of_a_get_of_the_same_leaves_it_what_it_needs(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", 8 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(tree)
        first = await b.get(shared.link, tmp_path / "first")
        assert first.state is TransferState.DONE
        (tree / "more").write_bytes(random.Random(2).randbytes(4 * MIB))
        await a.share(tree)
        liars = make_liar(a.swarm, shared.share_id, Lie.SILENT)
        begun = await b.files.get(shared.link, os.fsencode(tmp_path / "second"))
        await b.wait_transfer(begun.id, lambda s: s.state is TransferState.FETCHING)
        await b.files.unshare(shared.share_id)
        for liar in liars:
            liar.release()
        done = await b.wait_end(begun.id)
        assert done.state is TransferState.DONE, done.error
        await b.files.settle()
        entries = await b.stores.entries.load(shared.share_id)
        await world.stop(b)
        again = await world.add(again=b)
        served = again.files.find_share(shared.share_id)
        assert served is not None
        assert [parse_entry(entry).seq for entry in entries] == list(range(len(entries)))
        assert entries
        await wait_until(lambda: again.swarm.find_offer(shared.share_id) is not None)
        c = await world.add()
        await world.stop(a)
        third = await c.get(shared.link, tmp_path / "third")
        assert third.state is TransferState.DONE, third.error
