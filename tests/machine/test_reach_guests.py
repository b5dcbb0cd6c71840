"""Guests of a relay: which passes open it, how often, and what a spliced guest may take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.core.errors import Refused, Unavailable
from shoal.identity.ticket import make_guest_pass
from shoal.transport.knock import make_guest_mac
from shoal.transport.reach.guest_book import GROUP_BURST, PASSES, TRIES_BURST, TRIES_S, GuestBook
from shoal.transport.reach.messages import GUEST_PASSES, GuestPass
from shoal.transport.reach.relay_machine import (
    GUEST_S,
    GUESTS_A_PASS,
    Answered,
    Arrived,
    Ask,
    Drop,
    Effect,
    Ended,
    Grant,
    Guest,
    Moved,
    Offer,
    PeerGone,
    Refuse,
    RelayLimits,
    RelayMachine,
    SetTimer,
    Splice,
    Timer,
)

RELAY, OTHER_RELAY, ANN, BOB, NETWORK = b"R" * 32, b"S" * 32, b"A" * 32, b"B" * 32, b"N" * 32
INVITE, SECRET, NONCE = b"i" * 16, b"s" * 16, b"n" * 16
HOUR = 3600
GUEST = Guest(b"k" * 32, 1000)
LIMITS = RelayLimits(streams=8, streams_a_peer=8, rate_bytes_s=None, day_bytes=None, guests=3)


def make_pass(
    secret: bytes = SECRET, inviter: bytes = ANN, relay: bytes = RELAY, seconds: int = HOUR
) -> GuestPass:
    return GuestPass(INVITE, make_guest_pass(secret, NETWORK, inviter, relay), seconds)


def knock(book: GuestBook, now: float, row: GuestPass, relay: bytes = RELAY) -> bytes | None:
    return book.match(now, NONCE, make_guest_mac(row.key, NONCE, relay))


def make_book(*rows: GuestPass) -> GuestBook:
    book = GuestBook(RELAY)
    book.put(0, ANN, rows or [make_pass()])
    return book


def refusal(effects: list[Effect]) -> str:
    assert len(effects) == 1
    assert isinstance(effects[0], Refuse)
    return effects[0].code


def make_guest(machine: RelayMachine, stream: int, guest: Guest = GUEST) -> None:
    effects = machine.step(0, Ask(stream, b"%32d" % stream, ANN, True, guest))
    assert Offer(stream, b"%32d" % stream, ANN) in effects
    assert Grant(stream) in machine.step(0, Answered(stream, True))
    machine.step(0, Arrived(stream, 1))
    assert Splice(stream) in machine.step(0, Arrived(stream, 0))


# -- the book ----------------------------------------------------------------------------------------------


def test_a_pass_leads_to_who_left_it_until_its_time_is_over() -> None:
    book = make_book()
    assert knock(book, 1, make_pass()) == make_pass().key
    assert book.enter(1, make_pass().key, "192.0.2.7") == (ANN, INVITE)
    assert knock(book, HOUR, make_pass()) is None
    with pytest.raises(Refused) as caught:  # it ran out between the knock and the question
        book.enter(HOUR, make_pass().key, "192.0.2.7")
    assert caught.value.code == "pass_over"


def test_a_forged_pass_or_one_for_somebody_else_opens_nothing() -> None:
    book = make_book()
    assert knock(book, 1, make_pass(secret=b"?" * 16)) is None  # of no ticket
    assert knock(book, 1, make_pass(relay=OTHER_RELAY)) is None  # for another relay
    assert knock(book, 1, make_pass(inviter=BOB)) is None  # for another inviter
    assert knock(book, 1, make_pass(), relay=OTHER_RELAY) is None  # the right one, said to another relay
    assert knock(GuestBook(RELAY), 1, make_pass()) is None
    row = make_pass()
    assert book.match(1, b"m" * 16, make_guest_mac(row.key, NONCE, RELAY)) is None  # with another nonce


def test_passes_end_with_the_inviter_s_session_and_with_its_next_list() -> None:
    used, still_open = make_pass(), make_pass(secret=b"t" * 16)
    book = make_book(used, still_open)
    book.put(5, ANN, [still_open])  # what is not named any more was used, or taken back
    assert knock(book, 6, used) is None
    with pytest.raises(Refused):
        book.enter(6, used.key, "192.0.2.7")
    assert knock(book, 6, still_open) == still_open.key
    book.drop(BOB)
    assert knock(book, 6, still_open) == still_open.key
    book.drop(ANN)
    assert knock(book, 6, still_open) is None
    assert len(book) == 0


def test_tries_with_a_pass_are_limited_and_never_burn_it() -> None:
    book, key = make_book(), make_pass().key
    for number in range(int(TRIES_BURST)):
        book.enter(0, key, f"192.0.2.{number}")
    with pytest.raises(Unavailable) as caught:
        book.enter(0, key, "192.0.2.99")
    assert caught.value.code == "too_often"
    assert caught.value.retry_after_s == pytest.approx(1 / TRIES_S)
    book.put(1, ANN, [make_pass()])  # said again: no new tries
    with pytest.raises(Unavailable):
        book.enter(1, key, "192.0.2.99")
    assert book.enter(1 / TRIES_S + 1, key, "192.0.2.99") == (ANN, INVITE)


def test_one_address_is_limited_whatever_it_knocks_with() -> None:
    rows = [make_pass(secret=b"%16d" % n) for n in range(GUEST_PASSES)]
    book = make_book(*rows)
    for number in range(int(GROUP_BURST)):
        book.enter(0, rows[number % GUEST_PASSES].key, "192.0.2.7")
    with pytest.raises(Unavailable):
        book.enter(0, rows[-1].key, "192.0.2.7")
    assert book.enter(0, rows[-1].key, "192.0.2.8") == (ANN, INVITE)


def test_passes_are_bounded_and_a_full_relay_says_so() -> None:
    book = GuestBook(RELAY)
    for inviter in range(PASSES // GUEST_PASSES):
        rows = [make_pass(secret=b"%16d" % (inviter * 100 + n), seconds=60) for n in range(GUEST_PASSES)]
        book.put(0, b"%32d" % inviter, rows)
    with pytest.raises(Unavailable) as caught:
        book.put(1, ANN, [make_pass()])
    assert caught.value.code == "guests_full"
    assert len(book) == PASSES
    book.put(1, ANN, [])  # nothing needs no room
    book.put(60, ANN, [make_pass()])  # theirs are over
    assert len(book) == 1


def test_nobody_takes_over_or_takes_back_another_s_pass() -> None:
    book = make_book()
    book.put(1, BOB, [make_pass()])
    assert book.enter(2, make_pass().key, "192.0.2.7") == (ANN, INVITE)
    book.put(3, BOB, [])
    book.drop(BOB)
    assert book.enter(4, make_pass().key, "192.0.2.7") == (ANN, INVITE)


# -- the machine -------------------------------------------------------------------------------------------


def test_guests_are_few_and_fewer_with_one_pass() -> None:
    machine = RelayMachine(LIMITS)
    for stream in range(GUESTS_A_PASS):
        make_guest(machine, stream)
    ask = Ask(8, BOB, ANN, True, GUEST)
    assert refusal(machine.step(0, ask)) == "relay_full"
    make_guest(machine, 9, replace(GUEST, key=b"l" * 32))
    assert machine.status().guests == 3
    assert refusal(machine.step(0, replace(ask, guest=replace(GUEST, key=b"m" * 32)))) == "relay_full"
    assert Offer(10, BOB, ANN) in machine.step(0, Ask(10, BOB, ANN, True))  # members have their own places
    machine.step(1, Ended(0))
    make_guest(machine, 11)


def test_a_relay_that_wants_no_guests_has_none() -> None:
    machine = RelayMachine(replace(LIMITS, guests=0))
    assert refusal(machine.step(0, Ask(1, BOB, ANN, True, GUEST))) == "relay_full"


def test_a_guest_has_its_bytes_and_its_seconds() -> None:
    machine = RelayMachine(LIMITS)
    make_guest(machine, 1)
    assert machine.step(1, Moved(1, 600)) == []
    assert machine.step(1, Moved(1, 400)) == []
    assert machine.step(1, Moved(1, 1)) == [Drop(1, "a guest had its bytes")]
    machine.step(0, Ask(2, BOB, ANN, True, GUEST))
    machine.step(0, Answered(2, True))
    machine.step(3, Arrived(2, 0))
    assert SetTimer(4 + GUEST_S, ("guest", 2)) in machine.step(4, Arrived(2, 1))
    assert machine.step(5 + GUEST_S, Timer(("guest", 2))) == [Drop(2, "a guest had its time")]
    assert machine.step(6 + GUEST_S, Timer(("guest", 2))) == []
    assert machine.status().guests == 0


def test_a_member_s_stream_has_no_such_end() -> None:
    machine = RelayMachine(LIMITS)
    machine.step(0, Ask(1, BOB, ANN, True))
    machine.step(0, Answered(1, True))
    machine.step(0, Arrived(1, 0))
    assert ("guest", 1) not in [e.token for e in machine.step(0, Arrived(1, 1)) if isinstance(e, SetTimer)]
    assert machine.step(1, Moved(1, 10**9)) == []


def test_a_removed_inviter_s_guests_end() -> None:
    machine = RelayMachine(LIMITS)
    make_guest(machine, 1)
    assert machine.step(1, PeerGone(ANN)) == [Drop(1, "a peer is gone")]


def test_a_guest_counts_against_the_relay_s_day() -> None:
    machine = RelayMachine(replace(LIMITS, day_bytes=500))
    make_guest(machine, 1)
    assert machine.step(1, Moved(1, 500)) == [Drop(1, "the relay has moved what it gives a day")]
    assert refusal(machine.step(2, Ask(2, BOB, ANN, True, GUEST))) == "relay_day"
