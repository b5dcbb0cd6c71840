"""Liars beside an honest provider, for follow, pin and a stream, and a provider that answers twice."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from tests.support.files_nodes import FilesNode, files_world
from tests.support.liars import release_when

from shoal.apps.files.stream_get import StreamEnd
from shoal.content.link import Link
from shoal.core.units import MIB
from shoal.storage.transfers import TransferState
from shoal.swarm.serve import ChunkSource, LaneSender
from shoal.testing.liar import Lie, LyingSource, make_liar

TREE_BYTES = 6 * MIB
LIES = [Lie.FLIPPED, Lie.SHORT, Lie.FOREIGN, Lie.MISSING, Lie.SILENT, Lie.TWICE]


@pytest.fixture(autouse=True)
def twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who lies with TWICE send each chunk once more, unasked."""
    once = LaneSender._send_chunk

    def send(self: LaneSender, version: int, ordinal: int, source: ChunkSource | None) -> bool:
        sent = once(self, version, ordinal, source)
        if sent and isinstance(source, LyingSource) and source.lie is Lie.TWICE:
            return once(self, version, ordinal, source)
        return sent

    monkeypatch.setattr(LaneSender, "_send_chunk", send)


async def take_by_get(node: FilesNode, link: Link, dest: Path) -> bytes:
    done = await node.get(link, dest)
    assert done.state is TransferState.DONE, done.error
    return (dest / "file").read_bytes()


async def take_by_follow(node: FilesNode, link: Link, dest: Path) -> bytes:
    await node.files.follows.follow(link, os.fsencode(dest), overwrite=False, keep_s=86400.0, keep_count=5)
    async with asyncio.timeout(30):
        while node.files.follows.statuses()[0].state != "current":
            await asyncio.sleep(0.02)
    return (dest / "file").read_bytes()


async def take_by_pin(node: FilesNode, link: Link, dest: Path) -> bytes:
    """Keep a copy, and read it out of the store by a stream of the same node."""
    pin = await node.pins.pin(link)
    async with asyncio.timeout(30):
        while pin.state != "complete":
            assert pin.error is None
            await asyncio.sleep(0.02)
            pin = await node.pins.wait(pin.number, None, 0.0)
    (kept,) = node.world.nodes[0].files.shares()
    await node.world.stop(node.world.nodes[0])
    await node.world.stop(node.world.nodes[0])
    reader = await node.world.add()
    return await take_by_get(reader, kept.link, dest)


async def take_by_stream(node: FilesNode, link: Link, dest: Path) -> bytes:
    got = [item async for item in node.files.get_stream(link).read()]
    assert isinstance(got.pop(), StreamEnd)
    return b"".join(item for item in got if isinstance(item, bytes))


WAYS = {"follow": take_by_follow, "pin": take_by_pin, "stream": take_by_stream}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
@pytest.mark.parametrize("way", WAYS)
async def test_what_comes_is_right_beside_a_liar(tmp_path: Path, way: str, lie: Lie) -> None:
    data = random.Random(11).randbytes(TREE_BYTES)
    (tmp_path / "file").write_bytes(data)
    async with files_world(tmp_path) as world:
        a, liar = await world.add(), await world.add()
        share = await a.share(tmp_path / "file")
        assert (await liar.get(share.link, tmp_path / "second")).state is TransferState.DONE
        (honest,) = make_liar(a.swarm, share.share_id, Lie.SILENT)  # else the liar may never be asked
        (source,) = make_liar(liar.swarm, share.share_id, lie)
        c = await world.add()
        (tmp_path / "dest").mkdir()
        shows = lie in (Lie.FLIPPED, Lie.SHORT, Lie.FOREIGN)
        try:
            got, _ = await asyncio.gather(
                WAYS[way](c, share.link, tmp_path / "dest"),
                release_when(honest, lambda: "wrong_chunk" in c.rules if shows else source.told > 0),
            )
        finally:
            source.release()
        assert got == data
        assert ("wrong_chunk" in c.rules) is shows


async def test_an_only_provider_that_answers_twice(tmp_path: Path) -> None:
    data = random.Random(12).randbytes(TREE_BYTES)
    (tmp_path / "file").write_bytes(data)
    async with files_world(tmp_path) as world:
        a, c = await world.add(), await world.add()
        share = await a.share(tmp_path / "file")
        make_liar(a.swarm, share.share_id, Lie.TWICE)
        ended = await c.get(share.link, tmp_path / "dest")
        if ended.state is TransferState.DONE:
            assert (tmp_path / "dest" / "file").read_bytes() == data
        else:
            assert ended.error is not None
            assert ended.error.code == "no_provider"
            assert not (tmp_path / "dest" / "file").exists()
