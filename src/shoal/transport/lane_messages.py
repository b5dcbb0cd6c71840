"""Lane messages: how a lane is agreed on, over the session (service SESSION, types 16-31).

See spec/lane.md.
"""

from __future__ import annotations

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.transport.lane_record import LANE_ID_BYTES
from shoal.wire.codec import Message

PURPOSE_BYTES = 256


class LaneOpen(Message, frozen=True, array_like=True):
    """Request: the sender wants a lane to `service` for `purpose`.

    The session's TLS server puts a lane id of its own in, the TLS client none: the id is made by the end
    that will accept the connection. The receiver asks its service and answers LaneAccept, or an error.
    Invalid: a lane id of another length, or one from the wrong end; a purpose over PURPOSE_BYTES.
    """

    service: int
    purpose: bytes
    asker_sends: bool  # whether the asker will send the bulk data, or receive it
    lane_id: bytes  # 16 or 0 bytes


class LaneAccept(Message, frozen=True, array_like=True):
    """Response. To the TLS client: dial with this id within 10 s. From it: the lane is dialled and open.

    Invalid: an id of another length, or another one than was asked for.
    """

    lane_id: bytes  # 16 bytes


LANE_MESSAGES: dict[int, type[Message]] = {16: LaneOpen, 18: LaneAccept}


def check_lane_open(message: LaneOpen, *, from_dialler: bool) -> None:
    """Raises: MalformedMessage, LimitExceeded."""
    if len(message.purpose) > PURPOSE_BYTES:
        raise LimitExceeded("the purpose of a lane is too long", cause=f"{len(message.purpose)} bytes")
    if len(message.lane_id) != (0 if from_dialler else LANE_ID_BYTES):
        raise MalformedMessage("a lane id from the wrong end", cause=f"{len(message.lane_id)} bytes")
    if not 0 <= message.service <= 255:
        raise MalformedMessage("not a service number", cause=str(message.service))


def check_lane_accept(message: Message) -> LaneAccept:
    """Return the message as what it has to be. Raises: MalformedMessage."""
    if not isinstance(message, LaneAccept) or len(message.lane_id) != LANE_ID_BYTES:
        raise MalformedMessage("not the answer to a request for a lane")
    return message
