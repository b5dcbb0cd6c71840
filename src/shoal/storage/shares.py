"""Shares: what this node shares, its own and what it fetched and goes on serving."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple, TypedDict, Unpack

from blake3 import blake3

from shoal.core.errors import Refused
from shoal.storage.database import Connection, Database
from shoal.storage.rows import pack, unpack, update_statement
from shoal.storage.sealer import Sealer

SHARE_LIMIT = 4096  # rows; wild guess


class Origin(Enum):
    """Where a share's bytes come from."""

    OWN = "own"  # paths the user shared here
    FETCHED = "fetched"  # what a `get` wrote


class ShareState(Enum):
    """What can be expected of a share."""

    HASHING = "hashing"
    COMPLETE = "complete"
    CHANGED = "changed"  # a file is not what was hashed any more: those chunks are not served
    FAILED = "failed"


class ShareRow(NamedTuple):
    """One share. `roots` are absolute paths of the user (bytes); `details` is the app's own MessagePack."""

    share_id: bytes
    origin: Origin
    link: str
    roots: tuple[bytes, ...]
    name: str
    state: ShareState
    created_at: float
    updated_at: float
    version: int = 0
    content_id: bytes | None = None
    files: int | None = None
    total_bytes: int | None = None
    error: str = ""
    details: bytes = b""


class ShareChanges(TypedDict, total=False):
    """What `update` can change."""

    state: ShareState
    updated_at: float
    roots: tuple[bytes, ...]
    version: int
    content_id: bytes | None
    files: int | None
    total_bytes: int | None
    error: str
    details: bytes


_CHANGES = frozenset(ShareChanges.__annotations__)


class Shares:
    """The table of shares; links are sealed, for they are the right to read."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def add(self, share: ShareRow) -> None:
        """Store a new share; durable on return.

        Raises: Refused (code share_exists) for a known share id or an own share of the same roots, code
        too_many_shares at SHARE_LIMIT; StorageFault.
        """
        await self._insert(share, replace=False)

    async def replace(self, share: ShareRow) -> None:
        """Store a share in the place of the one of its id, if there is one, at once: a crash leaves one of
        the two. Raises: Refused (code too_many_shares), StorageFault.
        """
        await self._insert(share, replace=True)

    async def _insert(self, share: ShareRow, *, replace: bool) -> None:
        values = self._values(share)

        def run(connection: Connection) -> None:
            if replace:
                connection.execute("DELETE FROM shares WHERE share_id = ?", (share.share_id,))
            if connection.execute("SELECT count(*) FROM shares").fetchone()[0] >= SHARE_LIMIT:
                raise Refused(
                    "The share was not added",
                    cause=f"this node has {SHARE_LIMIT} shares",
                    next_step="end some with `shoal unshare`",
                    code="too_many_shares",
                )
            marks = ", ".join("?" * len(values))
            added = connection.execute(f"INSERT OR IGNORE INTO shares VALUES ({marks})", values)  # noqa: S608
            if added.rowcount == 0:
                raise Refused("The share was not added", cause="it is there already", code="share_exists")

        await self._database.write(run)

    async def find(self, share_id: bytes) -> ShareRow | None:
        """Return a share, or None."""
        rows = await self._select("WHERE share_id = ?", share_id)
        return rows[0] if rows else None

    async def find_own(self, roots: Iterable[bytes]) -> ShareRow | None:
        """Return the own share of exactly these paths, in any order, or None."""
        rows = await self._select("WHERE origin = 'own' AND root_key = ?", make_root_key(roots))
        return rows[0] if rows else None

    async def load(self) -> list[ShareRow]:
        """Return all shares, oldest first."""
        return await self._select("ORDER BY created_at, share_id")

    async def update(self, share_id: bytes, **changes: Unpack[ShareChanges]) -> bool:
        """Change some fields of a share; durable on return; returns whether the share is there."""
        columns: dict[str, Any] = dict(changes)
        if "state" in changes:
            columns["state"] = changes["state"].value
        if "roots" in changes:
            columns["roots"] = pack(changes["roots"])
            columns["root_key"] = make_root_key(changes["roots"])
        statement, values = update_statement("shares", "share_id", _CHANGES | {"root_key"}, columns)

        def run(connection: Connection) -> bool:
            return connection.execute(statement, [*values, share_id]).rowcount == 1

        return await self._database.write(run)

    async def drop(self, share_id: bytes) -> bool:
        """Forget a share; returns whether it was there. Its objects and feed are dropped in their stores."""

        def run(connection: Connection) -> bool:
            return connection.execute("DELETE FROM shares WHERE share_id = ?", (share_id,)).rowcount == 1

        return await self._database.write(run)

    async def _select(self, where: str, *values: Any) -> list[ShareRow]:
        def run(connection: Connection) -> list[ShareRow]:
            return [self._row(row) for row in connection.execute(f"{_SELECT} {where}", values)]

        return await self._database.read(run)

    def _values(self, share: ShareRow) -> tuple[Any, ...]:
        return (
            share.share_id,
            share.origin.value,
            make_root_key(share.roots),
            self._sealer.seal_value(share.link.encode()),
            pack(share.roots),
            share.name,
            share.state.value,
            share.version,
            share.content_id,
            share.files,
            share.total_bytes,
            share.created_at,
            share.updated_at,
            share.error,
            share.details,
        )

    def _row(self, row: tuple[Any, ...]) -> ShareRow:
        return ShareRow(
            share_id=row[0],
            origin=Origin(row[1]),
            link=self._sealer.open_value(row[2]).decode(),
            roots=unpack(tuple[bytes, ...], row[3], "shares.roots"),
            name=row[4],
            state=ShareState(row[5]),
            version=row[6],
            content_id=row[7],
            files=row[8],
            total_bytes=row[9],
            created_at=row[10],
            updated_at=row[11],
            error=row[12],
            details=row[13],
        )


_SELECT = (
    "SELECT share_id, origin, sealed_link, roots, name, state, version, content_id, files, total_bytes, "
    "created_at, updated_at, error, details FROM shares"
)


def make_root_key(roots: Iterable[bytes]) -> bytes:
    """Return the hash of a set of paths, whatever their order."""
    return blake3(pack(sorted(set(roots))), derive_key_context="shoal v1 local roots").digest()
