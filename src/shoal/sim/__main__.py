"""Main: `python -m shoal.sim COMMAND`, the simulator's command line. See docs/sim.md."""

from __future__ import annotations

import gc
import sys

from shoal.sim.cli import main

# objects between two looks for garbage, and of how many the older ones are looked at too: nearly all that a
# simulation makes lives on, and looking at it again and again takes a fifth of the time
GARBAGE = (200_000, 20, 20)

if __name__ == "__main__":
    gc.set_threshold(*GARBAGE)
    sys.exit(main(sys.argv[1:]))
