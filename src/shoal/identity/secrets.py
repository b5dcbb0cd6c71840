"""Secrets: of a network and its spaces, the keys derived from them, and the commitments to them.

All derivation is BLAKE3 in derive-key mode with one context string a purpose; the strings are part of the
format and stand here, all of them, so that none is used twice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TypeAlias

from blake3 import blake3

from shoal.core.errors import LocalMisuse

SECRET_BYTES = 32
SPACE_BYTES = 32
DEFAULT_SPACE = bytes(SPACE_BYTES)  # all members but storage-only ones; also where network secrets live
GENERATION_LIMIT = 2**32 - 1

SecretKey: TypeAlias = tuple[int, bytes, int]  # kind, space, generation


class Context(Enum):
    """What a key is derived for. One purpose, one string, for ever."""

    COMMIT = "shoal v1 secret commit"  # public commitment to a secret
    RECOVERY = "shoal v1 recovery commit"  # commitment to the recovery public key
    CHUNK = "shoal v1 chunk"  # content secret -> key of the keyed hash that makes chunk keys
    CUT = "shoal v1 cut"  # content secret -> seed of the cut points
    SEGMENT = "shoal v1 segment"  # content secret -> key of the keyed hash that makes manifest segments' keys
    OBJECT_COMMIT = "shoal v1 object commit"  # object key -> 32-byte commitment in front of a sealed object
    FEED = "shoal v1 feed"  # read key -> key of feed payloads
    LOOKUP = "shoal v1 lookup"  # content secret -> key under which share ids are located
    PROOF = "shoal v1 proof"  # read key -> key of the fetch proof
    JOIN = "shoal v1 join"  # ticket secret -> key of the join knock
    JOIN_PROOF = "shoal v1 join proof"  # ticket secret -> key of the joiner's proof
    INVITE = "shoal v1 invite"  # ticket secret -> invite id
    GUEST = "shoal v1 guest"  # ticket secret -> key of the keyed hash that makes passes for relays
    CODE_CONFIRM = "shoal v1 code confirm"  # SPAKE2 key -> key of both confirmations of a typed code
    CODE_GRANT = "shoal v1 code grant"  # SPAKE2 key, transcript -> key that seals the ticket
    KEY_FILE = "shoal v1 key file"  # checksum of a key file


class SecretKind(IntEnum):
    """What a secret of a network is for. Numbers are never used again."""

    DOOR = 1  # knocks and LAN announcements; given to every role
    CONTENT = 2  # names and keys of a space's content; all generations are kept
    EPOCH = 3  # wraps names and indexes of a space


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of one generation. Equal to another only if the value is."""

    kind: SecretKind
    space: bytes
    generation: int
    value: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.value) != SECRET_BYTES or len(self.space) != SPACE_BYTES:
            raise LocalMisuse("a secret and its space have 32 bytes each")
        if not 0 <= self.generation <= GENERATION_LIMIT:
            raise LocalMisuse("a generation is an unsigned 32-bit number")

    @classmethod
    def generate(cls, kind: SecretKind, space: bytes = DEFAULT_SPACE, generation: int = 0) -> Secret:
        """Make a new one from the operating system's randomness."""
        return cls(kind, space, generation, os.urandom(SECRET_BYTES))

    @property
    def key(self) -> SecretKey:
        """What the membership state's commitments are keyed by."""
        return (int(self.kind), self.space, self.generation)

    @property
    def commitment(self) -> bytes:
        """The public commitment that genesis or an epoch operation carries."""
        return commit(self.value)


def derive(context: Context, secret: bytes, length: int = SECRET_BYTES) -> bytes:
    """Return the key that `context` derives from `secret`."""
    return blake3(secret, derive_key_context=context.value).digest(length)


def commit(secret: bytes) -> bytes:
    """Return the public commitment to a secret; a delivered secret is accepted only against it."""
    return derive(Context.COMMIT, secret)
