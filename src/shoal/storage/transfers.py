"""Transfers: every `get`, its counters, and which chunks it has; enough to go on after a crash."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, TypedDict, Unpack

from blake3 import blake3

from shoal.core.errors import Refused
from shoal.storage.boot import BOOT_ID_BYTES, read_boot_id
from shoal.storage.chunk_ledger import ChunkLedger
from shoal.storage.database import Connection, Database
from shoal.storage.rows import pack, unpack, update_statement
from shoal.storage.sealer import Sealer

TRANSFER_LIMIT = 4096  # rows, finished ones included; the oldest finished ones are forgotten first
TRANSFER_ID_BYTES = 16


class TransferState(Enum):
    """Where a transfer is. The last three are ends; FAILED and CANCELLED may be started again."""

    QUEUED = "queued"
    FINDING = "finding"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    FINISHING = "finishing"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in (TransferState.DONE, TransferState.FAILED, TransferState.CANCELLED)


class TransferRow(NamedTuple):
    """One transfer. `dest` is an absolute path; `options` and `error` are the app's own."""

    id: bytes
    share_id: bytes
    link: str
    dest: bytes
    created_at: float
    updated_at: float
    state: TransferState = TransferState.QUEUED
    version: int = 0
    options: bytes = b""
    total_bytes: int | None = None
    done_bytes: int = 0
    fetched_bytes: int = 0
    refetched_bytes: int = 0
    reused_bytes: int = 0
    providers: dict[bytes, int] = {}  # noqa: RUF012 - read only
    resumed: bool = False
    error: str = ""


class TransferChanges(TypedDict, total=False):
    """What `update` (and `ChunkLedger.mark`) can change."""

    state: TransferState
    updated_at: float
    version: int
    options: bytes
    total_bytes: int | None
    done_bytes: int
    fetched_bytes: int
    refetched_bytes: int
    reused_bytes: int
    providers: dict[bytes, int]
    resumed: bool
    error: str


_CHANGES = frozenset(TransferChanges.__annotations__)


def make_transfer_id() -> bytes:
    """Return a new random id."""
    return os.urandom(TRANSFER_ID_BYTES)


