"""Ids, device keys, the verifier, wrapping, secrets, the recovery key."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from tests.support.identity import make_keys

from shoal.core.errors import LocalMisuse, MalformedMessage
from shoal.identity import ids
from shoal.identity.keys import (
    HPKE_PUBLIC_BYTES,
    SEED_BYTES,
    DeviceKeys,
    is_valid_hpke_public,
    is_valid_peer_id,
    verify,
    wrap,
    wrap_info,
)
from shoal.identity.recovery import RecoveryKey
from shoal.identity.secrets import DEFAULT_SPACE, Context, Secret, SecretKind, commit, derive
from shoal.wire.text import Kind, format_text, parse_text

# the eight points of small order and non-canonical spellings of some, as in libsodium's block list
SMALL_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
    "01" + "00" * 30 + "80",
    "00" * 31 + "80",
]
INFO = wrap_info(b"n" * 32, DEFAULT_SPACE, b"r" * 32)


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        (Kind.PEER, ids.format_peer_id),
        (Kind.NETWORK, ids.format_network_id),
        (Kind.SHARE, ids.format_share_id),
        (Kind.CONTENT, ids.format_content_id),
        (Kind.OPERATION, ids.format_operation_id),
    ],
)
def test_ids_have_a_text_form_of_their_own(kind: Kind, write: Callable[[bytes], str]) -> None:
    value = os.urandom(32)
    assert parse_text(kind, write(value)) == value
    with pytest.raises(LocalMisuse):
        write(value[:31])


@pytest.mark.parametrize(
    ("kind", "write", "read"),
    [
        (Kind.PEER, ids.format_peer_id, ids.parse_peer_id),
        (Kind.SHARE, ids.format_share_id, ids.parse_share_id),
    ],
)
def test_an_id_of_another_length_is_not_read(
    kind: Kind, write: Callable[[bytes], str], read: Callable[[str], bytes]
) -> None:
    value = os.urandom(32)
    assert read(write(value)) == value
    with pytest.raises(LocalMisuse, match="cannot be used"):
        read(format_text(kind, value + b"\0"))


def test_a_short_peer_id_is_the_beginning_of_the_text() -> None:
    peer_id = make_keys(1).peer_id
    assert ids.format_peer_id(peer_id).startswith(ids.short_peer_id(peer_id))
    assert len(ids.short_peer_id(peer_id)) == 12


def test_a_signature_is_verified() -> None:
    keys, other = make_keys(1), make_keys(2)
    signature = keys.sign(b"data")
    assert verify(keys.peer_id, signature, b"data")
    assert not verify(keys.peer_id, signature, b"datb")
    assert not verify(other.peer_id, signature, b"data")
    assert not verify(keys.peer_id, signature[:-1], b"data")
    assert not verify(keys.peer_id, signature + b"\0", b"data")
    assert not verify(keys.peer_id[:-1], signature, b"data")
    assert not verify(b"", b"", b"")


def test_a_malleable_signature_is_refused() -> None:
    """S + L verifies under sloppy verifiers."""
    order = 2**252 + 27742317777372353535851937790883648493
    keys = make_keys(1)
    signature = keys.sign(b"data")
    s = int.from_bytes(signature[32:], "little") + order
    assert not verify(keys.peer_id, signature[:32] + s.to_bytes(32, "little"), b"data")


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_small_order_and_non_canonical_keys_are_refused(point: str) -> None:
    key = bytes.fromhex(point)
    assert not is_valid_peer_id(key)
    for message in range(64):  # R = identity, S = 0 verifies under such keys elsewhere
        assert not verify(key, b"\x01" + bytes(63), message.to_bytes(8, "big"))


def test_only_prime_order_keys_are_peer_ids() -> None:
    assert is_valid_peer_id(make_keys(1).peer_id)
    assert not is_valid_peer_id(make_keys(1).peer_id[:-1])
    assert not is_valid_peer_id(b"")
    assert not is_valid_peer_id(b"\xff" * 32)


def test_a_seed_gives_the_same_keys_and_nothing_secret_is_shown() -> None:
    keys = DeviceKeys.generate()
    again = DeviceKeys.from_seed(keys.to_seed())
    assert again == keys
    assert again.hpke_public == keys.hpke_public
    assert len(keys.hpke_public) == HPKE_PUBLIC_BYTES
    assert len(keys.to_seed()) == SEED_BYTES
    assert keys.to_seed()[:8].hex() not in repr(keys)
    assert repr(keys.to_seed()[:8])[2:-1] not in repr(keys)
    with pytest.raises(LocalMisuse):
        DeviceKeys.from_seed(bytes(SEED_BYTES - 1))


def test_the_tls_key_is_the_peer_id() -> None:
    keys = make_keys(1)
    tls = keys.tls_key()
    assert isinstance(tls, ed25519.Ed25519PrivateKey)
    assert tls.public_key().public_bytes_raw() == keys.peer_id
    assert verify(keys.peer_id, tls.sign(b"data"), b"data")


def test_a_wrapped_secret_opens_only_for_its_device_and_purpose() -> None:
    keys, other = make_keys(1), make_keys(2)
    sealed = wrap(keys.hpke_public, b"secret", INFO)
    assert keys.open_wrapped(sealed, INFO) == b"secret"
    assert wrap(keys.hpke_public, b"secret", INFO) != sealed
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for device, text, info in (
        (other, sealed, INFO),
        (keys, sealed, INFO + b"x"),
        (keys, flipped, INFO),
        (keys, bytes([sealed[0] ^ 1]) + sealed[1:], INFO),
        (keys, sealed[:-1], INFO),
        (keys, b"", INFO),
        (keys, bytes(5000), INFO),
        (keys, bytes(1136), INFO),
    ):
        with pytest.raises(MalformedMessage):
            device.open_wrapped(text, info)


def test_a_bad_public_key_cannot_be_wrapped_to() -> None:
    public = make_keys(1).hpke_public
    for bad in (b"", public[:-1], public + b"\0", b"\xff" * HPKE_PUBLIC_BYTES, public[:-32] + bytes(32)):
        with pytest.raises(MalformedMessage):
            wrap(bad, b"secret", INFO)
    assert is_valid_hpke_public(public)
    assert not is_valid_hpke_public(b"\xff" * HPKE_PUBLIC_BYTES)
    with pytest.raises(MalformedMessage, match="suite 2"):
        wrap(public, b"secret", INFO, suite=2)
    with pytest.raises(LocalMisuse):
        wrap(public, bytes(5000), INFO)


def test_no_context_is_used_twice() -> None:
    assert len({context.value for context in Context}) == len(Context)
    assert len({derive(context, bytes(32)) for context in Context}) == len(Context)


def test_secrets_are_committed_and_not_shown() -> None:
    secret = Secret.generate(SecretKind.CONTENT, generation=3)
    assert secret.commitment == commit(secret.value)
    assert secret.commitment != derive(Context.LOOKUP, secret.value)
    assert secret.key == (2, DEFAULT_SPACE, 3)
    assert secret.value.hex() not in repr(secret)
    assert repr(secret.value) not in repr(secret)
    for bad in (
        lambda: Secret(SecretKind.DOOR, b"", 0, bytes(32)),
        lambda: Secret(SecretKind.DOOR, bytes(32), -1, bytes(32)),
    ):
        with pytest.raises(LocalMisuse):
            bad()


def test_a_recovery_key_is_written_and_read() -> None:
    key = RecoveryKey.generate()
    again = RecoveryKey.parse(key.to_text())
    assert again == key
    assert len(key.commitment) == 32
    assert key.public_key not in (key.seed, key.commitment)
    with pytest.raises(LocalMisuse, match="cannot be used"):
        RecoveryKey.parse(format_text(Kind.RECOVERY, bytes(31)))
