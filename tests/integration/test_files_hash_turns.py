"""Several shares are hashed beside each other: a small one does not wait for large ones."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.support.files_nodes import files_world

from shoal.core.units import KIB, MIB
from shoal.testing.trees import write_random_file

LARGE = 5  # one more than there is room for
NAMES = 200


async def test_a_small_share_is_complete_while_large_ones_are_hashed(tmp_path: Path) -> None:
    async with files_world(tmp_path) as world:
        anna = await world.add()
        write_random_file(tmp_path / "data", 128 * MIB)
        large = []
        for number in range(LARGE):  # 25 GiB each, of the same bytes: seconds on any machine
            folder = tmp_path / f"large{number}"
            folder.mkdir()
            for name in range(NAMES):
                os.link(tmp_path / "data", folder / str(name))
            large.append((await anna.files.share([os.fsencode(folder)])).share_id)
        async with asyncio.timeout(60):
            while not any(one.done_bytes for one in anna.files.shares()):
                await asyncio.sleep(0.01)
        for number in range(3):
            write_random_file(tmp_path / f"small{number}", MIB + number * KIB)
            assert (await anna.share(tmp_path / f"small{number}")).state == "complete"
        states = [one.state for one in anna.files.shares()]
        assert states == ["hashing"] * LARGE + ["complete"] * 3
        done = sum(one.done_bytes for one in anna.files.shares())
        async with asyncio.timeout(60):  # and the large ones go on
            while sum(one.done_bytes for one in anna.files.shares()) == done:
                await asyncio.sleep(0.01)
        for share_id in large:
            await anna.files.unshare(share_id)
