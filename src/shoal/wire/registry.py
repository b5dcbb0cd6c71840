"""Registry: which message has which number, a table for each service.

Odd message types may be ignored by who does not know them; an even unknown type is a fault.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from shoal.core.errors import LocalMisuse, MalformedMessage
from shoal.wire.codec import Message, decode, encode
from shoal.wire.limits import MESSAGE_BYTES

M = TypeVar("M", bound=Message)


class ServiceNumber(IntEnum):
    """Who a control message is for. Numbers are part of the format and never used again."""

    SESSION = 1  # ping, lanes, going away: transport
    MEMBERSHIP = 2
    OVERLAY = 3
    SWARM = 4
    REACH = 5


class MessageTable:
    """The messages of one service, both directions."""

    def __init__(self, service: ServiceNumber, messages: dict[int, type[Message]]) -> None:
        self.service = service
        self._by_number = dict(messages)
        self._numbers = {kind: number for number, kind in messages.items()}
        if len(self._numbers) != len(self._by_number):
            raise LocalMisuse(f"a message stands twice in the table of {service.name}")

    def number(self, message: Message) -> int:
        """Return a message's type number."""
        return self._numbers[type(message)]

    def encode(self, message: Message, limit_bytes: int = MESSAGE_BYTES) -> tuple[int, bytes]:
        """Return type number and payload."""
        return self._numbers[type(message)], encode(message, limit_bytes)

    def decode(self, number: int, payload: bytes) -> Message | None:
        """Return the message, or None for an unknown type that may be ignored.

        Raises: MalformedMessage for an unknown even type or bytes that do not decode.
        """
        kind = self._by_number.get(number)
        if kind is None:
            if number % 2:
                return None
            raise MalformedMessage(f"{self.service.name} has no message {number}")
        return decode(kind, payload)
