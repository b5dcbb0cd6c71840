"""Bench: 1 GiB from one provider on loopback, Shoal beside libtorrent, interleaved in one run.

Everything is prepared before the clock: the share hashed, the torrent made and seeding, both ends running.
The clock starts with the request and ends when the file has its final name and `syncfs` returned; then the
copy is compared. CPU seconds are those of both ends' processes, everything included. On tmpfs unless --dir
names another place.

    make bench            five rounds, writes docs/benchmarks/one-provider.json and prints the table
"""

from __future__ import annotations

import argparse
import ctypes
import filecmp
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shoal.api.client import connect
from shoal.api.operations import DIAGNOSE
from shoal.api.schema import Nothing
from shoal.core.units import GIB, MIB
from shoal.testing.processes import Device
from shoal.testing.trees import write_random_file

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "one-provider.json"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Series:
    """What one contender did in every round."""

    name: str
    mib_s: list[float] = field(default_factory=list)
    sender_cpu_s: list[float] = field(default_factory=list)
    receiver_cpu_s: list[float] = field(default_factory=list)
    sender_stages_s: list[dict[str, float]] = field(default_factory=list)
    receiver_stages_s: list[dict[str, float]] = field(default_factory=list)

    def cpu_s(self) -> list[float]:
        """CPU seconds a GiB, both ends."""
        return [a + b for a, b in zip(self.sender_cpu_s, self.receiver_cpu_s, strict=True)]


def cpu_seconds(pid: int) -> float:
    """Return user and system seconds of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def peak_mib(pid: int) -> float:
    """Return the largest resident size of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def sync_filesystem(path: Path) -> None:
    """`syncfs` of the filesystem that holds `path`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(descriptor)


class ShoalPair:
    """Two Shoal devices; the first shares the file before the clock starts."""

    def __init__(self, root: Path, source: Path) -> None:
        self.sender, self.receiver = Device(root / "a", "sender"), Device(root / "b", "receiver")
        self.sender.up()
        self.receiver.join(self.sender.run("invite")["ticket"])
        self.receiver.wait_peers(1)
        self.link = self.sender.run("share", str(source), "--wait", timeout_s=600)["link"]
        self.client = connect(str(self.receiver.home))
        self.sender_client = connect(str(self.sender.home))

    def pids(self) -> tuple[int, int]:
        """Return both processes."""
        assert self.sender.pid is not None
        assert self.receiver.pid is not None
        return self.sender.pid, self.receiver.pid

    def fetch(self, into: Path) -> None:
        """Get the file and wait for its final name."""
        self.client.get(self.link, str(into))

    def stages(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the CPU seconds of both ends' bulk threads by stage so far."""
        ours, theirs = (c.call(DIAGNOSE, Nothing()).stages for c in (self.sender_client, self.client))
        return ours, theirs

    def forget(self, into: Path) -> None:
        """Stop serving the copy, so that the next round fetches again."""
        self.client.unshare(path=str(into / "source.bin"))

    def close(self) -> None:
        """End both processes."""
        self.sender.kill()
        self.receiver.kill()


