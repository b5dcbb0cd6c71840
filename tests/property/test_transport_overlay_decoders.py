"""Decoders of lanes and overlay: for any bytes whatever a value, MalformedMessage or LimitExceeded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.overlay.messages import OVERLAY_TABLE, check, make_record_pages
from shoal.transport.lane_messages import LANE_MESSAGES, LaneOpen, check_lane_accept, check_lane_open
from shoal.transport.lane_record import (
    RecordOpener,
    RecordSealer,
    RecordType,
    parse_header,
    parse_preamble,
)
from shoal.transport.reach.guest_messages import GUEST_TABLE, GuestAsk, GuestGrant, GuestRefused
from shoal.transport.reach.messages import REACH_TABLE
from shoal.transport.reach.messages import check as check_reach
from shoal.wire.limits import GOSSIP_BYTES, LANE_RECORD_PLAINTEXT_BYTES
from shoal.wire.registry import MessageTable, ServiceNumber

LANE_TABLE = MessageTable(ServiceNumber.SESSION, LANE_MESSAGES)
KEY = b"k" * 32


@given(st.sampled_from([2, 4, 6, 8, 10, 11, 12]), st.binary(max_size=300))
def test_overlay_messages(number: int, payload: bytes) -> None:
    try:
        message = OVERLAY_TABLE.decode(number, payload)
        if message is not None:
            check(message)
    except (MalformedMessage, LimitExceeded):
        pass


@given(st.sampled_from(range(2, 28, 2)), st.binary(max_size=300))
def test_reach_messages(number: int, payload: bytes) -> None:
    try:
        message = REACH_TABLE.decode(number, payload)
        if message is not None:
            check_reach(message)
    except (MalformedMessage, LimitExceeded):
        pass


@given(st.sampled_from([2, 4, 6]), st.binary(max_size=300))
def test_guest_messages(number: int, payload: bytes) -> None:
    try:
        message = GUEST_TABLE.decode(number, payload)
        if isinstance(message, GuestAsk | GuestGrant | GuestRefused):
            message.check()
    except (MalformedMessage, LimitExceeded):
        pass


@given(st.sampled_from([16, 17, 18, 20]), st.binary(max_size=100), st.booleans())
def test_lane_messages(number: int, payload: bytes, from_dialler: bool) -> None:
    try:
        message = LANE_TABLE.decode(number, payload)
        if isinstance(message, LaneOpen):
            check_lane_open(message, from_dialler=from_dialler)
        elif message is not None:
            check_lane_accept(message)
    except (MalformedMessage, LimitExceeded):
        pass


@given(st.binary(max_size=40))
def test_lane_headers_and_preambles(data: bytes) -> None:
    try:
        kind, length = parse_header(data)
    except (MalformedMessage, LimitExceeded):
        pass
    else:
        assert 16 <= length <= LANE_RECORD_PLAINTEXT_BYTES + 16
        assert (kind is RecordType.DATA) == (length > 16)
    try:
        assert len(parse_preamble(data)) == 16
    except MalformedMessage:
        pass


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8), st.data())
def test_records_open_as_sealed_and_no_changed_one_does(parts: list[bytes], data: st.DataObject) -> None:
    sealer, opener = RecordSealer(KEY), RecordOpener(KEY)
    records = [sealer.seal(RecordType.OPEN), *(sealer.seal(RecordType.DATA, part) for part in parts)]
    records.append(sealer.seal(RecordType.END))
    changed = data.draw(st.integers(0, len(records) - 1))
    for record in records[:changed]:
        opener.open(record)
    bad = bytearray(records[changed])
    position = data.draw(st.integers(0, len(bad) - 1))
    bad[position] ^= data.draw(st.integers(1, 255))
    try:
        opener.open(bytes(bad))
    except (MalformedMessage, LimitExceeded):
        pass
    else:
        raise AssertionError("a changed record was accepted")


@given(st.lists(st.binary(max_size=2048), max_size=60))
def test_pages_hold_all_records_and_fit(records: list[bytes]) -> None:
    pages = make_record_pages(records)
    assert [record for page in pages for record in page.records] == records
    assert all(len(OVERLAY_TABLE.encode(page)[1]) <= GOSSIP_BYTES for page in pages)
