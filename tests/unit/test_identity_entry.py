"""Entries, operations, records, tickets: what is read back, and what is refused before anything is done."""

from __future__ import annotations

import struct

import pytest
from tests.support.identity import TIME, make_keys

from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.identity.entry import (
    HEADER_BYTES,
    PAYLOAD_LIMIT_BYTES,
    ZERO_ID,
    Domain,
    EntryFlags,
    pack_header,
    parse_entry,
    sign_entry,
)
from shoal.identity.operations import (
    Admit,
    Commitment,
    Epoch,
    Genesis,
    Leave,
    OperationNumber,
    Remove,
    Role,
    is_valid_name,
    pack_operation,
    parents_of,
    parse_operation,
    sign_joiner,
    verify_joiner,
)
from shoal.identity.record import ADDRESSES_LIMIT, is_valid_address, parse_record, sign_record
from shoal.identity.ticket import Ticket, make_invite_id
from shoal.wire.codec import encode
from shoal.wire.limits import ENTRY_BYTES
from shoal.wire.text import Kind, format_text, parse_text

KEYS = make_keys(1)
NETWORK = b"\x11" * 32
PARENT = b"\x22" * 32
ENTRY = sign_entry(KEYS, Domain.FEED, NETWORK, b"\x33" * 32, 0, ZERO_ID, TIME, EntryFlags.NONE, b"payload")


# entries


def test_an_entry_is_read_back() -> None:
    entry = parse_entry(memoryview(ENTRY.data))
    assert entry == ENTRY
    assert entry.verify()
    assert entry.payload == b"payload"
    assert not entry.is_critical
    assert entry.header == pack_header(
        Domain.FEED, NETWORK, b"\x33" * 32, KEYS.peer_id, 0, ZERO_ID, TIME, 0, len(b"payload")
    )


def test_every_flipped_byte_is_noticed() -> None:
    for at in range(len(ENTRY.data)):
        data = bytearray(ENTRY.data)
        data[at] ^= 1
        try:
            entry = parse_entry(bytes(data))
        except MalformedMessage:
            continue
        assert not entry.verify(), at


def test_a_signature_of_one_domain_does_not_count_in_another() -> None:
    data = bytearray(ENTRY.data)
    data[1] = Domain.MEMBERSHIP
    entry = parse_entry(bytes(data))
    assert entry.id != ENTRY.id
    assert not entry.verify()


def test_a_second_signature_is_the_same_entry() -> None:
    other = parse_entry(ENTRY.data[:-64] + bytes(64))
    assert other.id == ENTRY.id
    assert not other.verify()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        ENTRY.data[:-1],
        ENTRY.data + b"\0",
        ENTRY.data[: HEADER_BYTES + 63],
        b"\x02" + ENTRY.data[1:],
        ENTRY.data[:1] + b"\x03" + ENTRY.data[2:],
        ENTRY.data[:148] + struct.pack(">I", 2**32 - 1) + ENTRY.data[152:],
        ENTRY.data[:148] + struct.pack(">I", 0) + ENTRY.data[152:],
        ENTRY.data[:98] + struct.pack(">Q", 1) + ENTRY.data[106:],  # seq 1 without predecessor
        ENTRY.data[:106] + b"\x01" * 32 + ENTRY.data[138:],  # seq 0 with one
    ],
)
def test_what_is_no_entry_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_entry(data)


def test_sizes_are_checked_first() -> None:
    with pytest.raises(LimitExceeded):
        parse_entry(bytes(ENTRY_BYTES + 1))
    sign_entry(KEYS, Domain.FEED, NETWORK, NETWORK, 0, ZERO_ID, 0, 0, bytes(PAYLOAD_LIMIT_BYTES))
    for seq, network, payload in ((0, NETWORK, PAYLOAD_LIMIT_BYTES + 1), (-1, NETWORK, 1), (0, b"", 1)):
        with pytest.raises(LocalMisuse):
            sign_entry(KEYS, Domain.FEED, network, NETWORK, seq, ZERO_ID, 0, 0, bytes(payload))


# operations


def make_admit(**changes: object) -> Admit:
    fields: dict[str, object] = {
        "peer_id": KEYS.peer_id,
        "role": 3,
        "user": "Ada",
        "name": "laptop",
        "hpke_suite": 1,
        "hpke_public": KEYS.hpke_public,
        "invite_id": bytes(16),
        "joiner_signature": bytes(64),
    }
    return Admit(**{**fields, **changes})  # type: ignore[arg-type]