class LibtorrentPair:
    """Two libtorrent sessions in processes of their own; the first seeds before the clock starts."""

    def __init__(self, root: Path, source: Path) -> None:
        self.torrent = root / "file.torrent"
        self.sender, self.receiver = self._start(), self._start()
        self.port = self._tell(self.sender, {"make": str(source), "torrent": str(self.torrent)})["port"]

    def pids(self) -> tuple[int, int]:
        """Return both processes."""
        return self.sender.pid, self.receiver.pid

    def fetch(self, into: Path) -> None:
        """Get the file and wait until it is complete."""
        command = {"torrent": str(self.torrent), "into": str(into), "peer": self.port}
        self._tell(self.receiver, command)

    def stages(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return nothing: libtorrent does not say."""
        return {}, {}

    def forget(self, into: Path) -> None:
        """Nothing: the receiver removed the torrent already."""

    def close(self) -> None:
        """End both processes."""
        for process in (self.sender, self.receiver):
            process.kill()
            process.communicate()

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tools.bench_libtorrent", "0"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @staticmethod
    def _tell(process: subprocess.Popen[str], command: dict[str, Any]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer


def measure(series: Series, pair: ShoalPair | LibtorrentPair, root: Path, source: Path) -> None:
    """Fetch once, add what it took, remove what was fetched."""
    into = Path(tempfile.mkdtemp(prefix="got-", dir=root))
    stages_before = pair.stages()
    before = [cpu_seconds(pid) for pid in pair.pids()]
    began = time.perf_counter()
    pair.fetch(into)
    sync_filesystem(into)
    took_s = time.perf_counter() - began
    after = [cpu_seconds(pid) for pid in pair.pids()]
    (found,) = [p for p in into.iterdir() if not p.name.startswith(".")]
    if not filecmp.cmp(found, source, shallow=False):
        raise RuntimeError(f"{series.name} delivered something else")
    size_bytes = source.stat().st_size
    scale = GIB / size_bytes
    series.mib_s.append(size_bytes / MIB / took_s)
    series.sender_cpu_s.append((after[0] - before[0]) * scale)
    series.receiver_cpu_s.append((after[1] - before[1]) * scale)
    kept = (series.sender_stages_s, series.receiver_stages_s)
    for end, first, last in zip(kept, stages_before, pair.stages(), strict=True):
        end.append({stage: (value - first.get(stage, 0.0)) * scale for stage, value in last.items()})
    pair.forget(into)
    shutil.rmtree(into)


def spread(values: list[float], digits: int = 0) -> str:
    """Write median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> int:
    """Run all rounds, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--dir", default="/dev/shm", help="where homes and files go; tmpfs by default")
    options = parser.parse_args()
    console = Console(highlight=False)
    size_bytes = options.size_mib * MIB
    with tempfile.TemporaryDirectory(
        prefix="shoal-bench-", dir=options.dir, ignore_cleanup_errors=True
    ) as name:
        root = Path(name)
        source = root / "source.bin"
        write_random_file(source, size_bytes)
        makers: list[tuple[str, Callable[[Path, Path], ShoalPair | LibtorrentPair]]] = [
            ("shoal", ShoalPair),
            ("libtorrent", LibtorrentPair),
        ]
        pairs = [(Series(label), make(root, source)) for label, make in makers]
        try:
            for number in range(options.rounds):
                for series, pair in pairs:
                    measure(series, pair, root, source)
                    console.print(f"round {number + 1}: {series.name} {series.mib_s[-1]:.0f} MiB/s")
            peaks = {series.name: [peak_mib(pid) for pid in pair.pids()] for series, pair in pairs}
        finally:
            for _, pair in pairs:
                pair.close()
    show(console, [series for series, _ in pairs], peaks)
    show_stages(console, pairs[0][0])
    write_results(options, [series for series, _ in pairs], peaks)
    return 0


def show(console: Console, all_series: list[Series], peaks: dict[str, list[float]]) -> None:
    """Print the table and the ratios."""
    table = Table(box=None, header_style="bold")
    for column in ("", "MiB/s", "CPU s/GiB sender", "receiver", "both", "peak MiB"):
        table.add_column(column)
    for series in all_series:
        table.add_row(
            series.name,
            spread(series.mib_s),
            spread(series.sender_cpu_s, 2),
            spread(series.receiver_cpu_s, 2),
            spread(series.cpu_s(), 2),
            " + ".join(f"{peak:.0f}" for peak in peaks[series.name]),
        )
    console.print(table)
    ours, theirs = all_series
    rates = [a / b for a, b in zip(ours.mib_s, theirs.mib_s, strict=True)]
    cpu = [a / b for a, b in zip(ours.cpu_s(), theirs.cpu_s(), strict=True)]
    console.print(f"rate: {spread(rates, 2)} x libtorrent; CPU: {spread(cpu, 2)} x libtorrent's")


def show_stages(console: Console, series: Series) -> None:
    """Print where our CPU seconds a GiB went; `other` is all that is not a bulk thread."""
    for end, rounds, whole in (
        ("sender", series.sender_stages_s, series.sender_cpu_s),
        ("receiver", series.receiver_stages_s, series.receiver_cpu_s),
    ):
        stages = {stage: statistics.median(r.get(stage, 0.0) for r in rounds) for stage in rounds[-1]}
        stages["other"] = statistics.median(whole) - sum(stages.values())
        parts = ", ".join(f"{stage} {value:.2f}" for stage, value in stages.items() if value >= 0.005)
        console.print(f"shoal {end}, CPU s/GiB: {parts}")


def write_results(
    options: argparse.Namespace, all_series: list[Series], peaks: dict[str, list[float]]
) -> None:
    """Keep what was measured, with how."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    rows = {
        series.name: {
            "mib_s": [round(v, 1) for v in series.mib_s],
            "sender_cpu_s_gib": [round(v, 2) for v in series.sender_cpu_s],
            "receiver_cpu_s_gib": [round(v, 2) for v in series.receiver_cpu_s],
            "sender_stages_s_gib": [_rounded(stages) for stages in series.sender_stages_s],
            "receiver_stages_s_gib": [_rounded(stages) for stages in series.receiver_stages_s],
            "peak_mib": [round(v) for v in peaks[series.name]],
        }
        for series in all_series
    }
    data = {"command": "make bench", "size_mib": options.size_mib, "cores": os.cpu_count(), "rounds": rows}
    RESULTS.write_text(json.dumps(data, indent=2) + "\n")


def _rounded(stages: dict[str, float]) -> dict[str, float]:
    return {stage: round(value, 3) for stage, value in stages.items()}


if __name__ == "__main__":
    raise SystemExit(main())
