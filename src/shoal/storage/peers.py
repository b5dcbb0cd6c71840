"""Peers: the rows of the peer book, so that a network finds itself again after a restart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from shoal.core.errors import LocalMisuse
from shoal.storage.database import Connection, Database
from shoal.storage.rows import pack, unpack
from shoal.wire.limits import MEMBERS

ADDRESS_LIMIT = 16  # learned addresses kept for one peer
RECORD_BYTES = 2048  # a signed peer record


class PeerRow(NamedTuple):
    """What is known of one peer. `addresses` are those from tickets and discovery, as text."""

    peer_id: bytes
    record: bytes | None = None
    addresses: tuple[str, ...] = ()
    last_good: str | None = None
    last_good_at: float = 0.0
    failures: int = 0


class Peers:
    """The table of the peer book; at most MEMBERS rows. Losing the last seconds of it costs a dial."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[PeerRow]:
        """Return all rows, the ones with the latest session first."""

        def run(connection: Connection) -> list[PeerRow]:
            rows = connection.execute(
                "SELECT peer_id, record, addresses, last_good, last_good_at, failures FROM peers "
                "ORDER BY last_good_at DESC, peer_id LIMIT ?",
                (MEMBERS,),
            )
            return [
                PeerRow(p, r, unpack(tuple[str, ...], a, "peers.addresses"), g, t, f)
                for p, r, a, g, t, f in rows
            ]

        return await self._database.read(run)

    async def save(self, rows: Iterable[PeerRow]) -> None:
        """Add or replace rows, all or none; not durable against a power cut at once.

        Raises: LocalMisuse beyond a limit, StorageFault.
        """
        kept = list(rows)
        for row in kept:
            if len(row.addresses) > ADDRESS_LIMIT or len(row.record or b"") > RECORD_BYTES:
                raise LocalMisuse("a row of the peer book is over its limit")

        def run(connection: Connection) -> None:
            connection.executemany(
                "INSERT OR REPLACE INTO peers VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (r.peer_id, r.record, pack(r.addresses), r.last_good, r.last_good_at, r.failures)
                    for r in kept
                ],
            )
            if connection.execute("SELECT count(*) FROM peers").fetchone()[0] > MEMBERS:
                raise LocalMisuse("the peer book is full")

        await self._database.write(run, durable=False)

    async def drop(self, peer_ids: Iterable[bytes]) -> None:
        """Forget peers, e.g. removed ones."""
        gone = [(peer_id,) for peer_id in peer_ids]

        def run(connection: Connection) -> None:
            connection.executemany("DELETE FROM peers WHERE peer_id = ?", gone)

        await self._database.write(run)
