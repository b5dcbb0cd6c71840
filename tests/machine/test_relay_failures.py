"""Relays that fail who calls over them: tried last for a while, never left out, only for what is theirs."""

from __future__ import annotations

import pytest
from tests.machine.test_overlay_mesh import ANN, ANN_ID, BOB_ID, EVE, EVE_ID, NETWORK, Playbook
from tests.support.identity import make_keys

from shoal.identity.record import sign_record
from shoal.overlay.dial_plan import WAY_WAIT_S
from shoal.overlay.messages import Records
from shoal.overlay.relay_failures import PAUSE_FIRST_S, PAUSE_LAST_S, PROVEN_S, REMEMBERED, RelayFailures
from shoal.overlay.steps import (
    Connect,
    DialEnded,
    Effect,
    Members,
    Received,
    SessionDown,
    SessionUp,
    Sparse,
    Timer,
    Wanted,
)
from shoal.transport.address import Address

HIDDEN = make_keys(9)
HIDDEN_ID = HIDDEN.peer_id
OVER_ANN, OVER_EVE = str(Address.via(ANN_ID)), str(Address.via(EVE_ID))
INNER = "10.9.0.2:4711"


def make_views() -> Playbook:
    """Ann and Eve relay to a member that nobody can dial; we have a session with Bob, who told us."""
    records = [
        sign_record(ANN, NETWORK, 1, ["192.0.2.2:4711"], "ann", 0, True),
        sign_record(EVE, NETWORK, 1, ["192.0.2.3:4711"], "eve", 0, True),
        sign_record(HIDDEN, NETWORK, 1, [INNER], "hidden", 0, False, (ANN_ID, EVE_ID)),
    ]
    book = Playbook(ANN_ID, BOB_ID, EVE_ID, HIDDEN_ID)
    book.do(Sparse(True))
    book.connect(BOB_ID)
    book.do(Received(BOB_ID, Records([record.packed for record in records])))
    return book


def dials(effects: list[Effect]) -> list[str]:
    return [effect.address for effect in effects if isinstance(effect, Connect)]


def test_after_a_relay_failed_the_other_one_is_tried_next_and_first_the_next_time() -> None:
    book = make_views()
    book.connect(ANN_ID, EVE_ID)
    book.do(Wanted(HIDDEN_ID))
    assert dials(book.do(Timer(("dial", HIDDEN_ID)))) == [OVER_ANN]
    assert dials(book.do(DialEnded(HIDDEN_ID, OVER_ANN, "it had 5 s", code="timeout"))) == [OVER_EVE]
    book.do(SessionUp(HIDDEN_ID, relay=EVE_ID))
    book.do(SessionDown(HIDDEN_ID, "idle"))
    assert book.machine.addresses(HIDDEN_ID) == [OVER_EVE, OVER_ANN, INNER]
    book.do(Wanted(HIDDEN_ID))
    assert dials(book.do(Timer(("dial", HIDDEN_ID)))) == [OVER_EVE]
    book.do(Wanted(HIDDEN_ID), PAUSE_FIRST_S)
    assert book.machine.addresses(HIDDEN_ID) == [OVER_ANN, OVER_EVE, INNER]


@pytest.mark.parametrize("code", ["relay_no_session", "no_relay", "closed"])
def test_what_is_no_fault_of_the_relay_is_not_held_against_it(code: str) -> None:
    book = make_views()
    book.connect(ANN_ID, EVE_ID)
    book.do(Wanted(HIDDEN_ID))
    book.do(Timer(("dial", HIDDEN_ID)))
    book.do(DialEnded(HIDDEN_ID, OVER_ANN, "no", code=code))
    assert book.machine.addresses(HIDDEN_ID)[0] == OVER_ANN


