"""Crashes: three devices that share and get while one after the other is killed with SIGKILL.

What must hold after every kill: the device comes back by `up` alone, goes on with its shares and transfers by
itself, every tree ends byte-identical, and at most 32 MiB a kill are fetched a second time.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from shoal.core.units import MIB, format_size
from shoal.testing.processes import CommandFailed, Device
from shoal.testing.trees import find_difference, write_seeded_tree

NAMES = ("ada", "ben", "cem")
TREE_BYTES = 160 * MIB
REFETCHED_A_KILL_BYTES = 32 * MIB
LONGEST_DELAY_S = 1.6  # after which a kill would mostly hit devices that are done
ROUND_TIMEOUT_S = 180


class CrashRunFailed(Exception):
    """Something was lost, different, or fetched again beyond the bound. The message has seed and round."""


@dataclass
class CrashReport:
    """What a run did and what it cost."""

    seed: int
    kills: int = 0
    kills_in_share: int = 0
    kills_in_get: int = 0
    fetched_bytes: int = 0
    refetched_bytes: int = 0
    refetched_by_round: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        worst = max(self.refetched_by_round, default=0)
        return (
            f"seed {self.seed}: {self.kills} kills ({self.kills_in_share} during share, "
            f"{self.kills_in_get} during get), "
            f"{format_size(self.fetched_bytes)} fetched, {format_size(self.refetched_bytes)} of it again "
            f"(worst round {format_size(worst)}); every tree is byte-identical"
        )


class CrashRun:
    """Runs `kills` rounds: one device shares a fresh tree, two get it, one of the three is killed."""

    def __init__(
        self, directory: Path, seed: int, kills: int, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.directory = directory
        self.rng = random.Random(seed)  # noqa: S311 - test data
        self.kills = kills
        self.say = say
        self.report = CrashReport(seed)
        self.devices = {name: Device(directory / name, name) for name in NAMES}

    def run(self) -> CrashReport:
        """Do all rounds. Raises: CrashRunFailed, CommandFailed, TimeoutError."""
        try:
            self.devices["ada"].up()
            for name in NAMES[1:]:
                self.devices[name].join(self.devices["ada"].run("invite")["ticket"])
            for number in range(self.kills):
                self._round(number)
        finally:
            for device in self.devices.values():
                device.kill()
        return self.report

    def _round(self, number: int) -> None:
        sharer, *getters = self.rng.sample(NAMES, 3)
        victim = self.rng.choice(NAMES)
        in_share = self.rng.random() < 0.3
        delay_s = self.rng.uniform(0.0, 0.5 if in_share else LONGEST_DELAY_S)
        tree = self.directory / "data" / f"tree {number}"
        write_seeded_tree(tree, self.rng, TREE_BYTES)
        for device in self.devices.values():
            device.wait_peers(2)
        link = self.devices[sharer].run("share", str(tree))["link"]
        if in_share:
            victim = sharer
            gets = {}
        else:
            gets = {name: self._get(name, link) for name in getters}
        time.sleep(delay_s)
        self.devices[victim].kill()
        self.devices[victim].up()
        self.report.kills += 1
        self.report.kills_in_share += in_share
        self.report.kills_in_get += not in_share
        for name in getters:
            if name not in gets or name == victim:
                if name in gets:
                    gets[name].communicate(timeout=ROUND_TIMEOUT_S)
                gets[name] = self._get(name, link)
        refetched = sum(self._finish(number, name, gets[name], tree) for name in getters)
        self.report.refetched_bytes += refetched
        self.report.refetched_by_round.append(refetched)
        self.say(
            f"round {number}: {sharer} shares, {victim} killed after {delay_s:.2f} s"
            f"{' of hashing' if in_share else ''}, {format_size(refetched)} fetched again"
        )
        if refetched > REFETCHED_A_KILL_BYTES:
            raise CrashRunFailed(
                f"seed {self.report.seed}, round {number}: {refetched} bytes fetched again after one kill"
            )

    def _get(self, name: str, link: str) -> subprocess.Popen[str]:
        device = self.devices[name]
        return device.popen("get", link, str(device.directory), "--wait", str(ROUND_TIMEOUT_S))

    def _finish(self, number: int, name: str, process: subprocess.Popen[str], tree: Path) -> int:
        where = f"seed {self.report.seed}, round {number}, {name}"
        stdout, stderr = process.communicate(timeout=ROUND_TIMEOUT_S)
        if process.returncode != 0:
            raise CommandFailed(["get", where], process.returncode, stdout, stderr)
        result = json.loads(stdout)
        difference = find_difference(tree, self.devices[name].directory / tree.name)
        if difference is not None:
            raise CrashRunFailed(f"{where}: {difference}")
        self.report.fetched_bytes += result["fetched_bytes"]
        refetched: int = result["refetched_bytes"]
        return refetched
