"""Keys: everything that content derives from a content secret or from a link's read key.

A content secret belongs to a space and a generation; its holders can recognise and verify chunks. A read key
belongs to one share and is in its link; its holders can read manifest and feed.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from shoal.content.cut import SEED_LIMIT
from shoal.identity.secrets import Context, derive

KEY_BYTES: Final = 32


class ChunkKeys:
    """The key function of one generation: keyed BLAKE3 of a chunk's plaintext, which is also its checksum."""

    __slots__ = ("_key",)

    def __init__(self, content_secret: bytes) -> None:
        self._key = derive(Context.CHUNK, content_secret)

    def key(self, plaintext: bytes | bytearray | memoryview) -> bytes:
        """Return a chunk's key. Releases the interpreter lock for more than 2 KiB."""
        return blake3(plaintext, key=self._key).digest()


def chunk_key(content_key: bytes, plaintext: bytes | bytearray | memoryview) -> bytes:
    """Return a chunk's key under an already derived content key (`derive(Context.CHUNK, secret)`)."""
    return blake3(plaintext, key=content_key).digest()


def cut_seed(content_secret: bytes) -> int:
    """Return the seed of the cut points: 63 bits, never zero (docs/decisions/0002-cut-seed.md)."""
    derived = derive(Context.CUT, content_secret)
    return int.from_bytes(derived[:8], "big") % (SEED_LIMIT - 1) + 1


def location_key(content_secret: bytes, name: bytes) -> bytes:
    """Return under what a share id or content id is announced and located.

    Who does not hold the content secret of that generation learns nothing from it.
    """
    return blake3(name, key=derive(Context.LOOKUP, content_secret)).digest()


class SegmentKeys:
    """Keys of one share's sealed objects: keyed BLAKE3 of the plaintext under a key from the read key."""

    __slots__ = ("_key",)

    def __init__(self, read_key: bytes) -> None:
        self._key = derive(Context.SEGMENT, read_key)

    def key(self, plaintext: bytes) -> bytes:
        """Return the key that `plaintext` is sealed with."""
        return blake3(plaintext, key=self._key).digest()

    def boundary(self, row_name: bytes) -> int:
        """Return 32 bits by which a row ends a segment or not; unguessable without the link."""
        return int.from_bytes(blake3(row_name, key=self._key).digest(4), "big")


def feed_key(read_key: bytes) -> bytes:
    """Return the key of feed payloads."""
    return derive(Context.FEED, read_key)


def object_commitment(key: bytes) -> bytes:
    """Return the commitment that stands at the front of an object sealed with `key`."""
    return derive(Context.OBJECT_COMMIT, key)
