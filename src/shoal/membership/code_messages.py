"""Code messages: what joiner and inviter say over a join channel by typed code (spec/code.md).

number  message       way
4       JoinRefused   inviter, last
12      CodeStart     joiner, first
14      CodeReply     inviter
16      CodeConfirm   joiner, then inviter
18      CodeReady     joiner
20      CodeGrant     inviter, last
"""

from __future__ import annotations

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.membership.join_messages import JoinRefused
from shoal.wire.codec import Message
from shoal.wire.registry import MessageTable, ServiceNumber

SPAKE_BYTES = 33  # the side, then a point of edwards25519
CONFIRMATION_BYTES = 32
COMMITMENT_BYTES = 32
BLIND_BYTES = 32
SEALED_LIMIT_BYTES = 4096  # a ticket with 8 of the longest addresses takes 2.3 KiB


class CodeStart(Message, frozen=True, array_like=True):
    """The joiner's SPAKE2 message. Nothing else of the code has left the joiner but its nameplate."""

    spake: bytes

    def check(self) -> None:
        """Raises: MalformedMessage."""
        _check_length(self.spake, SPAKE_BYTES)


class CodeReply(Message, frozen=True, array_like=True):
    """The inviter's SPAKE2 message, and a commitment to its network that shows nothing of it."""

    spake: bytes
    commitment: bytes

    def check(self) -> None:
        """Raises: MalformedMessage."""
        _check_length(self.spake, SPAKE_BYTES)
        _check_length(self.commitment, COMMITMENT_BYTES)


class CodeConfirm(Message, frozen=True, array_like=True):
    """Shows that its sender knows the words, on this very channel. The joiner's comes first."""

    confirmation: bytes

    def check(self) -> None:
        """Raises: MalformedMessage."""
        _check_length(self.confirmation, CONFIRMATION_BYTES)


class CodeReady(Message, frozen=True, array_like=True):
    """The joiner has verified the inviter's confirmation."""


class CodeGrant(Message, frozen=True, array_like=True):
    """What opens the commitment, and the ticket, sealed under a key of this exchange."""

    blind: bytes
    sealed: bytes

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        _check_length(self.blind, BLIND_BYTES)
        if len(self.sealed) > SEALED_LIMIT_BYTES:
            raise LimitExceeded("A ticket given for a code is too long")


CODE_TABLE = MessageTable(
    ServiceNumber.MEMBERSHIP,
    {4: JoinRefused, 12: CodeStart, 14: CodeReply, 16: CodeConfirm, 18: CodeReady, 20: CodeGrant},
)


def _check_length(value: bytes, length: int) -> None:
    if len(value) != length:
        raise MalformedMessage("A message of a typed code has a field of the wrong length")
