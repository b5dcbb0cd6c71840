"""Plot: bars with ranges as a small SVG, made of text, so that no plotting library is needed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from shoal.core.units import GIB, MIB
from tools.bench.bars import cpu_seconds

LABEL_PX, BAR_PX, VALUE_PX = 130, 420, 150
ROW_PX, GAP_PX, HEAD_PX = 22, 6, 44
OURS, THEIRS, INK = "#0b7285", "#adb5bd", "#495057"


@dataclass(frozen=True)
class Panel:
    """One group of bars: (name, values of the rounds) from top to bottom."""

    title: str
    rows: list[tuple[str, list[float]]]
    digits: int = 0


def make_panels(result: dict[str, Any]) -> list[Panel]:
    """Return what is drawn of a race: the rate, and the CPU seconds of both ends."""
    many = result["files"] > 1
    amount = result["files"] if many else result["bytes"] / MIB
    scale = 1.0 if many else GIB / result["bytes"]
    series = result["contenders"].items()
    rates = [(name, [amount / s for s in kept["seconds"]]) for name, kept in series]
    used = [(name, [s * scale for s in cpu_seconds(kept)]) for name, kept in series]
    return [
        Panel("files a second (more is better)" if many else "MiB/s (more is better)", rates),
        Panel(("CPU seconds" if many else "CPU seconds a GiB") + ", both ends (less is better)", used, 2),
    ]


def draw(title: str, panels: list[Panel]) -> str:
    """Return an SVG: a bar is the median, the line on it the range."""
    width = LABEL_PX + BAR_PX + VALUE_PX
    parts: list[str] = []
    y = HEAD_PX
    for panel in panels:
        parts.append(_text(LABEL_PX, y + 14, panel.title, "start", bold=True))
        y += ROW_PX + GAP_PX
        largest = max((max(values) for _, values in panel.rows if values), default=0.0) or 1.0
        for name, values in panel.rows:
            if values:
                parts += _row(y, name, values, BAR_PX / largest, panel.digits)
                y += ROW_PX + GAP_PX
        y += GAP_PX
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" viewBox="0 0 {width} {y}" '
        f'font-family="sans-serif" font-size="13">'
    )
    ground = f'<rect width="{width}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, ground, _text(10, 24, title, "start", bold=True), *parts, "</svg>"]) + "\n"


def _row(y: int, name: str, values: list[float], scale: float, digits: int) -> list[str]:
    middle, low, high = (f(values) * scale for f in (statistics.median, min, max))
    color = OURS if name == "shoal" else THEIRS
    line = y + ROW_PX / 2
    label = f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
    return [
        _text(LABEL_PX - 8, y + 15, name, "end"),
        f'<rect x="{LABEL_PX}" y="{y}" width="{middle:.1f}" height="{ROW_PX}" fill="{color}"/>',
        f'<path d="M{LABEL_PX + low:.1f} {line}H{LABEL_PX + high:.1f}" stroke="{INK}" stroke-width="2"/>',
        _text(LABEL_PX + round(max(middle, high)) + 8, y + 15, label, "start"),
    ]


def _text(x: int, y: int, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{INK}"{weight}>{escape(text)}</text>'
