"""Segment index: where each chunk of the store lies and who holds it; the SQL of the store.

`chunks` has one row a chunk (about 45 bytes): the first 16 bytes of its id, its place, its size, how many
holds there are. `holds` says which chunk a holder has under which ordinal. Place 0: the bytes are lost, the
holds are still there, and a `put` of the same chunk heals it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, TypeVar

from shoal.core.errors import StorageFault
from shoal.storage.database import Connection, Database, connect_sqlite
from shoal.storage.faults import fault_of_sqlite
from shoal.storage.segment_format import RECORD_HEADER_BYTES, make_place, parse_place

T = TypeVar("T")

IDLE_READERS = 4  # connections kept for the next read
READER_CACHE_KIB = (
    1024  # each: the inner pages of a million chunks; with 8 MiB gets were slower (decision 0005)
)
OPEN, CLOSED = 0, 1  # states of a segment: CLOSED is never appended to again


class IndexPort(Protocol):
    """A database as the store uses it: blocking, durable writes; reads from any thread."""

    def write(self, run: Callable[[Connection], T]) -> T:
        """Run `run` in a transaction; committed on return. Raises: StorageFault, Unavailable."""
        ...

    def read(self, run: Callable[[Connection], T]) -> T:
        """Run a query; it sees what was committed. Raises: StorageFault."""
        ...


class DatabaseIndex:
    """The node's database as an IndexPort: writes share its groups, reads stay on the caller's thread."""

    def __init__(self, database: Database, *, durable: bool = True) -> None:
        self._database = database
        self._durable = durable
        self._idle: list[Connection] = []

    def write(self, run: Callable[[Connection], T]) -> T:
        return self._database.write_blocking(run, durable=self._durable)

    def read(self, run: Callable[[Connection], T]) -> T:
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = connect_sqlite(self._database.path)
                connection.execute("PRAGMA query_only=ON")
                connection.execute(f"PRAGMA cache_size=-{READER_CACHE_KIB}")
            try:
                return run(connection)
            finally:
                if len(self._idle) < IDLE_READERS:
                    self._idle.append(connection)
                else:
                    connection.close()
        except sqlite3.Error as error:
            raise fault_of_sqlite(error, "The store was not read", self._database.path) from error

    def close(self) -> None:
        """Close idle connections; before the database is closed."""
        while self._idle:
            self._idle.pop().close()


class SegmentRow(NamedTuple):
    """One segment: `end` bytes of it are acknowledged, `live` bytes of records are held by somebody."""

    number: int
    state: int
    end: int
    live: int


class Hold(NamedTuple):
    """That a holder has a chunk under an ordinal."""

    holder: int
    ordinal: int
    key: bytes


def load_segments(connection: Connection) -> list[SegmentRow]:
    """Return all segments by number."""
    rows = connection.execute("SELECT number, state, end, live FROM segments ORDER BY number")
    return [SegmentRow(*row) for row in rows]


def last_number(connection: Connection) -> int:
    """Return the highest number that a segment ever had."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'segments'").fetchone()
    return 0 if row is None else int(row[0])


def find_chunk(connection: Connection, key: bytes) -> tuple[int, int] | None:
    """Return (place, size) of a chunk, place 0 if it is lost; None if nobody holds it."""
    row = connection.execute("SELECT place, size FROM chunks WHERE key = ?", (key,)).fetchone()
    return None if row is None else (row[0], row[1])


def find_hold(connection: Connection, holder: int, ordinal: int) -> bytes | None:
    """Return the key of what a holder has under an ordinal, or None."""
    row = connection.execute(
        "SELECT key FROM holds WHERE holder = ? AND ordinal = ?", (holder, ordinal)
    ).fetchone()
    return None if row is None else row[0]


def find_stored(connection: Connection, keys: Iterable[bytes]) -> set[bytes]:
    """Return those keys whose bytes are in the store."""
    found = ((key, find_chunk(connection, key)) for key in keys)
    return {key for key, place in found if place is not None and place[0]}


def load_ordinals(connection: Connection, holder: int) -> list[int]:
    """Return the ordinals that a holder has and that are not lost."""
    rows = connection.execute(
        "SELECT ordinal FROM holds JOIN chunks USING (key) WHERE holder = ? AND place != 0", (holder,)
    )
    return [row[0] for row in rows]


def note_put(
    connection: Connection, holds: list[Hold], places: dict[bytes, tuple[int, int]], number: int, end: int
) -> None:
    """Enter new chunks that lie in segment `number`, which is `end` bytes long now, and who holds what.

    Raises: StorageFault for a hold on what is not there.
    """
    if places:
        live = sum(RECORD_HEADER_BYTES + size for _, size in places.values())
        connection.execute(
            "INSERT INTO segments (number, state, end, live) VALUES (?1, 0, ?2, ?3) "
            "ON CONFLICT (number) DO UPDATE SET end = ?2, live = live + ?3",
            (number, end, live),
        )
        connection.executemany(
            "INSERT INTO chunks (key, place, size, refs) VALUES (?1, ?2, ?3, 0) "
            "ON CONFLICT (key) DO UPDATE SET place = ?2, size = ?3",
            [(key, place, size) for key, (place, size) in places.items()],
        )
    dropped: list[bytes] = []
    for hold in holds:
        added = connection.execute(
            "INSERT OR IGNORE INTO holds (holder, ordinal, key) VALUES (?, ?, ?)", hold
        )
        if not added.rowcount:
            old = find_hold(connection, hold.holder, hold.ordinal)
            if old == hold.key:
                continue
            connection.execute("UPDATE holds SET key = ?3 WHERE holder = ?1 AND ordinal = ?2", hold)
            if old is not None:
                dropped.append(old)
        counted = connection.execute("UPDATE chunks SET refs = refs + 1 WHERE key = ?", (hold.key,))
        if not counted.rowcount:
            raise StorageFault("A chunk was not kept", cause="the store does not have it", code="corrupt")
    drop_refs(connection, dropped)


