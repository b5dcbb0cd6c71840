"""Cli: reads the simulator's command line and runs a command."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from shoal.core.errors import LocalMisuse, ShoalError
from shoal.sim.calibration import run_calibration
from shoal.sim.detect_command import run_detect
from shoal.sim.idle_command import run_idle
from shoal.sim.merge_command import run_merge
from shoal.sim.overlay_commands import run_broadcast, run_views
from shoal.sim.run_command import describe_smallest, run_scenario
from shoal.sim.scenario import read_scenario
from shoal.sim.show import show

EXIT_OK, EXIT_BOUNDS, EXIT_INTERRUPTED = 0, 1, 130  # 128 and the number of SIGINT, as shells have it
NODES_LIMIT = 100_000
MESSAGES_LIMIT = 100_000
SEED_LIMIT = 10**18 - 1
DETECT_NODES = 4  # so that somebody can be asked to probe for another, and somebody is left
SHOWN = 40  # characters of a wrong value in a message
CRASH_LIMIT = 0.999


def main(arguments: Sequence[str]) -> int:
    """Run one command; return the exit code."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    try:
        result = options.run(options)
    except ShoalError as error:
        print(f"{error}\n{error.next_step}".strip(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: nothing was found; the same command begins anew", file=sys.stderr)
        return EXIT_INTERRUPTED
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    if result.get("ok", True):
        return EXIT_OK
    print(f"a bound does not hold with seed {options.seed}", file=sys.stderr)
    return EXIT_BOUNDS


def _run(options: argparse.Namespace) -> dict[str, Any]:
    scenario = read_scenario(options.scenario)
    result = run_scenario(scenario, options.seed)
    if not result["ok"]:
        command = f"python -m shoal.sim run {options.scenario} --seed {options.seed}"
        print(f"to see it again: {command}; to make it smaller: {command} --shrink", file=sys.stderr)
        if options.shrink:
            result["smallest"] = describe_smallest(scenario, options.seed)
    return result


def _detect(options: argparse.Namespace) -> dict[str, Any]:
    if options.anomalous > options.nodes:
        raise LocalMisuse(
            f"--anomalous: {options.anomalous} of {options.nodes} members cannot stall",
            next_step=f"allowed: a whole number, 0 to {options.nodes}, as --nodes has it",
        )
    return run_detect(
        options.nodes, options.plain, options.anomalous, options.anomaly_s, options.minutes, options.seed
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shoal.sim", description="The node's own protocols on a virtual clock."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _add(commands, "run", "a scenario and its bounds")
    run.add_argument("scenario", metavar="SCENARIO.toml")
    run.add_argument("--shrink", action="store_true", help="if a bound fails: find the least that fails too")
    run.set_defaults(run=_run)

    views = _add(commands, "views", "what the graph of neighbours looks like")
    views.add_argument("--nodes", type=_whole(2, NODES_LIMIT), default=1000)
    views.add_argument("--cycles", type=_number(1e6), default=50.0, help="shuffle periods after the joins")
    views.add_argument("--active", type=_whole(2, 30), default=5, help="neighbours a node wants")
    views.set_defaults(run=lambda o: run_views(o.nodes, o.cycles, o.seed, o.active))

    broadcast = _add(commands, "broadcast", "whom broadcasts reach and what they cost")
    broadcast.add_argument("--nodes", type=_whole(2, NODES_LIMIT), default=1000)
    broadcast.add_argument("--messages", type=_whole(1, MESSAGES_LIMIT), default=10)
    broadcast.add_argument(
        "--crash", type=_number(CRASH_LIMIT), default=0.0, help="share of nodes, 0 to 0.999; one is left"
    )
    broadcast.add_argument("--loss", type=_number(1.0), default=0.0, help="share of packets, 0 to 1")
    broadcast.add_argument("--mode", choices=["plumtree", "eager"], default="plumtree")
    broadcast.set_defaults(run=lambda o: run_broadcast(o.nodes, o.messages, o.crash, o.loss, o.mode, o.seed))

    detect = _add(commands, "detect", "how fast SWIM with Lifeguard finds who is gone, and how often it errs")
    detect.add_argument("--nodes", type=_whole(DETECT_NODES, NODES_LIMIT), default=128)
    detect.add_argument("--plain", action="store_true", help="SWIM without Lifeguard")
    detect.add_argument(
        "--anomalous", type=_whole(0, NODES_LIMIT), default=0, help="members that stall again and again"
    )
    detect.add_argument("--anomaly-s", type=_number(3600), default=16.0, help="how long they stall")
    detect.add_argument("--minutes", type=_number(1e4), default=5.0, help="of stalling")
    detect.set_defaults(run=_detect)

    merge = _add(commands, "merge", "how a network that was cut in two becomes one again")
    merge.add_argument("--nodes", type=_whole(2, NODES_LIMIT), default=1000)
    merge.add_argument("--split-s", type=_number(1e6), default=3600.0, help="seconds that it is cut")
    merge.add_argument(
        "--watch-periods", type=_number(1000), default=3.0, help="after it is one, until links are counted"
    )
    merge.set_defaults(run=lambda o: run_merge(o.nodes, o.split_s, o.seed, o.watch_periods))

    idle = _add(commands, "idle", "what it costs to belong to a network in which nothing happens")
    idle.add_argument("--nodes", type=_whole(2, NODES_LIMIT), default=1000)
    idle.add_argument("--minutes", type=_number(1e4, least=0.1), default=10.0)
    idle.set_defaults(run=lambda o: run_idle(o.nodes, o.minutes, o.seed))

    calibrate = _add(commands, "calibrate", "whether published numbers come out")
    calibrate.add_argument("--nodes", type=_whole(DETECT_NODES, NODES_LIMIT), default=2000)
    calibrate.set_defaults(run=lambda o: run_calibration(o.nodes, o.seed))
    return parser


def _add(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.add_argument(
        "--seed", type=_whole(-SEED_LIMIT, SEED_LIMIT), default=1, help="the same seed gives the same output"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    return parser


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"a whole number, {least} to {most}, not {text[:SHOWN]!r}")
        return int(text)

    return parse


def _number(most: float, least: float = 0.0) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{least:g} to {most:g}, not {text[:SHOWN]!r}")
        return value

    return parse
