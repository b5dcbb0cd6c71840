"""Hostile: kill -9 at seeded moments, many times; `make hostile KILLS=300 SEED=1`.

A failed round says which words run it again. ONLY=follow makes every round one of that operation.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from shoal.testing.kill_plan import OPERATIONS
from shoal.testing.kill_series import KillSeries
from shoal.testing.kill_world import SeriesFailed


def main() -> int:
    """Run the kills; 0 only if nothing was lost and nothing beyond the bound was fetched again."""
    parser = argparse.ArgumentParser(prog="hostile")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=OPERATIONS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-hostile-", ignore_cleanup_errors=True) as directory:
        series = KillSeries(
            Path(directory),
            options.seed,
            options.kills,
            options.only,
            say=lambda text: print(text, flush=True),
        )
        try:
            print(series.run())
        except SeriesFailed as error:
            print(f"FAILED: {error}")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
