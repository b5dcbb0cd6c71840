"""Status: frozen snapshots of shares and transfers, for people and scripts. Ids are bytes here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from shoal.content.link import Link
from shoal.core.errors import ShoalError
from shoal.storage.transfers import TransferState

FollowState: TypeAlias = Literal["current", "fetching", "waiting", "failed", "refused"]


@dataclass(frozen=True, slots=True)
class ShareStatus:
    """A share that this node serves. `state`: hashing, complete, changed, failed; unknown values are None.

    `done_bytes` counts what was hashed of the version in the making, or all once complete. `note` says why
    changes of a share that is watched are not noticed at once. `only` are the patterns of a fetched share of
    which a part is here; `files` and `bytes` are those of the part then. `ignored` counts what .shoalignore
    files left out.
    """

    link: Link
    share_id: bytes
    state: str
    complete: bool
    content_id: bytes | None
    files: int | None
    bytes: int | None
    name: str
    paths: list[bytes]  # type: ignore[valid-type]  # the field `bytes` above hides the type
    version: int
    own: bool
    done_bytes: int
    skipped: list[tuple[bytes, str]]  # type: ignore[valid-type]
    error: ShoalError | None = None
    watching: bool = False
    note: str = ""
    only: list[bytes] = field(default_factory=list)  # type: ignore[valid-type]
    ignored: int = 0
    background: bool = False


@dataclass(frozen=True, slots=True)
class GetResult:
    """What a finished transfer did. `fetched_bytes` of content came over the network in all its runs, by
    giver in `providers`; `refetched_bytes` of them had come before: before a crash, or from another provider
    that was asked for the same at the end. `reused_bytes` were on this disk already. Description (feed and
    manifest) is counted apart, in `manifest_bytes`.
    """

    files: int
    bytes: int
    seconds: float
    fetched_bytes: int
    refetched_bytes: int
    reused_bytes: int
    resumed: bool
    skipped: list[tuple[bytes, str]] = field(default_factory=list)  # type: ignore[valid-type]
    providers: dict[bytes, int] = field(default_factory=dict)  # type: ignore[valid-type]
    blamed: list[bytes] = field(default_factory=list)  # type: ignore[valid-type]
    manifest_bytes: int = 0
    unmatched: list[bytes] = field(default_factory=list)  # type: ignore[valid-type]  # patterns without effect


@dataclass(frozen=True, slots=True)
class FollowStatus:
    """A follow. `state`: current, fetching, waiting, failed, refused. `version` lies at DEST, `newest` was
    heard of; `lag_s` is how long there has been a newer one. `why` says what keeps it from going on.
    """

    id: bytes
    share_id: bytes
    name: str
    dest: bytes
    state: FollowState
    version: int
    newest: int
    lag_s: float
    why: str
    error: ShoalError | None = None  # why the last run ended, if it failed


@dataclass(frozen=True, slots=True)
class TransferStatus:
    """A transfer. `revision` grows with every change that matters; `note` says what it is waiting for."""

    id: bytes
    share_id: bytes
    state: TransferState
    bytes: int | None
    done_bytes: int
    rate_bytes_s: float
    providers: dict[bytes, int]  # type: ignore[valid-type]
    name: str
    dest: bytes  # type: ignore[valid-type]
    revision: int
    note: str
    error: ShoalError | None
    result: GetResult | None
    only: list[bytes] = field(default_factory=list)  # type: ignore[valid-type]
    background: bool = False
