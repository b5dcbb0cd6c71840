"""What the simulator prints for people."""

from __future__ import annotations

import pytest

from shoal.sim.show import show


def test_every_kind_of_value_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(
        {
            "ok": False,
            "bounds": [
                {"name": "late_s", "value": 25.39171, "bound": [None, 22.0], "ok": False},
                {"name": "full", "value": None, "bound": [0.9, None], "ok": False},
                {"name": "parts", "value": 1, "bound": [1, 1], "ok": True},
                {"name": "mean path", "value": 6.4, "bound": [6.3, 6.5], "ok": True},
            ],
            "heal_cycles": None,
            "later": [{"periods": 3, "known_across": 0.43888888888}, {"periods": 10, "known_across": 0.5}],
            "payload": {"by_message": list(range(20))},
        }
    )
    assert capsys.readouterr().out.splitlines() == [
        "ok                         no",
        "FAIL late_s                                25.3917   at most 22",
        "FAIL full                                     none   at least 0.9",
        "ok   parts                                       1   1",
        "ok   mean path                                 6.4   6.3 to 6.5",
        "heal_cycles                none",
        "later                      periods 3  known_across 0.438889",
        "later                      periods 10  known_across 0.5",
        "payload",
        "  by_message                 0 1 2 3 4 5 6 7 8 9 10 11 ... (20)",
    ]
