"""Workloads: one module for each; its `run` returns what goes into the workload's JSON file."""

from collections.abc import Callable
from typing import Any

from tools.bench.settings import Settings
from tools.bench.workloads import first_pass, large, latency, memory, small

WORKLOADS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "large": large.run,
    "small": small.run,
    "first-pass": first_pass.run,
    "latency": latency.run,
    "memory": memory.run,
}
