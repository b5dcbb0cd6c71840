"""Patience: how long a get waits for providers."""

from __future__ import annotations

import pytest

from shoal.apps.files.patience import FIND_MIN_S, FIND_S, STUCK_S, Patience


@pytest.mark.parametrize(
    ("wait_s", "searching", "over_s"),
    [
        (0.0, False, FIND_MIN_S),  # nothing was said: as long as a search takes
        (0.0, True, FIND_S),
        (3.0, False, 3.0),  # what was said counts, also where it is less than that
        (3.0, True, 3.0),
        (60.0, True, 60.0),
    ],
)
def test_the_wait_that_was_asked_for(wait_s: float, searching: bool, over_s: float) -> None:
    patience = Patience(100.0)
    assert not patience.is_over(100.0 + over_s - 0.1, wait_s, 100.0, searching)
    assert patience.is_over(100.0 + over_s, wait_s, 100.0, searching)


def test_without_an_end_it_is_never_over() -> None:
    assert not Patience(0.0).is_over(1e9, None, 0.0, searching=False)


def test_what_was_under_way_is_given_time_to_come_back() -> None:
    patience = Patience(0.0)
    patience.restart(10.0)
    assert not patience.is_over(10.0 + STUCK_S - 0.1, 3.0, 0.0, searching=False)
    assert patience.is_over(10.0 + STUCK_S, 3.0, 0.0, searching=False)
