"""Storage under kill -9: whatever was acknowledged is there when the database opens again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

from tests.support.storage_writer import CHUNKS, LOG, TRANSFER, WRITERS, make_entry
from tests.support.stores import open_stores

ROOT = Path(__file__).resolve().parents[2]
KILLS = 8
SEED = int(os.environ.get("SEED", "1"))


def _run_and_kill(path: Path, wait_s: float) -> list[str]:
    """Run the writer, kill it `wait_s` after its first acknowledgement, return what it acknowledged."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.storage_writer", str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
    )
    assert child.stdout is not None
    lines = [child.stdout.readline()]
    timer = threading.Timer(wait_s, child.kill)
    timer.start()
    lines += child.stdout.readlines()
    assert child.wait() == -9
    timer.cancel()
    # the last line may have been cut by the kill
    return [line for line in lines if line.endswith("\n")]


async def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    print(f"SEED={SEED}")
    last = [-1] * WRITERS
    chunks = 0
    for _ in range(KILLS):
        for line in _run_and_kill(tmp_path / "shoal.db", rng.uniform(0.01, 0.5)):
            words = line.split()
            if words[0] == "e":
                last[int(words[1])] = max(last[int(words[1])], int(words[2]))
            else:
                chunks = max(chunks, int(words[1]))
        async with open_stores(tmp_path) as stores:
            assert await stores.database.check() == []
            stored = await stores.entries.load(LOG)
            by_author: list[list[bytes]] = [[] for _ in range(WRITERS)]
            for data in stored:
                by_author[int.from_bytes(data[:4], "big")].append(data)
            for author, entries in enumerate(by_author):
                # without a gap from the first to at least the last that was acknowledged
                assert entries == [make_entry(author, seq).data for seq in range(len(entries))]
                assert len(entries) > last[author]
            ledger = await stores.transfers.open_ledger(TRANSFER, 1, CHUNKS)
            assert ledger.doubtful == []
            assert ledger.count >= chunks
            assert list(ledger.ordinals()) == list(range(ledger.count))
            row = await stores.transfers.find(TRANSFER)
            assert row is not None
            assert row.done_bytes == ledger.count  # counters and bits are one transaction
    assert sum(last) > WRITERS * KILLS  # the test wrote something worth the name
    assert chunks > 0