@pytest.mark.parametrize("reason", ["dead", "reset", "fault"])
def test_a_session_that_stalls_or_is_cut_on_a_relay_counts_too(reason: str) -> None:
    book = make_views()
    book.connect(ANN_ID, EVE_ID)
    book.do(SessionUp(HIDDEN_ID, relay=ANN_ID))
    book.do(SessionDown(HIDDEN_ID, reason), PROVEN_S + 1.0)
    assert book.machine.addresses(HIDDEN_ID) == [OVER_EVE, OVER_ANN, INNER]


def test_a_relayed_session_that_falls_silent_in_a_mesh_comes_back_over_the_other_relay_at_once() -> None:
    book = make_views()
    book.connect(ANN_ID, EVE_ID)
    book.do(Sparse(False))
    book.do(SessionUp(HIDDEN_ID, relay=ANN_ID))
    book.do(SessionDown(HIDDEN_ID, "dead"), 60.0)
    assert book.timer_at("dial", HIDDEN_ID) is not None
    assert dials(book.do(Timer(("dial", HIDDEN_ID))))[0] == OVER_EVE


def test_who_names_many_relays_that_failed_has_the_others_dialled() -> None:
    book = make_views()
    more = make_keys(10)
    book.do(Members(frozenset({ANN_ID, BOB_ID, EVE_ID, HIDDEN_ID, more.peer_id})))
    third = sign_record(more, NETWORK, 1, ["192.0.2.9:4711"], "more", 0, True)
    named = (ANN_ID, EVE_ID, more.peer_id)
    again = sign_record(HIDDEN, NETWORK, 2, [INNER], "hidden", 0, False, named)
    book.do(Received(BOB_ID, Records([third.packed, again.packed])))
    book.do(DialEnded(HIDDEN_ID, OVER_ANN, "silent", code="timeout"))
    book.do(Wanted(HIDDEN_ID))
    assert book.timer_at("dial", EVE_ID) is not None
    assert book.timer_at("dial", more.peer_id) is not None
    assert book.timer_at("dial", ANN_ID) is None


def test_an_address_at_which_nobody_can_be_waits_for_a_relay_that_is_dialled_but_not_for_ever() -> None:
    book = make_views()
    book.do(Wanted(HIDDEN_ID))
    assert book.timer_at("dial", HIDDEN_ID) == WAY_WAIT_S
    book.connect(ANN_ID)
    assert book.timer_at("dial", HIDDEN_ID) == 0.0
    assert dials(book.do(Timer(("dial", HIDDEN_ID)))) == [OVER_ANN]
    late = make_views()
    late.do(Wanted(HIDDEN_ID))
    assert dials(late.do(Timer(("dial", HIDDEN_ID)), WAY_WAIT_S)) == [INNER]


def test_pauses_double_up_to_a_limit_and_are_forgiven() -> None:
    failures, now, pauses = RelayFailures(), 0.0, []
    for _ in range(8):
        failures.note(now, ANN_ID)
        failures.note(now + 1.0, ANN_ID)  # of the same pause: many callers fail at once
        began = now
        while failures.is_paused(now, ANN_ID):
            now += 1.0
        pauses.append(now - began)
    assert pauses[:3] == [PAUSE_FIRST_S, 2 * PAUSE_FIRST_S, 4 * PAUSE_FIRST_S]
    assert pauses[-1] == PAUSE_LAST_S
    failures.on_ended(now, ANN_ID, now - 1.0, broke=False)  # too short to prove anything
    failures.note(now, ANN_ID)
    assert failures.is_paused(now + PAUSE_LAST_S - 1.0, ANN_ID)
    failures.on_ended(now, ANN_ID, now - PROVEN_S, broke=False)
    assert not failures.is_paused(now, ANN_ID)


def test_no_more_relays_are_remembered_than_the_limit_and_none_is_left_out() -> None:
    failures = RelayFailures()
    many = [number.to_bytes(32, "big") for number in range(2 * REMEMBERED)]
    for relay in many:
        failures.note(0.0, relay)
    assert sum(failures.is_paused(1.0, relay) for relay in many) == REMEMBERED
    assert sorted(failures.order(1.0, many)) == many
    assert failures.order(1.0, many)[:REMEMBERED] == many[:REMEMBERED]
