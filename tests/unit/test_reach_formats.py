"""Reach: vectors of spec/reach.md, ways as addresses, and what a record says of relays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support import reach_vectors

from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.identity.keys import SEED_BYTES, DeviceKeys
from shoal.identity.record import parse_record, sign_record
from shoal.overlay.peer_book import PeerBook, find_address
from shoal.transport.address import PUNCHED, Address, may_dial
from shoal.transport.knock import KnockKind, parse_name
from shoal.transport.reach.guest_messages import GUEST_TABLE, GuestAsk, GuestGrant, GuestRefused
from shoal.transport.reach.messages import REACH_TABLE, check, pack_preamble, parse_preamble

VECTORS: dict[str, Any] = json.loads(reach_vectors.FILE.read_text())
KEYS = DeviceKeys.from_seed(b"\x01" * SEED_BYTES)
RELAY = b"R" * 32
NETWORK = b"N" * 32


def test_vectors_are_what_the_code_makes() -> None:
    assert reach_vectors.make() == VECTORS


@pytest.mark.parametrize("row", VECTORS["messages"], ids=lambda row: str(row["name"]))
def test_messages_are_those_of_the_vectors(row: dict[str, Any]) -> None:
    payload = bytes.fromhex(row["payload"])
    message = REACH_TABLE.decode(row["type"], payload)
    assert message is not None
    check(message)
    assert type(message).__name__ == row["name"]
    assert REACH_TABLE.encode(message) == (row["type"], payload)


@pytest.mark.parametrize("row", VECTORS["guest"]["messages"], ids=lambda row: str(row["name"]))
def test_guest_messages_are_those_of_the_vectors(row: dict[str, Any]) -> None:
    payload = bytes.fromhex(row["payload"])
    message = GUEST_TABLE.decode(row["type"], payload)
    assert message is not None
    if isinstance(message, GuestAsk | GuestGrant | GuestRefused):
        message.check()
    assert type(message).__name__ == row["name"]
    assert GUEST_TABLE.encode(message) == (row["type"], payload)


def test_a_guest_knock_is_read_and_a_guest_s_messages_have_limits() -> None:
    found = VECTORS["guest"]
    knock = parse_name(found["alpn"].encode())
    assert knock is not None
    assert (knock.kind, knock.nonce.hex()) == (KnockKind.GUEST, found["nonce"])
    assert len(found["alpn"]) <= 255  # of an ALPN name
    with pytest.raises(MalformedMessage):
        GuestGrant(b"t" * 15).check()
    with pytest.raises(MalformedMessage):
        GuestAsk(b"p" * 31).check()
    with pytest.raises(LimitExceeded):
        GuestRefused("no", "x" * 301, False).check()


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: str(row["why"]))
def test_what_breaks_a_rule_is_refused(row: dict[str, Any]) -> None:
    message = REACH_TABLE.decode(row["type"], bytes.fromhex(row["payload"]))
    assert message is not None
    with pytest.raises((MalformedMessage, LimitExceeded)):
        check(message)


@pytest.mark.parametrize("data", [b"", b"REACHSH1", b"REACHSH2" + bytes(16), b"REACHSH1" + bytes(17)])
def test_only_a_whole_preamble_is_one(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_preamble(data)
    assert parse_preamble(pack_preamble(b"t" * 16)) == b"t" * 16


def test_a_way_over_a_relay_is_an_address_that_nobody_else_can_write() -> None:
    way = Address.via(RELAY)
    assert way.relay == RELAY
    assert way.is_way
    assert find_address(str(way)) == way
    assert not may_dial(way)
    assert not may_dial(PUNCHED)
    assert PUNCHED.is_way
    assert PUNCHED.relay is None
    with pytest.raises(LocalMisuse):
        Address.parse(str(way))
    with pytest.raises(LocalMisuse):
        sign_record(KEYS, NETWORK, 1, [str(way)], "n", 0)
    assert find_address("via shp1nonsense") is None
    plain = Address("192.0.2.1", 7)
    assert plain.relay is None
    assert not plain.is_way


def test_a_record_without_relays_has_the_bytes_that_it_always_had() -> None:
    record = sign_record(KEYS, NETWORK, 1, ["192.0.2.1:7"], "n", 5)
    assert record.packed[1] == 0x95  # an array of five
    assert (record.relays, record.via) == (False, ())


def test_a_record_names_at_most_four_relays() -> None:
    record = sign_record(KEYS, NETWORK, 1, [], "n", 5, True, (RELAY,) * 4)
    assert parse_record(record.packed, NETWORK).via == (RELAY,) * 4
    assert record.relays
    for via in ((RELAY,) * 5, (b"short",)):
        with pytest.raises(LocalMisuse):
            sign_record(KEYS, NETWORK, 1, [], "n", 5, False, via)


def test_what_a_relay_did_is_no_good_address() -> None:
    book = PeerBook(NETWORK)
    peer = KEYS.peer_id
    book.put_record(sign_record(KEYS, NETWORK, 1, ["192.0.2.1:7"], "n", 5, False, (RELAY,)), False)
    book.mark_good(peer, str(Address.via(RELAY)), 1.0)
    assert book.addresses(peer) == ["192.0.2.1:7"]
    assert book.relays_of(peer) == (RELAY,)
    assert book.put_trusted(peer, [str(Address.via(RELAY))]) is False
