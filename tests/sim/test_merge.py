"""Merge: two halves that were cut off from each other grow together again, by more than one link."""

from __future__ import annotations

from shoal.sim.merge_command import run_merge


def test_halves_that_heard_nothing_of_each_other_for_long_are_one_by_many_links() -> None:
    found = run_merge(300, 2400.0, seed=1)
    assert found["parts_before"] == 2
    assert found["probe_periods_to_one"] <= 3
    assert found["links_replaced"] <= 0.05
    assert found["links_across"] >= 6, "one link that ends would cut the halves off again"
    assert [look["periods"] for look in found["later"]] == [3]
