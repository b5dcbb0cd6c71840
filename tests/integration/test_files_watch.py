"""Shares that are watched: their feed follows their files."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world

from shoal.apps.files import share as share_module
from shoal.apps.files import watch_pace
from shoal.apps.files.status import ShareStatus
from shoal.content import feed_log
from shoal.storage.database import Connection
from shoal.storage.hashing import HashedShare
from shoal.storage.transfers import TransferState
from shoal.testing.trees import find_difference


@pytest.fixture(autouse=True)
def quicker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let looks follow each other sooner where their pace is not the subject."""
    if "constant" not in request.node.name:
        monkeypatch.setattr(watch_pace, "INTERVAL_S", 0.4)


async def wait_share(
    node: FilesNode, share_id: bytes, condition: Callable[[ShareStatus], bool], timeout_s: float = 15.0
) -> ShareStatus:
    """Wait until a share is as expected."""
    status = node.files.find_share(share_id)
    try:
        async with asyncio.timeout(timeout_s):
            while status is None or not condition(status):
                await asyncio.sleep(0.02)
                status = node.files.find_share(share_id)
    except TimeoutError:
        raise AssertionError(f"it did not happen: {status}") from None
    return status


async def watch(node: FilesNode, *paths: Path) -> ShareStatus:
    """Share and watch; returns once the first version is there and the watch stands."""
    begun = await node.files.share([os.fsencode(path) for path in paths], watch=True)
    assert begun.watching
    return await wait_share(node, begun.share_id, lambda s: s.version == 1 and not s.note)


def make_tree(path: Path) -> Path:
    (path / "folder").mkdir(parents=True)
    for number in range(20):
        (path / "folder" / f"file {number}").write_bytes(os.urandom(5000))
    return path


