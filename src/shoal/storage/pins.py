"""Pins: what this node keeps a copy of, and for how long; a pin's number is its holder in the store."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple, TypedDict, Unpack

from shoal.core.errors import Refused
from shoal.storage.database import Connection, Database
from shoal.storage.rows import pack, unpack, update_statement
from shoal.storage.sealer import Sealer

PIN_LIMIT = 4096  # rows; wild guess


class PinState(Enum):
    """What can be expected of a pin."""

    FETCHING = "fetching"  # also after a restart until it is complete
    COMPLETE = "complete"
    FAILED = "failed"  # pinning again goes on
    ENDED = "ended"  # its chunks are being let go of


class PinRow(NamedTuple):
    """One pin of one version: (id, kind, space, lease) of what is kept; `feed` are the feed's entries."""

    number: int
    id: bytes
    kind: str
    space: bytes
    lease: float | None
    version: int
    state: PinState
    link: str
    name: str
    chunks: int
    size_bytes: int
    created_at: float
    updated_at: float
    error: str = ""
    feed: tuple[bytes, ...] = ()


class PinChanges(TypedDict, total=False):
    """What `update` can change."""

    lease: float | None
    version: int
    state: PinState
    name: str
    chunks: int
    size_bytes: int
    updated_at: float
    error: str
    feed: tuple[bytes, ...]


class Pins:
    """The table of pins; links are sealed, for they are the right to read."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def add(self, pin: PinRow) -> int:
        """Store a pin, whatever `number` says; durable on return; returns its number.

        Raises: Refused (code too_many_pins) at PIN_LIMIT, StorageFault.
        """
        values = self._values(pin)

        def run(connection: Connection) -> int:
            if connection.execute("SELECT count(*) FROM pins").fetchone()[0] >= PIN_LIMIT:
                raise Refused(
                    "The pin was not added",
                    cause=f"this node has {PIN_LIMIT} pins",
                    next_step="end some with `shoal unpin`",
                    code="too_many_pins",
                )
            marks = ", ".join("?" * len(values))
            added = connection.execute(f"INSERT INTO pins ({_COLUMNS}) VALUES ({marks})", values)  # noqa: S608
            return int(added.lastrowid or 0)

        return await self._database.write(run)

    async def load(self) -> list[PinRow]:
        """Return all pins, oldest first."""

        def run(connection: Connection) -> list[PinRow]:
            return [self._row(row) for row in connection.execute(_SELECT)]

        return await self._database.read(run)

    async def update(self, number: int, **changes: Unpack[PinChanges]) -> None:
        """Change some fields; durable on return."""
        columns: dict[str, Any] = dict(changes)
        if "state" in changes:
            columns["state"] = changes["state"].value
        if "feed" in changes:
            columns["feed"] = pack(changes["feed"])
        statement, values = update_statement("pins", "number", _CHANGES, columns)
        await self._database.write(
            lambda connection: connection.execute(statement, [*values, number]).rowcount
        )

    async def drop(self, number: int) -> None:
        """Forget a pin; its holds must be gone from the store before."""
        await self._database.write(
            lambda connection: connection.execute("DELETE FROM pins WHERE number = ?", (number,)).rowcount
        )

    def _values(self, pin: PinRow) -> tuple[Any, ...]:
        return (
            pin.id,
            pin.kind,
            pin.space,
            pin.lease,
            pin.version,
            pin.state.value,
            self._sealer.seal_value(pin.link.encode()),
            pin.name,
            pin.chunks,
            pin.size_bytes,
            pin.created_at,
            pin.updated_at,
            pin.error,
            pack(pin.feed),
        )

    def _row(self, row: tuple[Any, ...]) -> PinRow:
        return PinRow(
            number=row[0],
            id=row[1],
            kind=row[2],
            space=row[3],
            lease=row[4],
            version=row[5],
            state=PinState(row[6]),
            link=self._sealer.open_value(row[7]).decode(),
            name=row[8],
            chunks=row[9],
            size_bytes=row[10],
            created_at=row[11],
            updated_at=row[12],
            error=row[13],
            feed=unpack(tuple[bytes, ...], row[14], "pins.feed"),
        )


_CHANGES = frozenset(PinChanges.__annotations__)
_COLUMNS = (
    "id, kind, space, lease, version, state, sealed_link, name, chunks, size_bytes, created_at, updated_at, "
    "error, feed"
)
_SELECT = f"SELECT number, {_COLUMNS} FROM pins ORDER BY number"  # noqa: S608 - constant
