"""Pipeline: a picture of the stages of a transfer and what each costs, from what `large` has measured."""

from __future__ import annotations

import statistics
from typing import Any
from xml.sax.saxutils import escape

from shoal.core.units import GIB
from tools.bench.plot import INK, OURS, THEIRS

ENDS = (
    ("sender", "the provider's thread", ("read", "protect", "send")),
    ("receiver", "the getter's thread", ("receive", "open", "verify", "write", "report")),
)
WIDTH_PX, ROW_PX, HEAD_PX, NAME_PX, SCALE_PX = 700, 26, 44, 120, 900.0  # SCALE_PX: one CPU second a GiB


def draw_pipeline(title: str, result: dict[str, Any]) -> str:
    """Return an SVG: a bar for each stage, CPU seconds a GiB; below it, in grey, the same step alone."""
    series, alone = result["contenders"]["shoal"], result.get("primitives_s_gib", {})
    scale = GIB / result["bytes"]
    parts, y = [_text(10, 24, title, bold=True)], HEAD_PX
    for end, words, stages in ENDS:
        rounds = series[f"{end}_stages_s"]
        costs = {
            name: statistics.median(r.get(name, 0.0) for r in rounds) * scale for name in stages if rounds
        }
        whole = statistics.median(series[f"{end}_cpu_s"]) * scale
        costs["other"] = max(0.0, whole - sum(costs.values()))
        parts.append(_text(10, y + 16, f"{words}: {whole:.2f} CPU s/GiB with all of its process", bold=True))
        y += ROW_PX
        for name, cost in costs.items():
            parts += [_text(NAME_PX - 60, y + 14, name), _bar(y, cost, 12, OURS)]
            label = f"{cost:.2f}"
            if alone.get(name):
                bare = statistics.median(alone[name])
                parts.append(_bar(y + 12, bare, 6, THEIRS))
                label += f" (alone {bare:.2f})"
            parts.append(_text(NAME_PX + round(cost * SCALE_PX) + 8, y + 14, label))
            y += ROW_PX
        y += ROW_PX // 2
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{y}" '
        f'viewBox="0 0 {WIDTH_PX} {y}" font-family="sans-serif" font-size="13">'
    )
    return (
        "\n".join([head, f'<rect width="{WIDTH_PX}" height="{y}" fill="#ffffff"/>', *parts, "</svg>"]) + "\n"
    )


def _bar(y: int, cost: float, height: int, color: str) -> str:
    return f'<rect x="{NAME_PX}" y="{y}" width="{cost * SCALE_PX:.1f}" height="{height}" fill="{color}"/>'


def _text(x: int, y: int, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" fill="{INK}"{weight}>{escape(text)}</text>'
