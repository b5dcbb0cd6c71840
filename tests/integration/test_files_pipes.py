"""Pipes: a stream into a share, and a file of a share as a stream, between real nodes in one process."""

from __future__ import annotations

import asyncio
import os
import random
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world
from tests.support.transport_nodes import wait_until

from shoal.apps.files.spool import AT_ONCE, Spool
from shoal.apps.files.stream_get import StreamEnd
from shoal.content.link import Link
from shoal.core.errors import LocalMisuse, Refused, StorageFault, Unavailable
from shoal.core.units import KIB, MIB
from shoal.identity.operations import Role


async def pipe(data: bytes, piece_bytes: int = 64 * KIB) -> AsyncIterator[bytes]:
    for start in range(0, len(data), piece_bytes):
        yield data[start : start + piece_bytes]


async def read_all(node: FilesNode, link: Link, *only: bytes) -> tuple[bytes, StreamEnd]:
    parts: list[bytes] = []
    async for item in node.files.get_stream(link, only).read():
        if isinstance(item, StreamEnd):
            return b"".join(parts), item
        assert 0 < len(item) <= MIB
        parts.append(item)
    raise AssertionError("a stream without an end")


def spooled(node: FilesNode) -> list[Path]:
    return list((node.home / "spool").glob("*/*"))


