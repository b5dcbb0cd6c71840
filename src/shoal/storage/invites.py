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


class InviteRow(NamedTuple):
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

    async def add(self, invite: InviteRow) -> None:
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

    async def find(self, invite_id: bytes) -> InviteRow | None:
        """Return an invite, or None."""

        def run(connection: Connection) -> InviteRow | None:
            row = connection.execute(f"{_SELECT} WHERE id = ?", (invite_id,)).fetchone()
            return None if row is None else self._row(row)

        return await self._database.read(run)

    async def load(self) -> list[InviteRow]:
        """Return all kept invites, newest first."""

        def run(connection: Connection) -> list[InviteRow]:
            return [self._row(row) for row in connection.execute(f"{_SELECT} ORDER BY created_at DESC")]

        return await self._database.read(run)

    async def use(self, invite_id: bytes, joiner: bytes, now: float) -> InviteRow:
        """Give an open invite to one joiner; durable on return, so that a crash cannot open it again.

        The same joiner may ask again (its reply was lost), also after the expiry.
        Raises: Refused with code invite_unknown, invite_used, invite_expired or invite_revoked; StorageFault
        (then the invite is as it was).
        """

        def run(connection: Connection) -> InviteRow:
            row = connection.execute(f"{_SELECT} WHERE id = ?", (invite_id,)).fetchone()
            if row is None:
                raise _refused("unknown", "this device knows no such invite")
            invite = self._row(row)
            if invite.state == USED:
                if invite.used_by == joiner:
                    return invite
                raise _refused("used", "it was used by another device")
            if invite.state == REVOKED:
                raise _refused("revoked", "it was taken back")
            if now >= invite.expires_at:
                raise _refused("expired", "it has expired")
            connection.execute(
                "UPDATE invites SET state = ?, used_by = ? WHERE id = ?", (USED, joiner, invite_id)
            )
            return invite._replace(state=USED, used_by=joiner)

        return await self._database.write(run)

    async def release(self, invite_id: bytes, joiner: bytes) -> None:
        """Open an invite again that `joiner` used but whose admission could not be written."""

        def run(connection: Connection) -> None:
            connection.execute(
                "UPDATE invites SET state = ?, used_by = NULL WHERE id = ? AND state = ? AND used_by = ?",
                (OPEN, invite_id, USED, joiner),
            )

        await self._database.write(run)

    async def revoke(self, invite_id: bytes) -> bool:
        """Take back an invite; returns whether it was open."""

        def run(connection: Connection) -> bool:
            done = connection.execute(
                "UPDATE invites SET state = ? WHERE id = ? AND state = ?", (REVOKED, invite_id, OPEN)
            )
            return done.rowcount == 1

        return await self._database.write(run)

    async def forget_before(self, wall: float) -> None:
        """Forget invites that expired before `wall`, whatever became of them."""

        def run(connection: Connection) -> None:
            connection.execute("DELETE FROM invites WHERE expires_at < ?", (wall,))

        await self._database.write(run)

    def _row(self, row: tuple[bytes, bytes, int, str, float, float, str, bytes | None]) -> InviteRow:
        return InviteRow(row[0], self._sealer.open_value(row[1]), *row[2:])


_SELECT = "SELECT id, sealed_secret, role, user, created_at, expires_at, state, used_by FROM invites"


def _refused(code: str, cause: str) -> Refused:
    return Refused(
        "The invite cannot be used",
        cause=cause,
        next_step="ask for a new one: `shoal invite`",
        code=f"invite_{code}",
    )
