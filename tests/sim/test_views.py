"""Views: every network that grows is one, however its nodes come to join."""

from __future__ import annotations

import pytest

from shoal.sim.overlay_commands import run_views


# joins here left two nodes to each other, and up to nineteen that came by them stayed apart with them
@pytest.mark.parametrize("seed", [47, 133, 167, 202])
def test_nobody_stays_apart_while_a_network_grows(seed: int) -> None:
    found = run_views(200, 3.0, seed)
    assert found["reached"] == 1.0
    assert found["symmetric"] == 1.0


@pytest.mark.parametrize("nodes", [2, 3, 10])
def test_a_small_network_is_whole_as_soon_as_its_last_node_has_joined(nodes: int) -> None:
    found = run_views(nodes, 0.0, 1)
    assert found["reached"] == found["symmetric"] == 1.0
