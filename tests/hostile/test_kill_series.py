"""Kill -9 at seeded moments of everything that a node does with files, on three real daemons.

`make hostile` runs hundreds of the same rounds; see shoal.testing.kill_plan.
"""

from pathlib import Path

import pytest

from shoal.testing.kill_plan import OPERATIONS, make_plan
from shoal.testing.kill_series import KillSeries

KILLS = 20


@pytest.mark.timeout(300)
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    report = KillSeries(tmp_path, 1, KILLS, say=print).run()
    print(report)
    assert set(report.rounds) == set(OPERATIONS)
    assert sum(report.rounds.values()) == KILLS


def test_three_hundred_plans_hold_thirty_of_each_and_fifty_of_all_three() -> None:
    plans = [make_plan(seed) for seed in range(1, 301)]
    assert {name: [p.operation for p in plans].count(name) for name in OPERATIONS} == dict.fromkeys(
        OPERATIONS, 30
    )
    assert sum(len(plan.victims) == 3 for plan in plans) == 50
    assert plans == [make_plan(seed) for seed in range(1, 301)]
