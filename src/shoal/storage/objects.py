"""Objects: sealed manifest segments by id, kept as long as a share holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.core.errors import LocalMisuse
from shoal.storage.database import Connection, Database

OBJECT_BYTES = 1024 * 1024 + 4096  # one object fits one lane record
_QUERY_ITEMS = 500  # ids in one statement


class Objects:
    """The table of sealed objects. What is put is verified by the caller: id = BLAKE3 of the bytes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(
        self, share_id: bytes, objects: Iterable[tuple[bytes, bytes]], *, durable: bool = True
    ) -> None:
        """Store (id, bytes) pairs and note that the share holds them; all or none, idempotent.

        Raises: LocalMisuse beyond OBJECT_BYTES, StorageFault.
        """
        pairs = list(objects)
        for _, data in pairs:
            if len(data) > OBJECT_BYTES:
                raise LocalMisuse(f"an object of {len(data)} bytes is over its limit of {OBJECT_BYTES}")

        def run(connection: Connection) -> None:
            connection.executemany("INSERT OR IGNORE INTO objects VALUES (?, ?)", pairs)
            connection.executemany(
                "INSERT OR IGNORE INTO object_holders VALUES (?, ?)",
                [(share_id, object_id) for object_id, _ in pairs],
            )

        await self._database.write(run, durable=durable)

    async def find(self, object_id: bytes) -> bytes | None:
        """Return an object's bytes, or None."""
        return await self._database.read(lambda connection: _find(connection, object_id))

    def find_blocking(self, object_id: bytes) -> bytes | None:
        """`find` for a lane's thread."""
        return self._database.read_blocking(lambda connection: _find(connection, object_id))

    async def find_missing(self, object_ids: Iterable[bytes]) -> list[bytes]:
        """Return those ids that are not stored, in the given order."""
        wanted = list(object_ids)
        return await self._database.read(lambda connection: _find_missing(connection, wanted))

    def find_missing_blocking(self, object_ids: Sequence[bytes]) -> list[bytes]:
        """`find_missing` for a thread of work."""
        return self._database.read_blocking(lambda connection: _find_missing(connection, object_ids))

    async def holds(self, share_id: bytes, object_id: bytes) -> bool:
        """Say whether a share holds an object: who may fetch the share may ask for it."""

        def run(connection: Connection) -> bool:
            return _holds(connection, share_id, object_id)

        return await self._database.read(run)

    async def hold(self, share_id: bytes, object_ids: Iterable[bytes]) -> None:
        """Note that a share also holds objects that are stored already; unknown ids are left out."""
        rows = [(share_id, object_id) for object_id in object_ids]

        def run(connection: Connection) -> None:
            connection.executemany(
                "INSERT OR IGNORE INTO object_holders SELECT ?, id FROM objects WHERE id = ?", rows
            )

        await self._database.write(run)

    async def drop_share(self, share_id: bytes, keep: Iterable[bytes] = (), *, durable: bool = True) -> int:
        """End a share's hold on its objects except `keep`; delete those nobody holds; returns how many.

        All of it or nothing; not `durable` where it is done again anyway.
        """
        kept = [(object_id,) for object_id in keep]

        def run(connection: Connection) -> int:
            connection.execute("CREATE TEMP TABLE IF NOT EXISTS kept_objects (id BLOB PRIMARY KEY)")
            connection.execute("DELETE FROM kept_objects")
            connection.executemany("INSERT OR IGNORE INTO kept_objects VALUES (?)", kept)
            let_go = [
                row[0]
                for row in connection.execute(
                    "SELECT id FROM object_holders WHERE share_id = ? AND id NOT IN kept_objects", (share_id,)
                )
            ]
            connection.executemany(
                "DELETE FROM object_holders WHERE share_id = ? AND id = ?", [(share_id, i) for i in let_go]
            )
            deleted = 0
            for object_id in let_go:
                deleted += connection.execute(
                    "DELETE FROM objects WHERE id = ?1 "
                    "AND NOT EXISTS (SELECT 1 FROM object_holders WHERE id = ?1)",
                    (object_id,),
                ).rowcount
            return deleted

        return await self._database.write(run, durable=durable)


def _find(connection: Connection, object_id: bytes) -> bytes | None:
    row = connection.execute("SELECT data FROM objects WHERE id = ?", (object_id,)).fetchone()
    return None if row is None else bytes(row[0])


def _find_missing(connection: Connection, wanted: Sequence[bytes]) -> list[bytes]:
    known: set[bytes] = set()
    for start in range(0, len(wanted), _QUERY_ITEMS):
        part = wanted[start : start + _QUERY_ITEMS]
        marks = ",".join("?" * len(part))
        query = f"SELECT id FROM objects WHERE id IN ({marks})"  # noqa: S608 - only question marks
        known.update(row[0] for row in connection.execute(query, part))
    return [object_id for object_id in wanted if object_id not in known]


def _holds(connection: Connection, share_id: bytes, object_id: bytes) -> bool:
    row = connection.execute(
        "SELECT 1 FROM object_holders WHERE share_id = ? AND id = ?", (share_id, object_id)
    ).fetchone()
    return row is not None
