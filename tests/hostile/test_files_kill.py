"""A getter that is killed with SIGKILL at seeded moments resumes, and fetches almost nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.files_nodes import FilesNode, files_world

from shoal.core.units import MIB
from shoal.identity.keys import DeviceKeys
from shoal.identity.operations import Role
from shoal.testing.trees import find_difference, write_seeded_tree

KILLS = 4
ALLOWED_BYTES = 32 * MIB  # fetched twice, a kill


async def run_getter(settings: dict[str, str], kill_after_s: float | None) -> list[dict[str, Any]]:
    """Run the getter until its end, or kill it so long after it began to fetch; returns what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.files_getter",
        json.dumps(settings),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "src:."},
    )
    assert process.stdout is not None
    lines: list[dict[str, Any]] = []
    async for raw in process.stdout:
        line = json.loads(raw)
        lines.append(line)
        if kill_after_s is not None and line["state"] == "fetching":
            await asyncio.sleep(kill_after_s)
            if process.returncode is None:
                process.kill()
            break
    await process.wait()
    return lines


async def start_sharer(node: FilesNode, tree: Path, getter: DeviceKeys, tmp_path: Path) -> dict[str, str]:
    """Share a tree and return what a getter process needs to know."""
    share = await node.share(tree)
    assert share.complete, share.error
    return {
        "home": str(tmp_path / "getter"),
        "seed": getter.to_seed().hex(),
        "sharer": node.peer_id.hex(),
        "address": str(node.transport.listen_addresses[0]),
        "link": share.link.to_text(),
        "dest": str(tmp_path / "dest"),
    }


@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_getters_resume(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    tree = tmp_path / "tree"
    write_seeded_tree(tree, rng, 320 * MIB)
    async with files_world(tmp_path) as world:
        getter = DeviceKeys.generate()
        world.roles[getter.peer_id] = Role.MEMBER
        a = await world.add()
        settings = await start_sharer(a, tree, getter, tmp_path)
        done_bytes = 0
        kills = 0
        for _ in range(KILLS):
            lines = await run_getter(settings, rng.uniform(0.0, 0.12))
            kills += lines[-1]["state"] != "done"
            # what was there when it was killed is there again
            resumed = max((line["done_bytes"] for line in lines), default=0)
            assert resumed + ALLOWED_BYTES >= done_bytes
            done_bytes = resumed
            if (tmp_path / "dest" / "tree").exists():  # it was faster than we
                assert find_difference(tree, tmp_path / "dest" / "tree") is None
                break
        lines = await run_getter(settings, None)
        last = lines[-1]
        assert last["state"] == "done", last
        assert last["refetched_bytes"] <= kills * ALLOWED_BYTES
        assert last["resumed"] or kills == 1
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert kills
        assert last["fetched_bytes"] == last["done_bytes"] + last["refetched_bytes"]
        print(f"{kills} kills, refetched {last['refetched_bytes']} bytes of {last['fetched_bytes']}")
