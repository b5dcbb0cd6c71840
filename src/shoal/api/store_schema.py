"""Store schema: what goes into and comes out of the operations on the node's chunk store, as JSON."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from shoal.api.schema import ErrorBody, Request

StoreVerb = Literal["verify", "gc"]


class StoreState(Struct, frozen=True, kw_only=True):
    """What the store holds: `live_bytes` are kept of `file_bytes` on the disk; a quota of null is none.

    `lost` chunks rotted and have not come again yet; `scrubs` are complete checks since the start.
    """

    path: str
    segments: int
    file_bytes: int
    live_bytes: int
    chunks: int
    lost: int
    quota_bytes: int | None
    free_bytes: int
    scrubs: int


class StoreWorkRequest(Request, frozen=True, kw_only=True):
    """Start `verify` or `gc`, or with `start` false only look; held open for `wait_s` while it runs."""

    verb: StoreVerb
    start: bool = True
    wait_s: float = 0.0


class StoreWork(Struct, frozen=True, kw_only=True):
    """One verify or gc, running or the last one; the counts are those of its end.

    verify: `chunks` and `bytes` were read, `lost` are rotten now, `missing` were known before, `repaired`
    rows of the index. gc: `moved_bytes` copied to free `freed_bytes`, in `segments` files.
    """

    verb: StoreVerb
    running: bool
    bytes: int = 0
    total_bytes: int = 0
    chunks: int = 0
    lost: int = 0
    missing: int = 0
    repaired: int = 0
    segments: int = 0
    moved_bytes: int = 0
    freed_bytes: int = 0
    error: ErrorBody | None = None
    fault: str | None = None
