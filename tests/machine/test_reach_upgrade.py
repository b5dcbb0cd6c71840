"""Upgrade plan: when a relayed session is tried to be made direct. Playbooks."""

from __future__ import annotations

from random import Random

import pytest

from shoal.core.errors import LocalMisuse
from shoal.transport.reach.upgrade_plan import (
    FIRST_S,
    GIVE_WAY_S,
    PAUSE_FIRST_S,
    PAUSE_LAST_S,
    TRIES,
    Cancel,
    Ended,
    NetworkChanged,
    NotRelayed,
    Relayed,
    SetTimer,
    Timer,
    Try,
    UpgradePlan,
    compute_wait_s,
)

OWN, LOWER, HIGHER = b"M" * 32, b"A" * 32, b"Z" * 32


def make() -> UpgradePlan:
    return UpgradePlan(OWN, Random(1))


def timer_at(effects: list[object], peer: bytes) -> float:
    assert len(effects) == 1
    assert isinstance(effects[0], SetTimer)
    assert effects[0].peer == peer
    return effects[0].at


def test_the_lower_id_punches_first_and_the_higher_one_only_dials_later() -> None:
    plan = make()
    assert 0 < timer_at([*plan.step(0, Relayed(HIGHER))], HIGHER) <= FIRST_S
    assert plan.step(1, Timer(HIGHER)) == [Try(HIGHER, punch=True)]
    assert timer_at([*plan.step(1, Relayed(LOWER))], LOWER) >= 1 + GIVE_WAY_S * 0.75
    assert plan.step(20, Timer(LOWER)) == [Try(LOWER, punch=False)]


def test_pauses_double_to_a_bound() -> None:
    plan = make()
    plan.step(0, Relayed(HIGHER))
    now, pauses = 1.0, []
    for _ in range(12):
        assert plan.step(now, Timer(HIGHER)) == [Try(HIGHER, True)]
        at = timer_at([*plan.step(now, Ended(HIGHER))], HIGHER)
        pauses.append(at - now)
        now = at
    assert 0.75 * PAUSE_FIRST_S <= pauses[0] <= PAUSE_FIRST_S
    assert 0.75 * 2 * PAUSE_FIRST_S <= pauses[1] <= 2 * PAUSE_FIRST_S
    assert max(pauses) <= PAUSE_LAST_S
    assert pauses[-1] >= 0.75 * PAUSE_LAST_S
    assert plan.tries_of(HIGHER) == 12


def test_a_direct_session_ends_the_plan_even_while_it_is_tried() -> None:
    plan = make()
    plan.step(0, Relayed(HIGHER))
    plan.step(1, Timer(HIGHER))
    assert plan.step(2, NotRelayed(HIGHER)) == [Cancel(HIGHER)]
    assert plan.step(3, Ended(HIGHER)) == []
    assert plan.step(4, Timer(HIGHER)) == []
    assert plan.step(5, NotRelayed(HIGHER)) == []


def test_only_some_are_tried_at_once() -> None:
    plan = make()
    peers = [bytes([200, n]) * 16 for n in range(TRIES + 1)]
    for peer in peers:
        plan.step(0, Relayed(peer))
    for peer in peers[:TRIES]:
        assert plan.step(1, Timer(peer)) == [Try(peer, True)]
    assert timer_at([*plan.step(1, Timer(peers[TRIES]))], peers[TRIES]) > 1
    plan.step(2, Ended(peers[0]))
    assert plan.step(3, Timer(peers[TRIES])) == [Try(peers[TRIES], True)]


def test_a_changed_network_begins_anew() -> None:
    plan = make()
    plan.step(0, Relayed(HIGHER))
    for at in (1, 100, 200):
        plan.step(at, Timer(HIGHER))
        plan.step(at, Ended(HIGHER))
    assert timer_at([*plan.step(300, NetworkChanged())], HIGHER) <= 300 + FIRST_S
    plan.step(301, Timer(HIGHER))
    assert plan.step(302, NetworkChanged()) == []  # it is being tried
    assert timer_at([*plan.step(303, Ended(HIGHER))], HIGHER) <= 303 + PAUSE_FIRST_S


def test_relayed_twice_is_one_plan_and_oneself_is_nobody() -> None:
    plan = make()
    plan.step(0, Relayed(HIGHER))
    assert plan.step(1, Relayed(HIGHER)) == []
    with pytest.raises(LocalMisuse):
        plan.step(1, Relayed(OWN))


def test_both_ends_begin_at_one_moment() -> None:
    assert compute_wait_s(150, 80.0) == pytest.approx(0.110)
    assert compute_wait_s(150, 900.0) == 0.0
    assert compute_wait_s(150, None) == 0.150
