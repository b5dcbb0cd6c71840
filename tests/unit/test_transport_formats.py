"""Knock, hello and session messages: the bytes of spec/vectors, and what is refused."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.transport_nodes import INVITE_ID, SetView, join_mac
from tests.support.transport_vectors import EXPORTER, HEAD, MAKERS, NETWORK, load

from shoal.core.errors import (
    LimitExceeded,
    LocalMisuse,
    MalformedMessage,
    Refused,
    RemoteFault,
    ShoalError,
    StorageFault,
    Unavailable,
)
from shoal.identity.keys import DeviceKeys, verify
from shoal.transport.certificate import make_certificate, parse_peer_id
from shoal.transport.hello import HelloRole, check_hello, make_hello
from shoal.transport.knock import Knock, KnockGate, KnockKind, KnockRefused, make_knock, parse_name
from shoal.transport.messages import ERROR_BYTES, ErrorReply, Hello, make_error, make_error_reply
from shoal.wire.codec import decode, encode
from shoal.wire.frames import FrameReader

A, B, C = DeviceKeys.generate(), DeviceKeys.generate(), DeviceKeys.generate()


@pytest.mark.parametrize("topic", sorted(MAKERS))
def test_todays_code_makes_the_bytes_of_the_vectors(topic: str):
    assert MAKERS[topic]() == load(topic)


def test_knock_vectors_by_another_implementation():
    for vector in load("knock")["knocks"]:
        data = b"knock" + bytes.fromhex(vector["nonce"]) + bytes.fromhex(vector["responder"])
        mac = hmac.new(bytes.fromhex(vector["door_key"]), data, hashlib.sha256).hexdigest()
        assert vector["alpn"] == f"shoal/1.{vector['nonce']}.{mac}"
        assert len(vector["alpn"]) < 256


def test_hello_vectors_verify_and_are_read():
    for vector in load("session")["hellos"]:
        signer = vector["initiator"] if vector["role"] == 1 else vector["responder"]
        signed = bytes.fromhex(vector["signed"])
        assert verify(bytes.fromhex(signer), bytes.fromhex(vector["signature"]), signed)
        (frame,) = FrameReader().feed(bytes.fromhex(vector["frame"]))
        hello = decode(Hello, frame.payload)
        assert hello.signature.hex() == vector["signature"]
        assert hello.instance.hex() == vector["instance"]


def hello_of(keys: DeviceKeys, role: HelloRole, peer: DeviceKeys, **changes: object) -> Hello:
    hello = make_hello(keys, role, NETWORK, EXPORTER, peer.peer_id, HEAD, [], b"i" * 16)
    return Hello(**{**{f: getattr(hello, f) for f in hello.__struct_fields__}, **changes})


def check(hello: Hello, role: HelloRole = HelloRole.INITIATOR, peer: DeviceKeys = A) -> int:
    return check_hello(hello, role, NETWORK, EXPORTER, B.peer_id, peer.peer_id)


def test_hello_is_good_for_one_direction_channel_and_pair():
    good = hello_of(A, HelloRole.INITIATOR, B)
    assert check(good) == 1
    with pytest.raises(RemoteFault):
        check(good, HelloRole.RESPONDER)
    with pytest.raises(RemoteFault):
        check(good, peer=C)
    with pytest.raises(RemoteFault):
        check(hello_of(A, HelloRole.INITIATOR, C))
    with pytest.raises(RemoteFault):
        check_hello(good, HelloRole.INITIATOR, NETWORK, b"x" * 32, B.peer_id, A.peer_id)


@pytest.mark.parametrize(
    "changes",
    [
        {"network": b"short"},
        {"head": b""},
        {"signature": b"s" * 63},
        {"instance": b""},
        {"versions": []},
        {"versions": [0]},
        {"versions": [65536]},
        {"versions": [1] * 17},
        {"entries": [b""] * 17},
        {"entries": [b"x" * 33_000] * 2},
        {"head": b"h" * 32},
        {"versions": [1, 2]},
    ],
)
def test_hello_with_anything_else_is_a_fault(changes: dict[str, object]):
    with pytest.raises(RemoteFault):
        check(hello_of(A, HelloRole.INITIATOR, B, **changes))


def test_entries_over_the_limit_are_left_out():
    many = make_hello(A, HelloRole.INITIATOR, NETWORK, EXPORTER, B.peer_id, HEAD, [b"x"] * 17, b"i" * 16)
    assert many.entries == []
    full = [b"x" * (63 * 1024 // 16)] * 16
    hello = make_hello(A, HelloRole.INITIATOR, NETWORK, EXPORTER, B.peer_id, HEAD, full, b"i" * 16)
    assert hello.entries == full
    assert len(encode(hello)) <= 65536


def gate() -> tuple[KnockGate, SetView]:
    view = SetView(set(), [b"new" + bytes(29), b"old" + bytes(29)])
    view.own_id = B.peer_id
    return KnockGate(B.peer_id, view, nonces=4), view


def test_gate_knows_newest_older_and_join_knocks():
    door, view = gate()
    name, verdict = door.check([make_knock(view.keys[0], b"1" * 16, B.peer_id).name])
    assert name.startswith(b"shoal/1.")
    assert (verdict.kind, verdict.newest) == (KnockKind.SESSION, True)
    assert not door.check([make_knock(view.keys[1], b"2" * 16, B.peer_id).name])[1].newest
    join = Knock(KnockKind.JOIN, b"3" * 16, join_mac(b"3" * 16, B.peer_id))
    with pytest.raises(KnockRefused):
        door.check([join.name])
    view.invites = True
    assert door.check([join.name])[1].invite_id == INVITE_ID
    with pytest.raises(KnockRefused):
        door.check([make_knock(view.keys[0], b"4" * 16, A.peer_id).name])


def test_gate_remembers_right_nonces_only():
    door, view = gate()
    right = make_knock(view.keys[0], b"1" * 16, B.peer_id)
    door.check([right.name])
    for index in range(10):
        with pytest.raises(KnockRefused):
            door.check([Knock(KnockKind.SESSION, bytes([index]) * 16, b"m" * 32).name])
    with pytest.raises(KnockRefused):
        door.check([right.name])


def test_only_the_last_sixteen_door_keys_count():
    door, view = gate()
    view.keys = [bytes([index]) * 32 for index in range(17)]
    door.check([make_knock(view.keys[15], b"1" * 16, B.peer_id).name])
    with pytest.raises(KnockRefused):
        door.check([make_knock(view.keys[16], b"2" * 16, B.peer_id).name])


@pytest.mark.parametrize(
    "name", [b"", b"shoal/1", b"shoal/1.00.00", b"h2", b"shoal/1." + b"g" * 32 + b"." + b"0" * 64]
)
def test_names_that_are_no_knocks(name: bytes):
    assert parse_name(name) is None


def test_certificate_carries_the_peer_id_and_is_always_the_same():
    one, two = make_certificate(A.tls_key()), make_certificate(A.tls_key())
    assert parse_peer_id(one) == A.peer_id
    assert one.public_bytes(Encoding.DER) == two.public_bytes(Encoding.DER)
    assert len(one.public_bytes(Encoding.DER)) < 400


def test_other_certificates_are_a_fault():
    with pytest.raises(RemoteFault):
        parse_peer_id(None)
    key = ec.generate_private_key(ec.SECP256R1())
    mine = make_certificate(A.tls_key())
    other = (
        x509.CertificateBuilder()
        .subject_name(mine.subject)
        .issuer_name(mine.issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(mine.not_valid_before_utc)
        .not_valid_after(mine.not_valid_after_utc)
        .sign(A.tls_key(), None)
    )
    with pytest.raises(RemoteFault):
        parse_peer_id(other)
    # the point of small order, which `cryptography` takes for a key
    small = mine.public_bytes(Encoding.DER).replace(A.peer_id, b"\x01" + bytes(31))
    with pytest.raises(RemoteFault):
        parse_peer_id(x509.load_der_x509_certificate(small))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Refused("m", cause="c", next_step="n", code="x"), Refused),
        (Unavailable("m", cause="c", next_step="n", code="x", retry_after_s=3), Unavailable),
        (MalformedMessage("m", cause="c", next_step="n", code="x"), RemoteFault),
        (LimitExceeded("m", cause="c", next_step="n", code="x"), LimitExceeded),
        (StorageFault("m", cause="c", next_step="n", code="x"), Unavailable),
        (LocalMisuse("m", cause="c", next_step="n", code="x"), RemoteFault),
    ],
)
def test_errors_travel_by_whose_fault_they_are(error: ShoalError, expected: type[ShoalError]):
    told = make_error(decode(ErrorReply, encode(make_error_reply(error))), b"p" * 32)
    assert type(told) is expected
    assert (told.message, told.cause, told.next_step, told.code) == ("m", "c", "n", "x")


def test_error_texts_are_bounded_and_printable():
    loud = Unavailable("\x1b[31m" + "\U0001f41f" * 5000, cause="a\nb", retry_after_s=-1)
    reply = make_error_reply(loud)
    assert len(encode(reply)) <= ERROR_BYTES
    told = make_error(ErrorReply("unavailable", "x" * 400, "a\x07b", "\u202e", "", 1e99), b"p" * 32)
    assert isinstance(told, Unavailable)
    assert (told.message, told.cause, len(told.code), told.retry_after_s) == ("a b", " ", 40, 3600.0)
