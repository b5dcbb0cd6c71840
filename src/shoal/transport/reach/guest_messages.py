"""Guest messages: what somebody with a ticket and a relay say at the guest door (spec/guest.md).

number  message        way
2       GuestAsk       guest, first
4       GuestGrant     relay, last
6       GuestRefused   relay, last
"""

from __future__ import annotations

from typing import Protocol

from blake3 import blake3

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.transport.reach.messages import TOKEN_BYTES
from shoal.wire.codec import Message
from shoal.wire.registry import MessageTable, ServiceNumber

TEXT_CHARACTERS = 300
PROOF_BYTES = 32
EXPORTER_LABEL = b"EXPORTER-shoal-guest/1"


class HasExporter(Protocol):
    """A TLS channel's exporter."""

    def exporter(self, label: bytes, context: bytes, length: int) -> bytes:
        """Return keying material that only the two ends know."""
        ...


class GuestAsk(Message, frozen=True, array_like=True):
    """Lead me to the inviter whose pass I knocked with: I hold it, on this very channel."""

    proof: bytes  # 32, of make_guest_proof

    def check(self) -> None:
        """Raises: MalformedMessage."""
        if len(self.proof) != PROOF_BYTES:
            raise MalformedMessage("a proof of another length", cause=f"{len(self.proof)} bytes")


class GuestGrant(Message, frozen=True, array_like=True):
    """Connect to the relay within 10 s and send REACH_MAGIC and this token: what follows is spliced."""

    token: bytes  # 16

    def check(self) -> None:
        """Raises: MalformedMessage."""
        if len(self.token) != TOKEN_BYTES:
            raise MalformedMessage("a token of another length", cause=f"{len(self.token)} bytes")


class GuestRefused(Message, frozen=True, array_like=True):
    """No way now (`later`: trying again may help). `code` is a stable word, `cause` for people."""

    code: str
    cause: str
    later: bool

    def check(self) -> None:
        """Raises: LimitExceeded."""
        if len(self.code) > TEXT_CHARACTERS or len(self.cause) > TEXT_CHARACTERS:
            raise LimitExceeded("a relay's no that is too long")


def make_guest_proof(channel: HasExporter, guest_pass: bytes, guest: bytes, relay: bytes) -> bytes:
    """Return keyed BLAKE3(pass, exporter || guest || relay); the exporter's context is the relay's peer id.

    A knock stands in the clear: who saw one could be quicker with it. This it cannot make.
    """
    exported = channel.exporter(EXPORTER_LABEL, relay, PROOF_BYTES)
    return blake3(exported + guest + relay, key=guest_pass).digest()


GUEST_TABLE = MessageTable(ServiceNumber.REACH, {2: GuestAsk, 4: GuestGrant, 6: GuestRefused})
