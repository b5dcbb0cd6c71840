"""Entries: every signed entry this node accepted, membership and feeds, in the order it accepted them.

They are kept as the bytes that were received. Who appends checks signature and rules first; an entry is here,
durable, before it is applied or sent to anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from shoal.core.errors import LocalMisuse
from shoal.storage.database import Connection, Database
from shoal.wire.limits import ENTRY_BYTES

PAGE_BYTES = 4 * 1024 * 1024  # what one `load_page` holds in memory, plus one entry


class StorableEntry(Protocol):
    """What is needed of an entry; identity's Entry has it. Feeds have their share id as `log`."""

    @property
    def id(self) -> bytes: ...
    @property
    def log(self) -> bytes: ...
    @property
    def author(self) -> bytes: ...
    @property
    def seq(self) -> int: ...
    @property
    def data(self) -> bytes: ...


class EntryRow(NamedTuple):
    """An entry as plain values; `data` is header, payload and signature."""

    id: bytes
    log: bytes
    author: bytes
    seq: int
    data: bytes


class Entries:
    """The table of signed entries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, entries: Sequence[StorableEntry], *, own: bool = False) -> None:
        """Store entries in this order, all or none; durable on return. Known ones change nothing.

        With `own` they are this device's: a second entry for a (log, author, seq) would be equivocation and
        is refused. Others' equivocation is kept: it is the proof.
        Raises: LocalMisuse, StorageFault (then nothing may be sent or applied).
        """
        rows = _rows(entries)
        await self._database.write(lambda connection: _append(connection, rows, own))

    async def load(self, log: bytes) -> list[bytes]:
        """Return all entries of a log in order of arrival: parents before children.

        Everything in memory: for the membership log (at most 4,096 operations). Feeds go by `load_page`.
        """

        def run(connection: Connection) -> list[bytes]:
            rows = connection.execute("SELECT data FROM entries WHERE log = ? ORDER BY arrival", (log,))
            return [row[0] for row in rows]

        return await self._database.read(run)

    async def load_page(
        self, log: bytes, author: bytes, first_seq: int = 0, limit_bytes: int = PAGE_BYTES
    ) -> list[bytes]:
        """Return entries of one author from `first_seq` on, up to `limit_bytes` but at least one if any."""

        def run(connection: Connection) -> list[bytes]:
            page: list[bytes] = []
            size = 0
            for (data,) in connection.execute(
                "SELECT data FROM entries WHERE log = ? AND author = ? AND seq >= ? ORDER BY seq, arrival",
                (log, author, first_seq),
            ):
                if page and size + len(data) > limit_bytes:
                    break
                page.append(data)
                size += len(data)
            return page

        return await self._database.read(run)

    async def find(self, entry_id: bytes) -> bytes | None:
        """Return an entry's bytes, or None."""

        def run(connection: Connection) -> bytes | None:
            row = connection.execute("SELECT data FROM entries WHERE id = ?", (entry_id,)).fetchone()
            return None if row is None else bytes(row[0])

        return await self._database.read(run)

    async def find_tip(self, log: bytes, author: bytes) -> tuple[int, bytes] | None:
        """Return (seq, id) of an author's last entry in a log, or None."""

        def run(connection: Connection) -> tuple[int, bytes] | None:
            row = connection.execute(
                "SELECT seq, id FROM entries WHERE log = ? AND author = ? ORDER BY seq DESC, arrival LIMIT 1",
                (log, author),
            ).fetchone()
            return None if row is None else (int(row[0]), bytes(row[1]))

        return await self._database.read(run)

    async def drop_log(self, log: bytes) -> int:
        """Remove all entries of a log (a share that is no longer kept); returns how many."""

        def run(connection: Connection) -> int:
            return connection.execute("DELETE FROM entries WHERE log = ?", (log,)).rowcount

        return await self._database.write(run)


def _rows(entries: Sequence[StorableEntry]) -> list[EntryRow]:
    for entry in entries:
        if len(entry.data) > ENTRY_BYTES:
            raise LocalMisuse(f"an entry of {len(entry.data)} bytes is over its limit of {ENTRY_BYTES}")
    return [EntryRow(e.id, e.log, e.author, e.seq, e.data) for e in entries]


def _append(connection: Connection, rows: list[EntryRow], own: bool) -> None:
    if own:
        for row in rows:
            _refuse_equivocation(connection, row)
    connection.executemany(
        "INSERT OR IGNORE INTO entries (id, log, author, seq, data) VALUES (?, ?, ?, ?, ?)", rows
    )


def _refuse_equivocation(connection: Connection, row: EntryRow) -> None:
    other = connection.execute(
        "SELECT 1 FROM entries WHERE log = ? AND author = ? AND seq = ? AND id <> ?",
        (row.log, row.author, row.seq, row.id),
    ).fetchone()
    if other is not None:
        raise LocalMisuse(
            f"This device already wrote entry {row.seq} of that log",
            cause="two entries with one number would look like forgery to every peer",
            next_step="restart the node; if the home was restored from a backup, join again as a new device",
            code="own_equivocation",
        )
