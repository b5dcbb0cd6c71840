"""Results: one JSON file for each workload and filesystem, with what was run, where and when."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DIGITS = 4
ORDER = ("large", "small", "first-pass", "latency", "memory")

Result = dict[str, Any]


def describe_machine() -> dict[str, Any]:
    """Return the kind of machine, without anything that names this one."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
        "memory_gib": round(memory / 2**30),
    }


def begin_result(workload: str, filesystem: str, rounds: int, note: str) -> Result:
    """Return what is known before a workload runs."""
    return {
        "workload": workload,
        "filesystem": filesystem,
        "rounds": rounds,
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe_machine(),
        "load_before": round(os.getloadavg()[0], 1),
        "note": note,
    }


def write_result(folder: Path, result: Result) -> Path:
    """Write one result over the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['workload']}.{result['filesystem']}.json"
    path.write_text(json.dumps(rounded(result), indent=1) + "\n")
    return path


def read_results(folder: Path) -> list[Result]:
    """Return every result of a folder, tmpfs first, workloads in the order of the bench."""
    places = list(ORDER)
    found = [json.loads(path.read_text()) for path in folder.glob("*.*.json")]
    return sorted(found, key=lambda r: (r["filesystem"] != "tmpfs", places.index(r["workload"])))


def rounded(value: Any) -> Any:
    """Return the same with every float rounded."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return value
