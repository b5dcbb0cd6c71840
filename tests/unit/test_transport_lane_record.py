"""Lane records: vectors of spec/lane.md, order and limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage, Unavailable
from shoal.transport.lane_messages import LANE_MESSAGES
from shoal.transport.lane_record import (
    HEADER_BYTES,
    LaneRole,
    RecordOpener,
    RecordSealer,
    RecordType,
    derive_lane_key,
    pack_preamble,
    parse_header,
    parse_preamble,
)
from shoal.wire.limits import LANE_BYTES, LANE_RECORD_PLAINTEXT_BYTES, LANE_RECORDS
from shoal.wire.registry import MessageTable, ServiceNumber

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "spec/vectors/lane.json").read_text())
KEY = b"k" * 32


def test_keys_and_records_are_those_of_the_vectors() -> None:
    secret, lane_id = bytes.fromhex(VECTORS["lane_secret"]), bytes.fromhex(VECTORS["lane_id"])
    opener, acceptor = bytes.fromhex(VECTORS["opener"]), bytes.fromhex(VECTORS["acceptor"])
    assert pack_preamble(lane_id).hex() == VECTORS["preamble"]
    for direction in VECTORS["directions"]:
        key = derive_lane_key(secret, lane_id, opener, acceptor, LaneRole[direction["sender"]])
        assert key.hex() == direction["key"]
        sealer, verifier = RecordSealer(key), RecordOpener(key)
        for row in direction["records"]:
            kind, plaintext = RecordType[row["type"]], bytes.fromhex(row["plaintext"])
            record = sealer.seal(kind, plaintext)
            assert record.hex() == row["record"]
            assert verifier.open(record) == (kind, plaintext)
        assert verifier.ended


@pytest.mark.parametrize("row", VECTORS["messages"], ids=lambda row: str(row["name"]))
def test_control_messages_are_those_of_the_vectors(row: dict[str, Any]) -> None:
    table = MessageTable(ServiceNumber.SESSION, LANE_MESSAGES)
    message = table.decode(row["type"], bytes.fromhex(row["payload"]))
    assert message is not None
    assert type(message).__name__ == row["name"]
    values = [getattr(message, name) for name in message.__struct_fields__]
    assert [v.hex() if isinstance(v, bytes) else v for v in values] == row["fields"]
    assert table.encode(message)[1].hex() == row["payload"]


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: str(row["why"]))
def test_header_is_refused_before_anything_is_read_for_it(row: dict[str, str]) -> None:
    with pytest.raises((MalformedMessage, LimitExceeded)):
        parse_header(bytes.fromhex(row["header"]))


def test_the_two_directions_and_every_lane_have_keys_of_their_own() -> None:
    def key(secret: int = 1, lane: int = 2, opener: int = 3, acceptor: int = 4, role: int = 0) -> bytes:
        ids = bytes([lane]) * 16, bytes([opener]) * 32, bytes([acceptor]) * 32
        return derive_lane_key(bytes([secret]) * 32, *ids, LaneRole(role))

    keys = {
        key(),
        key(secret=9),
        key(lane=9),
        key(opener=9),
        key(acceptor=9),
        key(role=1),
        key(opener=4, acceptor=3),
    }
    assert len(keys) == 7


def test_lane_keys_refuse_inputs_of_other_lengths() -> None:
    with pytest.raises(LocalMisuse):
        derive_lane_key(b"short", b"i" * 16, b"o" * 32, b"a" * 32, LaneRole.OPENER)
    with pytest.raises(LocalMisuse):
        pack_preamble(b"short")


def test_preamble_round_trip_and_refusals() -> None:
    assert parse_preamble(pack_preamble(b"i" * 16)) == b"i" * 16
    for wrong in (b"", b"SHOALLN2" + b"i" * 16, b"SHOALLN1" + b"i" * 15, b"SHOALLN1" + b"i" * 17):
        with pytest.raises(MalformedMessage):
            parse_preamble(wrong)


def test_open_comes_first_and_once() -> None:
    sealer = RecordSealer(KEY)
    with pytest.raises(LocalMisuse):
        sealer.seal(RecordType.DATA, b"x")
    first = sealer.seal(RecordType.OPEN)
    with pytest.raises(LocalMisuse):
        sealer.seal(RecordType.OPEN)
    verifier = RecordOpener(KEY)
    verifier.open(first)
    with pytest.raises(MalformedMessage):
        verifier.open(first)


def test_nothing_follows_the_end() -> None:
    sealer = RecordSealer(KEY)
    records = [sealer.seal(RecordType.OPEN), sealer.seal(RecordType.END)]
    with pytest.raises(LocalMisuse):
        sealer.seal(RecordType.DATA, b"x")
    verifier = RecordOpener(KEY)
    for record in records:
        verifier.open(record)
    with pytest.raises(MalformedMessage, match="after the end"):
        verifier.open(records[1])


def test_largest_record_fits_and_one_byte_more_does_not() -> None:
    sealer, verifier = RecordSealer(KEY), RecordOpener(KEY)
    verifier.open(sealer.seal(RecordType.OPEN))
    largest = bytes(LANE_RECORD_PLAINTEXT_BYTES)
    assert verifier.open(sealer.seal(RecordType.DATA, largest)) == (RecordType.DATA, largest)
    with pytest.raises(LocalMisuse):
        sealer.seal(RecordType.DATA, largest + b"x")


def test_a_key_carries_64_gib_and_no_more() -> None:
    sealer, verifier = RecordSealer(KEY), RecordOpener(KEY)
    verifier.open(sealer.seal(RecordType.OPEN))
    sealer.plaintext_bytes = verifier.plaintext_bytes = LANE_BYTES - 5
    assert sealer.is_spent
    verifier.open(sealer.seal(RecordType.DATA, b"12345"))
    with pytest.raises(Unavailable) as caught:
        sealer.seal(RecordType.DATA, b"6")
    assert caught.value.code == "lane_spent"
    assert sealer.seal(RecordType.END)
    with pytest.raises(LimitExceeded):
        verifier.open(b"\x01" + (17).to_bytes(4, "big") + bytes(17))


def test_a_key_carries_two_to_the_32_records() -> None:
    sealer = RecordSealer(KEY)
    sealer.seal(RecordType.OPEN)
    sealer.records = LANE_RECORDS - 1
    assert sealer.is_spent
    sealer.seal(RecordType.DATA, b"last")
    with pytest.raises(Unavailable):
        sealer.seal(RecordType.END)


@pytest.mark.parametrize("position", [0, 1, 4, HEADER_BYTES, -1])
def test_any_changed_byte_is_noticed_and_the_verifier_has_no_way_back(position: int) -> None:
    sealer, verifier = RecordSealer(KEY), RecordOpener(KEY)
    verifier.open(sealer.seal(RecordType.OPEN))
    good = sealer.seal(RecordType.DATA, b"payload")
    bad = bytearray(good)
    bad[position] ^= 1
    with pytest.raises((MalformedMessage, LimitExceeded)):
        verifier.open(bytes(bad))
    if position >= HEADER_BYTES or position == -1:
        with pytest.raises(LocalMisuse):
            verifier.open(good)