async def test_changes_become_versions_and_a_getter_gets_the_newest(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await watch(a, tree)
        (tree / "folder" / "file 3").write_bytes(b"new")
        await wait_share(a, share.share_id, lambda s: s.version == 2)
        (tree / "deep" / "er").mkdir(parents=True)
        (tree / "deep" / "er" / "file").write_bytes(b"deep")
        await wait_share(a, share.share_id, lambda s: s.version >= 3 and s.files == 21)
        (tree / "folder" / "file 4").unlink()
        (tree / "folder" / "file 5").rename(tree / "moved")
        last = await wait_share(a, share.share_id, lambda s: s.version >= 4 and s.files == 20)
        assert last.state == "complete"
        done = await b.get(share.link, tmp_path / "dest")
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None


async def test_a_single_file_that_is_replaced_and_names_that_are_not_text(tmp_path: Path) -> None:
    file, tree = tmp_path / "notes", make_tree(tmp_path / "tree")
    file.write_bytes(b"1")
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await watch(a, file, tree)
        (tmp_path / "notes.new").write_bytes(b"12")
        (tmp_path / "notes.new").rename(file)
        await wait_share(a, share.share_id, lambda s: s.version == 2)
        with open(os.fsencode(tree) + b"/\xff\xfe", "wb") as other:
            other.write(b"x")
        await wait_share(a, share.share_id, lambda s: s.version == 3 and s.files == 22)


async def test_constant_change_makes_few_versions(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await watch(a, tree)
        for number in range(60):
            (tree / "busy").write_bytes(b"%d" % number)
            await asyncio.sleep(0.06)
        status = a.files.find_share(share.share_id)
        assert status is not None
        assert 2 <= status.version <= 4, status.version
        (tree / "busy").write_bytes(b"the last one")
        size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
        await wait_share(a, share.share_id, lambda s: s.bytes == size and s.state == "complete")


async def test_watching_goes_on_after_a_restart_and_ends_when_it_should(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await watch(a, tree)
        await world.stop(a)
        (tree / "while it was down").write_bytes(b"x")
        a = await world.add(again=a)
        await wait_share(a, share.share_id, lambda s: s.version == 2 and s.watching and not s.note)
        (tree / "after it").write_bytes(b"x")
        await wait_share(a, share.share_id, lambda s: s.version == 3)
        status = await a.files.share([os.fsencode(tree)], watch=False)
        assert not status.watching
        await wait_share(a, share.share_id, lambda s: s.state == "complete")
        (tree / "not watched").write_bytes(b"x")
        await asyncio.sleep(1.0)
        unwatched = a.files.find_share(share.share_id)
        assert unwatched is not None
        assert unwatched.version == 3
        await a.files.share([os.fsencode(tree)], watch=True)
        await a.files.unshare(share.share_id)
        assert a.files.shares() == []


async def test_an_emptied_or_missing_folder_is_not_published_and_comes_back(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await watch(a, tree)
        tree.rename(tmp_path / "elsewhere")
        await wait_share(a, share.share_id, lambda s: s.state == "changed" and s.error is not None)
        tree.mkdir()  # a disk that is not mounted leaves this
        emptied = await wait_share(
            a, share.share_id, lambda s: s.error is not None and s.error.code == "emptied", 40.0
        )
        assert emptied.version == 1
        tree.rmdir()
        (tmp_path / "elsewhere").rename(tree)
        back = await wait_share(a, share.share_id, lambda s: s.state == "complete", 40.0)
        assert back.version == 1
        assert back.error is None


async def test_a_version_that_lost_nearly_all_files_is_held_back_until_that_is_accepted(
    tmp_path: Path,
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(40):
        (tree / str(number)).write_bytes(b"%d" % number)
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await watch(a, tree)

        async def wait_held() -> ShareStatus:
            return await wait_share(
                a, share.share_id, lambda s: s.error is not None and s.error.code == "emptied", 40.0
            )

        (tree / ".shoalignore").write_bytes(b"*\n!.shoalignore\n")
        held = await wait_held()
        assert (held.state, held.version) == ("changed", 1)
        assert held.error is not None
        assert "--accept-removals" in held.error.next_step
        await a.files.share([os.fsencode(tree)], watch=True)  # said again by hand, or by a script
        await a.wait_hashed(share.share_id)
        assert (await wait_held()).version == 1
        await world.stop(a)
        a = await world.add(again=a)
        assert (await wait_held()).version == 1
        (tree / ".shoalignore").unlink()
        back = await wait_share(a, share.share_id, lambda s: s.state == "complete", 40.0)
        assert (back.files, back.error) == (40, None)
        for number in range(37):  # three of forty are left
            (tree / str(number)).unlink()
        await wait_held()
        await a.files.share([os.fsencode(tree)], accept_removals=True)
        less = await a.wait_hashed(share.share_id)
        assert (less.state, less.files) == ("complete", 3)
        assert less.version > back.version
        (tree / "38").unlink()  # and once is not for ever, but of a few files some may go
        await wait_share(a, share.share_id, lambda s: s.files == 2, 40.0)


@pytest.mark.parametrize("is_missing", [False, True])
async def test_ending_the_watch_publishes_nothing(tmp_path: Path, is_missing: bool) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await watch(a, tree)
        tree.rename(tmp_path / "elsewhere")
        if not is_missing:
            tree.mkdir()
        await wait_share(a, share.share_id, lambda s: s.error is not None, 40.0)
        ended = await a.files.share([os.fsencode(tree)], watch=False)
        assert (ended.share_id, ended.watching, ended.state) == (share.share_id, False, "changed")
        after = await a.wait_hashed(share.share_id)
        assert (after.version, after.files) == (1, 20)
        await a.files.look_at_files()
        told = await wait_share(a, share.share_id, lambda s: s.error is not None)
        assert "20 gone" in str(told.error)
        if not is_missing:
            tree.rmdir()
        (tmp_path / "elsewhere").rename(tree)
        a.files._file_looks._looked_at.clear()
        await a.files.look_at_files()
        await wait_share(a, share.share_id, lambda s: s.state == "complete" and s.error is None)


async def test_what_is_hashed_while_the_watch_ends_is_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "tree")
    began, go_on = asyncio.Event(), asyncio.Event()
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await watch(a, tree)
        whole = share_module.VersionMaker._hash

        async def slow(maker: share_module.VersionMaker, *, in_silence: bool = False) -> HashedShare:
            hashed = await whole(maker, in_silence=in_silence)
            began.set()
            await go_on.wait()
            return hashed

        monkeypatch.setattr(share_module.VersionMaker, "_hash", slow)
        shutil.rmtree(tree / "folder")
        async with asyncio.timeout(40.0):
            await began.wait()
        ending = asyncio.ensure_future(a.files.share([os.fsencode(tree)], watch=False))
        await wait_share(a, share.share_id, lambda s: not s.watching)
        go_on.set()
        assert (await ending).version == 1
        assert (await a.wait_hashed(share.share_id)).version == 1


async def test_names_are_counted_outside_of_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(
        share_module, "check_removals", lambda before, now: threads.append(threading.get_ident())
    )
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await watch(a, tree)
        (tree / "folder" / "file 3").write_bytes(b"new")
        await wait_share(a, share.share_id, lambda s: s.version == 2)
    assert threads
    assert threading.get_ident() not in threads


async def test_a_full_feed_is_said_and_nothing_is_stored_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(tmp_path / "tree")
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await watch(a, tree)

        def count(connection: Connection) -> int:
            return int(connection.execute("SELECT count(*) FROM objects").fetchone()[0])

        before, looked = await a.stores.database.read(count), tree.stat()
        reader = a.files._shares[share.share_id].reader
        monkeypatch.setattr(feed_log, "ENTRY_LIMIT", reader.next_seq)
        for number in range(3):
            (tree / f"new {number}").write_bytes(b"new")
            refused = await wait_share(a, share.share_id, lambda s: s.state == "changed")
            assert "cannot have another version" in str(refused.error)
            assert refused.version == 1
            (tree / f"new {number}").unlink()
            os.utime(tree, ns=(looked.st_atime_ns, looked.st_mtime_ns))  # as the version says
            await wait_share(a, share.share_id, lambda s: s.state == "complete")
        assert await a.stores.database.read(count) == before
