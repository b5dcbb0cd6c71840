"""Race: contenders take turns, round by round, in one run; the clock is around the bytes and nothing else."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shoal.core.units import MIB
from tools.bench.contenders import CONTENDERS
from tools.bench.contenders.contender import Absent, Contender
from tools.bench.measuring import MemoryReserve, find_difference, sync_filesystem, watch_memory
from tools.bench.settings import Settings


@dataclass
class Series:
    """What one contender did in every counted round; CPU in seconds of a round, memory in bytes of PSS."""

    how: str
    seconds: list[float] = field(default_factory=list)
    sender_cpu_s: list[float] = field(default_factory=list)
    receiver_cpu_s: list[float] = field(default_factory=list)
    sender_stages_s: list[dict[str, float]] = field(default_factory=list)
    receiver_stages_s: list[dict[str, float]] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=lambda: [0, 0])


@contextmanager
def start_contenders(
    settings: Settings, names: tuple[str, ...], absent: dict[str, str]
) -> Iterator[dict[str, Contender]]:
    """Start the contenders that can be had; the others go into `absent` with a word why."""
    started: dict[str, Contender] = {}
    try:
        for kind in CONTENDERS:
            if kind.name not in names:
                continue
            try:
                started[kind.name] = kind(Path(tempfile.mkdtemp(prefix="c-", dir=settings.place)))
            except Absent as error:
                absent[kind.name] = str(error)
                settings.say(f"{kind.name}: skipped, {error}")
        yield started
    finally:
        for contender in started.values():
            contender.close()


def run_race(
    settings: Settings, source: Path, facts: dict[str, Any], after_round: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Let Shoal and the rivals fetch `source` in turns: one round that is not counted, then the others.

    `after_round` measures something else on the same machine after every counted round.
    """
    absent: dict[str, str] = {}
    with start_contenders(settings, ("shoal", *settings.rivals), absent) as contenders:
        series = {name: Series(contender.how) for name, contender in contenders.items()}
        for contender in contenders.values():
            contender.offer(source)
        for number in range(settings.rounds + 1):
            for name in order(list(contenders), number):
                kept = series[name] if number else Series("")
                measure_fetch(
                    kept, contenders[name], settings.place, source, facts["bytes"], watch=number == 0
                )
                if number == 0:
                    series[name].peak_bytes = kept.peak_bytes
                else:
                    note_memory(series[name], contenders[name])
                rate = facts["bytes"] / MIB / kept.seconds[-1]
                label = f"round {number}" if number else "not counted"
                settings.say(f"{label}: {name} {kept.seconds[-1]:.2f} s, {rate:.0f} MiB/s")
            if number and after_round is not None:
                after_round()
    return {**facts, "contenders": {n: asdict(s) for n, s in series.items()}, "absent": absent}


def order(names: list[str], number: int) -> list[str]:
    """Return who comes when in a round: everybody begins once, so that no one always follows the same."""
    first = number % len(names)
    return names[first:] + names[:first]


def measure_fetch(
    series: Series, contender: Contender, place: Path, source: Path, size_bytes: int, *, watch: bool
) -> None:
    """Fetch once, add what it took, compare and remove what came. `watch`: sample memory meanwhile."""
    into = Path(tempfile.mkdtemp(prefix="got-", dir=place))
    contender.prepare(into)
    sender, receiver = contender.ends()
    stages = contender.stages()
    before = sender.cpu_s(), receiver.cpu_s()
    with MemoryReserve(place, size_bytes):
        if watch:
            with watch_memory(sender, receiver) as peaks:
                took_s = _timed_fetch(contender, into)
            series.peak_bytes = list(peaks)
        else:
            took_s = _timed_fetch(contender, into)
    contender.settle()
    after = sender.cpu_s(), receiver.cpu_s()
    if (difference := find_difference(source, into / source.name)) is not None:
        raise RuntimeError(f"{contender.name} delivered something else: {difference}")
    series.seconds.append(took_s)
    series.sender_cpu_s.append(after[0] - before[0])
    series.receiver_cpu_s.append(after[1] - before[1])
    kept = series.sender_stages_s, series.receiver_stages_s
    for end, first, last in zip(kept, stages, contender.stages(), strict=True):
        if last:
            end.append({stage: value - first.get(stage, 0.0) for stage, value in last.items()})
    contender.forget(into)
    shutil.rmtree(into)


def note_memory(series: Series, contender: Contender) -> None:
    """Raise the peaks to what both ends hold now: memory that grows from round to round shows."""
    for number, end in enumerate(contender.ends()):
        series.peak_bytes[number] = max(series.peak_bytes[number], end.pss_bytes())


def _timed_fetch(contender: Contender, into: Path) -> float:
    began = time.perf_counter()
    contender.fetch(into)
    sync_filesystem(into)
    return time.perf_counter() - began