class Transfers:
    """The table of transfers. `boot_id` is given by tests that stage a restart of the machine."""

    def __init__(self, database: Database, sealer: Sealer, boot_id: bytes | None = None) -> None:
        self._database = database
        self._sealer = sealer
        self._boot_id = boot_id or read_boot_id()

    async def add(self, transfer: TransferRow, only: Sequence[bytes] = ()) -> None:
        """Store a new transfer, of what the patterns `only` select; durable on return.

        Raises: Refused (code transfer_exists) where the same is already fetched to the same place, code
        too_many_transfers where TRANSFER_LIMIT are unfinished; StorageFault.
        """
        values = self._values(transfer, only)

        def run(connection: Connection) -> None:
            _make_room(connection)
            marks = ", ".join("?" * len(values))
            added = connection.execute(f"INSERT OR IGNORE INTO transfers VALUES ({marks})", values)  # noqa: S608
            if added.rowcount == 0:
                raise Refused(
                    "The transfer was not added", cause="it is there already", code="transfer_exists"
                )

        await self._database.write(run)

    async def find(self, transfer_id: bytes) -> TransferRow | None:
        """Return a transfer, or None."""
        rows = await self._select("WHERE id = ?", transfer_id)
        return rows[0] if rows else None

    async def find_target(self, link: str, dest: bytes, only: Sequence[bytes] = ()) -> TransferRow | None:
        """Return the transfer of this link (or of that part of it) to this place, or None."""
        rows = await self._select("WHERE target_key = ?", make_target_key(link, dest, only))
        return rows[0] if rows else None

    async def load(self) -> list[TransferRow]:
        """Return all transfers, oldest first."""
        return await self._select("ORDER BY created_at, id")

    async def update(self, transfer_id: bytes, **changes: Unpack[TransferChanges]) -> bool:
        """Change some fields; durable on return; returns whether the transfer is there."""
        statement, values = update_statement("transfers", "id", _CHANGES, _columns(dict(changes)))

        def run(connection: Connection) -> bool:
            return connection.execute(statement, [*values, transfer_id]).rowcount == 1

        return await self._database.write(run)

    async def drop(self, transfer_id: bytes) -> bool:
        """Forget a transfer and its chunks; returns whether it was there. Files are the caller's."""

        def run(connection: Connection) -> bool:
            return connection.execute("DELETE FROM transfers WHERE id = ?", (transfer_id,)).rowcount == 1

        return await self._database.write(run)

    async def open_ledger(
        self,
        transfer_id: bytes,
        version: int,
        chunk_count: int,
        disk_id: bytes = b"",
        keep: Sequence[int] = (),
    ) -> ChunkLedger:
        """Return the chunks a transfer has of one version of its share; what versions had that are not in
        `keep` is forgotten. What was recorded for another `disk_id` (of where the part files lie) is
        doubtful.

        Raises: StorageFault.
        """
        boot_id = self._era(disk_id)

        def run(connection: Connection) -> tuple[dict[int, bytes], dict[int, bytes]]:
            sure: dict[int, bytes] = {}
            doubtful: dict[int, bytes] = {}
            for other in _recorded(connection, transfer_id):
                if other != version and other not in keep:
                    connection.execute(
                        "DELETE FROM transfer_pages WHERE transfer_id = ? AND version = ?",
                        (transfer_id, other),
                    )
            for boot, page, bits in connection.execute(
                "SELECT boot_id, page, bits FROM transfer_pages WHERE transfer_id = ? AND version = ?",
                (transfer_id, version),
            ):
                pages = sure if boot == boot_id else doubtful
                pages[page] = _merge(pages.get(page, b""), bits)
            return sure, doubtful

        sure, doubtful = await self._database.write(run, durable=False)

        def save(pages: dict[int, bytes], counters: dict[str, object]) -> asyncio.Future[None]:
            rows = [(transfer_id, version, boot_id, number, bits) for number, bits in pages.items()]
            return self._database.submit(
                lambda connection: _save(connection, rows, transfer_id, counters), durable=False
            )

        return ChunkLedger(chunk_count, sure, doubtful, save)

    async def recorded_versions(self, transfer_id: bytes) -> list[int]:
        """Return the versions of its share of which a transfer has chunks recorded, ascending."""
        return await self._database.read(lambda connection: _recorded(connection, transfer_id))

    async def forget_doubtful(self, transfer_id: bytes, disk_id: bytes = b"") -> None:
        """Forget what other boots and disks recorded: after it was verified, marked where it was right, and
        flushed.
        """
        boot_id = self._era(disk_id)

        def run(connection: Connection) -> None:
            connection.execute(
                "DELETE FROM transfer_pages WHERE transfer_id = ? AND boot_id <> ?",
                (transfer_id, boot_id),
            )

        await self._database.write(run, durable=False)

    async def forget_chunks(self, transfer_id: bytes) -> None:
        """Forget all chunks of a transfer: it is done, or starts anew."""

        def run(connection: Connection) -> None:
            connection.execute("DELETE FROM transfer_pages WHERE transfer_id = ?", (transfer_id,))

        await self._database.write(run)

    def _era(self, disk_id: bytes) -> bytes:
        """Return how long records are trusted: this boot, with this disk as it is plugged in now."""
        return blake3(self._boot_id + disk_id).digest(BOOT_ID_BYTES) if disk_id else self._boot_id

    async def _select(self, where: str, *values: Any) -> list[TransferRow]:
        def run(connection: Connection) -> list[TransferRow]:
            return [self._row(row) for row in connection.execute(f"{_SELECT} {where}", values)]

        return await self._database.read(run)

    def _values(self, transfer: TransferRow, only: Sequence[bytes]) -> tuple[Any, ...]:
        return (
            transfer.id,
            make_target_key(transfer.link, transfer.dest, only),
            transfer.share_id,
            transfer.version,
            self._sealer.seal_value(transfer.link.encode()),
            transfer.dest,
            transfer.options,
            transfer.state.value,
            transfer.total_bytes,
            transfer.done_bytes,
            transfer.fetched_bytes,
            transfer.refetched_bytes,
            transfer.reused_bytes,
            pack(transfer.providers),
            transfer.resumed,
            transfer.error,
            transfer.created_at,
            transfer.updated_at,
        )

    def _row(self, row: tuple[Any, ...]) -> TransferRow:
        return TransferRow(
            id=row[0],
            share_id=row[1],
            version=row[2],
            link=self._sealer.open_value(row[3]).decode(),
            dest=row[4],
            options=row[5],
            state=TransferState(row[6]),
            total_bytes=row[7],
            done_bytes=row[8],
            fetched_bytes=row[9],
            refetched_bytes=row[10],
            reused_bytes=row[11],
            providers=unpack(dict[bytes, int], row[12], "transfers.providers"),
            resumed=bool(row[13]),
            error=row[14],
            created_at=row[15],
            updated_at=row[16],
        )


