"""Sim plot: curves become an SVG that a parser takes, with every name escaped."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from tools.sim import Bar
from tools.sim_plot import draw_curves


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_plot_is_well_formed_and_has_a_line_a_curve(tmp_path: Path, logarithmic: bool) -> None:
    path = tmp_path / "plot.svg"
    curves = {"a < b": [1.0, 10.0, 100.0], "c": [5.0, 5.0, 5.0]}
    draw_curves(path, "title & more", "x", "y", [1.0, 2.0, 3.0], curves, logarithmic=logarithmic)
    root = ElementTree.fromstring(path.read_text())
    lines = [one for one in root.iter() if one.tag.endswith("polyline")]
    assert len(lines) == 2
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        assert all(0 <= x <= 640 and 0 <= y <= 360 for x, y in points)


def test_a_bar_holds_within_its_ends() -> None:
    assert Bar("x", 1.0, 1.0, 2.0).ok
    assert not Bar("x", 2.1, None, 2.0).ok
    assert not Bar("x", None, None, 2.0).ok
    assert Bar("x", 3.0, 1.0, None).show().startswith("ok")
