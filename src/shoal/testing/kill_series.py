"""Kill series: rounds of seeded kills, one after the other on the same three devices, and a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from shoal.core.errors import ShoalError
from shoal.core.units import format_size
from shoal.testing.kill_plan import DEVICES, make_plan
from shoal.testing.kill_rounds import Round
from shoal.testing.kill_world import KillWorld, SeriesFailed
from shoal.testing.processes import CommandFailed


@dataclass
class SeriesReport:
    """What a series did."""

    rounds: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)  # rounds whose kill came while its operation ran
    all_at_once: int = 0
    refetched_bytes: int = 0
    worst_refetched_bytes: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        kinds = ", ".join(
            f"{name} {self.cut.get(name, 0)} of {count}" for name, count in sorted(self.rounds.items())
        )
        return (
            f"{sum(self.rounds.values())} kills, {self.all_at_once} of them of all three devices; "
            f"in the middle: {kinds}; "
            f"{format_size(self.refetched_bytes)} fetched again, at most "
            f"{format_size(self.worst_refetched_bytes)} in a round; nothing lost, nothing wrong, "
            f"{self.seconds:.0f} s"
        )


class KillSeries:
    """Runs the rounds of the seeds `seed` ... `seed + kills - 1` in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        kills: int,
        only: str | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.plans = [make_plan(seed + number, only) for number in range(kills)]
        self.only = only
        self.say = say
        self.report = SeriesReport()
        self.world = KillWorld(directory)

    def run(self) -> SeriesReport:
        """Do all rounds. Raises: SeriesFailed, with the words that run the failed round again."""
        began = time.monotonic()
        try:
            self.world.start()
            for plan in self.plans:
                started = time.monotonic()
                one = Round(self.world, plan)
                try:
                    one.run()
                except (ShoalError, SeriesFailed, CommandFailed, TimeoutError, OSError) as error:
                    words = f"SEED={plan.seed} KILLS=1" + (f" ONLY={self.only}" if self.only else "")
                    raise SeriesFailed(f"{plan}\n{error}\nrun it again: make hostile {words}") from error
                report = self.report
                report.rounds[plan.operation] = report.rounds.get(plan.operation, 0) + 1
                report.cut[plan.operation] = report.cut.get(plan.operation, 0) + one.was_cut
                report.all_at_once += len(plan.victims) == len(DEVICES)
                report.refetched_bytes += one.refetched_bytes
                report.worst_refetched_bytes = max(report.worst_refetched_bytes, one.refetched_bytes)
                self.say(f"{plan}; {time.monotonic() - started:.1f} s")
        finally:
            self.world.close()
        self.report.seconds = time.monotonic() - began
        return self.report