_SELECT = (
    "SELECT id, share_id, version, sealed_link, dest, options, state, total_bytes, done_bytes, "
    "fetched_bytes, refetched_bytes, reused_bytes, providers, resumed, error, created_at, updated_at "
    "FROM transfers"
)


def make_target_key(link: str, dest: bytes, only: Sequence[bytes] = ()) -> bytes:
    """Return the hash that says which get this is. A link has 256 random bits: nothing is guessed from it.

    `only` are the patterns of a get of a part, sorted; without them the key is that of a get of all.
    """
    target = [link, dest, list(only)] if only else [link, dest]
    return blake3(pack(target), derive_key_context="shoal v1 local transfer").digest()


def _columns(changes: dict[str, Any]) -> dict[str, Any]:
    if "state" in changes:
        changes["state"] = changes["state"].value
    if "providers" in changes:
        changes["providers"] = pack(changes["providers"])
    return changes


def _save(
    connection: Connection,
    rows: list[tuple[bytes, int, bytes, int, bytes]],
    transfer_id: bytes,
    counters: dict[str, Any],
) -> None:
    if counters:
        statement, values = update_statement("transfers", "id", _CHANGES, _columns(dict(counters)))
        connection.execute(statement, [*values, transfer_id])
    if connection.execute("SELECT 1 FROM transfers WHERE id = ?", (transfer_id,)).fetchone() is None:
        return  # dropped meanwhile
    connection.executemany("INSERT OR REPLACE INTO transfer_pages VALUES (?, ?, ?, ?, ?)", rows)


def _make_room(connection: Connection) -> None:
    """Keep below TRANSFER_LIMIT by forgetting the oldest that ended."""
    count = connection.execute("SELECT count(*) FROM transfers").fetchone()[0]
    if count < TRANSFER_LIMIT:
        return
    ends = [state.value for state in TransferState if state.is_end]
    marks = ", ".join("?" * len(ends))
    gone = connection.execute(
        f"DELETE FROM transfers WHERE id IN (SELECT id FROM transfers WHERE state IN ({marks}) "  # noqa: S608
        "ORDER BY updated_at LIMIT ?)",
        [*ends, count - TRANSFER_LIMIT + 1],
    ).rowcount
    if count - gone >= TRANSFER_LIMIT:
        raise Refused(
            "The transfer was not added",
            cause=f"{TRANSFER_LIMIT} transfers are unfinished",
            next_step="let some finish or cancel them: `shoal transfers`",
            code="too_many_transfers",
        )


def _recorded(connection: Connection, transfer_id: bytes) -> list[int]:
    rows = connection.execute(
        "SELECT DISTINCT version FROM transfer_pages WHERE transfer_id = ? ORDER BY version", (transfer_id,)
    )
    return [row[0] for row in rows]


def _merge(one: bytes, other: bytes) -> bytes:
    size = max(len(one), len(other))
    merged = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return merged.to_bytes(size, "little")
