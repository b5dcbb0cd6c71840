"""Substrate messages: vectors of spec/substrate.md, and that every message has a number and a check."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.substrate_vectors import FILE, GOOD, make_vectors, plain

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.overlay.messages import EXCHANGE, OVERLAY_TABLE, check
from shoal.overlay.substrate.messages import NUMBERS, PAYLOAD_BYTES, Gossip
from shoal.wire.limits import GOSSIP_BYTES

VECTORS: dict[str, Any] = json.loads(FILE.read_text())


def test_the_vectors_are_up_to_date() -> None:
    assert make_vectors() == VECTORS


def test_every_message_has_vectors_and_an_even_number_of_its_own() -> None:
    numbers = NUMBERS | EXCHANGE
    assert set(numbers.values()) == {type(message) for message in GOOD}
    assert len(numbers) == len(NUMBERS) + len(EXCHANGE)
    assert all(number % 2 == 0 and number >= 12 for number in numbers)


@pytest.mark.parametrize("row", VECTORS["messages"], ids=lambda row: str(row["name"]))
def test_messages_are_those_of_the_vectors(row: dict[str, Any]) -> None:
    payload = bytes.fromhex(row["payload"])
    message = OVERLAY_TABLE.decode(row["type"], payload)
    assert message is not None
    check(message)
    assert type(message).__name__ == row["name"]
    assert {name: plain(getattr(message, name)) for name in message.__struct_fields__} == row["fields"]
    assert OVERLAY_TABLE.encode(message) == (row["type"], payload)


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: str(row["why"]))
def test_what_breaks_a_rule_is_refused(row: dict[str, Any]) -> None:
    message = OVERLAY_TABLE.decode(row["type"], bytes.fromhex(row["payload"]))
    assert message is not None
    with pytest.raises((MalformedMessage, LimitExceeded)):
        check(message)


def test_the_largest_broadcast_is_one_message_that_may_be_passed_on() -> None:
    largest = Gossip(b"i" * 16, 64, 255, b"x" * PAYLOAD_BYTES)
    check(largest)
    assert len(OVERLAY_TABLE.encode(largest)[1]) <= GOSSIP_BYTES
