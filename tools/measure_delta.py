"""Delta measurement: what a second version costs to fetch, by the bars of issue 3; nodes of this process.

    .venv/bin/python -m tools.measure_delta [--seeds 20]

One byte at the front of a 64 MiB file; one file before 5,000 small ones of 10 KiB on average.
Counted is what came over the network for the second version: chunks, manifest segments, feed entries.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import statistics
import tempfile
from pathlib import Path

from tests.support.files_nodes import files_world

from shoal.core.units import KIB, MIB, format_size
from shoal.storage.transfers import TransferState
from shoal.testing.trees import find_difference

SMALL_FILES = 5000


async def fetch_twice(directory: Path, tree: Path, change: Path, data: bytes) -> tuple[int, int, int]:
    """Share and get a tree, write `data` to `change`, do both again.

    Returns bytes of the first fetch, and of the second chunks and description.
    """
    async with files_world(directory) as world:
        a, b = await world.add(), await world.add()
        share = await a.share(tree)
        first = await b.get(share.link, directory / "dest")
        change.write_bytes(data)
        await a.share(tree)
        second = await b.get(share.link, directory / "dest")
        if first.result is None or second.result is None or second.state is not TransferState.DONE:
            raise SystemExit(f"a get failed: {first.error or second.error}")
        if difference := find_difference(tree, directory / "dest" / tree.name):
            raise SystemExit(difference)
        first_bytes = first.result.fetched_bytes + first.result.manifest_bytes
        return first_bytes, second.result.fetched_bytes, second.result.manifest_bytes


async def measure_byte(directory: Path, seed: int) -> int:
    """Return what one byte at the front of 64 MiB costs."""
    tree = directory / "tree"
    tree.mkdir()
    data = random.Random(seed).randbytes(64 * MIB)
    (tree / "file").write_bytes(data)
    _, chunks, description = await fetch_twice(directory, tree, tree / "file", b"+" + data)
    return chunks + description


async def measure_small(directory: Path, seed: int, mean_bytes: int) -> tuple[float, int, int]:
    """Return what one file before many small ones costs: share of the first fetch, chunks, description."""
    rng = random.Random(seed)
    tree = directory / "tree"
    tree.mkdir()
    for number in range(SMALL_FILES):
        size = rng.randrange(mean_bytes // 2, mean_bytes * 3 // 2)
        (tree / f"file {number:05}").write_bytes(rng.randbytes(size))
    first, chunks, description = await fetch_twice(
        directory, tree, tree / "a first one", rng.randbytes(mean_bytes)
    )
    return (chunks + description) / first, chunks, description


async def main(seeds: int, base: Path | None) -> None:
    """Measure and print."""
    costs: list[int] = []
    parts: list[tuple[float, int, int]] = []
    for seed in range(seeds):
        for small in (False, True):
            directory = Path(tempfile.mkdtemp(prefix="shoal-delta-", dir=base))
            try:
                if small:
                    parts.append(await measure_small(directory, seed, 10 * KIB))
                else:
                    costs.append(await measure_byte(directory, seed))
            finally:
                shutil.rmtree(directory, ignore_errors=True)
    print(f"one byte at the front of 64 MiB, {seeds} seeds, manifest and feed included:")
    print(f"  median {format_size(statistics.median(costs))}, worst {format_size(max(costs))}")
    shares = [share for share, _, _ in parts]
    print(f"one file before {SMALL_FILES} of 10 KiB, {seeds} seeds, of the bytes of the first fetch:")
    print(f"  median {statistics.median(shares):.2%}, worst {max(shares):.2%}")
    chunks = statistics.median(chunk for _, chunk, _ in parts)
    description = statistics.median(rest for _, _, rest in parts)
    print(f"  of them chunks {format_size(chunks)}, description {format_size(description)} (medians)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--base", type=Path, default=Path("/dev/shm") if os.path.isdir("/dev/shm") else None)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.seeds, arguments.base))
