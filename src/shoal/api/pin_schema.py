"""Pin schema: what goes into and comes out of the operations on kept copies, as JSON."""

from __future__ import annotations

from msgspec import Struct

from shoal.api.schema import ErrorBody, Request


class PinRequest(Request, frozen=True, kw_only=True):
    """Keep a copy of what a link names; `lease_s` null: until it is unpinned.

    `wait_s`: how long to wait for absent providers; null waits for ever, 0 as long as a search takes.
    """

    link: str
    lease_s: float | None = None
    wait_s: float | None = 0.0


class PinWaitRequest(Request, frozen=True, kw_only=True):
    """Ask for one pin, held open until its revision differs from the given one."""

    number: int
    revision: int | None = None
    wait_s: float = 0.0


class Pin(Struct, frozen=True, kw_only=True):
    """A pin. `state`: fetching, complete, failed, ended; repairing, damaged: complete, but some rotted.

    `done` of `chunks` are in the store, `done_bytes` of `bytes`. `lease` is when it ends, null for never.
    """

    number: int
    share_id: str
    name: str
    state: str
    version: int
    chunks: int
    done: int
    bytes: int
    done_bytes: int
    lease: str | None
    revision: int
    note: str
    error: ErrorBody | None
    fault: str | None


class Pins(Struct, frozen=True):
    """All copies that this node keeps, oldest first."""

    pins: list[Pin]


class UnpinRequest(Request, frozen=True, kw_only=True):
    """Keep a copy no longer: a share id, the beginning of it, a link, or a name."""

    pin: str