def make_genesis(**changes: object) -> Genesis:
    fields: dict[str, object] = {
        "recovery_commitment": bytes(32),
        "network_name": "net",
        "name": "laptop",
        "user": "",
        "hpke_suite": 1,
        "hpke_public": KEYS.hpke_public,
        "commitments": (Commitment(1, bytes(32), 0, bytes(32)),),
    }
    return Genesis(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "operation",
    [
        make_admit(),
        Remove(KEYS.peer_id, "lost"),
        Leave(),
        Epoch(1, (Commitment(2, bytes(32), 1, bytes(32)),)),
    ],
)
def test_operations_are_read_back(operation: Admit | Remove | Leave | Epoch) -> None:
    packed = pack_operation([PARENT, b"\x01" * 32, PARENT], operation)
    payload = parse_operation(packed)
    assert payload.operation == operation
    assert payload.parents == (b"\x01" * 32, PARENT)
    assert parents_of(packed) == payload.parents


def test_a_genesis_is_read_back_and_has_no_parents() -> None:
    assert parse_operation(pack_operation((), make_genesis())).operation == make_genesis()
    with pytest.raises(LocalMisuse):
        pack_operation([PARENT], make_genesis())


@pytest.mark.parametrize(
    "operation",
    [
        make_admit(peer_id=bytes(32)),
        make_admit(peer_id=KEYS.peer_id[:-1]),
        make_admit(role=0),
        make_admit(role=5),
        make_admit(name=""),
        make_admit(name="a\u202eb"),
        make_admit(name="x" * 65),
        make_admit(user="\n"),
        make_admit(hpke_suite=0),
        make_admit(hpke_suite=2**16),
        make_admit(hpke_public=b"short"),
        make_admit(hpke_suite=2, hpke_public=b""),
        make_admit(hpke_suite=2, hpke_public=bytes(4097)),
        make_admit(invite_id=bytes(15)),
        make_admit(joiner_signature=b""),
        Remove(b""),
        Remove(KEYS.peer_id, "x" * 257),
        Leave("x" * 257),
        Leave("\ud800"),
        Leave("a\x1b[2J"),
        Epoch(-1, ()),
        Epoch(1, (Commitment(2, bytes(32), 1, bytes(32)),) * 2),
        Epoch(1, (Commitment(0, bytes(32), 1, bytes(32)),)),
        Epoch(1, (Commitment(2, bytes(31), 1, bytes(32)),)),
        Epoch(1, (Commitment(2, bytes(32), 2**32, bytes(32)),)),
        Epoch(1, tuple(Commitment(2, bytes(32), n, bytes(32)) for n in range(257))),
    ],
)
def test_what_no_log_accepts_is_not_made(operation: Admit | Remove | Leave | Epoch) -> None:
    with pytest.raises(LocalMisuse):
        pack_operation([PARENT], operation)


@pytest.mark.parametrize(
    ("parents", "number", "body"),
    [
        ((), 3, Remove(KEYS.peer_id)),
        ((PARENT, b"\x01" * 32), 3, Remove(KEYS.peer_id)),  # not sorted
        ((PARENT, PARENT), 3, Remove(KEYS.peer_id)),
        ((PARENT[:-1],), 3, Remove(KEYS.peer_id)),
        (tuple(bytes([n]) * 32 for n in range(17)), 3, Remove(KEYS.peer_id)),
        ((PARENT,), 3, Remove(b"")),
        ((PARENT,), 2, Leave()),
        ((PARENT,), 1, make_genesis()),
        ((), 1, make_genesis(network_name="")),
        ((), 1, make_genesis(recovery_commitment=b"")),
        ((), 1, make_genesis(descriptor="")),
    ],
)
def test_malformed_payloads_are_refused(
    parents: tuple[bytes, ...], number: int, body: Remove | Leave | Genesis
) -> None:
    with pytest.raises(MalformedMessage):
        parse_operation(encode_payload(parents, number, encode(body)))


def encode_payload(parents: tuple[bytes, ...], number: int, body: bytes) -> bytes:
    import msgspec

    return msgspec.msgpack.encode([parents, number, body])


def test_unknown_numbers_and_roles_keep_their_place() -> None:
    unknown = parse_operation(encode_payload((PARENT,), 77, b"\xc1 not even MessagePack"))
    assert (unknown.number, unknown.operation, unknown.parents) == (77, None, (PARENT,))
    role = parse_operation(encode_payload((PARENT,), OperationNumber.ADMIT, encode(make_admit(role=9))))
    assert role.operation is None
    with pytest.raises(MalformedMessage):
        parse_operation(encode_payload((), 77, b""))


def test_fields_that_a_later_release_appends_are_ignored() -> None:
    import msgspec

    body = msgspec.msgpack.encode([KEYS.peer_id, "reason", "appended", 7])
    assert parse_operation(encode_payload((PARENT,), 3, body)).operation == Remove(KEYS.peer_id, "reason")
    more = msgspec.msgpack.encode([(PARENT,), 4, encode(Leave()), "appended"])
    assert parse_operation(more).operation == Leave()


def test_the_joiner_signs_network_invite_name_and_keys() -> None:
    signed = make_admit(joiner_signature=sign_joiner(KEYS, NETWORK, bytes(16), "laptop"))
    assert verify_joiner(NETWORK, signed)
    assert not verify_joiner(b"\x12" * 32, signed)
    for change in ({"name": "desktop"}, {"invite_id": b"\1" * 16}, {"peer_id": make_keys(2).peer_id}):
        fields = {"joiner_signature": signed.joiner_signature, **change}
        assert not verify_joiner(NETWORK, make_admit(**fields))


