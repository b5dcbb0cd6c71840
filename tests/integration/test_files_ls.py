"""Looking into a share without fetching it, between real nodes in one process."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesWorld, files_world
from tests.support.transport_nodes import wait_until

from shoal.apps.files.hash_room import SMALL
from shoal.content.link import Link
from shoal.core.errors import LocalMisuse, Refused, ShoalError, Unavailable
from shoal.core.units import MIB
from shoal.identity.operations import Role
from shoal.storage.scan import ScanResult
from shoal.storage.transfers import TransferState


def make_tree(root: Path) -> Path:
    rng = random.Random(9)
    (root / "2023").mkdir(parents=True)
    (root / "2024" / "trip").mkdir(parents=True)
    (root / "2023" / "a.jpg").write_bytes(rng.randbytes(100))
    (root / "2024" / "b.jpg").write_bytes(rng.randbytes(3 * MIB))
    (root / "2024" / "trip" / "c.jpg").write_bytes(rng.randbytes(300))
    Path(os.fsdecode(os.fsencode(root) + b"/2024/trip/\xff\n.jpg")).write_bytes(b"odd")
    (root / "2024" / "link").symlink_to("b.jpg")
    return root


async def list_paths(
    world: FilesWorld, number: int, link: Link, path: bytes = b"", limit: int = 100
) -> list[bytes]:
    page = await world.nodes[number].files.ls(link, path, limit)
    return [entry.path for entry in page.entries]


async def test_only_the_description_is_fetched(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "photos")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.share(tree)
        page = await b.files.ls(shared.link)
        assert (page.name, page.version, page.files, page.bytes) == ("photos", 1, 4, shared.bytes)
        assert page.content_id == shared.content_id
        assert [entry.path for entry in page.entries] == [
            b"photos",
            b"photos/2023",
            b"photos/2023/a.jpg",
            b"photos/2024",
            b"photos/2024/b.jpg",
            b"photos/2024/link",
            b"photos/2024/trip",
            b"photos/2024/trip/c.jpg",
            b"photos/2024/trip/\xff\n.jpg",
        ]
        assert page.entries[4].size == 3 * MIB
        assert page.entries[4].mtime_ns == (tree / "2024" / "b.jpg").stat().st_mtime_ns
        assert page.entries[5].target == b"b.jpg"
        assert page.total == 9
        assert not b.files.transfers()
        assert not b.files.shares()
        assert await b.stores.entries.load(shared.share_id) == []  # nothing was kept
        assert await b.stores.objects.find(page.content_id) is None
        assert b.swarm.stage_seconds().get("write", 0.0) == 0.0


async def test_paths_and_pages(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "photos")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = (await a.share(tree)).link
        trip = [b"photos/2024/trip", b"photos/2024/trip/c.jpg", b"photos/2024/trip/\xff\n.jpg"]
        for path in (b"photos/2024/trip", b"2024/trip", b"/2024/trip/", b"photos/2024/t"):
            assert await list_paths(world, 1, link, path) == trip
        assert await list_paths(world, 1, link, b"2024/b.jpg") == [b"photos/2024/b.jpg"]
        assert await list_paths(world, 1, link, b"photos/2024/trip/\xff") == [trip[2]]
        assert len(await list_paths(world, 1, link, b"photos/20")) == 8
        page = await b.files.ls(link, b"2024", 2)
        assert [entry.path for entry in page.entries] == [b"photos/2024", b"photos/2024/b.jpg"]
        assert page.total == 6
        with pytest.raises(LocalMisuse) as caught:
            await b.files.ls(link, b"2025")
        assert caught.value.code == "no_such_path"
        assert "photos/2023" in caught.value.cause


async def test_own_and_fetched_shares_need_nobody(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "photos")
    async with files_world(tmp_path) as world:
        a, b, c = [await world.add() for _ in range(3)]
        shared = await a.share(tree)
        assert (await b.get(shared.link, tmp_path / "dest")).state is TransferState.DONE
        (tree / "new").write_text("new")
        assert (await a.share(tree)).version == 2
        assert (await b.files.ls(shared.link)).version == 2  # somebody tells of a newer one
        assert (await b.files.ls(shared.link.pinned(shared.content_id))).version == 1
        for node in (b, c):
            await world.stop(node)
        assert (await a.files.ls(shared.link)).total == 10
        await world.stop(a)
        b = await world.add(again=b)
        started = time.monotonic()
        page = await b.files.ls(shared.link)
        assert time.monotonic() - started < 1.0
        assert (page.version, page.total) == (1, 9)


async def test_nobody_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.apps.files.patience.FIND_MIN_S", 0.5)
    tree = make_tree(tmp_path / "photos")
    async with files_world(tmp_path) as world:
        a, b, c = [await world.add() for _ in range(3)]
        shared = await a.share(tree)
        await world.stop(a)
        with pytest.raises(Unavailable) as caught:
            await b.files.ls(shared.link)
        assert caught.value.code == "no_provider"
        assert "asked: " in caught.value.cause
        assert "--wait" not in caught.value.next_step
        world.roles[c.peer_id] = Role.STORAGE
        with pytest.raises(Refused):
            await c.files.ls(shared.link)
        foreign = dataclasses.replace(shared.link, network_id=bytes(32))
        with pytest.raises(Refused) as refused:
            await b.files.ls(foreign)
        assert refused.value.code == "foreign_network"


async def test_while_it_is_fetched_and_while_it_is_read(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(random.Random(1).randbytes(64 * MIB))
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        status = await a.files.share([os.fsencode(big)])
        with pytest.raises(ShoalError) as caught:
            await a.files.ls(status.link)
        assert caught.value.code == "not_ready"
        await a.wait_hashed(status.share_id)
        started = await b.files.get(status.link, os.fsencode(tmp_path / "dest"))
        await b.wait_transfer(started.id, lambda s: s.done_bytes > 0 or s.state.is_end)
        assert [entry.path for entry in (await b.files.ls(status.link)).entries] == [b"big"]
        await b.wait_end(started.id)


async def test_many_at_once_look_one_after_the_other(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "photos")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = (await a.share(tree)).link
        pages = await asyncio.gather(*(b.files.ls(link) for _ in range(8)))
        assert {page.total for page in pages} == {9}
        await wait_until(lambda: not b.files.share_turn(link.share_id).locked())


async def test_the_sharer_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.apps.files.listing.READY_S", 0.5)
    tree = make_tree(tmp_path / "photos")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()

        async def find_nothing() -> ScanResult:
            return ScanResult()

        async with AsyncExitStack() as held:
            for _ in range(SMALL):  # nothing is hashed meanwhile
                await held.enter_async_context(a.files.context.hash_room.enter(find_nothing))
            status = await a.files.share([os.fsencode(tree)])
            with pytest.raises(Unavailable) as caught:
                await b.files.ls(status.link)
            assert caught.value.code == "not_ready"
            assert "still reading" in caught.value.cause
            await wait_until(lambda: not b.files.share_turn(status.share_id).locked())
        await a.wait_hashed(status.share_id)
        assert (await b.files.ls(status.link)).total == 9
