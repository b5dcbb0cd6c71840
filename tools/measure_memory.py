"""Memory measurement: what sharing and getting many files leaves in two daemons, by the bar of issue 3.

    .venv/bin/python -m tools.measure_memory [--files 100000] [--shares 2] [--json] [--dir DIRECTORY]

Proportional set sizes of both ends, of /proc/PID/smaps_rollup: idle, at most while sharing and while getting,
SETTLE_S after each, and after a restart; the same in the same run with FEW_FILES, so that "flat" is a ratio.
Where Python's heap lies differs from run to run by a few MiB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from shoal.api.client import Client, connect
from shoal.core.units import KIB, MIB, format_size
from shoal.testing.processes import Device
from shoal.testing.trees import find_difference
from tools.bench.measuring import End, free_bytes, read_pss_bytes, watch_memory
from tools.bench.workloads.small import write_small_files

FILE_BYTES = KIB
FEW_FILES = 1000
SETTLE_S = 5.0  # what is needed no more has been let go of by then
PLACE_BYTES = 16 * KIB  # of the disk for one file, at both ends, with what is recorded of it


@dataclass(frozen=True)
class Row:
    """The memory of both ends in a phase, in MiB; `seconds` is what it took."""

    phase: str
    sharer_mib: float
    getter_mib: float
    seconds: float = 0.0


class Pair:
    """Two daemons of one network, and what was measured of them."""

    def __init__(self, directory: Path, one: Device, two: Device) -> None:
        self._directory = directory
        self._devices = (one, two)
        self.rows: list[Row] = []
        one.up()
        two.join(one.run("invite")["ticket"])
        two.wait_peers(1)
        self._links: list[str] = []

    def settle(self, phase: str, seconds: float = 0.0) -> None:
        """Note what is held once nothing goes on any more."""
        time.sleep(SETTLE_S)
        held = [read_pss_bytes(device.pid) / MIB for device in self._devices if device.pid is not None]
        self.rows.append(Row(phase, held[0], held[1], seconds))

    @contextmanager
    def working(self, phase: str) -> Iterator[tuple[Client, Client]]:
        """Note the most that is held while the block runs, and how long that takes."""
        ends = [End([device.pid]) for device in self._devices if device.pid is not None]
        clients = self._clients()
        with watch_memory(*ends) as peaks:
            began = time.monotonic()
            yield clients
            seconds = time.monotonic() - began
        self.rows.append(Row(phase, peaks[0] / MIB, peaks[1] / MIB, seconds))

    def move(self, number: int, files: int) -> None:
        """Share files at one end and get them at the other. Raises: SystemExit if others arrive."""
        name = f"share {number}"
        source, into = self._directory / "offered" / name, self._directory / "got"
        write_small_files(source, files, FILE_BYTES)
        into.mkdir(exist_ok=True)
        with self.working(f"sharing {number}") as (sharer, _):
            link = sharer.share(str(source), wait=True).link
        self.settle(f"shared {number}")
        with self.working(f"getting {number}") as (_, getter):
            getter.get(link, str(into))
        self.settle(f"got {number}")
        if difference := find_difference(source, into / name):
            raise SystemExit(difference)
        self._links.append(link)

    def restart(self) -> None:
        """Start both ends again; the time is until the sharer's shares can be looked into."""
        for device in self._devices:
            device.stop()
        began = time.monotonic()
        for device in self._devices:
            device.up()
        up_s = time.monotonic() - began
        with self.working("looking after a restart") as clients:
            for link in self._links:
                clients[0].ls(link, limit=1)
        looked = self.rows[-1]
        self.settle("restarted", up_s + looked.seconds)

    def _clients(self) -> tuple[Client, Client]:
        one, two = self._devices
        return connect(str(one.home)), connect(str(two.home))


def measure(directory: Path, files: int, shares: int) -> list[Row]:
    """Move `shares` trees of `files` small files from one new daemon to another."""
    directory.mkdir()
    with Device(directory / "a", "sharer") as one, Device(directory / "b", "getter") as two:
        pair = Pair(directory, one, two)
        pair.settle("idle")
        for number in range(1, shares + 1):
            pair.move(number, files)
        pair.restart()
    shutil.rmtree(directory)
    return pair.rows


def show(few: list[Row], many: list[Row], files: int) -> None:
    """Print both series side by side."""
    print(f"PSS in MiB; {FEW_FILES} and {files} files of {format_size(FILE_BYTES)} in each share")
    print(f"{'':24}{'sharer':>8}{files:>8}{'ratio':>7}{'getter':>8}{files:>8}{'ratio':>7}{'s':>8}")
    for low, high in zip(few, many, strict=True):
        line = f"{high.phase:24}"
        for a, b in ((low.sharer_mib, high.sharer_mib), (low.getter_mib, high.getter_mib)):
            line += f"{a:8.0f}{b:8.0f}{b / a:7.2f}"
        print(line + (f"{high.seconds:8.2f}" if high.seconds else ""))


def main(files: int, shares: int, base: Path | None, *, as_json: bool) -> int:
    """Measure and print."""
    directory = Path(tempfile.mkdtemp(prefix="shoal-memory-", dir=base))
    try:
        if free_bytes(directory) < files * shares * PLACE_BYTES:
            raise SystemExit(f"{directory} has no room for {files * shares * PLACE_BYTES} bytes; try --dir")
        few = measure(directory / "few", FEW_FILES, shares)
        many = measure(directory / "many", files, shares)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if as_json:
        rows = {
            str(count): [asdict(row) for row in found] for count, found in ((FEW_FILES, few), (files, many))
        }
        print(json.dumps({"file_bytes": FILE_BYTES, "shares": shares, "files": rows}))
    else:
        show(few, many, files)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what many files leave in the memory of daemons.")
    parser.add_argument("--files", type=int, default=100_000, help="in each share")
    parser.add_argument("--shares", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dir", type=Path, default=None, help="where files and homes go")
    arguments = parser.parse_args()
    sys.exit(main(arguments.files, arguments.shares, arguments.dir, as_json=arguments.json))
