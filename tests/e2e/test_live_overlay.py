"""Live overlay: real processes with views lose a quarter at random, again and again, and stay one network.

`make sim` runs 24 of them for five minutes.
"""

from __future__ import annotations

import random
from contextlib import ExitStack

from tools.live_overlay import churn, start, wait_one

NODES = 6
MESH_MEMBERS = 3  # so that six use the views
CHURN_S = 5.0


def test_six_processes_of_which_one_after_the_other_is_killed_stay_one_network() -> None:
    with ExitStack() as stack:
        devices = start(stack, NODES, MESH_MEMBERS, None)
        assert wait_one(devices)[0] == 1
        assert devices[0].run("status")["overlay"]["mode"] == "views"
        assert churn(devices, random.Random(1), CHURN_S) > 0
        assert wait_one(devices)[0] == 1
