"""Whatever bytes come in, a decoder of identity returns a value, MalformedMessage or LimitExceeded."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.identity import TIME, admit, found, make_keys, write

from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.identity.entry import ZERO_ID, Domain, parse_entry, sign_entry
from shoal.identity.log import MembershipLog
from shoal.identity.operations import parents_of, parse_operation
from shoal.identity.record import parse_record, sign_record
from shoal.identity.recovery import RecoveryKey
from shoal.identity.ticket import Ticket, TicketRelay
from shoal.wire.text import Kind, format_text, parse_text

NETWORK = b"\x11" * 32
LOG = found(make_keys(1))
ENTRY = write(LOG, make_keys(1), admit(LOG, make_keys(2)))
RECORD = sign_record(make_keys(1), NETWORK, 1, ["192.0.2.1:1", "[::1]:2"], "name", TIME).pack()
TICKET = parse_text(
    Kind.TICKET,
    Ticket(
        NETWORK,
        make_keys(1).peer_id,
        bytes(16),
        TIME,
        ("192.0.2.1:1",),
        (TicketRelay(make_keys(2).peer_id, ("192.0.2.2:1", "relay.example:2")),),
    ).to_text(),
)


def mutated(good: bytes) -> st.SearchStrategy[bytes]:
    """Bytes near to what is right: cut, with some changed, with something put in."""
    edits = st.lists(
        st.tuples(st.integers(0, len(good)), st.binary(max_size=9), st.integers(0, 9)), max_size=4
    )

    def apply(edits: list[tuple[int, bytes, int]]) -> bytes:
        data = good
        for at, new, gone in edits:
            data = data[:at] + new + data[at + gone :]
        return data

    return st.one_of(st.binary(max_size=400), edits.map(apply))


@settings(max_examples=300, deadline=None)
@given(mutated(ENTRY.data))
def test_entries(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage, LimitExceeded):
        assert parse_entry(data).data == data


@settings(max_examples=300, deadline=None)
@given(mutated(ENTRY.payload))
def test_operations(data: bytes) -> None:
    parents_of(data)
    with contextlib.suppress(MalformedMessage, LimitExceeded):
        parse_operation(data)


@settings(max_examples=150, deadline=None)
@given(mutated(ENTRY.payload))
def test_a_log_takes_any_signed_payload(data: bytes) -> None:
    """An owner that lies can write what it likes; the log answers, and its state can still be asked for."""
    log = MembershipLog(LOG.network_id)
    log.add(LOG.entries()[0])
    last = log.vector[make_keys(1).peer_id]
    network = log.network_id
    log.add(sign_entry(make_keys(1), Domain.MEMBERSHIP, network, network, 1, last[1], TIME, 1, data))
    log.add(sign_entry(make_keys(3), Domain.MEMBERSHIP, network, network, 0, ZERO_ID, TIME, 1, data))
    assert log.state.is_active(make_keys(1).peer_id)
    assert not log.state.is_active(make_keys(3).peer_id)


@settings(max_examples=300, deadline=None)
@given(mutated(RECORD))
def test_records(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage, LimitExceeded):
        assert parse_record(data, NETWORK).pack() == data


@settings(max_examples=300, deadline=None)
@given(mutated(TICKET))
def test_tickets(payload: bytes) -> None:
    with contextlib.suppress(LocalMisuse):
        text = format_text(Kind.TICKET, payload)
        assert Ticket.parse(text).to_text() == text


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200), st.sampled_from(Kind))
def test_texts(text: str, kind: Kind) -> None:
    for candidate in (text, kind.value + "1" + text):
        with contextlib.suppress(LocalMisuse):
            parse_text(kind, candidate)
    with contextlib.suppress(LocalMisuse):
        RecoveryKey.parse(text)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600), st.sampled_from(Kind))
def test_texts_are_read_back(payload: bytes, kind: Kind) -> None:
    if not payload:
        return
    assert parse_text(kind, format_text(kind, payload).upper()) == payload
