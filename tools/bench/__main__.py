"""Bench: chooses workloads and rivals, runs them, prints the tables and writes them into docs/benchmarks/.

make bench ROUNDS=5
make bench ARGS="--only large --rivals libtorrent,rsync"
make bench ARGS="--dir DIRECTORY-ON-EXT4 --only large,small"
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console

from shoal.core.errors import ShoalError
from shoal.core.units import MIB
from shoal.testing.processes import CommandFailed
from tools.bench.contenders import RIVALS
from tools.bench.contenders.contender import ROOT
from tools.bench.measuring import filesystem_of, free_bytes, warm_up_memory
from tools.bench.packages import install_debian, make_environment
from tools.bench.pipeline import draw_pipeline
from tools.bench.plot import draw, make_panels
from tools.bench.results import Result, begin_result, read_results, write_result
from tools.bench.settings import Settings
from tools.bench.tables import make_grid, print_grid, put_measured, title_of, to_markdown
from tools.bench.workloads import WORKLOADS

OUT = ROOT / "docs" / "benchmarks"
FULL_SIZE = {"size_mib": 1024, "files": 5000, "moving_mib": 4096, "many_files": 100_000, "seconds": 60.0}
WARM_UP_MIB = 10 * 1024  # what the largest workload has on a tmpfs at once, and a little more


def parse_options(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line. Small sizes are for trials: give them an --out of their own."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after one that is not")
    parser.add_argument("--only", type=_names(WORKLOADS), default=tuple(WORKLOADS), metavar="A,B")
    parser.add_argument("--rivals", type=_names(RIVALS), default=RIVALS, metavar="A,B", help='"" for none')
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="where everything goes; tmpfs")
    parser.add_argument("--out", type=Path, default=OUT, help="where JSON files and pictures go")
    parser.add_argument("--note", default="", help="what a reader should know about this run")
    parser.add_argument("--install", action="store_true", help="install Debian's rivals (root)")
    parser.add_argument("--file-bytes", type=int, default=10 * 1024)
    for name, value in FULL_SIZE.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser.parse_args(words)


def _names(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    names = tuple(known)

    def parse(text: str) -> tuple[str, ...]:
        found = tuple(word.strip() for word in text.split(",") if word.strip())
        for word in found:
            if word not in names:
                raise argparse.ArgumentTypeError(f"{word} is none of {', '.join(names)}")
        return found

    return parse


def is_trial(options: argparse.Namespace) -> bool:
    """Say whether a run is smaller than what the pages report."""
    return any(getattr(options, name) != value for name, value in FULL_SIZE.items())


def warm_up(options: argparse.Namespace, console: Console) -> None:
    """Touch the memory of a tmpfs once, and say so."""
    if filesystem_of(options.dir) != "tmpfs":
        return
    size = min(WARM_UP_MIB * MIB, int(free_bytes(options.dir) * 0.7))
    took_s = warm_up_memory(options.dir, size)
    console.print(f"touched {size // MIB} MiB of the tmpfs in {took_s:.1f} s: memory is slow the first time")


def run_workload(name: str, options: argparse.Namespace, console: Console) -> Result:
    """Run one workload in a directory of its own and return its result."""
    result = begin_result(name, filesystem_of(options.dir), options.rounds, options.note)
    with tempfile.TemporaryDirectory(
        prefix="shoal-bench-", dir=options.dir, ignore_cleanup_errors=True
    ) as place:
        settings = Settings(
            place=Path(place),
            rounds=options.rounds,
            rivals=options.rivals,
            size_mib=options.size_mib,
            files=options.files,
            file_bytes=options.file_bytes,
            seconds=options.seconds,
            moving_mib=options.moving_mib,
            many_files=options.many_files,
            say=lambda text: console.print(f"[dim]{name}: {text}[/]"),
        )
        return result | WORKLOADS[name](settings)


def write_page(folder: Path) -> None:
    """Put all results of a folder into its README, each race with a picture."""
    parts = []
    for result in read_results(folder):
        picture = None
        if "contenders" in result:
            picture = f"{result['workload']}.{result['filesystem']}.svg"
            (folder / picture).write_text(draw(title_of(result), make_panels(result)))
            if "primitives_s_gib" in result and "shoal" in result["contenders"]:
                stages = draw_pipeline(title_of(result), result)
                (folder / f"pipeline.{result['filesystem']}.svg").write_text(stages)
        parts.append(to_markdown(make_grid(result), picture))
    page = folder / "README.md"
    if page.exists():
        page.write_text(put_measured(page.read_text(), "\n".join(parts)))


def main() -> int:
    """Run what was chosen, print the tables, write the results."""
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every process of ours is ended
    console = Console(highlight=False, width=None if os.isatty(1) else 150)
    if is_trial(options) and options.out == OUT:
        console.print("a trial of another size: nothing is written (give --out to keep it)")
    if options.rivals:
        make_environment(console.print)
    if options.install:
        install_debian(console.print)
    warm_up(options, console)
    failed = False
    for name in options.only:
        try:
            result = run_workload(name, options, console)
        except (OSError, RuntimeError, ShoalError, CommandFailed) as error:
            console.print(f"{name} FAILED: {type(error).__name__}: {error}", markup=False)
            failed = True
            continue
        print_grid(console, make_grid(result))
        if not is_trial(options) or options.out != OUT:
            write_result(options.out, result)
            write_page(options.out)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
