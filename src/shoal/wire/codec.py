"""Codec: MessagePack by msgspec, strict. For any bytes whatever `decode` returns a value or a RemoteFault.

Rules that make formats able to grow: messages are arrays; fields are only ever appended, with a default; a
receiver ignores elements it does not know and refuses an array that lacks a field without default.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from shoal.core.decoders import get_msgpack_decoder
from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.wire.limits import MESSAGE_BYTES

T = TypeVar("T")


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of all that is sent between peers or kept in entries. Subclasses say when it is sent,
    what the receiver must do, and what makes it invalid.
    """


_encoder = msgspec.msgpack.Encoder(order="deterministic")


def encode(message: msgspec.Struct, limit_bytes: int = MESSAGE_BYTES) -> bytes:
    """Return the bytes of a message. Raises: LocalMisuse beyond `limit_bytes`."""
    data = _encoder.encode(message)
    if len(data) > limit_bytes:
        raise LocalMisuse(f"{type(message).__name__} of {len(data)} bytes is over its limit of {limit_bytes}")
    return data


def decode(kind: type[T], data: bytes | memoryview, limit_bytes: int = MESSAGE_BYTES) -> T:
    """Return the message in `data`. Raises: LimitExceeded by size, MalformedMessage for anything else."""
    if len(data) > limit_bytes:
        raise LimitExceeded(
            f"{kind.__name__} of {len(data)} bytes", cause=f"at most {limit_bytes} are allowed"
        )
    try:
        return get_msgpack_decoder(kind).decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
        raise MalformedMessage(f"not a {kind.__name__}", cause=str(error)[:200]) from error
