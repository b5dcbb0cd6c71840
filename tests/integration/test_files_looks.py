"""Files that are deleted or changed under a share are noticed before anybody asks for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world
from tests.support.trees import write_file

from shoal.apps.files import file_looks
from shoal.apps.files.status import ShareStatus


def make_tree(tree: Path) -> list[bytes]:
    return [write_file(os.fsencode(tree / str(n)), b"%d" % n, mtime_ns=10**18) for n in range(5)]


async def look(node: FilesNode, share: ShareStatus, condition: Callable[[ShareStatus], bool]) -> ShareStatus:
    """Ask until it is as expected: what is just being made or loaded is not looked at."""
    async with asyncio.timeout(30.0):
        while True:
            await node.files.look_at_files()
            found = node.files.find_share(share.share_id)
            assert found is not None
            if condition(found):
                return found
            await asyncio.sleep(0.01)


def has_fault(status: ShareStatus) -> bool:
    return status.state == "changed" and status.error is not None


def is_fine(status: ShareStatus) -> bool:
    return status.state == "complete" and status.error is None


async def wait_for(
    node: FilesNode, share: ShareStatus, condition: Callable[[ShareStatus], bool]
) -> ShareStatus:
    async with asyncio.timeout(30.0):
        while (found := node.files.find_share(share.share_id)) is None or not condition(found):
            await asyncio.sleep(0.01)
    return found


async def test_deleted_and_changed_files_are_told_when_shares_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_looks, "FRESH_S", 0.0)
    monkeypatch.setattr(file_looks, "ASKED_S", 60.0)
    tree = tmp_path / "tree"
    files = make_tree(tree)
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await a.share(tree)
        await look(a, share, is_fine)
        os.unlink(files[1])
        os.unlink(files[2])
        write_file(files[3], b"other")
        found = await look(a, share, has_fault)
        assert found.complete
        assert found.error is not None
        assert "2 gone, 1 changed of 5" in found.error.message
        assert found.error.cause == "tree/1: it is gone"
        assert "share it again" in found.error.next_step
        await world.stop(a)  # it is known after a restart, too
        a = await world.add(again=a)
        again = a.files.find_share(share.share_id)
        assert again is not None
        assert again.state == "changed"
        await look(a, share, has_fault)
        make_tree(tree)  # as they were
        await look(a, share, is_fine)
        tree.rename(tmp_path / "elsewhere")
        found = await look(a, share, has_fault)
        assert found.error is not None
        assert "5 gone" in found.error.message
        (tmp_path / "elsewhere").rename(tree)
        os.unlink(files[1])
        again = await a.share(tree)
        assert (again.state, again.version) == ("complete", 2)
        await look(a, share, is_fine)


async def test_a_look_comes_by_itself_and_leaves_other_faults_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_looks, "TURN_S", 0.05)
    monkeypatch.setattr(file_looks, "LOAD", 0.0)
    tree = tmp_path / "tree"
    files = make_tree(tree)
    async with files_world(tmp_path) as world:
        a = await world.add()
        share = await a.share(tree)
        os.unlink(files[0])
        status = await wait_for(a, share, has_fault)
        assert status.error is not None
        assert status.error.code == file_looks.CODE
        make_tree(tree)
        await wait_for(a, share, is_fine)


async def test_files_of_a_fetched_share_that_are_deleted_are_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_looks, "FRESH_S", 0.0)
    monkeypatch.setattr(file_looks, "ASKED_S", 60.0)
    tree = tmp_path / "tree"
    make_tree(tree)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        await b.get(share.link, tmp_path / "in")
        await look(b, share, is_fine)
        kept = (tmp_path / "in" / "tree" / "1").rename(tmp_path / "kept")
        found = await look(b, share, has_fault)
        assert found.error is not None
        assert "not as they were fetched: 1 gone of 5" in found.error.message
        assert found.error.next_step.startswith("get it again")
        kept.rename(tmp_path / "in" / "tree" / "1")
        await look(b, share, is_fine)
