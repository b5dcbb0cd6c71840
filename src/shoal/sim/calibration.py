"""Calibration: does the simulator reproduce what was published? Only then do its other numbers mean anything.

The rows are overlay.md's. Laws that hold at every size are used at every size; of the tables that were
measured with 10,000 nodes, a smaller run is held against the same quantity of a random regular graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shoal.core.chance import Chance
from shoal.sim.averaging import measure_averaging, measure_push
from shoal.sim.detect_command import measure_detection
from shoal.sim.graph import measure_paths
from shoal.sim.overlay_commands import run_broadcast, run_views

PUBLISHED_NODES = 10_000
CYCLES = 50  # HyParView section 5
DEGREE = 5
BROADCASTS = 6
GRAPH = 8  # stream of chance


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity: what came out and what is allowed."""

    name: str
    value: float
    low: float
    high: float
    source: str

    @property
    def ok(self) -> bool:
        """Whether the value is within its bounds."""
        return self.low <= self.value <= self.high


def run_calibration(nodes: int, seed: int) -> dict[str, Any]:
    """Measure every row."""
    rows = list(_find_rows(nodes, seed))
    return {
        "ok": all(row.ok for row in rows),
        "bounds": [
            {"name": row.name, "value": row.value, "bound": [row.low, row.high], "ok": row.ok} for row in rows
        ],
    }


def _find_rows(nodes: int, seed: int) -> Iterator[Row]:
    yield from _find_view_rows(nodes, seed)
    yield from _find_broadcast_rows(nodes, seed)
    yield from _find_other_rows(nodes, seed)


def _find_view_rows(nodes: int, seed: int) -> Iterator[Row]:
    paper = "HyParView Table 1"
    found = run_views(nodes, CYCLES, seed)
    path, hops = (6.385, 9.0) if nodes == PUBLISHED_NODES else measure_regular(nodes, DEGREE, seed)
    yield _about("views: mean path", found["mean_path"], path, 0.01, paper)
    yield Row("views: clustering", found["clustering"], 0.0, 0.0015 * PUBLISHED_NODES / nodes, paper)
    yield Row("views: symmetric links", found["symmetric"], 1.0, 1.0, paper)
    yield Row("views: full", found["full"], 0.99, 1.0, paper)
    yield Row("views: hops to the last node", found["max_hops"], hops - 1, hops + 1, paper)


def _find_broadcast_rows(nodes: int, seed: int) -> Iterator[Row]:
    paper = "Plumtree Table 1, Fig. 2"
    links = nodes * DEGREE // 2
    tree = run_broadcast(nodes, BROADCASTS, 0.0, 0.0, "plumtree", seed)
    flood = run_broadcast(nodes, 1, 0.0, 0.0, "eager", seed)
    control = 29_987.0 if nodes == PUBLISHED_NODES else 2.0 * (links - (nodes - 1))
    for number in range(2, BROADCASTS):
        payload = tree["payload"]["by_message"][number]
        yield Row(f"broadcast {number + 1}: payload messages", payload, nodes - 1, nodes - 1, paper)
    tolerance = 0.005 if nodes == PUBLISHED_NODES else 0.015  # 1 % of the views are not full
    yield _about("broadcast: control messages", tree["control"]["by_message"][-1], control, tolerance, paper)
    expected = 39_984.0 if nodes == PUBLISHED_NODES else 2.0 * links - (nodes - 1)
    yield _about("eager flood: payload messages", flood["payload"]["by_message"][0], expected, 0.01, paper)
    yield Row("broadcast: last hop", tree["last_hop"], 0, 9, paper)


def _find_other_rows(nodes: int, seed: int) -> Iterator[Row]:
    first, messages = measure_detection(nodes, seed)
    yield _about("SWIM: first detection, periods", first, math.e / (math.e - 1), 0.03, "SWIM 3.1")
    yield Row("SWIM: messages a member a period", messages, 1.9, 2.1, "SWIM 5.1")
    rounds = measure_push(nodes, Chance(seed, 0, GRAPH))
    law = math.log2(nodes) + math.log(nodes)
    yield Row("push: rounds until all know", rounds, law - 1.5, law + 1.5, "Pittel 1987")
    factor = measure_averaging(nodes, Chance(seed, 1, GRAPH))
    yield _about("averaging: variance a cycle", factor, 1 / (2 * math.sqrt(math.e)), 0.03, "Jelasity 2005")


def _about(name: str, value: float, expected: float, tolerance: float, source: str) -> Row:
    return Row(name, value, expected * (1 - tolerance), expected * (1 + tolerance), source)


def measure_regular(nodes: int, degree: int, seed: int) -> tuple[float, float]:
    """Return mean path and hops to the last node of a random graph with `degree` links a node."""
    chance = Chance(seed, 2, GRAPH)
    ends = [node for node in range(nodes) for _ in range(degree)]
    chance.shuffle(ends)
    links: list[list[int]] = [[] for _ in range(nodes)]
    for one, other in zip(ends[::2], ends[1::2], strict=False):
        links[one].append(other)
        links[other].append(one)
    paths = measure_paths(links, range(nodes), chance)
    return paths.mean, paths.hops
