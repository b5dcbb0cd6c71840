"""Hostile: kill -9 at seeded random moments, many times; `make hostile KILLS=100 SEED=1`."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from shoal.testing.crashes import CrashRun, CrashRunFailed
from shoal.testing.processes import CommandFailed


def main() -> int:
    """Run the kills; 0 only if nothing was lost and nothing beyond the bound was fetched again."""
    parser = argparse.ArgumentParser(prog="hostile")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shoal-hostile-", ignore_cleanup_errors=True) as directory:
        try:
            report = CrashRun(
                Path(directory), options.seed, options.kills, say=lambda text: print(text, flush=True)
            ).run()
        except (CrashRunFailed, CommandFailed, TimeoutError) as error:
            print(f"FAILED: {error}\nrun it again: make hostile KILLS={options.kills} SEED={options.seed}")
            return 1
    print(f"{report}\n{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
