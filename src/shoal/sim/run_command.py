"""Run command: a scenario, its bounds, and the smallest one that still fails. See docs/sim.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from shoal.sim.graph import find_links, measure_symmetry
from shoal.sim.kernel import SECOND_US
from shoal.sim.network import STREAM
from shoal.sim.scenario import Bound, Scenario, write_scenario
from shoal.sim.world import CONFIG, WINDOW_S, World

SHRINK_RUNS = 40
SMALLEST_NODES = 8
SMALLEST_MINUTES = 3.0


def run_scenario(scenario: Scenario, seed: int) -> dict[str, Any]:
    """Run it and hold what came out against its bounds."""
    world = World(scenario, seed)
    world.run()
    values = measure(world)
    bounds = [_hold(bound, values[bound.name]) for bound in scenario.bounds]
    return {"ok": all(row["ok"] for row in bounds), "bounds": bounds}


def shrink(scenario: Scenario, seed: int) -> Scenario:
    """Return the smallest scenario found that fails as this one does: fewer nodes and faults, shorter."""
    failing = _find_failures(scenario, seed)
    runs = 0
    going = bool(failing)
    while going:
        going = False
        for candidate in _find_smaller(scenario):
            if runs == SHRINK_RUNS:
                return scenario
            runs += 1
            if failing & _find_failures(candidate, seed):
                scenario, going = candidate, True
                break
    return scenario


def _find_failures(scenario: Scenario, seed: int) -> set[tuple[str, bool]]:
    """Return the bounds that do not hold, and whether there was a value: none is another fault."""
    rows = run_scenario(scenario, seed)["bounds"]
    return {(row["name"], row["value"] is not None) for row in rows if not row["ok"]}


def _find_smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Yield what is left out or halved, the greatest savings first."""
    if scenario.nodes >= 2 * SMALLEST_NODES:
        yield replace(scenario, nodes=scenario.nodes // 2)
    if scenario.minutes >= 2 * SMALLEST_MINUTES:
        minutes = scenario.minutes / 2
        faults = tuple(fault for fault in scenario.faults if fault.at_s < minutes * 60)
        yield replace(scenario, minutes=minutes, faults=faults)
    if scenario.liars:
        yield replace(scenario, liars=0.0)
    if scenario.median_h:
        yield replace(scenario, median_h=0.0)
    for place in range(len(scenario.faults)):
        yield replace(scenario, faults=scenario.faults[:place] + scenario.faults[place + 1 :])
    if scenario.behind_nat:
        yield replace(scenario, behind_nat=0.0)
    if scenario.up_mbit_s or scenario.down_mbit_s:
        yield replace(scenario, up_mbit_s=0.0, down_mbit_s=0.0)
    if scenario.latency != "steady":
        yield replace(scenario, latency="steady")
    for place, fault in enumerate(scenario.faults):
        if fault.times > 1:
            fewer = replace(fault, times=fault.times // 2)
            yield replace(scenario, faults=(*scenario.faults[:place], fewer, *scenario.faults[place + 1 :]))
    if scenario.broadcasts_per_minute > 1:
        yield replace(scenario, broadcasts_per_minute=scenario.broadcasts_per_minute / 2)


def describe_smallest(scenario: Scenario, seed: int) -> str:
    """Shrink, and return the scenario as TOML."""
    return write_scenario(shrink(scenario, seed))


def _hold(bound: Bound, value: float | None) -> dict[str, Any]:
    low, high = bound.low, bound.high
    ok = value is not None and (low is None or value >= low) and (high is None or value <= high)
    return {"name": bound.name, "value": value, "bound": [low, high], "ok": ok}


def measure(world: World) -> dict[str, float | None]:
    """Return every value that a bound may name; None: there was nothing to measure."""
    shares, delays, copies = _measure_broadcasts(world)
    links = find_links(world.network)
    honest = world.find_honest()
    mine = [links[index] for index in honest]
    seconds = (world.end_us - world.begin_us) / SECOND_US
    loads = sorted(
        (now - then) / seconds
        for index, (now, then) in enumerate(zip(world.count_bytes(), world.bytes_before, strict=True))
        if index not in world.liars and world.since_us[index] == 0
    )
    between = [[peer for peer in links[index] if peer not in world.liars] for index in range(world.count)]
    for index in world.liars:
        between[index] = []
    places = min(CONFIG.views.active, len(honest) - 1)
    total_links = sum(map(len, mine))
    reach = world.reach
    circuits = [] if reach is None else [delay_us / SECOND_US for delay_us in reach.delays_us]

    def is_relayed(index: int, peer: int) -> bool:
        return len(world.network.nodes[index].sessions.get(peer, ())) > STREAM

    return {
        "broken": float(len(world.broken)),
        "bytes_s": _mean(loads),
        "bytes_s_p99": _quantile(loads, 0.99),
        "circuit_s_p99": _quantile(sorted(circuits), 0.99),
        "delivered": _mean(shares),
        "delivered_min": min(shares, default=None),
        "full": sum(len(view) >= places for view in mine) / max(1, len(honest)),
        "late_p99_s": _quantile(delays, 0.99),
        "late_s": delays[-1] if delays else None,
        "liar_links": sum(peer in world.liars for view in mine for peer in view) / max(1, total_links),
        "parts": float(world.count_parts()),
        "parts_max": float(max(world.parts)) if world.parts else None,
        "payload_copies": _mean(copies),
        "relayed": sum(is_relayed(index, peer) for index in honest for peer in links[index])
        / max(1, total_links),
        "symmetric": measure_symmetry(between),
        "unreached": reach.unreached / reach.wished if reach is not None and reach.wished else None,
    }


def _measure_broadcasts(world: World) -> tuple[list[float], list[float], list[float]]:
    """Return of each broadcast the share that got it, the delays of all in order, and its payloads."""
    shares: list[float] = []
    delays: list[float] = []
    copies: list[float] = []
    for sent in world.sent:
        until_us = sent.at_us + int(WINDOW_S * SECOND_US)
        stayed = [
            index for index in sent.expected if world.was_here(index, sent.at_us, until_us)
        ]  # who left meanwhile need not have got it
        if not stayed:
            continue
        got = [sent.arrived_us[index] - sent.at_us for index in stayed if sent.arrived_us[index] >= 0]
        shares.append(len(got) / len(stayed))
        delays.extend(delay / SECOND_US for delay in got)
        copies.append(sent.payloads / max(1, len(got)))
    delays.sort()
    return shares, delays, copies


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _quantile(values: list[float], share: float) -> float | None:
    return values[min(len(values) - 1, int(share * len(values)))] if values else None
