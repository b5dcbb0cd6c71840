"""Calibration: published numbers come out with 2,000 nodes; docs/overlay has them with 10,000."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.sim.calibration import run_calibration

NODES = 2000


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return run_calibration(NODES, seed=1)


def test_every_row_is_within_its_tolerance(found: dict[str, Any]) -> None:
    assert [row for row in found["bounds"] if not row["ok"]] == []
    assert found["ok"]


def test_every_published_quantity_has_a_row(found: dict[str, Any]) -> None:
    names = [row["name"] for row in found["bounds"]]
    assert len(names) == len(set(names)) == 16
    for word in ("mean path", "clustering", "symmetric", "payload", "control", "SWIM", "push", "averaging"):
        assert any(word in name for name in names), word
