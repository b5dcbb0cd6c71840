"""Standing: what follows from what peers saw and dialled."""

from __future__ import annotations

import pytest

from shoal.transport.address import Address
from shoal.transport.reach.standing import FRESH_S, WITNESSES, StandingBook

OUTER = Address("198.51.100.7", 40_001)
OWN = ["10.0.0.2"]


def book(*results: str, observed: Address = OUTER) -> StandingBook:
    made = StandingBook()
    for n, result in enumerate(results):
        made.on_answers(0.0, bytes([n]) * 32, observed, {f"{observed.host}:7411": result})
    return made


def test_nobody_asked_is_unknown_and_one_who_gets_through_is_enough() -> None:
    assert StandingBook().judge(0, OWN).state == "unknown"
    found = book("silent", "ok", "refused").judge(0, OWN)
    assert (found.state, found.witnesses, found.reached_by) == ("public", 3, 1)
    assert found.addresses == ("198.51.100.7:7411",)
    assert found.observed == ("198.51.100.7",)


@pytest.mark.parametrize(
    ("ports", "state"), [((5, 5), "nat"), ((5, 6), "symmetric"), ((5,), "nat"), ((), "nat")]
)
def test_two_views_of_one_port_tell_the_kinds_of_nat_apart(ports: tuple[int, ...], state: str) -> None:
    made = book("silent", "silent", "other")
    made.on_mapping(Address("198.51.100.7", port) for port in ports)
    assert made.judge(0, OWN).state == state


def test_a_firewall_is_no_nat() -> None:
    assert book("silent").judge(0, ["198.51.100.7"]).state == "blocked"


def test_who_is_on_our_side_of_the_nat_knows_nothing_of_it() -> None:
    made = book("ok", observed=Address("192.168.1.5", 7))
    assert made.judge(0, OWN).state == "local"
    made.on_answers(0.0, b"x" * 32, OUTER, {"198.51.100.7:7411": "silent"})
    found = made.judge(0, OWN)
    assert (found.state, found.witnesses, found.reached_by) == ("nat", 1, 0)


def test_words_grow_old_are_bounded_and_forgotten() -> None:
    made = book(*["ok"] * (WITNESSES + 5))
    assert made.judge(FRESH_S, OWN).witnesses == WITNESSES
    assert made.judge(FRESH_S + 1, OWN).state == "unknown"
    made.forget()
    assert made.judge(0, OWN).state == "unknown"


def test_an_address_that_one_peer_of_several_makes_up_is_not_taken_for_ours() -> None:
    made = book("silent", "silent")
    victim = Address("203.0.113.99", 7411)
    made.on_answers(0.0, b"x" * 32, victim, {"203.0.113.99:7411": "ok"})
    found = made.judge(0, OWN)
    assert (found.state, found.addresses, found.observed) == ("nat", (), ("198.51.100.7",))
    made.on_answers(0.0, b"y" * 32, OUTER, {"198.51.100.7:7411": "ok"})
    found = made.judge(0, OWN)
    assert (found.state, found.addresses) == ("public", ("198.51.100.7:7411",))


def test_peers_that_say_we_cannot_be_dialled_are_outvoted_by_one_that_did() -> None:
    found = book("silent", "refused", "silent", "ok").judge(0, OWN)
    assert (found.state, found.reached_by) == ("public", 1)


def test_the_only_peer_that_was_asked_is_believed_in_each_family() -> None:
    made = book("ok")
    made.on_answers(0.0, b"6" * 32, Address("2001:db8::7", 7), {"[2001:db8::7]:7411": "ok"})
    assert made.judge(0, OWN).addresses == ("198.51.100.7:7411", "[2001:db8::7]:7411")
