"""Stores for tests: a database in a fresh directory and a sealer that is easy to see through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shoal.core.errors import ConfigFault
from shoal.storage.database import Connect, Database, connect_sqlite
from shoal.storage.stores import Stores, make_stores


class PlainSealer:
    """A Sealer that shows what was sealed: tests look for secrets that were not."""

    def seal_value(self, value: bytes) -> bytes:
        """Invert every bit, so that the value itself is not in the file."""
        return b"sealed:" + bytes(b ^ 0xFF for b in value)

    def open_value(self, sealed: bytes) -> bytes:
        """Undo `seal_value`."""
        if not sealed.startswith(b"sealed:"):
            raise ConfigFault("not sealed by this sealer")
        return bytes(b ^ 0xFF for b in sealed[7:])


@asynccontextmanager
async def open_stores(directory: object, connect: Connect = connect_sqlite) -> AsyncIterator[Stores]:
    """Open the stores in `directory`/shoal.db and close them at the end."""
    database = Database(f"{directory}/shoal.db", connect=connect)
    await database.open()
    try:
        yield make_stores(database, PlainSealer())
    finally:
        await database.close()
