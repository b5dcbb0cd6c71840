"""Overlay messages: vectors of spec/overlay.md, limits, pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.overlay.messages import (
    OVERLAY_TABLE,
    Records,
    check,
    make_record_pages,
)
from shoal.wire.codec import Message
from shoal.wire.limits import GOSSIP_BYTES

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "spec/vectors/overlay.json").read_text())


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


@pytest.mark.parametrize("row", VECTORS["messages"], ids=lambda row: str(row["name"]))
def test_messages_are_those_of_the_vectors(row: dict[str, Any]) -> None:
    payload = bytes.fromhex(row["payload"])
    message = OVERLAY_TABLE.decode(row["type"], payload)
    assert isinstance(message, Message)
    check(message)
    assert type(message).__name__ == row["name"]
    assert {name: _plain(getattr(message, name)) for name in message.__struct_fields__} == row["fields"]
    assert OVERLAY_TABLE.encode(message) == (row["type"], payload)


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: str(row["why"]))
def test_what_breaks_a_rule_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises((MalformedMessage, LimitExceeded)):
        _decode_and_check(row["type"], bytes.fromhex(row["payload"]))


def _decode_and_check(number: int, payload: bytes) -> None:
    message = OVERLAY_TABLE.decode(number, payload)
    assert message is not None
    check(message)


def test_unknown_odd_messages_are_ignored_and_foreign_ones_refused() -> None:
    assert OVERLAY_TABLE.decode(13, b"\x90") is None
    with pytest.raises(MalformedMessage):
        check(Message())


def test_pages_of_records_fit_their_message() -> None:
    records = [bytes([n]) * 2000 for n in range(40)] + [b"s"] * 200
    pages = make_record_pages(records)
    assert [r for page in pages for r in page.records] == records
    for page in pages:
        check(page)
        assert len(OVERLAY_TABLE.encode(page)[1]) <= GOSSIP_BYTES
    assert make_record_pages([]) == []
    assert make_record_pages([b"x" * 2048]) == [Records([b"x" * 2048])]