@pytest.mark.parametrize("name", ["laptop", "Ada's NAS", "ноутбук", "笔记本", "a" * 64, "🐟 shoal", "<b>"])
def test_names_of_people(name: str) -> None:
    assert is_valid_name(name)


@pytest.mark.parametrize(
    "name",
    ["", " a", "a ", "a\nb", "a\x1b[2Jb", "a\u200bb", "\ud800", "é" * 33, "e\u0301", "a\x00b", "\u2028"],
)
def test_names_that_are_refused(name: str) -> None:
    assert not is_valid_name(name)


# records


def test_a_record_is_read_back_only_in_its_network() -> None:
    record = sign_record(KEYS, NETWORK, 5, ["192.0.2.1:7400", "[::1]:1"], "nas", TIME)
    assert parse_record(record.pack(), NETWORK) == record
    with pytest.raises(MalformedMessage, match="did not sign"):
        parse_record(record.pack(), b"\x12" * 32)


def test_every_flipped_byte_of_a_record_is_refused() -> None:
    data = sign_record(KEYS, NETWORK, 5, ["192.0.2.1:7400"], "nas", TIME).pack()
    for at in range(len(data)):
        wrong = bytearray(data)
        wrong[at] ^= 1
        with pytest.raises((MalformedMessage, LimitExceeded)):
            parse_record(bytes(wrong), NETWORK)


def test_records_are_bounded() -> None:
    addresses = [f"192.0.2.{n}:1" for n in range(ADDRESSES_LIMIT)]
    sign_record(KEYS, NETWORK, 0, addresses, "", 0)
    for bad in ([*addresses, "192.0.2.9:1"], ["192.0.2.1"], ["a" * 128 + ":1"]):
        with pytest.raises(LocalMisuse):
            sign_record(KEYS, NETWORK, 0, bad, "", 0)
    for seq, name in ((-1, ""), (2**63, ""), (0, "a\nb")):
        with pytest.raises(LocalMisuse):
            sign_record(KEYS, NETWORK, seq, [], name, 0)
    with pytest.raises(LimitExceeded):
        parse_record(bytes(2049), NETWORK)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("192.0.2.1:7400", True),
        ("nas.local:1", True),
        ("[2001:db8::1]:65535", True),
        ("[fe80::1%eth0]:7", True),
        ("2001:db8::1:7400", False),
        ("host:0", False),
        ("host:65536", False),
        ("host:", False),
        (":7400", False),
        ("[]:1", False),
        ("a b:1", False),
        ("a\n:1", False),
        ("hö:1", False),
        ("host:１", False),
        ("host:-1", False),
        ("", False),
    ],
)
def test_what_looks_like_an_address(text: str, valid: bool) -> None:
    assert is_valid_address(text) is valid


# tickets

TICKET = Ticket(NETWORK, KEYS.peer_id, bytes(range(16)), TIME, ("192.0.2.1:7400", "[::1]:7400"))


def test_a_ticket_is_read_back() -> None:
    assert Ticket.parse(TICKET.to_text()) == TICKET
    assert Ticket.parse(TICKET.to_text()).invite_id == make_invite_id(TICKET.secret)
    assert TICKET.secret not in TICKET.invite_id
    assert repr(TICKET.secret)[2:-1] not in repr(TICKET)
    assert len(Ticket.make_secret()) == 16
    assert Ticket.make_secret() != Ticket.make_secret()


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": bytes(15)},
        {"secret": bytes(33)},
        {"network_id": b""},
        {"inviter": bytes(32)},
        {"expires_at": -1},
        {"addresses": ("x",)},
        {"addresses": ("h:1",) * 9},
    ],
)
def test_a_ticket_out_of_bounds_is_not_made(changes: dict[str, object]) -> None:
    fields = {name: getattr(TICKET, name) for name in ("network_id", "inviter", "secret", "expires_at")}
    with pytest.raises(LocalMisuse):
        Ticket(**{**fields, **changes})


def test_a_payload_that_is_no_ticket_is_refused_whatever_its_checksum() -> None:
    payload = parse_text(Kind.TICKET, TICKET.to_text())
    bad = [payload[:end] for end in range(1, len(payload))]
    bad += [payload + b"\0", payload[:72] + b"\xff" + payload[73:], payload[:32] + bytes(32) + payload[64:]]
    bad += [payload.replace(b"192.0.2.1:7400", b"192.0.2.\xff:7400")]
    for wrong in bad:
        with pytest.raises(LocalMisuse, match="cannot be used"):
            Ticket.parse(format_text(Kind.TICKET, wrong))


def test_roles_are_ordered_by_strength() -> None:
    assert Role.OWNER < Role.ADMIN < Role.MEMBER < Role.STORAGE
