"""Faults: errors as JSON and back, so that a caller sees the same class and exit code as the node raised."""

from __future__ import annotations

from msgspec import Struct

from shoal.api.schema import ErrorBody
from shoal.core.errors import (
    ConfigFault,
    LimitExceeded,
    LocalMisuse,
    MalformedMessage,
    Refused,
    RemoteFault,
    ShoalError,
    StorageFault,
    Unavailable,
)


class ErrorReply(Struct, frozen=True):
    """The body of every HTTP answer that is not 200. `fault` names the class of core/errors.py."""

    error: ErrorBody
    fault: str = "ShoalError"
    retry_after_s: float | None = None


# whose fault, and the HTTP status it travels with; the most specific class first
_STATUSES: tuple[tuple[type[ShoalError], int], ...] = (
    (LocalMisuse, 400),
    (Refused, 403),
    (ConfigFault, 409),
    (Unavailable, 503),
    (StorageFault, 507),
    (MalformedMessage, 502),
    (LimitExceeded, 502),
    (RemoteFault, 502),
    (ShoalError, 500),
)
_CLASSES: dict[str, type[ShoalError]] = {kind.__name__: kind for kind, _ in _STATUSES}


def make_body(error: ShoalError) -> ErrorBody:
    """Return an error's three parts and its code."""
    return ErrorBody(error.code, error.message, error.cause, error.next_step)


def make_reply(error: ShoalError) -> tuple[int, ErrorReply]:
    """Return HTTP status and body."""
    kind, status = next((k, st) for k, st in _STATUSES if isinstance(error, k))
    retry = error.retry_after_s if isinstance(error, Unavailable) else None
    return status, ErrorReply(make_body(error), kind.__name__, retry)


def find_fault(error: ShoalError) -> str:
    """Return the name of the class that crosses the API for this error."""
    return next(kind.__name__ for kind, _ in _STATUSES if isinstance(error, kind))


def make_error(body: ErrorBody, fault: str, retry_after_s: float | None = None) -> ShoalError:
    """Make the error that a reply stands for."""
    kind = _CLASSES.get(fault, ShoalError)
    if issubclass(kind, Unavailable):
        return kind(
            body.message,
            retry_after_s=retry_after_s,
            cause=body.cause,
            next_step=body.next_step,
            code=body.code,
        )
    return kind(body.message, cause=body.cause, next_step=body.next_step, code=body.code)
