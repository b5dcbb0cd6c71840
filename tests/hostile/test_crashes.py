"""Kill -9 at seeded random moments of share and get, on three real daemons."""

from pathlib import Path

import pytest

from shoal.testing.crashes import REFETCHED_A_KILL_BYTES, CrashRun


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("seed", "kills"), [(1, 5), (2, 5)])
def test_ten_kills_lose_nothing(tmp_path: Path, seed: int, kills: int) -> None:
    report = CrashRun(tmp_path, seed, kills, say=print).run()
    print(report)
    assert report.kills == kills
    assert report.refetched_bytes <= kills * REFETCHED_A_KILL_BYTES
