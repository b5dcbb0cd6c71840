"""Measure of the store: put and get in a store of many small chunks, and reads while it is collected.

    .venv/bin/python -m tools.measure_store [--chunks 1000000] [--home DIR]
    .venv/bin/python -m tools.measure_store --fill DIR      fill only: minutes, which need no quiet machine
    .venv/bin/python -m tools.measure_store --filled DIR    measure that one, and delete it

Times are of one call each, without fsync: the home is on /dev/shm where there is one. The bars are those of
issue 3: put and get p99 with a million chunks within 2 x of an empty store's; read p99 while three quarters
are collected within 3 x.

Beside them stand rows that say what of a get is the machine's: a plain pread of records of the full store; a
get of chunks whose records were touched by such a pread right before; and a get of the same chunks again, so
that both the record and the page of the index are memory that was just used, in both stores. The last one is
what the size of a store costs by its code; the others are what the size of memory costs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import threading
import time

from blake3 import blake3

from shoal.storage.database import Database
from shoal.storage.segment_format import KEY_BYTES, RECORD_HEADER_BYTES, parse_place, segment_name
from shoal.storage.segment_store import NewChunk
from shoal.storage.store import Store

SIZE = 4096
SAMPLES = 8000
BLOCK = 200
FILL = 256  # chunks a put while filling


def make_chunk(number: int) -> NewChunk:
    """Return chunk `number`; three of four are held by holder 2."""
    sealed = blake3(b"%d" % number).digest(SIZE)
    return NewChunk(1 if number % 4 == 0 else 2, number, blake3(sealed).digest(), sealed)


def quantile(times: list[float], share: float) -> float:
    """Return a quantile in microseconds."""
    return sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1e6


def time_puts(store: Store, first: int, count: int) -> list[float]:
    """Put chunks one by one; return the seconds of each."""
    times = []
    for number in range(first, first + count):
        chunk = make_chunk(number)
        began = time.perf_counter()
        store.put_blocking([chunk])
        times.append(time.perf_counter() - began)
    return times


def time_reads(store: Store, numbers: list[int]) -> list[float]:
    """Read chunks one by one; return the seconds of each."""
    keys = [make_chunk(number).object_id[:KEY_BYTES] for number in numbers]
    times = []
    for key in keys:
        began = time.perf_counter()
        sealed = store.read(key)
        times.append(time.perf_counter() - began)
        assert sealed is not None
    return times


def time_again(store: Store, numbers: list[int]) -> list[float]:
    """Read each chunk twice; return the seconds of the second time."""
    keys = [make_chunk(number).object_id[:KEY_BYTES] for number in numbers]
    times = []
    for key in keys:
        store.read(key)
        began = time.perf_counter()
        store.read(key)
        times.append(time.perf_counter() - began)
    return times


class Records:
    """Where the records of a store lie, read without the store."""

    def __init__(self, home: str, store: Store) -> None:
        self._home = home
        self._fds: dict[int, int] = {}
        self._places: dict[bytes, int] = dict(
            store.segments.index.read(
                lambda connection: connection.execute("SELECT key, place FROM chunks").fetchall()
            )
        )

    def time_preads(self, numbers: list[int]) -> list[float]:
        """Read records as they lie; return the seconds of each."""
        times = []
        for number in numbers:
            segment, offset = parse_place(self._places[make_chunk(number).object_id[:KEY_BYTES]])
            fd = self._fds.get(segment)
            if fd is None:
                path = os.path.join(self._home, "store", segment_name(segment))
                fd = self._fds[segment] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            began = time.perf_counter()
            os.pread(fd, RECORD_HEADER_BYTES + SIZE, offset)
            times.append(time.perf_counter() - began)
        return times

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds.values():
            os.close(fd)


def report(name: str, times: list[float]) -> dict[str, float]:
    """Print a row, return it."""
    row = {"p50_us": round(quantile(times, 0.5), 1), "p99_us": round(quantile(times, 0.99), 1)}
    print(f"{name:28} p50 {row['p50_us']:8.1f} us   p99 {row['p99_us']:8.1f} us   ({len(times)} calls)")
    return row


def open_store(home: str) -> tuple[Database, Store]:
    """Open a store, a new one where there is none; nothing is fsynced."""
    os.makedirs(home, exist_ok=True)
    database = Database(os.path.join(home, "shoal.db"))
    database.open_blocking()
    store = Store(database, os.path.join(home, "store"), durable=False)
    store.open_blocking()
    return database, store


def fill(home: str, chunks: int) -> None:
    """Fill a store with chunks."""
    database, store = open_store(os.path.join(home, "full"))
    began = time.perf_counter()
    filled = 0
    while filled < chunks:
        count = min(FILL, chunks - filled)
        store.put_blocking([make_chunk(number) for number in range(filled, filled + count)])
        filled += count
    print(f"filled with {filled} chunks in {time.perf_counter() - began:.0f} s")
    store.close_blocking()
    database.close_blocking()


def measure(home: str, seed: int) -> dict[str, object]:
    """Time a full store beside an empty one, release three quarters, collect while reading."""
    rng = random.Random(seed)
    database, store = open_store(os.path.join(home, "full"))
    small_database, small = open_store(os.path.join(home, "empty"))
    filled = store.segments.use().chunks
    result: dict[str, object] = {"chunks": filled, "seed": seed}
    index = os.stat(database.path).st_size
    print(f"{filled} chunks; index: {index / filled:.0f} bytes each")
    result["index_bytes_a_chunk"] = round(index / filled, 1)
    few = 0
    times: dict[str, list[float]] = {
        name: []
        for name in (
            "put, empty",
            "put, full",
            "get, empty",
            "get, full",
            "pread, full",
            "touched, full",
            "again, empty",
            "again, full",
        )
    }
    for _ in range(SAMPLES // BLOCK):  # by turns: what else the machine does hits both
        times["put, empty"] += time_puts(small, few, BLOCK)
        few += BLOCK
        times["put, full"] += time_puts(store, filled, BLOCK)
        filled += BLOCK
    records = Records(os.path.join(home, "full"), store)
    for _ in range(2 * SAMPLES // BLOCK):
        times["get, empty"] += time_reads(small, [rng.randrange(few) for _ in range(BLOCK)])
        times["get, full"] += time_reads(store, [rng.randrange(filled) for _ in range(BLOCK)])
        numbers = [rng.randrange(filled) for _ in range(BLOCK)]
        times["pread, full"] += records.time_preads(numbers)
        times["touched, full"] += time_reads(store, numbers)
        times["again, full"] += time_again(store, [rng.randrange(filled) for _ in range(BLOCK)])
        times["again, empty"] += time_again(small, [rng.randrange(few) for _ in range(BLOCK)])
    records.close()
    for name, found in times.items():
        result[name.replace(", ", "_")] = report(name, found)
    small.close_blocking()
    small_database.close_blocking()
    began = time.perf_counter()
    released = store.release_blocking(2)
    result["release_s"] = round(time.perf_counter() - began, 1)
    print(f"released {released} in {result['release_s']} s")
    kept = range(0, filled, 4)
    quiet = time_reads(store, rng.choices(kept, k=SAMPLES))
    busy: list[float] = []
    done = threading.Event()

    def collect() -> None:
        found = store.collect_blocking(rest=1.0)
        result["collected"] = {
            "segments": found.segments,
            "moved": found.moved_bytes,
            "freed": found.freed_bytes,
        }
        done.set()

    began = time.perf_counter()
    worker = threading.Thread(target=collect)
    worker.start()
    while not done.is_set():
        busy += time_reads(store, rng.choices(kept, k=500))
    worker.join()
    result["collect_s"] = round(time.perf_counter() - began, 1)
    quiet += time_reads(store, rng.choices(kept, k=SAMPLES))
    result["get_quiet"] = report("get, before and after", quiet)
    result["get_collecting"] = report("get, while collecting", busy)
    use = store.segments.use()
    print(f"collected in {result['collect_s']} s: {use.chunks} chunks, {use.file_bytes >> 20} MiB of files")
    store.close_blocking()
    database.close_blocking()
    ratios = {
        "put": ratio(result, "put_full", "put_empty"),
        "get": ratio(result, "get_full", "get_empty"),
        "get_touched": ratio(result, "touched_full", "get_empty"),
        "get_again": ratio(result, "again_full", "again_empty"),
        "get_collecting": ratio(result, "get_collecting", "get_quiet"),
    }
    print("p99 ratios: " + ", ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    result["ratios"] = ratios
    return result


def ratio(result: dict[str, object], one: str, other: str) -> float:
    """Return how the p99 of one row stands to another's."""
    first, second = result[one], result[other]
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    return round(float(first["p99_us"]) / float(second["p99_us"]), 2)


def main() -> None:
    """Measure in a fresh home and delete it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", help="an existing folder for the store; default: on /dev/shm")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    parser.add_argument("--fill", metavar="DIR", help="only fill a store in a new folder")
    parser.add_argument("--filled", metavar="DIR", help="measure such a one, and delete it")
    given = parser.parse_args()
    if given.fill:
        fill(given.fill, given.chunks)
        return
    base = given.home or ("/dev/shm" if os.path.isdir("/dev/shm") else None)
    home = given.filled or tempfile.mkdtemp(prefix="shoal-store-", dir=base)
    try:
        if not given.filled:
            fill(home, given.chunks)
        result = measure(home, given.seed)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if given.json:
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
