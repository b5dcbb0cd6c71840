"""Feed: a share as a signed, append-only log of one device; what its entries say.

Entry 0 is the Opening. For every version follow Segments entries, which announce manifest segments as they
are ready, and one Closing entry. Payloads are sealed for holders of the link:

offset  size  field
0       24    random nonce
24      n     XChaCha20-Poly1305 under derive_key("shoal v1 feed", read key), additional data = entry header
24+n    16    tag

The plaintext is one byte of type (2 Opening, 3 Segments, 4 Closing, 5 Draft; an unknown odd type is skipped,
an unknown even one makes the feed unreadable for us), then MessagePack. A counter as nonce would repeat after
a restored backup, hence the random one.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from blake3 import blake3
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from shoal.content.cut import SEED_LIMIT
from shoal.content.keys import feed_key
from shoal.content.manifest import CHUNK_LIMIT, ENTRY_LIMIT, SIZE_LIMIT
from shoal.content.seal import SEALED_BYTES
from shoal.core.errors import MalformedMessage
from shoal.identity.entry import PAYLOAD_LIMIT_BYTES, Entry
from shoal.wire.codec import Message, decode, encode

NONCE_BYTES: Final = 24
SEAL_OVERHEAD_BYTES: Final = NONCE_BYTES + 16
PLAINTEXT_BYTES: Final = PAYLOAD_LIMIT_BYTES - SEAL_OVERHEAD_BYTES
SALT_BYTES: Final = 16
REFERENCES_PER_ENTRY: Final = 512  # 80 bytes each at most: fits into one entry
NAME_BYTES: Final = 255
DRAFTS: Final = 2**31  # numbers from here on are drafts, where others are versions

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Unsigned = Annotated[int, msgspec.Meta(ge=0, le=SIZE_LIMIT)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Version = Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]


class Opening(Message, frozen=True):
    """Entry 0: what stays for all versions. Invalid if BLAKE3(author || salt) is not the share id, or
    elsewhere than at seq 0. `name` is for people, bytes as a file's name is.
    """

    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    cut_seed: Annotated[int, msgspec.Meta(ge=1, le=SEED_LIMIT - 1)]
    space: Hash
    generation: U32
    name: Annotated[bytes, msgspec.Meta(max_length=NAME_BYTES)]


class SegmentReference(Message, frozen=True):
    """A manifest segment that can be fetched; `kind` is the first byte of its plaintext."""

    object_id: Hash
    key: Hash
    kind: U32
    sealed_bytes: Annotated[int, msgspec.Meta(ge=1, le=SEALED_BYTES)]


class Segments(Message, frozen=True):
    """Segments of the version that is being made, in stream order of each kind. A hint: the root decides."""

    version: Version
    references: Annotated[list[SegmentReference], msgspec.Meta(max_length=REFERENCES_PER_ENTRY)]


class Closing(Message, frozen=True):
    """A version is complete. `content_id` is the id of its sealed root, `root_key` opens that; the counts are
    those of the manifest. Invalid if its version is not one more than the last closed one.
    """

    version: Version
    content_id: Hash
    root_key: Hash
    root_bytes: Annotated[int, msgspec.Meta(ge=1, le=SEALED_BYTES)]
    files: Annotated[int, msgspec.Meta(ge=0, le=ENTRY_LIMIT)]
    total_bytes: Unsigned
    stream_bytes: Unsigned
    chunks: Annotated[int, msgspec.Meta(ge=0, le=CHUNK_LIMIT)]


class Draft(Message, frozen=True):
    """The author begins to hash a version: what Segments of it said before is void, those after it are of
    this draft, first all entries (kind 1) as they were found, then chunks (kind 2) in stream order as they
    are hashed. Its chunks can be fetched as those of version `draft_number`. What the version is in the end
    the Closing says alone. Counts are those of the entries.
    """

    version: Version
    entries: Annotated[int, msgspec.Meta(ge=1, le=ENTRY_LIMIT)]
    files: Annotated[int, msgspec.Meta(ge=0, le=ENTRY_LIMIT)]
    total_bytes: Unsigned
    stream_bytes: Unsigned


FeedPayload: TypeAlias = Opening | Segments | Closing | Draft

_TYPES: Final[dict[int, type[Opening] | type[Segments] | type[Closing] | type[Draft]]] = {
    2: Opening,
    3: Segments,
    4: Closing,
    5: Draft,
}
_NUMBERS: Final = {kind: number for number, kind in _TYPES.items()}


def make_share_id(author: bytes, salt: bytes) -> bytes:
    """Return the id of the share that `author` opened with `salt`."""
    return blake3(author + salt).digest()


def draft_number(seq: int) -> int:
    """Return what stands for a version's number where the draft is meant that entry `seq` began."""
    return DRAFTS + seq


def encode_payload(payload: FeedPayload) -> bytes:
    """Return a payload's plaintext. Raises: LocalMisuse if it is too large for an entry."""
    return bytes((_NUMBERS[type(payload)],)) + encode(payload, PLAINTEXT_BYTES - 1)


def decode_payload(plaintext: bytes) -> FeedPayload | None:
    """Return what a plaintext says, None for an unknown type to skip. Raises: MalformedMessage."""
    if not plaintext:
        raise MalformedMessage("an empty feed payload")
    kind = _TYPES.get(plaintext[0])
    if kind is not None:
        return decode(kind, memoryview(plaintext)[1:])
    if plaintext[0] % 2:
        return None
    raise MalformedMessage(
        f"a feed entry of type {plaintext[0]}",
        cause="this release does not know it",
        next_step="upgrade shoal",
        code="unsupported",
    )


def seal_payload(read_key: bytes, header: bytes, plaintext: bytes, nonce: bytes) -> bytes:
    """Return the sealed payload of the entry with `header`; `nonce` = NONCE_BYTES of new randomness."""
    return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, header, nonce, feed_key(read_key))


def open_payload(read_key: bytes, entry: Entry) -> bytes:
    """Return the plaintext of an entry's payload. Raises: MalformedMessage if it was not sealed for this
    link.
    """
    sealed = entry.payload
    if len(sealed) < SEAL_OVERHEAD_BYTES:
        raise MalformedMessage("a feed payload shorter than its frame", peer=entry.author)
    try:
        return crypto_aead_xchacha20poly1305_ietf_decrypt(
            sealed[NONCE_BYTES:], entry.header, sealed[:NONCE_BYTES], feed_key(read_key)
        )
    except CryptoError as error:
        raise MalformedMessage("a feed payload that this link does not open", peer=entry.author) from error
