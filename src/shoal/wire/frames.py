"""Frames: how control messages lie in a session's byte stream.

offset  size  field
0       4     length of what follows, big endian: 8 .. 8 + MESSAGE_BYTES
4       1     kind: 1 request, 2 response, 3 error, 4 notice, 5 cancel
5       1     service
6       2     message type, big endian
8       4     request id, big endian; 0 for a notice
12      n     payload, MessagePack
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.wire.limits import MESSAGE_BYTES

_HEADER = struct.Struct(">IBBHI")
HEADER_BYTES = _HEADER.size
_LENGTH_OVERHEAD = HEADER_BYTES - 4


class FrameKind(IntEnum):
    """What a frame is for."""

    REQUEST = 1
    RESPONSE = 2
    ERROR = 3
    NOTICE = 4
    CANCEL = 5


@dataclass(frozen=True, slots=True)
class Frame:
    """One control message with its routing."""

    kind: FrameKind
    service: int
    message_type: int
    request_id: int
    payload: bytes


def pack_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame. Raises: LocalMisuse beyond MESSAGE_BYTES."""
    if len(frame.payload) > MESSAGE_BYTES:
        raise LocalMisuse(f"a control message of {len(frame.payload)} bytes is over its limit")
    return (
        _HEADER.pack(
            _LENGTH_OVERHEAD + len(frame.payload),
            frame.kind,
            frame.service,
            frame.message_type,
            frame.request_id,
        )
        + frame.payload
    )


class FrameReader:
    """Cuts a byte stream into frames; refuses a length before it buffers for it.

    Holds at most one frame and what arrived with it. `limit_bytes` may be smaller before the hello.
    """

    def __init__(self, limit_bytes: int = MESSAGE_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Take bytes, return the frames that are complete.

        Raises: LimitExceeded for a declared length over the limit, MalformedMessage for a bad header.
        """
        self._buffer += data
        frames: list[Frame] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        length = int.from_bytes(buffer[:4], "big")
        if length < _LENGTH_OVERHEAD:
            raise MalformedMessage("a frame shorter than its header", cause=f"declared {length} bytes")
        if length - _LENGTH_OVERHEAD > self.limit_bytes:
            raise LimitExceeded("a frame over the limit", cause=f"declared {length} bytes")
        if len(buffer) < 4 + length:
            return None
        _, kind, service, message_type, request_id = _HEADER.unpack_from(buffer)
        payload = bytes(buffer[HEADER_BYTES : 4 + length])
        del buffer[: 4 + length]
        try:
            known = FrameKind(kind)
        except ValueError as error:
            raise MalformedMessage("a frame of unknown kind", cause=f"kind {kind}") from error
        return Frame(known, service, message_type, request_id, payload)
