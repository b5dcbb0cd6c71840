"""Main: `python -m shoal.sim COMMAND`, the simulator's command line. See docs/sim.md."""

from __future__ import annotations

import sys

from shoal.sim.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
