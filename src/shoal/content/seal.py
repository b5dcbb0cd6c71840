"""Seal: objects that lie with those who must not read them.

offset  size  field
0       32    key commitment, BLAKE3 derive_key("shoal v1 object commit", key)
32      n     AES-256-GCM ciphertext, nonce of 12 zero bytes, no additional data
32+n    16    tag

The id is BLAKE3 of all of it. A key is used for one plaintext only, because it is a keyed hash of the
plaintext; therefore a fixed nonce, and therefore never any additional data: one key with two of them would
give the authentication key away. The commitment is there because GCM alone opens under more than one key.
"""

from __future__ import annotations

import hmac
from typing import NamedTuple

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shoal.content.keys import object_commitment
from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.core.units import MIB

COMMITMENT_BYTES = 32
TAG_BYTES = 16
OVERHEAD_BYTES = COMMITMENT_BYTES + TAG_BYTES
PLAINTEXT_BYTES = MIB  # of one object, a chunk for example
SEALED_BYTES = PLAINTEXT_BYTES + OVERHEAD_BYTES
_NONCE = bytes(12)


class SealedObject(NamedTuple):
    """An object as it is stored and sent, with the key that only readers get."""

    object_id: bytes
    key: bytes
    sealed: bytes


def object_id(sealed: bytes | memoryview) -> bytes:
    """Return the id of a sealed object: BLAKE3 of all its bytes."""
    return blake3(sealed).digest()


def seal_object(key: bytes, plaintext: bytes) -> SealedObject:
    """Seal `plaintext` under a key that was derived from it. Raises: LocalMisuse beyond PLAINTEXT_BYTES."""
    if len(plaintext) > PLAINTEXT_BYTES:
        raise LocalMisuse(f"an object of {len(plaintext)} bytes is over its limit of {PLAINTEXT_BYTES}")
    sealed = object_commitment(key) + AESGCM(key).encrypt(_NONCE, plaintext, None)
    return SealedObject(object_id(sealed), key, sealed)


def open_object(key: bytes, sealed: bytes, expected_id: bytes | None = None) -> bytes:
    """Return the plaintext of a sealed object.

    Raises: LimitExceeded by size, MalformedMessage if the id, the commitment or the tag does not fit.
    """
    if len(sealed) > SEALED_BYTES:
        raise LimitExceeded(f"a sealed object of {len(sealed)} bytes", cause=f"at most {SEALED_BYTES}")
    if len(sealed) < OVERHEAD_BYTES:
        raise MalformedMessage("a sealed object shorter than its frame")
    if expected_id is not None and not hmac.compare_digest(object_id(sealed), expected_id):
        raise MalformedMessage("a sealed object that is not the one asked for")
    if not hmac.compare_digest(sealed[:COMMITMENT_BYTES], object_commitment(key)):
        raise MalformedMessage("a sealed object under another key")
    try:
        return AESGCM(key).decrypt(_NONCE, sealed[COMMITMENT_BYTES:], None)
    except InvalidTag as error:
        raise MalformedMessage("a sealed object with a wrong tag") from error
