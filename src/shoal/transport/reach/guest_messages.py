"""Guest messages: what somebody with a ticket and a relay say at the guest door (spec/guest.md).

number  message        way
2       GuestAsk       guest, first
4       GuestGrant     relay, last
6       GuestRefused   relay, last
"""

from __future__ import annotations

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.transport.reach.messages import TOKEN_BYTES
from shoal.wire.codec import Message
from shoal.wire.registry import MessageTable, ServiceNumber

TEXT_CHARACTERS = 300


class GuestAsk(Message, frozen=True, array_like=True):
    """Lead me to the inviter whose pass I knocked with."""


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


GUEST_TABLE = MessageTable(ServiceNumber.REACH, {2: GuestAsk, 4: GuestGrant, 6: GuestRefused})
