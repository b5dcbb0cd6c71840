"""Order: what the launcher tells a node's process, and what that answers when it is up.

The order goes in on standard input and the report comes out on standard output, a JSON line each: a ticket is
a secret, and arguments and environments can be read by others.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from shoal.api.schema import ErrorBody, Status
from shoal.core.errors import Refused

ORDER_LIMIT_BYTES = 64 * 1024


class Flags(Struct, frozen=True, kw_only=True):
    """Settings of the command line; None where it says nothing. They come before file and environment."""

    listen: tuple[str, ...] | None = None
    name: str | None = None
    lan: bool | None = None
    relay: bool | None = None
    upnp: bool | None = None


class LaunchOrder(Struct, frozen=True, kw_only=True):
    """Run a node in `home`: as it is, or first become a member with `ticket`, or by `code` (found `at`)."""

    home: str
    mode: Literal["up", "join"] = "up"
    ticket: str | None = None
    code: str | None = None
    at: str | None = None
    flags: Flags = Flags()


def refuse_second_network(home: str) -> Refused:
    """Return why `join` is not done in a home that has a network."""
    return Refused(
        "This home did not join",
        cause=f"{home} belongs to a network already, and a home is one network",
        next_step="join in another home: shoal join --home DIR",
        code="has_network",
    )


class LaunchReport(Struct, frozen=True, kw_only=True):
    """How the start went: exactly one of `status` and `error` is there."""

    status: Status | None = None
    error: ErrorBody | None = None
    fault: str = ""
