"""Keys: a device's Ed25519 signing key and hybrid HPKE key, and the one verifier of signatures.

Ed25519 is verified by libsodium (PyNaCl) everywhere: it refuses small-order keys and non-canonical points,
which other libraries accept. Two verifiers that disagree would split the membership log.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import IntEnum

import nacl.bindings
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
from nacl.exceptions import BadSignatureError, CryptoError

from shoal.core.errors import LocalMisuse, MalformedMessage
from shoal.identity.ids import ID_BYTES, PeerId

SIGNATURE_BYTES = 64
ED25519_SEED_BYTES = 32
MLKEM_SEED_BYTES = 64
X25519_KEY_BYTES = 32
SEED_BYTES = ED25519_SEED_BYTES + MLKEM_SEED_BYTES + X25519_KEY_BYTES

MLKEM_PUBLIC_BYTES = 1184
HPKE_PUBLIC_BYTES = MLKEM_PUBLIC_BYTES + X25519_KEY_BYTES  # 1216
HPKE_OVERHEAD_BYTES = 1120 + 16  # encapsulated key and tag
WRAPPED_LIMIT_BYTES = 4096  # we only wrap secrets of 32 bytes; room for a few at once


class HpkeSuite(IntEnum):
    """Registry of the ways secrets are wrapped to a device. Numbers are never used again."""

    MLKEM768_X25519_SHA256_AES256 = 1


def verify(peer_id: PeerId, signature: bytes, data: bytes) -> bool:
    """Tell whether `signature` is `peer_id`'s over `data`. Never raises, for any bytes."""
    if len(peer_id) != ID_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + data, peer_id)
    except (BadSignatureError, CryptoError):
        return False
    return True


def is_valid_peer_id(peer_id: bytes) -> bool:
    """Tell whether the bytes are a canonical Ed25519 point of the prime-order group."""
    return len(peer_id) == ID_BYTES and bool(nacl.bindings.crypto_core_ed25519_is_valid_point(peer_id))


@dataclass(frozen=True)
class DeviceKeys:
    """The secret keys of this device. They leave the object only through `to_seed`, for the keystore."""

    peer_id: PeerId
    hpke_public: bytes = field(repr=False)
    _signing: bytes = field(repr=False)  # libsodium's 64 bytes: seed || public key
    _seed: bytes = field(repr=False)
    _hpke: hpke.MLKEM768X25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls) -> DeviceKeys:
        """Make new keys from the operating system's randomness."""
        return cls.from_seed(os.urandom(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> DeviceKeys:
        """Make the keys of a seed: 32 bytes Ed25519, 64 bytes ML-KEM-768, 32 bytes X25519."""
        if len(seed) != SEED_BYTES:
            raise LocalMisuse(f"a device seed has {SEED_BYTES} bytes, not {len(seed)}")
        signing_seed = seed[:ED25519_SEED_BYTES]
        kem_seed = seed[ED25519_SEED_BYTES : ED25519_SEED_BYTES + MLKEM_SEED_BYTES]
        public, signing = nacl.bindings.crypto_sign_seed_keypair(signing_seed)
        kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(kem_seed)
        agree = x25519.X25519PrivateKey.from_private_bytes(seed[-X25519_KEY_BYTES:])
        hpke_public = kem.public_key().public_bytes_raw() + agree.public_key().public_bytes_raw()
        return cls(public, hpke_public, signing, seed, hpke.MLKEM768X25519PrivateKey(kem, agree))

    def to_seed(self) -> bytes:
        """Return the secret seed. Only the keystore may call this."""
        return self._seed

    @property
    def hpke_suite(self) -> HpkeSuite:
        """The suite that `hpke_public` is for."""
        return HpkeSuite.MLKEM768_X25519_SHA256_AES256

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature over `data`. The caller puts a domain in front of what it signs."""
        return nacl.bindings.crypto_sign(data, self._signing)[:SIGNATURE_BYTES]

    def open_wrapped(self, sealed: bytes, info: bytes) -> bytes:
        """Return what `wrap` sealed to this device under the same `info`.

        Raises: MalformedMessage when it was not sealed to this device, or under another `info`.
        """
        if not HPKE_OVERHEAD_BYTES <= len(sealed) <= WRAPPED_LIMIT_BYTES:
            raise MalformedMessage("a wrapped secret of impossible length", cause=f"{len(sealed)} bytes")
        try:
            return _SUITE.decrypt(sealed, self._hpke, info)
        except (InvalidTag, ValueError) as error:
            raise MalformedMessage(
                "a wrapped secret does not open", cause="it is damaged or for another device"
            ) from error

    def tls_key(self) -> ed25519.Ed25519PrivateKey:
        """Return the signing key as the TLS library wants it. Only transport may call this."""
        return ed25519.Ed25519PrivateKey.from_private_bytes(self._seed[:ED25519_SEED_BYTES])


def wrap(hpke_public: bytes, plaintext: bytes, info: bytes, suite: int = 1) -> bytes:
    """Seal a secret to a device: HPKE base mode, encapsulated key || ciphertext || tag.

    `info` comes from `wrap_info`. Raises: MalformedMessage when the public key is none (it came from a peer).
    """
    if suite != HpkeSuite.MLKEM768_X25519_SHA256_AES256:
        raise MalformedMessage("a secret cannot be wrapped", cause=f"unknown HPKE suite {suite}")
    if len(plaintext) > WRAPPED_LIMIT_BYTES - HPKE_OVERHEAD_BYTES:
        raise LocalMisuse(f"{len(plaintext)} bytes are too many to wrap")
    try:
        return _SUITE.encrypt(plaintext, _parse_hpke_public(hpke_public), info)
    except ValueError as error:  # an X25519 key of small order shows only here
        raise MalformedMessage("a secret cannot be wrapped", cause=str(error)[:200]) from error


def wrap_info(network_id: bytes, space: bytes, recipient: PeerId) -> bytes:
    """Return the `info` under which a space's secrets are wrapped to a device."""
    return b"shoal/v1/keys\0" + network_id + space + recipient


def is_valid_hpke_public(hpke_public: bytes) -> bool:
    """Tell whether the bytes are a public key of suite 1."""
    try:
        _parse_hpke_public(hpke_public)
    except MalformedMessage:
        return False
    return True


_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def _parse_hpke_public(data: bytes) -> hpke.MLKEM768X25519PublicKey:
    if len(data) != HPKE_PUBLIC_BYTES:
        raise MalformedMessage("not an HPKE public key", cause=f"{len(data)} bytes")
    try:
        kem = mlkem.MLKEM768PublicKey.from_public_bytes(data[:MLKEM_PUBLIC_BYTES])
        agree = x25519.X25519PublicKey.from_public_bytes(data[MLKEM_PUBLIC_BYTES:])
        return hpke.MLKEM768X25519PublicKey(kem, agree)
    except ValueError as error:
        raise MalformedMessage("not an HPKE public key", cause=str(error)[:200]) from error
