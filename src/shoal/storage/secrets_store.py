"""Secrets store: door, content and epoch secrets by (kind, space, generation), sealed."""

from __future__ import annotations

from typing import NamedTuple

from shoal.core.errors import LocalMisuse
from shoal.storage.database import Connection, Database
from shoal.storage.sealer import Sealer

SECRET_BYTES = 64  # the longest value there is
SECRET_LIMIT = 16_384  # rows; three kinds a generation, a generation a removal


class SecretRow(NamedTuple):
    """One secret. `kind` is the number of identity.secrets."""

    kind: int
    space: bytes
    generation: int
    value: bytes


class SecretsStore:
    """The table of secrets. They are checked against their commitments before they come here."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def put(self, *secrets: SecretRow) -> None:
        """Store secrets, all or none; durable on return. The same value again changes nothing.

        Raises: LocalMisuse for another value under a known (kind, space, generation), StorageFault.
        """
        for secret in secrets:
            if not 0 < len(secret.value) <= SECRET_BYTES:
                raise LocalMisuse(f"a secret has 1 to {SECRET_BYTES} bytes, not {len(secret.value)}")

        def run(connection: Connection) -> None:
            for secret in secrets:
                self._put(connection, secret)

        await self._database.write(run)

    async def find(self, kind: int, space: bytes, generation: int) -> bytes | None:
        """Return a secret's value, or None."""

        def run(connection: Connection) -> bytes | None:
            row = connection.execute(
                "SELECT sealed_value FROM secrets WHERE kind = ? AND space = ? AND generation = ?",
                (kind, space, generation),
            ).fetchone()
            return None if row is None else self._sealer.open_value(row[0])

        return await self._database.read(run)

    async def load(self) -> list[SecretRow]:
        """Return all secrets, newest generation first."""

        def run(connection: Connection) -> list[SecretRow]:
            rows = connection.execute(
                "SELECT kind, space, generation, sealed_value FROM secrets "
                "ORDER BY kind, space, generation DESC"
            )
            return [SecretRow(k, bytes(s), g, self._sealer.open_value(v)) for k, s, g, v in rows]

        return await self._database.read(run)

    async def clear(self) -> None:
        """Remove all secrets; durable on return. For a foundation or join that begins again after a crash."""

        def run(connection: Connection) -> None:
            connection.execute("DELETE FROM secrets")

        await self._database.write(run)

    def _put(self, connection: Connection, secret: SecretRow) -> None:
        key = (secret.kind, secret.space, secret.generation)
        known = connection.execute(
            "SELECT sealed_value FROM secrets WHERE kind = ? AND space = ? AND generation = ?", key
        ).fetchone()
        if known is not None:
            if self._sealer.open_value(known[0]) != secret.value:
                raise LocalMisuse("another value is known for that secret")
            return
        if connection.execute("SELECT count(*) FROM secrets").fetchone()[0] >= SECRET_LIMIT:
            raise LocalMisuse("too many secrets")
        connection.execute(
            "INSERT INTO secrets VALUES (?, ?, ?, ?)", (*key, self._sealer.seal_value(secret.value))
        )
