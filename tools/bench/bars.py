"""Bars: what was promised for each workload, and whether this run keeps it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoal.core.units import GIB, MIB

Result = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """A bound for one number of one workload. `measure` returns None where the run has no such number."""

    workload: str
    text: str
    bound: float
    at_least: bool
    unit: str
    measure: Callable[[Result], float | None]

    def verdict(self, result: Result) -> str | None:
        """Return a line that says what was measured and whether the bar was met; None without a number."""
        value = self.measure(result)
        if value is None:
            return None
        met = value >= self.bound if self.at_least else value <= self.bound
        sign = ">=" if self.at_least else "<="
        word = "met" if met else "MISSED"
        return f"{word}: {self.text} {sign} {self.bound:g}{self.unit}, measured {value:.2f}{self.unit}"


def rate_ratios(result: Result, rival: str) -> list[float]:
    """Return how many times as fast as a rival Shoal was, round by round; empty without one of them."""
    ours, theirs = (result["contenders"].get(name, {}).get("seconds", []) for name in ("shoal", rival))
    return [b / a for a, b in zip(ours, theirs, strict=False)]


def cpu_ratios(result: Result, rival: str) -> list[float]:
    """Return Shoal's CPU seconds of both ends by a rival's, round by round."""
    ours, theirs = (cpu_seconds(result["contenders"].get(name, {})) for name in ("shoal", rival))
    return [a / b for a, b in zip(ours, theirs, strict=False) if b > 0]


def cpu_seconds(series: dict[str, Any]) -> list[float]:
    """Return the CPU seconds of both ends in each round."""
    ends = series.get("sender_cpu_s", []), series.get("receiver_cpu_s", [])
    return [a + b for a, b in zip(*ends, strict=True)]


def efficiencies(result: Result) -> list[float]:
    """Return, round by round, the sum of the primitives by the CPU seconds that Shoal used at both ends."""
    alone = result.get("primitives_s_gib", {}).values()
    used = [s * GIB / result["bytes"] for s in cpu_seconds(result["contenders"].get("shoal", {}))]
    return [sum(steps) / s for steps, s in zip(zip(*alone, strict=True), used, strict=False) if s > 0]


def _efficiency(result: Result) -> float | None:
    return _median(efficiencies(result))


def _rate(rival: str) -> Callable[[Result], float | None]:
    return lambda result: _median(rate_ratios(result, rival))


def _cpu(rival: str) -> Callable[[Result], float | None]:
    return lambda result: _median(cpu_ratios(result, rival))


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _pass_rate(result: Result) -> float | None:
    seconds = result["contenders"].get("shoal", {}).get("seconds", [])
    return result["bytes"] / MIB / statistics.median(seconds) if seconds else None


def _pass_cpu(result: Result) -> float | None:
    used = cpu_seconds(result["contenders"].get("shoal", {}))
    return statistics.median(used) * GIB / result["bytes"] if used else None


def _ping(result: Result) -> float | None:
    value: float | None = result["rows"].get("full transfer", {}).get("p99_ms")
    return value


def _memory(word: str) -> Callable[[Result], float | None]:
    def measure(result: Result) -> float | None:
        found = [v for name, row in result["rows"].items() if word in name for v in row.values()]
        return max(found, default=None)

    return measure


BARS = (
    Bar("large", "rate by libtorrent's", 2.0, True, " x", _rate("libtorrent")),
    Bar("large", "rate by Syncthing's", 2.0, True, " x", _rate("syncthing")),
    Bar("large", "rate by magic-wormhole's", 4.0, True, " x", _rate("magic-wormhole")),
    Bar("large", "CPU by libtorrent's", 0.65, False, " x", _cpu("libtorrent")),
    Bar("large", "efficiency, primitives by CPU", 0.8, True, "", _efficiency),
    Bar("small", "rate by Syncthing's", 10.0, True, " x", _rate("syncthing")),
    Bar("first-pass", "rate", 700.0, True, " MiB/s", _pass_rate),
    Bar("first-pass", "CPU", 2.0, False, " s/GiB", _pass_cpu),
    Bar("latency", "p99 of a ping under full transfer", 50.0, False, " ms", _ping),
    Bar("memory", "a daemon, idle with 4 sessions", 96.0, False, " MiB", _memory("idle")),
    Bar("memory", "a daemon that moves one large file", 200.0, False, " MiB", _memory("moving")),
    Bar("memory", "a daemon with very many files", 200.0, False, " MiB", _memory("files")),
)


def verdicts(result: Result) -> list[str]:
    """Return a line for each bar of a workload that this run has a number for."""
    lines = [bar.verdict(result) for bar in BARS if bar.workload == result["workload"]]
    return [line for line in lines if line is not None]
