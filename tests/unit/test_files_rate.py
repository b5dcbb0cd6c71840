"""Rate: what is said of how fast a transfer is."""

from __future__ import annotations

import pytest

from shoal.apps.files.transfer_state import Rate


def test_a_rate_begins_at_what_is_measured_and_is_smoothed() -> None:
    rate = Rate()
    for second in range(1, 4):
        rate.measure(float(second), second * 1000)
        assert rate.bytes_s == (1000.0 if second > 1 else 0.0)
    rate.measure(3.1, 3500)  # too soon
    assert rate.bytes_s == 1000.0
    rate.measure(4.0, 3000)
    assert 0.0 < rate.bytes_s < 1000.0


def test_of_what_rests_no_rate_is_left_and_the_next_one_is_new() -> None:
    rate = Rate()
    for second in range(1, 4):
        rate.measure(float(second), second * 1_000_000)
    rate.rest()
    assert rate.bytes_s == 0.0
    rate.measure(50.0, 3_000_000)
    assert rate.bytes_s == 0.0
    rate.measure(51.0, 3_000_100)
    assert rate.bytes_s == pytest.approx(100.0)
