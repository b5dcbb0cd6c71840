"""The bytes in spec/vectors are the bytes of this release."""

from __future__ import annotations

import random

import pytest
from tests.support.identity import deliver
from tests.support.identity_vectors import MAKERS, describe_entry, describe_log, load

from shoal.identity.entry import parse_entry
from shoal.identity.keys import DeviceKeys
from shoal.identity.log import MembershipLog
from shoal.identity.record import parse_record
from shoal.identity.recovery import RecoveryKey
from shoal.identity.secrets import Context, derive
from shoal.identity.ticket import Ticket
from shoal.wire.text import Kind, parse_text


@pytest.mark.parametrize("topic", sorted(MAKERS))
def test_today_s_code_makes_the_same_bytes(topic: str) -> None:
    assert MAKERS[topic]() == load(topic)


def test_texts_are_read() -> None:
    for vector in load("text")["texts"]:
        assert parse_text(Kind[vector["kind"]], vector["text"]).hex() == vector["payload"]


def test_entries_are_read() -> None:
    for vector in load("entry")["entries"]:
        entry = parse_entry(bytes.fromhex(vector["data"]))
        assert entry.verify()
        assert describe_entry(entry) == vector


def test_a_membership_log_is_read_in_any_order() -> None:
    vector = load("membership")
    entries = [parse_entry(bytes.fromhex(data)) for data in vector["entries"]]
    random.Random(1).shuffle(entries)
    log = MembershipLog(bytes.fromhex(vector["network_id"]))
    assert deliver(log, entries) == []
    assert describe_log(log) == vector


def test_keys_and_secrets_are_derived() -> None:
    vectors = load("secrets")
    for vector in vectors["derived"]:
        assert derive(Context(vector["context"]), bytes.fromhex(vector["secret"])).hex() == vector["key"]
    keys = DeviceKeys.from_seed(bytes.fromhex(vectors["device"]["seed"]))
    assert keys.peer_id.hex() == vectors["device"]["peer_id"]
    wrapped = {name: bytes.fromhex(value) for name, value in vectors["wrapped"].items()}
    assert keys.open_wrapped(wrapped["sealed"], wrapped["info"]) == wrapped["plaintext"]
    assert (
        RecoveryKey.parse(vectors["recovery"]["text"]).commitment.hex() == vectors["recovery"]["commitment"]
    )


def test_tickets_and_records_are_read() -> None:
    for vector in load("ticket")["tickets"]:
        ticket = Ticket.parse(vector["text"])
        assert ticket.secret.hex() == vector["secret"]
        assert list(ticket.addresses) == vector["addresses"]
        assert [relay.peer_id.hex() for relay in ticket.relays] == [x["peer_id"] for x in vector["relays"]]
        assert [list(relay.addresses) for relay in ticket.relays] == [
            x["addresses"] for x in vector["relays"]
        ]
    records = load("record")
    for vector in records["records"]:
        record = parse_record(bytes.fromhex(vector["data"]), bytes.fromhex(records["network_id"]))
        assert (record.peer_id.hex(), record.seq) == (vector["peer_id"], vector["seq"])
        assert (record.relays, [x.hex() for x in record.via]) == (vector["relays"], vector["via"])
