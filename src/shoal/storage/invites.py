"""Invites: what this device offered to whom, each used at most once."""

from __future__ import annotations

from typing import NamedTuple

from shoal.core.errors import Refused
from shoal.storage.database import Connection, Database
from shoal.storage.sealer import Sealer

OPEN_LIMIT = 256  # open invites of one device
KEEP_S = 30 * 86400.0  # used and expired ones are kept so long: a lost reply can be asked for again

OPEN = "open"
USED = "used"
REVOKED = "revoked"


class Invite(NamedTuple):
    """One invite. `state` is open, used or revoked; an open one past `expires_at` counts as expired."""

    id: bytes
    secret: bytes
    role: int
    user: str
    created_at: float
    expires_at: float
    state: str = OPEN
    used_by: bytes | None = None

    def is_open(self, now: float) -> bool:
        """Say whether it can still be used. `now` is this device's wall clock."""
        return self.state == OPEN and now < self.expires_at


class Invites:
    """The table of invites; local to the device, never sent."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def add(self, invite: Invite) -> None:
        """Store a new invite; durable on return. Forgets those ended KEEP_S ago.

        Raises: Refused (code too_many_invites) at OPEN_LIMIT, StorageFault.
        """

        def run(connection: Connection) -> None:
            connection.execute("DELETE FROM invites WHERE expires_at < ?", (invite.created_at - KEEP_S,))
            count = connection.execute(
                "SELECT count(*) FROM invites WHERE state = ? AND expires_at > ?", (OPEN, invite.created_at)
            ).fetchone()[0]
            if count >= OPEN_LIMIT:
                raise Refused(
                    "No invite was made",
                    cause=f"{count} invites of this device are open",
                    next_step="let some be used or expire",
                    code="too_many_invites",
                )
            connection.execute(
                "INSERT INTO invites VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (
                    invite.id,
                    self._sealer.seal_value(invite.secret),
                    invite.role,
                    invite.user,
                    invite.created_at,
                    invite.expires_at,
                    OPEN,
                ),
            )

        await self._database.write(run)

    async def find(self, invite_id: bytes) -> Invite | None:
        """Return an invite, or None."""

        def run(connection: Connection) -> Invite | None:
            row = connection.execute(f"{_SELECT} WHERE id = ?", (invite_id,)).fetchone()
            return None if row is None else self._row(row)

        return await self._database.read(run)

    async def load(self) -> list[Invite]:
        """Return all kept invites, newest first."""

        def run(connection: Connection) -> list[Invite]:
            return [self._row(row) for row in connection.execute(f"{_SELECT} ORDER BY created_at DESC")]

        return await self._database.read(run)

    async def try_use(self, invite_id: bytes, joiner: bytes) -> bool:
        """Give an open invite to one joiner; durable on return, so that a crash cannot open it again.

        True if it was open, or `joiner` used it already (its reply was lost). The caller checks the expiry.
        Raises: StorageFault; the invite is still open then.
        """

        def run(connection: Connection) -> bool:
            done = connection.execute(
                "UPDATE invites SET state = ?, used_by = ? WHERE id = ? AND (state = ? OR used_by = ?)",
                (USED, joiner, invite_id, OPEN, joiner),
            )
            return done.rowcount == 1

        return await self._database.write(run)

    async def release(self, invite_id: bytes, joiner: bytes) -> None:
        """Open an invite again that `joiner` used but whose admission could not be written."""

        def run(connection: Connection) -> None:
            connection.execute(
                "UPDATE invites SET state = ?, used_by = NULL WHERE id = ? AND state = ? AND used_by = ?",
                (OPEN, invite_id, USED, joiner),
            )

        await self._database.write(run)

    async def revoke(self, invite_id: bytes) -> None:
        """Take back an invite if it is open."""

        def run(connection: Connection) -> None:
            connection.execute(
                "UPDATE invites SET state = ? WHERE id = ? AND state = ?", (REVOKED, invite_id, OPEN)
            )

        await self._database.write(run)

    async def forget_before(self, wall: float) -> None:
        """Forget invites that expired before `wall`, whatever became of them."""

        def run(connection: Connection) -> None:
            connection.execute("DELETE FROM invites WHERE expires_at < ?", (wall,))

        await self._database.write(run)

    def _row(self, row: tuple[bytes, bytes, int, str, float, float, str, bytes | None]) -> Invite:
        return Invite(row[0], self._sealer.open_value(row[1]), *row[2:])


_SELECT = "SELECT id, sealed_secret, role, user, created_at, expires_at, state, used_by FROM invites"
