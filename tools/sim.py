"""Sim: every bar of the substrate with its value, in the simulator (`make sim`); writes docs/overlay.

Each run is a process of its own, so that CPU time and memory are its own, and a part for each core runs at
a time. Beside speed (first) and the real nodes (last) nothing runs. `--only` takes some parts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.sim.calibration import measure_regular
from shoal.testing.namespaces import find_obstacle
from tools import sim_swim
from tools.sim_plot import draw_curves

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "overlay"
MIB = 2**20
CRASHES = ((0.8, 0.999), (0.9, 0.98), (0.95, 0.90))
CURVE = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
ANOMALIES_S = (2, 8, 16, 32)
MOST_JOBS = 4  # a run takes up to 3 GiB


@dataclass(frozen=True)
class Bar:
    """One line of the report."""

    work: str
    value: float | None
    low: float | None
    high: float | None

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        value = self.value
        return (
            value is not None
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
        )

    def show(self) -> str:
        """Return the line."""
        ends = " to ".join("" if end is None else f"{end:.6g}" for end in (self.low, self.high))
        value = "none" if self.value is None else f"{self.value:.6g}"
        return f"{'ok  ' if self.ok else 'FAIL'} {self.work:<48} {value:>10}   {ends}"


class Runs:
    """Runs the commands of one part, and keeps what they print."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.results: dict[str, Any] = {}
        self.bars: list[Bar] = []

    def run(self, *arguments: str, seed: int | None = None) -> tuple[dict[str, Any], float, int]:
        """Return what a command found, its CPU seconds and its peak memory in bytes."""
        arguments = (*arguments, "--seed", str(seed or self.seed))
        command = [sys.executable, "-m", "shoal.sim", *arguments, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        found = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.results[" ".join(arguments)] = found
        return found, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024

    def hold(
        self, work: str, value: float | None, low: float | None = None, high: float | None = None
    ) -> None:
        """Add a bar and print it."""
        bar = Bar(work, value, low, high)
        self.bars.append(bar)
        print(bar.show(), flush=True)


def run_calibration(runs: Runs) -> None:
    """Published numbers at 10,000 nodes."""
    found, seconds, _ = runs.run("calibrate", "--nodes", "10000")
    for row in found["bounds"]:
        runs.hold(row["name"], row["value"], *row["bound"])
    runs.hold("calibration, CPU seconds", seconds, high=720)


def run_speed(runs: Runs) -> None:
    """Steps a second and memory."""
    found, seconds, memory = runs.run("broadcast", "--nodes", "10000", "--messages", "20")
    runs.hold("10,000 nodes: steps/s on one core", found["steps"] / seconds, low=30_000)
    runs.hold("10,000 nodes: MiB", memory / MIB, high=512)


def run_crashes(runs: Runs) -> None:
    """Mass crashes."""
    for share, least in CRASHES:
        found, _, _ = runs.run("broadcast", "--nodes", "10000", "--messages", "10", "--crash", str(share))
        runs.hold(f"last broadcast after {share:.0%} crash", found["delivered"]["by_message"][-1], low=least)
        if share <= 0.8:
            runs.hold(f"cycles until healed after {share:.0%}", found["heal_cycles"], high=2)
    shares, delivered = [], []
    for share in CURVE:
        found, _, _ = runs.run("broadcast", "--nodes", "2000", "--messages", "10", "--crash", str(share))
        shares.append(100 * share)
        delivered.append(100 * found["delivered"]["by_message"][-1])
    draw_curves(
        OUT / "crash.svg",
        "Last broadcast after a crash, 2,000 nodes",
        "% of nodes that crash at once",
        "% of the others reached",
        shares,
        {"delivered": delivered},
    )


def run_detection(runs: Runs) -> None:
    """Lifeguard against plain SWIM."""
    curves: dict[str, list[float]] = {"plain SWIM": [], "Lifeguard": []}
    for seconds in ANOMALIES_S:
        common = [
            "detect",
            "--nodes",
            "128",
            "--anomalous",
            "16",
            "--anomaly-s",
            str(seconds),
            "--minutes",
            "2",
        ]
        good, _, _ = runs.run(*common)
        plain, _, _ = runs.run(*common, "--plain")
        curves["Lifeguard"].append(good["false_positives"] + 1)
        curves["plain SWIM"].append(plain["false_positives"] + 1)
    ratio = sum(curves["Lifeguard"]) / max(1, sum(curves["plain SWIM"]))
    runs.hold("Lifeguard: false positives, share of plain SWIM's", ratio, high=0.1)
    draw_curves(
        OUT / "lifeguard.svg",
        "False positives + 1, 128 members, 16 stall",
        "seconds of a stall",
        "in 2 minutes",
        [float(one) for one in ANOMALIES_S],
        curves,
        logarithmic=True,
    )


def run_merge(runs: Runs) -> None:
    """Two halves, cut for an hour."""
    found, _, _ = runs.run("merge", "--nodes", "10000", "--split-s", "3600")
    runs.hold("merge: probe periods to one component", found["probe_periods_to_one"], high=3)
    runs.hold("merge: share of links replaced", found["links_replaced"], high=0.05)
    runs.hold("merge: ends of links between the halves", found["links_across"], low=20)


def run_published(runs: Runs) -> None:
    """Published laws at sizes, view sizes and seeds that no constant was chosen for."""
    for nodes, seed in ((500, 2), (1000, 3), (4000, 4)):
        found, _, _ = runs.run("calibrate", "--nodes", str(nodes), seed=seed)
        for row in found["bounds"]:
            runs.hold(f"{nodes} nodes: {row['name']}", row["value"], *row["bound"])
    for active in (4, 7, 9):
        path, _ = measure_regular(2000, active, runs.seed)
        found, _, _ = runs.run("views", "--nodes", "2000", "--active", str(active))
        runs.hold(f"{active} neighbours: mean path", found["mean_path"], 0.99 * path, 1.01 * path)
        clustering = (active - 1) / 2000
        runs.hold(f"{active} neighbours: clustering", found["clustering"], high=2 * clustering)
        runs.hold(f"{active} neighbours: full", found["full"], low=0.99)
    for nodes in (32, 256, 1024):
        found, _, _ = runs.run("detect", "--nodes", str(nodes), "--minutes", "0.1")
        law = 1 / (1 - (1 - 1 / (nodes - 1)) ** (nodes - 1))
        runs.hold(
            f"{nodes} members: first detection", found["first_detection_periods"], 0.95 * law, 1.05 * law
        )
        runs.hold(f"{nodes} members: messages a period", found["messages_per_member_period"], 1.9, 2.1)
    for loss, helpers in ((0.05, 1), (0.1, 1), (0.1, 3), (0.2, 3)):
        law = sim_swim.find_law(loss, helpers)  # a suspect is not suspected twice: below it where many are
        share = sim_swim.measure_suspicions(loss, helpers, runs.seed)
        runs.hold(f"{loss:.0%} loss, {helpers} helpers: suspected", share, 0.8 * law, 1.2 * law)
    for members in (32, 128, 512):
        spread = sim_swim.measure_spread(members, runs.seed)
        law = sim_swim.find_push_law(members)  # an answer carries word too, so less than pushes alone take
        runs.hold(f"{members} members: periods until all suspect", spread, high=law)


def run_live(runs: Runs) -> None:
    """Real processes: a quarter is killed at random; what an idle one costs."""
    command = [sys.executable, "-m", "tools.live_overlay", "--seed", str(runs.seed)]
    if find_obstacle() is None:
        command += ["--idle-s", "60"]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=False)
    found = json.loads(done.stdout or b"{}")
    runs.results["tools.live_overlay"] = found
    runs.hold("24 real processes, a quarter killed: parts", found.get("parts"), 1, 1)
    if "idle_bytes_s" in found:
        live_s = found["idle_bytes_s"]["mean"]
        runs.hold("24 real nodes idle: bytes/s by interface", live_s, high=2048)
        simulated, _, _ = runs.run("idle", "--nodes", "24", "--minutes", "10")
        runs.hold("24 idle nodes: simulated to real", simulated["bytes_s"]["mean"] / live_s, 0.8, 1.2)


