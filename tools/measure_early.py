"""Measure the early start: from `share` to the last byte at a getter, beside a get that waits for the sharer.

    .venv/bin/python -m tools.measure_early [--size-gib 1] [--rounds 5] [--dir /dev/shm] [--json]

Two real daemons. Each round makes a new file that neither has seen, shares it and gets it, once with the
link as soon as it is there and once after the sharer has read all of it; which is first changes with each
round. The first of all rounds is not counted. The clock runs from the start of `share` until the file has its
final name at the getter, by the client API.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from shoal.api.client import Client, connect
from shoal.api.schema import TransferDetail
from shoal.core.units import GIB, MIB, format_size
from shoal.testing.processes import Device
from shoal.testing.trees import find_difference, write_random_file

SPARE_BYTES = 512 * MIB


@dataclass
class Way:
    """What one way came to: seconds from `share` to the link, the first byte, the last one."""

    link_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    last_s: list[float] = field(default_factory=list)


def measure(directory: Path, size_bytes: int, rounds: int) -> dict[str, Way]:
    """Return both ways, `early` and `waiting`. Raises: SystemExit if something else arrived."""
    ways = {"early": Way(), "waiting": Way()}
    with Device(directory / "a", "sharer") as one, Device(directory / "b", "getter") as two:
        one.up()
        two.join(one.run("invite")["ticket"])
        two.wait_peers(1)
        with connect(str(one.home)) as sharer, connect(str(two.home)) as getter:
            for number in range(rounds + 1):
                for name in ("early", "waiting") if number % 2 else ("waiting", "early"):
                    source = directory / f"{name}-{number}"
                    write_random_file(source, size_bytes)
                    way = ways[name] if number else Way()
                    move(sharer, getter, source, directory / "got", way, waits=name == "waiting")
    return ways


def move(sharer: Client, getter: Client, source: Path, into: Path, way: Way, *, waits: bool) -> None:
    """Share, get, compare and remove one file, and note how long it took."""
    first: list[float] = []

    def look(transfer: TransferDetail) -> None:
        if transfer.done_bytes and not first:
            first.append(time.perf_counter() - began)

    began = time.perf_counter()
    share = sharer.share(source)
    link_s = time.perf_counter() - began
    if waits:
        sharer.wait_share(share)
    getter.get(share.link, into, on_progress=look)
    last_s = time.perf_counter() - began
    if difference := find_difference(source, into / source.name):
        raise SystemExit(difference)
    sharer.unshare(share.link)
    getter.unshare(share.link)
    source.unlink()
    shutil.rmtree(into)
    way.link_s.append(link_s)
    way.first_s += first or [last_s]
    way.last_s.append(last_s)


def show(ways: dict[str, Way], size_bytes: int) -> None:
    """Print medians and ranges."""
    print(
        f"{format_size(size_bytes)}, {len(ways['early'].last_s)} rounds; seconds from `share`, median (range)"
    )
    print(f"{'':8}  {'link':>18}  {'first byte':>18}  {'last byte':>18}")
    for name, way in ways.items():
        cells = [
            f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
            for values in (way.link_s, way.first_s, way.last_s)
        ]
        print(f"{name:8}  " + "  ".join(f"{cell:>18}" for cell in cells))
    ratio = median(ways["early"].last_s) / median(ways["waiting"].last_s)
    print(f"early takes {ratio:.2f} of the time of waiting")


def main() -> int:
    """Measure and print; exit code 1 where it cannot be measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 101), metavar="1..100")
    parser.add_argument("--dir", type=Path, default=None, help="where files and homes go; 2 x the size")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    size_bytes = int(arguments.size_gib * GIB)
    directory = Path(tempfile.mkdtemp(prefix="shoal-early-", dir=arguments.dir))
    try:
        if shutil.disk_usage(directory).free < 2 * size_bytes + SPARE_BYTES:
            print(f"{directory} has no room for twice {format_size(size_bytes)}; try --dir, --size-gib")
            return 1
        ways = measure(directory, size_bytes, arguments.rounds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if arguments.json:
        print(json.dumps({"bytes": size_bytes, "seconds": {name: asdict(w) for name, w in ways.items()}}))
    else:
        show(ways, size_bytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
