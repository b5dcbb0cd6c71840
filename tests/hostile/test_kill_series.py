"""Kill -9 at seeded moments of everything that a node does with files, on three real daemons.

`make hostile` runs hundreds of the same rounds; see shoal.testing.kill_plan.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shoal.testing.kill_plan import OPERATIONS, make_plan
from shoal.testing.kill_series import KillSeries

KILLS = 20
AT_ONCE = 2  # series, each on three daemons of its own: most of a round is waiting


@pytest.mark.timeout(300)
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    part = KILLS // AT_ONCE
    series = [KillSeries(tmp_path / f"{n}", 1 + n * part, part, say=print) for n in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        reports = list(pool.map(KillSeries.run, series))
    for report in reports:
        print(report)
        assert set(report.rounds) == set(OPERATIONS)
    assert sum(sum(report.rounds.values()) for report in reports) == KILLS
    assert sum(report.all_at_once for report in reports) == 2


def test_three_hundred_plans_hold_thirty_of_each_and_fifty_of_all_three() -> None:
    plans = [make_plan(seed) for seed in range(1, 301)]
    assert {name: [p.operation for p in plans].count(name) for name in OPERATIONS} == dict.fromkeys(
        OPERATIONS, 30
    )
    assert sum(len(plan.victims) == 3 for plan in plans) == 50
    assert plans == [make_plan(seed) for seed in range(1, 301)]
