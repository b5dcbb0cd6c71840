"""Punch guard: a host that is named by whomever gets a few punches, and then one now and then."""

from __future__ import annotations

import pytest

from shoal.core.errors import Unavailable
from shoal.transport.address import Address
from shoal.transport.reach.punch_guard import FAILURES_BURST, FAILURES_S, HOSTS, PunchGuard

VICTIM = Address("203.0.113.99", 443)
OTHER = Address("198.51.100.7", 7411)


def spend(guard: PunchGuard, now: float, *candidates: Address) -> int:
    """Punch until nothing is admitted; return how often it was."""
    count = 0
    while True:
        try:
            guard.admit(now, candidates)
        except Unavailable:
            return count
        count += 1


def test_a_host_is_punched_a_few_times_whatever_its_port_and_then_now_and_then() -> None:
    guard = PunchGuard()
    assert spend(guard, 0.0, VICTIM, Address(VICTIM.host, 80)) == FAILURES_BURST
    with pytest.raises(Unavailable) as caught:
        guard.admit(1.0, [Address(VICTIM.host, 22)])
    assert (caught.value.code, caught.value.retry_after_s) == ("not_punched", 30.0)
    assert sum(spend(guard, second, VICTIM) for second in map(float, range(2, 602))) == 600 * FAILURES_S


def test_a_scan_of_ports_and_of_one_network_is_bounded_as_one_host() -> None:
    guard = PunchGuard()
    ports = [Address(VICTIM.host, port) for port in range(1, 100)]
    assert sum(spend(guard, 0.0, address) for address in ports) == FAILURES_BURST
    hosts = [Address(f"2001:db8::{n:x}", 1) for n in range(1, 100)]
    assert sum(spend(guard, 0.0, address) for address in hosts) == FAILURES_BURST


def test_the_other_candidates_of_a_peer_are_punched_all_the_same() -> None:
    guard = PunchGuard()
    spend(guard, 0.0, VICTIM)
    assert guard.admit(0.0, [VICTIM, OTHER]) == [OTHER]


def test_whom_it_works_with_may_punch_on() -> None:
    guard = PunchGuard()
    for _ in range(100):
        assert guard.admit(0.0, [OTHER]) == [OTHER]
        guard.on_success(Address(OTHER.host, 50_000))
    guard.on_success(VICTIM)  # nothing was charged: nothing comes back
    assert spend(guard, 0.0, VICTIM) == FAILURES_BURST


def test_no_more_hosts_are_kept_than_the_limit() -> None:
    guard = PunchGuard()
    for number in range(2 * HOSTS):
        guard.admit(0.0, [Address(f"10.{number >> 8}.{number & 255}.1", 1)])
    assert len(guard._buckets) == HOSTS
