"""Boundary: where whatever an operation raises becomes an answer, so that nothing unexpected ends the node.

This module has one of the two broad handlers of the project: what an operation raises by mistake is logged
and answered as an internal error.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from shoal.api.faults import ErrorReply, make_reply
from shoal.core.errors import LocalMisuse, ShoalError, StorageFault

log = logging.getLogger("shoal.api")

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

GONE_STATUS = 499  # the client went away before it was answered; nobody reads it


@dataclass(frozen=True, slots=True)
class Failure:
    """What did not happen, and the HTTP status for it."""

    status: int
    reply: ErrorReply


async def guard(name: str, work: Awaitable[T]) -> T | Failure:
    """Return what the work of an operation gives, or why it failed. Passes on nothing but cancellation."""
    try:
        return await work
    except ShoalError as error:
        return Failure(*make_reply(error))
    except ClientDisconnect:
        return Failure(GONE_STATUS, ErrorReply(make_reply(ShoalError("The client went away"))[1].error))
    except OSError as error:
        log.error("operation %s failed", name, exc_info=error)
        fault = StorageFault(
            f"{name} was not done",
            cause=str(error),
            next_step="see the log file in the home, folder log",
        )
        return Failure(*make_reply(fault))
    except Exception as error:  # the API boundary: nothing unexpected may end the node
        log.error("operation %s failed", name, exc_info=error)
        internal = ShoalError(
            f"{name} was not done",
            cause=f"an unexpected {type(error).__name__} in the node",
            next_step="please report it with the log file in the home, folder log",
            code="internal",
        )
        return Failure(*make_reply(internal))


def read_arguments(name: str, decoder: msgspec.json.Decoder[S], data: bytes) -> S:
    """Read the arguments of an operation. Raises: LocalMisuse (code "bad_arguments")."""
    try:
        return decoder.decode(data or b"{}")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise LocalMisuse(
            f"The arguments of {name} cannot be read",
            cause=str(error),
            next_step="see /openapi.json",
            code="bad_arguments",
        ) from error


def answer(status: int, value: object) -> Response:
    """Return a value as the body of an HTTP answer."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")
