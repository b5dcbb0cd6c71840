"""Sim plot: curves as SVG, without a library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 70, 40, 20, 50
COLOURS = ("#1f6fb4", "#c4541a", "#3a8a3a")
STEPS = 5


def draw_curves(
    path: Path,
    title: str,
    across: str,
    up: str,
    places: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    logarithmic: bool = False,
) -> None:
    """Write one plot; values of a logarithmic one are at least 1."""
    values = [math.log10(value) if logarithmic else value for curve in curves.values() for value in curve]
    high = max(math.ceil(max(values)), 1) if logarithmic else max(*values, 1e-9)
    low = 0.0 if logarithmic or min(values) < 0.8 * high else 0.98 * min(values)

    def find_x(place: float) -> float:
        span = max(places) - min(places) or 1.0
        return LEFT + (place - min(places)) / span * (WIDTH - LEFT - RIGHT)

    def find_y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low or 1.0) * (HEIGHT - TOP - BOTTOM)

    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    )
    parts = [
        head,
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(across)}</text>',
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(up)}</text>',
    ]
    count = int(high) if logarithmic else STEPS
    for step in range(count + 1):
        value = low + (high - low) * step / count
        label = f"{10**value:g}" if logarithmic else f"{value:.4g}"
        y = find_y(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for place in places:
        parts.append(
            f'<text x="{find_x(place):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{place:g}</text>'
        )
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{find_x(place):.1f},{find_y(math.log10(value) if logarithmic else value):.1f}"
            for place, value in zip(places, curve, strict=True)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT}" y="{20 + 14 * number}" text-anchor="end" fill="{colour}">'
            f"{escape(name)}</text>"
        )
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")
