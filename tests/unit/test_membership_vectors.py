"""The bytes in spec/vectors/join.json are the bytes of this release."""

from __future__ import annotations

import json

import pytest
from tests.support.membership_vectors import PATH, make_messages, make_vectors

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.membership.join_messages import JOIN_TABLE
from shoal.membership.messages import MEMBERSHIP_TABLE


def test_today_s_code_makes_the_same_bytes() -> None:
    assert make_vectors() == json.loads(PATH.read_text())


def test_every_message_of_the_tables_is_among_the_vectors_and_is_read() -> None:
    made = {type(message).__name__: message for _, _, message in make_messages()}
    tables = {"join": JOIN_TABLE, "session": MEMBERSHIP_TABLE}
    vectors = json.loads(PATH.read_text())["messages"]
    for vector in vectors:
        payload = bytes.fromhex(vector["payload"])
        assert tables[vector["table"]].decode(vector["number"], payload) == made[vector["name"]]
    assert len(vectors) == sum(len(table._by_number) for table in tables.values())


def test_any_prefix_or_flipped_byte_decodes_or_is_a_fault_of_the_sender() -> None:
    for _, table, message in make_messages():
        number, payload = table.encode(message)
        variants = [payload[:n] for n in range(len(payload))]
        variants += [payload[:n] + bytes([payload[n] ^ 0xFF]) + payload[n + 1 :] for n in range(len(payload))]
        for data in variants:
            try:
                decoded = table.decode(number, data)
                check = getattr(decoded, "check", None)
                if check is not None:
                    check()
            except (MalformedMessage, LimitExceeded):
                pass


def test_unknown_numbers_are_ignored_if_odd_and_faults_if_even() -> None:
    assert MEMBERSHIP_TABLE.decode(99, b"") is None
    with pytest.raises(MalformedMessage):
        MEMBERSHIP_TABLE.decode(98, b"")
