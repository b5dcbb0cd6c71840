"""Invites: what this device offered to whom, each used at most once."""

from __future__ import annotations

from typing import Any, NamedTuple

from shoal.core.errors import Refused
from shoal.storage.database import Connection, Database
from shoal.storage.sealer import Sealer

OPEN_LIMIT = 256  # open invites of one device
CODE_TRIES = 5  # wrong words; then the code is burnt. security.md section 2
KEEP_S = 30 * 86400.0  # used and expired ones are kept so long: a lost reply can be asked for again

OPEN = "open"
USED = "used"
REVOKED = "revoked"


class InviteRow(NamedTuple):
    """One invite. `state` is open, used or revoked; an open one past `expires_at` counts as expired.

    `nameplate` 0: it has no typed code. `code_peer` is the key that knew the words, if one did.
    """

    id: bytes
    secret: bytes
    role: int
    user: str
    created_at: float
    expires_at: float
    state: str = OPEN
    used_by: bytes | None = None
    nameplate: int = 0
    words: str = ""
    code_failures: int = 0
    code_peer: bytes | None = None

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
                "INSERT INTO invites (id, sealed_secret, role, user, created_at, expires_at, state,"
                " nameplate, sealed_words) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    invite.id,
                    self._sealer.seal_value(invite.secret),
                    invite.role,
                    invite.user,
                    invite.created_at,
                    invite.expires_at,
                    OPEN,
                    invite.nameplate,
                    self._sealer.seal_value(invite.words.encode()) if invite.nameplate else None,
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

    async def fail_code(self, invite_id: bytes, now: float) -> InviteRow:
        """Count wrong words; durable on return, so that no crash gives a try back.

        Raises: Refused (the code is over: then nothing is counted), StorageFault.
        """

        def run(connection: Connection) -> InviteRow:
            row = self._get_code(connection, invite_id, None, now)
            failures = row.code_failures + 1
            connection.execute("UPDATE invites SET code_failures = ? WHERE id = ?", (failures, invite_id))
            return row._replace(code_failures=failures)

        return await self._database.write(run)

    async def take_code(self, invite_id: bytes, joiner: bytes, now: float) -> InviteRow:
        """Give a code to the one key that knew its words; durable on return.

        Raises: Refused (the code is over, or another key knew the words first), StorageFault.
        """

        def run(connection: Connection) -> InviteRow:
            row = self._get_code(connection, invite_id, joiner, now)
            connection.execute("UPDATE invites SET code_peer = ? WHERE id = ?", (joiner, invite_id))
            return row._replace(code_peer=joiner)

        return await self._database.write(run)

    def _get_code(
        self, connection: Connection, invite_id: bytes, joiner: bytes | None, now: float
    ) -> InviteRow:
        found = connection.execute(f"{_SELECT} WHERE id = ?", (invite_id,)).fetchone()
        if found is None:
            raise _refused("unknown", "this device knows no such invite")
        row = self._row(found)
        check_code(row, joiner, now)
        return row

    async def revoke(self, invite_id: bytes) -> bool:
        """Take back an invite; returns whether it was open."""

        def run(connection: Connection) -> bool:
            done = connection.execute(
                "UPDATE invites SET state = ? WHERE id = ? AND state = ?", (REVOKED, invite_id, OPEN)
            )
            return done.rowcount == 1

        return await self._database.write(run)

    def _row(self, row: tuple[Any, ...]) -> InviteRow:
        words = self._sealer.open_value(row[9]).decode() if row[9] is not None else ""
        secret = self._sealer.open_value(row[1])
        return InviteRow._make([row[0], secret, *row[2:9], words, *row[10:]])


_SELECT = (
    "SELECT id, sealed_secret, role, user, created_at, expires_at, state, used_by,"
    " nameplate, sealed_words, code_failures, code_peer FROM invites"
)


def check_code(row: InviteRow, joiner: bytes | None, now: float) -> None:
    """Say whether somebody may try the words of an invite's code; `joiner` None: whoever it is.

    Raises: Refused with code invite_revoked, code_burnt, code_used or invite_expired.
    """
    if row.state == REVOKED:
        raise _refused("revoked", "it was taken back")
    if row.code_failures >= CODE_TRIES:
        raise Refused(
            "The code cannot be used",
            cause=f"it was burnt by {CODE_TRIES} tries with wrong words",
            next_step="use the ticket, or ask for a new code: `shoal invite`",
            code="code_burnt",
        )
    holder = row.used_by or row.code_peer
    if holder is not None and joiner is not None and holder != joiner:
        raise Refused(
            "The code cannot be used",
            cause="another device has used it, or its ticket",
            next_step="ask for a new one: `shoal invite`",
            code="code_used",
        )
    if now >= row.expires_at:
        raise _refused("expired", "its time is over")


def _refused(code: str, cause: str) -> Refused:
    return Refused(
        "The invite cannot be used",
        cause=cause,
        next_step="ask for a new one: `shoal invite`",
        code=f"invite_{code}",
    )
