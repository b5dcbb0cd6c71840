"""Measurement: how fast a share is scanned and hashed, and what a manifest costs.

    python tools/measure_hashing.py [--dir /dev/shm] [--mib 1024] [--files 20000] [--threads 2]

Prints one line for each stage of one large file alone, and one line for scanning and hashing: one large file,
four of them, many small ones; then again with the version before known.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import TypeVar

from shoal.content.cut import Cutter
from shoal.content.keys import ChunkKeys
from shoal.core.units import KIB, MIB
from shoal.storage.hashing import HashedShare, hash_share
from shoal.storage.scan import scan

SECRET = bytes(range(32))
SEED = 0x1234_5678_9ABC_DEF1
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float, float]:
    """Return a result with wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def make_file(path: str, size: int, rng: random.Random) -> None:
    """Write `size` random bytes."""
    with open(path, "wb") as file:
        while size:
            size -= file.write(rng.randbytes(min(size, 8 * MIB)))


def share(path: str, threads: int, previous: HashedShare | None = None) -> HashedShare:
    """Scan and hash."""
    return hash_share(
        scan([os.fsencode(path)]),
        read_key=SECRET,
        content_secret=SECRET,
        generation=0,
        space=bytes(32),
        cut_seed=SEED,
        previous=previous.built.manifest if previous else None,
        threads=threads,
    )


def report(name: str, size: int, wall: float, cpu: float) -> None:
    """Print one line."""
    print(f"{name:34} {size / MIB / wall:8.0f} MiB/s  {wall:6.2f} s wall  {cpu:6.2f} s CPU")


def measure_stages(path: str, size: int) -> None:
    """Print what each stage costs on one thread."""
    buffer = bytearray(size)

    def read() -> None:
        with open(path, "rb", buffering=0) as file:
            view = memoryview(buffer)
            for start in range(0, size, 8 * MIB):
                file.readinto(view[start : start + 8 * MIB])

    def hash_all(lengths: list[int]) -> None:
        keys, view, start = ChunkKeys(SECRET), memoryview(buffer), 0
        for length in lengths:
            keys.key(view[start : start + length])
            start += length

    read()
    _, wall, cpu = timed(read)
    report("read", size, wall, cpu)
    lengths, wall, cpu = timed(lambda: list(Cutter(SEED).cut(memoryview(buffer), final=True)))
    report("cut", size, wall, cpu)
    _, wall, cpu = timed(lambda: hash_all(lengths))
    report("hash", size, wall, cpu)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dir", default="/dev/shm")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rng = random.Random(1)
    place = tempfile.mkdtemp(prefix="shoal-measure-", dir=arguments.dir)
    try:
        size = arguments.mib * MIB
        one = os.path.join(place, "one")
        make_file(one, size, rng)
        measure_stages(one, size)
        for round_number in range(3):
            _, wall, cpu = timed(lambda: share(one, arguments.threads))
            report(f"scan + hash, one file, round {round_number}", size, wall, cpu)
        os.unlink(one)

        four = os.path.join(place, "four")
        os.mkdir(four)
        for number in range(4):
            make_file(os.path.join(four, str(number)), size // 4, rng)
        _, wall, cpu = timed(lambda: share(four, arguments.threads))
        report("scan + hash, four files", size, wall, cpu)
        shutil.rmtree(four)

        many = os.path.join(place, "many")
        total = 0
        for number in range(arguments.files):
            folder = os.path.join(many, f"{number // 100:04}")
            if number % 100 == 0:
                os.makedirs(folder)
            length = rng.randrange(32 * KIB)
            total += length
            make_file(os.path.join(folder, f"{number}.txt"), length, rng)
        first, wall, cpu = timed(lambda: share(many, arguments.threads))
        report(f"scan + hash, {arguments.files} small files", total, wall, cpu)
        _, wall, cpu = timed(lambda: share(many, arguments.threads, first))
        report("  the same, version before known", total, wall, cpu)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