def drop_refs(connection: Connection, keys: Iterable[bytes]) -> None:
    """Count one hold less on each key; what nobody holds is forgotten, its bytes are dead."""
    live: dict[int, int] = {}
    for key in keys:
        row = connection.execute(
            "UPDATE chunks SET refs = refs - 1 WHERE key = ? RETURNING refs, place, size", (key,)
        ).fetchone()
        if row is not None and row[0] <= 0:
            connection.execute("DELETE FROM chunks WHERE key = ?", (key,))
            _count(live, row[1], -row[2])
    add_live(connection, live)


def copy_holds(connection: Connection, holder: int, other: int, pairs: Iterable[tuple[int, int]]) -> int:
    """Let `holder` hold, as (its ordinal, the other's ordinal), what `other` holds and is not lost.

    Returns how many holds are new.
    """
    count = 0
    for ordinal, there in pairs:
        added = connection.execute(
            "INSERT OR IGNORE INTO holds (holder, ordinal, key) SELECT ?, ?, key FROM holds "
            "JOIN chunks USING (key) WHERE holder = ? AND ordinal = ? AND place != 0",
            (holder, ordinal, other, there),
        ).rowcount
        if added:
            count += 1
            connection.execute(
                "UPDATE chunks SET refs = refs + 1 "
                "WHERE key = (SELECT key FROM holds WHERE holder = ? AND ordinal = ?)",
                (holder, ordinal),
            )
    return count


def release(connection: Connection, holder: int, limit: int) -> int:
    """End up to `limit` holds of a holder; returns how many it were, 0 at the end."""
    rows = connection.execute(
        "SELECT ordinal, key FROM holds WHERE holder = ? LIMIT ?", (holder, limit)
    ).fetchall()
    connection.executemany(
        "DELETE FROM holds WHERE holder = ? AND ordinal = ?", [(holder, ordinal) for ordinal, _ in rows]
    )
    drop_refs(connection, [key for _, key in rows])
    return len(rows)


def note_moved(
    connection: Connection, moves: list[tuple[bytes, int, int, int]], number: int, end: int
) -> None:
    """Enter the new places of chunks, as (key, old place, new place, size), in segment `number`.

    What was let go of or moved meanwhile stays as it is: its copy is dead.
    """
    connection.execute(
        "INSERT INTO segments (number, state, end, live) VALUES (?1, 0, ?2, 0) "
        "ON CONFLICT (number) DO UPDATE SET end = ?2",
        (number, end),
    )
    live: dict[int, int] = {}
    for key, old, new, size in moves:
        moved = connection.execute(
            "UPDATE chunks SET place = ?3 WHERE key = ?1 AND place = ?2", (key, old, new)
        )
        if moved.rowcount:
            _count(live, old, -size)
            _count(live, new, size)
    add_live(connection, live)


def note_lost(connection: Connection, lost: Iterable[tuple[bytes, int]]) -> int:
    """Note chunks, as (key, place), as lost; returns how many were still at that place."""
    count = 0
    live: dict[int, int] = {}
    for key, place in lost:
        row = connection.execute(
            "UPDATE chunks SET place = 0 WHERE key = ? AND place = ? RETURNING size", (key, place)
        ).fetchone()
        if row is not None:
            count += 1
            _count(live, place, -row[0])
    add_live(connection, live)
    return count


def find_between(connection: Connection, number: int, start: int) -> list[tuple[bytes, int]]:
    """Return (key, place) of all chunks in a segment that end after `start`. Reads the whole table."""
    rows = connection.execute(
        "SELECT key, place FROM chunks WHERE place >= ? AND place < ? AND place + size + ? > ?",
        (make_place(number, 0), make_place(number + 1, 0), RECORD_HEADER_BYTES, make_place(number, start)),
    )
    return [(row[0], row[1]) for row in rows]


def drop_segment(connection: Connection, number: int) -> int:
    """Forget a segment; chunks that are still said to lie in it are lost; returns how many."""
    row = connection.execute("SELECT live FROM segments WHERE number = ?", (number,)).fetchone()
    lost = 0
    if row is None or row[0] != 0:
        lost = note_lost(connection, find_between(connection, number, 0))
    connection.execute("DELETE FROM segments WHERE number = ?", (number,))
    return lost


def close_segment(connection: Connection, number: int, end: int | None = None) -> None:
    """Note that a segment is not appended to any more, and where it ends if that is news."""
    connection.execute(
        "UPDATE segments SET state = 1, end = coalesce(?2, end) WHERE number = ?1", (number, end)
    )


def add_live(connection: Connection, live: dict[int, int]) -> None:
    """Change how many bytes of segments are held."""
    connection.executemany(
        "UPDATE segments SET live = live + ? WHERE number = ?",
        [(change, number) for number, change in live.items() if change],
    )


def _count(live: dict[int, int], place: int, size: int) -> None:
    """Add a record of a chunk (negative size: take it away) to its segment's live bytes."""
    if place:
        number, _ = parse_place(place)
        change = size + RECORD_HEADER_BYTES if size > 0 else size - RECORD_HEADER_BYTES
        live[number] = live.get(number, 0) + change
