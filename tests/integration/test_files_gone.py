"""What a get says when a share ends, or changes, at the other end while it is fetched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world
from tests.support.transport_nodes import wait_until

from shoal.apps.files import lack, patience
from shoal.apps.files.status import TransferStatus
from shoal.content.link import Link
from shoal.core.errors import Unavailable
from shoal.core.units import KIB, MIB, format_size
from shoal.storage.transfers import TransferState
from shoal.swarm import service
from shoal.testing.trees import write_random_file

MB = 1_000_000
SOON_S = patience.STUCK_S / 2  # long before a get gives up that waits for somebody


async def begin(node: FilesNode, link: Link, dest: Path, done_bytes: int = 2 * MIB) -> TransferStatus:
    """Begin a slow get, return once something came."""
    node.swarm.downloads.set_limits(2.0 * MB, {})
    started = await node.files.get(link, os.fsencode(dest))
    return await node.wait_transfer(started.id, lambda s: s.done_bytes > done_bytes)


def error_of(ended: TransferStatus) -> Unavailable:
    assert ended.state is TransferState.FAILED
    assert isinstance(ended.error, Unavailable)
    return ended.error


async def test_a_share_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    write_random_file(tmp_path / "film", 24 * MIB)
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        link = (await anna.share(tmp_path / "film")).link
        running = await begin(bert, link, tmp_path / "dest")
        await anna.files.unshare(link.share_id)
        error = error_of(await bert.wait_end(running.id, SOON_S))
        assert error.code == "unshared"
        name = bert.files.context.name_peer(anna.peer_id)
        assert error.message == f"film is no longer shared by {name}"
        assert "ask for a new link" in error.next_step
        (part,) = (tmp_path / "dest").iterdir()
        ended = bert.files.find_transfer(running.id)
        assert ended is not None
        assert error.next_step.endswith(
            f"what came ({format_size(ended.done_bytes)}) is kept in {part}: "
            f"`shoal transfers --cancel {running.id.hex()[:12]}` deletes it"
        )
        await bert.files.cancel(running.id)
        assert list((tmp_path / "dest").iterdir()) == []


async def test_a_sharer_with_too_many_getters_has_not_ended_the_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random_file(tmp_path / "film", 24 * MIB)
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        link = (await anna.share(tmp_path / "film")).link
        running = await begin(bert, link, tmp_path / "dest")
        monkeypatch.setattr(service, "FOLLOWERS", 0)
        for session in anna.transport.sessions():
            session.close("shutdown")
        await wait_until(lambda: not bert.transport.sessions())
        await world.connect(bert, anna)
        waiting = await bert.wait_transfer(running.id, lambda s: bool(s.note) or s.state.is_end)
        assert waiting.note == "waiting for somebody who has the rest", waiting.error
        monkeypatch.undo()
        bert.swarm.downloads.set_limits(None, {})
        assert (await bert.wait_end(running.id)).state is TransferState.DONE
        await wait_until(lambda: not bert.files.gets._turns)  # nothing is kept of who had a turn


async def test_who_waits_is_told_that_the_share_ended(tmp_path: Path) -> None:
    write_random_file(tmp_path / "film", 24 * MIB)
    async with files_world(tmp_path) as world:
        anna, bert, carl = await world.add(), await world.add(), await world.add()
        link = (await anna.share(tmp_path / "film")).link
        assert (await carl.get(link, tmp_path / "carl")).state is TransferState.DONE
        await world.stop(carl)
        running = await begin(bert, link, tmp_path / "dest")
        await bert.files.get(link, os.fsencode(tmp_path / "dest"), wait_s=None)
        await anna.files.unshare(link.share_id)
        name = bert.files.context.name_peer(anna.peer_id)
        await bert.wait_transfer(running.id, lambda s: s.note == f"no longer shared by {name}; waiting")
        bert.swarm.downloads.set_limits(None, {})
        await world.add(again=carl)
        assert (await bert.wait_end(running.id)).state is TransferState.DONE


async def test_with_another_provider_a_get_goes_on(tmp_path: Path) -> None:
    write_random_file(tmp_path / "film", 24 * MIB)
    async with files_world(tmp_path) as world:
        anna, bert, carl = await world.add(), await world.add(), await world.add()
        link = (await anna.share(tmp_path / "film")).link
        assert (await carl.get(link, tmp_path / "carl")).state is TransferState.DONE
        running = await begin(bert, link, tmp_path / "dest")
        await anna.files.unshare(link.share_id)
        bert.swarm.downloads.set_limits(None, {})
        assert (await bert.wait_end(running.id)).state is TransferState.DONE


async def test_a_file_that_changed_at_the_sharer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lack, "CHANGED_S", 1.0)
    films = tmp_path / "films"
    films.mkdir()
    write_random_file(films / "a", 8 * MIB)
    write_random_file(films / "b", 24 * MIB)
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        link = (await anna.share(films)).link
        running = await begin(bert, link, tmp_path / "dest")
        write_random_file(films / "b", 25 * MIB)
        bert.swarm.downloads.set_limits(None, {})
        name = bert.files.context.name_peer(anna.peer_id)
        told = await bert.wait_transfer(running.id, lambda s: "changed" in s.note or s.state.is_end)
        assert told.note == f"films/b changed at {name} while it was fetched; waiting for its new version"
        error = error_of(await bert.wait_end(running.id, SOON_S))
        assert error.code == "source_changed"
        assert error.message == f"films/b changed at {name} while it was fetched"
        assert "shared again" in error.next_step
        await anna.share(films)
        ended = await bert.get(link, tmp_path / "dest")
        assert ended.state is TransferState.DONE, ended.error
        assert (tmp_path / "dest" / "films" / "b").read_bytes() == (films / "b").read_bytes()
        assert ended.result is not None
        assert ended.result.fetched_bytes < 40 * MIB  # what came before counts


async def test_one_of_many_small_files_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lack, "CHANGED_S", 1.0)
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(600):
        (texts / f"{number:03}").write_bytes(os.urandom(40 * KIB))
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        link = (await anna.share(texts)).link
        running = await begin(bert, link, tmp_path / "dest")
        for number in range(600):
            os.utime(texts / f"{number:03}")
        error = error_of(await bert.wait_end(running.id, SOON_S))
        assert error.code == "source_changed"
        assert error.message.startswith("Files in texts changed at ")


async def test_a_version_that_follows_is_waited_for(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    write_random_file(films / "b", 24 * MIB)
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        link = (await anna.share(films)).link
        running = await begin(bert, link, tmp_path / "dest")
        write_random_file(films / "b", 25 * MIB)
        bert.swarm.downloads.set_limits(None, {})
        await bert.wait_transfer(running.id, lambda s: "changed" in s.note or s.state.is_end)
        await anna.share(films)
        ended = await bert.wait_end(running.id)
        assert ended.state is TransferState.DONE, ended.error
        assert (tmp_path / "dest" / "films" / "b").read_bytes() == (films / "b").read_bytes()
        await wait_until(lambda: bert.files.find_share(link.share_id) is not None)


@pytest.mark.parametrize("only", [[], [b"a"]])
@pytest.mark.parametrize("is_there", [False, True])
async def test_a_get_that_was_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool, only: list[bytes]
) -> None:
    films, dest = tmp_path / "films", tmp_path / "dest"
    films.mkdir()
    (films / "a").write_bytes(os.urandom(2 * MIB))
    (films / "b").write_bytes(os.urandom(2 * MIB))
    if is_there:
        dest.mkdir()
        (dest / "mine").write_text("mine")
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        link = (await anna.share(films)).link
        with monkeypatch.context() as patch:
            patch.setattr("shoal.storage.disk_space.MARGIN_BYTES", 1 << 60)
            failed = await bert.get(link, dest, only=only)
        assert failed.state is TransferState.FAILED
        assert failed.error is not None
        assert failed.error.code == "disk_full"
        assert "--cancel" not in failed.error.next_step
        assert (os.listdir(dest) == ["mine"]) if is_there else not dest.exists()
        assert not (bert.home / "transfers").exists() or not list((bert.home / "transfers").iterdir())
        done = await bert.get(link, dest, only=only)
        assert done.state is TransferState.DONE, done.error


async def test_a_get_to_which_nothing_came_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lack, "CHANGED_S", 0.5)
    (tmp_path / "film").write_bytes(os.urandom(2 * MIB))
    async with files_world(tmp_path) as world:
        anna, bert = await world.add(), await world.add()
        link = (await anna.share(tmp_path / "film")).link
        (tmp_path / "film").write_bytes(os.urandom(3 * MIB))
        error = error_of(await bert.get(link, tmp_path / "dest", SOON_S))
        assert error.code == "source_changed"
        assert not (tmp_path / "dest").exists()
