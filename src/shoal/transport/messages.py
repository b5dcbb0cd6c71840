"""Messages: what transport itself says over a session (service SESSION), and the bodies of error frames.

type  message     kind      who
2     Hello       request   initiator, then responder; nothing else is parsed before both
4     Settled     notice    responder, once: this session stays
6     GoingAway   notice    either, last
8     Ping        request   either, every 4 s when nothing else comes
10    Pong        response  answer to Ping
16-31 lanes: transport/lane_messages.py
"""

from __future__ import annotations

from enum import IntEnum

from shoal.core.errors import (
    LimitExceeded,
    LocalMisuse,
    MalformedMessage,
    Refused,
    RemoteFault,
    ShoalError,
    Unavailable,
)
from shoal.wire.codec import Message

LANE_TYPES = range(16, 32)
ERROR_BYTES = 8192  # of an ErrorReply: five short texts, four bytes a character at most
VERSIONS = (1,)  # session protocol versions this release speaks, highest last
VERSIONS_LIMIT = 16
TEXT_CHARACTERS = 300  # of each text in an error frame or a reason
RETRY_AFTER_LIMIT_S = 3600.0


class SessionType(IntEnum):
    """Message types of service SESSION that transport itself uses."""

    HELLO = 2
    SETTLED = 4
    GOING_AWAY = 6
    PING = 8
    PONG = 10


class Hello(Message, frozen=True, array_like=True):
    """First message of each end. The initiator sends it at once after TLS; the responder verifies it and only
    then sends its own. Invalid: another network, no common version, a signature that does not cover this TLS
    channel, a sender who is no member after `entries` were learned.
    """

    network: bytes  # 32
    head: bytes  # 32, BLAKE3 of the sorted tips of the sender's membership log
    versions: list[int]  # 1-16 of u16, ascending
    entries: list[bytes]  # what admits the sender, parents first: at most 16 in 63 KiB
    signature: bytes  # 64, see hello.py
    instance: bytes  # 16, random at each start of the sender: a new one means that old sessions are gone
    replaces: bool = False  # the sender wants this session in the place of the one there is


class Settled(Message, frozen=True, array_like=True):
    """The responder keeps this session; the initiator may use it for everything from now on."""


class GoingAway(Message, frozen=True, array_like=True):
    """The sender closes the session. `reason` is one of session.REASONS, anything else counts as `closed`."""

    reason: str


class Ping(Message, frozen=True, array_like=True):
    """Heartbeat. The receiver answers Pong at once. Invalid unless `head` has 8 bytes."""

    head: bytes  # first 8 bytes of the sender's log head


class Pong(Message, frozen=True, array_like=True):
    """Answer to Ping, with the answerer's head and what its clock shows.

    The time is for people only (`shoal doctor`): no rule may depend on another device's clock.
    """

    head: bytes
    time: int = 0  # seconds since 1970; 0 = not told


class ErrorReply(Message, frozen=True, array_like=True):
    """Payload of an error frame. `kind` says whose fault it is in the eyes of the answerer."""

    kind: str  # unavailable | refused | fault | limit
    code: str
    message: str
    cause: str = ""
    next_step: str = ""
    retry_after_s: float | None = None


def make_error_reply(error: ShoalError) -> ErrorReply:
    """Return what the asker is told about an error of ours."""
    retry_after_s: float | None = None
    match error:
        case Refused():
            kind = "refused"
        case LimitExceeded():
            kind = "limit"
        case RemoteFault() | LocalMisuse():
            kind = "fault"
        case Unavailable():
            kind, retry_after_s = "unavailable", error.retry_after_s
        case _:
            kind = "unavailable"
    return ErrorReply(
        kind,
        _clean(error.code),
        _clean(error.message),
        _clean(error.cause),
        _clean(error.next_step),
        retry_after_s,
    )


def make_error(reply: ErrorReply, peer: bytes) -> ShoalError:
    """Return the error to raise at the asker. Texts are the peer's: shortened, control characters removed."""
    message, cause, next_step = _clean(reply.message), _clean(reply.cause), _clean(reply.next_step)
    code = _clean(reply.code)[:40]
    match reply.kind:
        case "refused":
            return Refused(message, cause=cause, next_step=next_step, code=code)
        case "unavailable":
            retry = reply.retry_after_s
            if retry is not None and not 0 <= retry <= RETRY_AFTER_LIMIT_S:
                retry = RETRY_AFTER_LIMIT_S
            return Unavailable(message, retry_after_s=retry, cause=cause, next_step=next_step, code=code)
        case "limit":
            return LimitExceeded(message, peer=peer, cause=cause, next_step=next_step, code=code)
        case _:
            return RemoteFault(message, peer=peer, cause=cause, next_step=next_step, code=code)


def check_length(name: str, value: bytes, length: int) -> None:
    """Raises: MalformedMessage unless `value` has exactly `length` bytes."""
    if len(value) != length:
        raise MalformedMessage(f"{name} of {len(value)} bytes", cause=f"{length} are expected")


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:TEXT_CHARACTERS])
