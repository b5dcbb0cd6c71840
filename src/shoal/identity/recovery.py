"""Recovery: the key that is printed once, kept off the machine, and committed to by the genesis.

It is an Ed25519 seed. The genesis holds only a hash of the public key. What it may sign comes with the
recovery procedures of a later release; its place is fixed now, because a network that was founded without one
could never get one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import nacl.bindings

from shoal.core.errors import LocalMisuse
from shoal.identity.secrets import Context, derive
from shoal.wire.text import Kind, format_text, parse_text

SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """The secret seed. It is shown to a person and then forgotten; it is never stored."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise LocalMisuse(
                "This recovery key cannot be used", cause=f"it holds {len(self.seed)} bytes instead of 32"
            )

    @classmethod
    def generate(cls) -> RecoveryKey:
        """Make a new one from the operating system's randomness."""
        return cls(os.urandom(SEED_BYTES))

    @property
    def public_key(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""
        return nacl.bindings.crypto_sign_seed_keypair(self.seed)[0]

    @property
    def commitment(self) -> bytes:
        """What the genesis carries."""
        return derive(Context.RECOVERY, self.public_key)

    def to_text(self) -> str:
        """Write it as it is printed once: `shr1...`."""
        return format_text(Kind.RECOVERY, self.seed)

    @classmethod
    def parse(cls, text: str) -> RecoveryKey:
        """Read it back. Raises: LocalMisuse that says what is wrong with the text."""
        return cls(parse_text(Kind.RECOVERY, text))
