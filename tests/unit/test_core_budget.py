"""Budgets: rates and maps that no peer can grow."""

import pytest

from shoal.core.budget import BoundedMap, TokenBucket


def test_bucket_allows_the_burst_then_the_rate() -> None:
    bucket = TokenBucket(rate_s=2, burst=3, now=0.0)
    assert [bucket.try_take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.try_take(0.4)
    assert bucket.try_take(0.5)


def test_bucket_refund_never_exceeds_the_burst() -> None:
    bucket = TokenBucket(rate_s=1, burst=2, now=0.0)
    bucket.refund(10)
    assert [bucket.try_take(0.0) for _ in range(3)] == [True, True, False]


def test_bucket_says_how_long_to_wait() -> None:
    bucket = TokenBucket(rate_s=4, burst=4, now=0.0)
    bucket.try_take(0.0, 4)
    assert bucket.wait_s(0.0, 2) == pytest.approx(0.5)
    assert bucket.wait_s(0.5, 2) == 0.0


def test_bucket_ignores_a_clock_that_goes_back() -> None:
    bucket = TokenBucket(rate_s=1, burst=1, now=10.0)
    assert bucket.try_take(10.0)
    assert not bucket.try_take(5.0)
    assert bucket.try_take(11.0)


def test_map_forgets_the_least_recently_used() -> None:
    items: BoundedMap[str, int] = BoundedMap(2)
    items.put("a", 1)
    items.put("b", 2)
    assert items.find("a") == 1
    assert items.put("c", 3) == ("b", 2)
    assert list(items) == ["a", "c"]
    assert items.find("b") is None


def test_map_finds_without_inventing_keys() -> None:
    items: BoundedMap[str, int] = BoundedMap(2)
    assert items.find("missing") is None
    assert len(items) == 0
    assert items.pop("missing") is None
