"""Tables: what was measured as rows of text, for the terminal and for Markdown."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from shoal.core.units import GIB, MIB
from tools.bench.bars import cpu_ratios, cpu_seconds, efficiencies, rate_ratios, verdicts

Result = dict[str, Any]
BEGIN, END = "<!-- measured: written by make bench -->", "<!-- end of measured -->"


@dataclass(frozen=True)
class Grid:
    """One table: a title, columns, rows, and lines to be said below it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    remarks: list[str]


def spread(values: list[float], digits: int = 0) -> str:
    """Write median and range; a dash where there is nothing."""
    if not values:
        return "-"
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def make_grid(result: Result) -> Grid:
    """Return the table of one workload."""
    if "contenders" in result:
        return _race_grid(result)
    return _facts_grid(result)


def title_of(result: Result) -> str:
    """Write what ran, where and how often."""
    machine = result["machine"]
    what = result["workload"]
    if "bytes" in result:
        files = f"{result['files']} files, " if result["files"] > 1 else ""
        what += f": {files}{result['bytes'] / MIB:.0f} MiB, {result['rounds']} rounds"
    where = f"{result['filesystem']}, {machine['cores']} cores, Linux {machine['kernel']}"
    return f"{what}, {where}, {result['when']}"


def _race_grid(result: Result) -> Grid:
    many = result["files"] > 1
    scale = 1.0 if many else GIB / result["bytes"]
    amount = result["files"] if many else result["bytes"] / MIB
    cpu = "CPU s" if many else "CPU s/GiB"
    columns = ["", "files/s" if many else "MiB/s", f"{cpu}, sender", "receiver", "both", "peak PSS MiB"]
    columns += ["rate: Shoal by it", "CPU: Shoal by it"]
    rows = []
    for name, series in result["contenders"].items():
        used = [[s * scale for s in series[key]] for key in ("sender_cpu_s", "receiver_cpu_s")]
        row = [name, spread([amount / s for s in series["seconds"]]), spread(used[0], 2), spread(used[1], 2)]
        row += [spread([s * scale for s in cpu_seconds(series)], 2)]
        row += [" + ".join(f"{peak / MIB:.0f}" for peak in series["peak_bytes"])]
        if name == "shoal":
            row += ["", ""]
        else:
            row += [spread(rate_ratios(result, name), 2), spread(cpu_ratios(result, name), 2)]
        rows.append(row)
    return Grid(title_of(result), columns, rows, _remarks(result) + _stages(result, scale))


def _facts_grid(result: Result) -> Grid:
    columns = ["", *dict.fromkeys(key for row in result["rows"].values() for key in row)]
    rows = [
        [name, *(f"{row[key]:.4g}" if key in row else "-" for key in columns[1:])]
        for name, row in result["rows"].items()
    ]
    remarks = _remarks(result)
    if "mib_s" in result:
        remarks.append(f"transfers meanwhile: {result['mib_s']:.0f} MiB/s, one after the other")
    return Grid(title_of(result), columns, rows, remarks)


def _remarks(result: Result) -> list[str]:
    lines = verdicts(result)
    for name in result.get("contenders", {}):
        ratios = rate_ratios(result, name)
        if name != "shoal" and ratios and statistics.median(ratios) < 1.0:
            lines.append(f"Shoal LOSES: {name} is {1 / statistics.median(ratios):.2f} times as fast")
    lines += [f"{name}: skipped, {why}" for name, why in result.get("absent", {}).items()]
    if result["note"]:
        lines.append(f"{result['note']} (load before: {result['load_before']})")
    return lines


def _stages(result: Result, scale: float) -> list[str]:
    """Say where Shoal's CPU seconds went; `other` is all that is not a bulk thread."""
    series = result["contenders"].get("shoal", {})
    lines = []
    for end in ("sender", "receiver"):
        rounds = series.get(f"{end}_stages_s", [])
        if not rounds:
            continue
        stages = {key: statistics.median(r.get(key, 0.0) for r in rounds) for key in rounds[-1]}
        stages["other"] = statistics.median(series[f"{end}_cpu_s"]) - sum(stages.values())
        parts = [f"{key} {value * scale:.2f}" for key, value in stages.items() if value * scale >= 0.005]
        lines.append(f"Shoal's {end}, CPU s by stage: {', '.join(parts)}")
    return lines + _primitives(result)


def _primitives(result: Result) -> list[str]:
    """Say what the same steps cost alone, and how much of Shoal's CPU seconds that is."""
    alone = {name: statistics.median(v) for name, v in result.get("primitives_s_gib", {}).items() if v}
    if not alone:
        return []
    parts = ", ".join(f"{name} {value:.2f}" for name, value in alone.items())
    text = f"The same steps alone in bare loops, CPU s/GiB: {parts}; together {sum(alone.values()):.2f}"
    return [f"{text}; efficiency {spread(efficiencies(result), 2)}"]


def print_grid(console: Console, grid: Grid) -> None:
    """Show a table on the terminal."""
    console.print(f"\n{grid.title}", style="bold", markup=False)
    table = Table(box=None, header_style="bold")
    for column in grid.columns:
        table.add_column(column)
    for row in grid.rows:
        table.add_row(*row)
    console.print(table)
    for remark in grid.remarks:
        console.print(f"  {remark}", markup=False)


def to_markdown(grid: Grid, picture: str | None = None) -> str:
    """Return a table as Markdown, with its picture."""
    lines = [f"### {grid.title}", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in [grid.columns, ["---"] * len(grid.columns)]]
    lines += ["| " + " | ".join(row) + " |" for row in grid.rows]
    lines += ["", *(f"- {remark}" for remark in grid.remarks)]
    if picture is not None:
        lines += ["", f"![{grid.title}]({picture})"]
    return "\n".join(lines) + "\n"


def put_measured(page: str, text: str) -> str:
    """Return a page with everything between the two marks replaced. Raises: ValueError without the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page lacks the marks that measured tables go between")
    return f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}"