def run_idle(runs: Runs) -> None:
    """Upkeep."""
    found, _, _ = runs.run("idle", "--nodes", "1000", "--minutes", "5")
    runs.hold("idle node at 1,000: bytes/s, both directions", found["bytes_s"]["mean"], high=2048)


def run_scenarios(runs: Runs) -> None:
    """All scenarios, the large ones too."""
    for path in sorted((ROOT / "scenarios").rglob("*.toml")):
        name = str(path.relative_to(ROOT))
        found, _, _ = runs.run("run", name)
        for row in found["bounds"]:
            runs.hold(f"{path.stem}: {row['name']}", row["value"], *row["bound"])


def run_huge(runs: Runs) -> None:
    """100,000 nodes."""
    found, seconds, memory = runs.run("broadcast", "--nodes", "100000", "--messages", "10")
    runs.hold("100,000 nodes: CPU minutes", seconds / 60, high=60)
    runs.hold("100,000 nodes: GiB", memory / 1024 / MIB, high=8)
    runs.hold("100,000 nodes: steps/s on one core", found["steps"] / seconds, low=30_000)
    runs.hold("100,000 nodes: last broadcast", found["delivered"]["by_message"][-1], low=0.999)


# longest first, so that the last to end begins early
SIDE_BY_SIDE = {
    "scenarios": run_scenarios,
    "huge": run_huge,
    "merge": run_merge,
    "published": run_published,
    "crashes": run_crashes,
    "calibration": run_calibration,
    "detection": run_detection,
    "idle": run_idle,
}
PARTS = {"speed": run_speed, **SIDE_BY_SIDE, "live": run_live}


def main() -> int:
    """Run the parts; return 1 if a bar does not hold."""
    parser = argparse.ArgumentParser(
        prog="make sim", description="Every bar of the substrate with its value."
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument(
        "--jobs", type=int, default=min(os.cpu_count() or 1, MOST_JOBS), help="parts at a time"
    )
    options = parser.parse_args()
    names = set(options.only.split(","))
    if unknown := sorted(names - PARTS.keys()):
        parser.error(f"no part {unknown[0]!r}; parts: {', '.join(PARTS)}")
    if options.jobs < 1:
        parser.error("--jobs is at least 1")
    OUT.mkdir(parents=True, exist_ok=True)
    held = [_run_part("speed", options.seed)] if "speed" in names else []
    with ThreadPoolExecutor(options.jobs) as threads:
        parts = [threads.submit(_run_part, name, options.seed) for name in SIDE_BY_SIDE if name in names]
        try:
            held += [part.result() for part in as_completed(parts)]
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nothing new begins
    if "live" in names:
        held.append(_run_part("live", options.seed))
    return 0 if all(held) else 1


def _run_part(name: str, seed: int) -> bool:
    """Run a part, write what it found to docs/overlay, and return whether its bars hold."""
    runs = Runs(seed)
    PARTS[name](runs)
    bars = [{"name": b.work, "value": b.value, "bound": [b.low, b.high], "ok": b.ok} for b in runs.bars]
    path = OUT / f"{name}.json"
    path.write_text(json.dumps({"seed": seed, "bounds": bars, "runs": runs.results}, indent=1) + "\n")
    return all(bar.ok for bar in runs.bars)


if __name__ == "__main__":
    sys.exit(main())