async def test_a_pipe_into_a_share_and_out_of_it(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(9 * MIB + 5)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.files.share_stream(b"dump \xff.sql", pipe(data))
        assert (await a.wait_hashed(shared.share_id)).complete
        assert [os.fsencode(path.name) for path in spooled(a)] == [b"dump \xff.sql"]
        got, end = await read_all(b, shared.link)
        assert got == data
        assert (end.name, end.bytes, end.fetched_bytes) == ("dump \\xff.sql", len(data), len(data))
        assert end.providers == {a.peer_id: len(data)}
        assert not b.files.transfers()
        assert not b.files.shares()
        assert not {"spool", "transfers"} & set(os.listdir(b.home))
        mine, end = await read_all(a, shared.link)  # the sharer reads its own, without anybody
        assert (mine == data, end.fetched_bytes) == (True, 0)
        (tmp_path / "dest").mkdir()
        await b.get(shared.link, tmp_path / "dest")
        assert (tmp_path / "dest" / os.fsdecode(b"dump \xff.sql")).stat().st_mode & 0o777 == 0o644
        _, end = await read_all(b, shared.link)
        assert end.fetched_bytes == 0  # what it has by now it does not fetch
        await a.files.unshare(shared.share_id)
        assert spooled(a) == []


async def test_one_file_of_many_by_a_selection(tmp_path: Path) -> None:
    rng = random.Random(4)
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    contents = {f"sub/small {n}": rng.randbytes(9 * KIB) for n in range(30)} | {
        "large": rng.randbytes(3 * MIB)
    }
    for name, content in contents.items():
        (tree / name).write_bytes(content)
    (tree / "empty").touch()
    with (tree / "sparse").open("wb") as file:
        file.seek(3 * MIB + 7)
        file.write(b"x" * (300 * KIB))
        file.truncate(6 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = (await a.share(tree)).link
        for name in ("sub/small 17", "large", "sparse", "empty"):
            got, end = await read_all(b, link, name.encode())
            assert got == (tree / name).read_bytes(), name
            assert end.name == f"tree/{name}"
        with pytest.raises(LocalMisuse) as caught:
            await read_all(b, link)
        assert caught.value.code == "several_files"
        assert "these are 33: tree/empty, tree/large" in caught.value.cause
        assert "--only" in caught.value.next_step
        for pattern, code in ((b"nothing", "nothing_selected"), (b"sub/*", "several_files")):
            with pytest.raises(LocalMisuse) as caught:
                await read_all(b, link, pattern)
            assert caught.value.code == code


async def test_no_file_at_all(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to("nowhere")
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = (await a.share(tmp_path / "tree")).link
        with pytest.raises(LocalMisuse) as caught:
            await read_all(b, link)
        assert caught.value.code == "no_file"


async def test_a_slow_reader_keeps_memory_small_and_may_leave(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(random.Random(5).randbytes(64 * MIB))
    async with files_world(tmp_path) as world:
        a, b, c = [await world.add() for _ in range(3)]
        shared = await a.share(big)
        await c.get(shared.link, tmp_path / "c")
        tracemalloc.start()
        stream = b.files.get_stream(shared.link)
        items = stream.read()
        first = await anext(items)
        assert first == big.read_bytes()[: len(first)]
        await asyncio.sleep(1.0)  # the reader does something else; nothing piles up
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 64 * MIB
        turn = b.files.share_turn(shared.share_id)
        assert turn.locked()
        await items.aclose()
        await wait_until(lambda: not turn.locked())
        got, end = await read_all(b, shared.link)  # and it can be read again
        assert got == big.read_bytes()
        assert set(end.providers) == {a.peer_id, c.peer_id}


async def test_the_provider_goes_and_another_one_goes_on(tmp_path: Path) -> None:
    data = random.Random(6).randbytes(48 * MIB)
    (tmp_path / "big").write_bytes(data)
    async with files_world(tmp_path) as world:
        a, b, c = [await world.add() for _ in range(3)]
        shared = await a.share(tmp_path / "big")
        await c.get(shared.link, tmp_path / "c")
        got = b""
        async for item in b.files.get_stream(shared.link).read():
            if not isinstance(item, StreamEnd):
                got += item
                if len(got) > 4 * MIB and a in world.nodes:
                    await world.stop(a)
        assert got == data


async def test_who_may_not_read_neither_shares_nor_gets(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.files.share_stream(b"x", pipe(b"x"))
        world.roles[b.peer_id] = Role.STORAGE
        with pytest.raises(Refused):
            await b.files.share_stream(b"x", pipe(b"x"))
        with pytest.raises(Refused):
            await read_all(b, shared.link)


async def test_a_changed_file_is_not_written_further(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(random.Random(7).randbytes(8 * MIB))
    async with files_world(tmp_path) as world:
        a = await world.add()
        shared = await a.share(big)
        items = a.files.get_stream(shared.link).read()
        await anext(items)
        big.write_bytes(b"other")
        with pytest.raises(StorageFault) as caught:
            async for _ in items:
                pass
        assert caught.value.code == "changed"


async def test_a_pipe_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        raise Unavailable("the pipe broke")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * MIB
            await asyncio.sleep(0)

    async with files_world(tmp_path) as world:
        a = await world.add()
        with pytest.raises(Unavailable):
            await a.files.share_stream(b"name", broken())
        task = asyncio.create_task(a.files.share_stream(b"name", endless()))
        await wait_until(lambda: bool(spooled(a)) and spooled(a)[0].stat().st_size > 8 * MIB)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert spooled(a) == []
        assert not a.files.shares()
        for name in (b"", b".", b"a/b", b"x" * 256, b"nul\0"):
            with pytest.raises(LocalMisuse) as caught:
                await a.files.share_stream(name, pipe(b"x"))
            assert caught.value.code == "bad_name"
        empty = await a.files.share_stream(b"empty", pipe(b""))
        assert (await a.wait_hashed(empty.share_id)).bytes == 0


async def test_what_no_share_has_is_swept_and_what_one_has_is_served_again(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        shared = await a.files.share_stream(b"kept", pipe(b"data" * 1000))
        await a.wait_hashed(shared.share_id)
        left = a.home / "spool" / ("ab" * 16)
        left.mkdir()
        (left / "half").write_bytes(b"half")
        await world.stop(a)
        a = await world.add(again=a)
        await wait_until(lambda: not left.exists())
        assert [path.name for path in spooled(a)] == ["kept"]
        assert (await read_all(b, shared.link))[0] == b"data" * 1000


async def test_so_many_pipes_at_once_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(os.fsencode(tmp_path))
    hold = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield b"x"
        await hold.wait()

    tasks = [asyncio.create_task(spool.receive(b"name", waiting())) for _ in range(AT_ONCE)]
    await asyncio.sleep(0.05)
    with pytest.raises(Refused) as refused:
        await spool.receive(b"name", pipe(b"x"))
    assert refused.value.code == "too_many_pipes"
    hold.set()
    paths = await asyncio.gather(*tasks)
    assert len(set(paths)) == AT_ONCE
    monkeypatch.setattr("shoal.apps.files.spool.LEFT_BYTES", 2**60)
    with pytest.raises(StorageFault) as full:
        await spool.receive(b"name", pipe(b"x" * 5 * MIB))
    assert full.value.code == "disk_full"
    assert len(os.listdir(tmp_path / "spool")) == AT_ONCE
