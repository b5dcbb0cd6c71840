"""Values: small named values of the node that belong to no other table."""

from __future__ import annotations

from shoal.core.errors import LocalMisuse
from shoal.storage.database import Connection, Database

VALUE_BYTES = 64 * 1024
NAME_LIMIT = 1024  # names come from our own source code


class Values:
    """A durable map of names to bytes, e.g. the network id of this home or the node's last record."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_value(self, name: str) -> bytes | None:
        """Return a value, or None."""

        def run(connection: Connection) -> bytes | None:
            row = connection.execute("SELECT value FROM named_values WHERE name = ?", (name,)).fetchone()
            return None if row is None else bytes(row[0])

        return await self._database.read(run)

    async def put_value(self, name: str, value: bytes) -> None:
        """Store a value; durable on return. Raises: LocalMisuse beyond VALUE_BYTES, StorageFault."""
        if len(value) > VALUE_BYTES:
            raise LocalMisuse(f"a value of {len(value)} bytes is over its limit")

        def run(connection: Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO named_values VALUES (?, ?)", (name, value))
            count = connection.execute("SELECT count(*) FROM named_values").fetchone()[0]
            if count > NAME_LIMIT:
                raise LocalMisuse("too many named values")

        await self._database.write(run)
