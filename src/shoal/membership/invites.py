"""Invites: what this device offered to whom. Local to it; only the admission that follows is logged.

An invite's id is derived from its ticket secret, so that nothing has to be looked up by the secret itself.
Used and expired invites are remembered for a while: their holder is told so, and a joiner whose reply was
lost asks again with the same ticket. A wrong proof changes nothing here.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable

from shoal.core.budget import BoundedMap
from shoal.core.clock import Clock
from shoal.core.errors import LocalMisuse, Refused
from shoal.identity.code import NAMEPLATE_LIMIT, TypedCode
from shoal.identity.operations import Role, is_valid_name
from shoal.identity.secrets import Context, derive
from shoal.identity.ticket import ADDRESSES_LIMIT, Ticket, make_guest_pass, make_invite_id
from shoal.storage.invites import KEEP_S, OPEN, REVOKED, USED, InviteRow, check_code
from shoal.storage.invites import Invites as InviteTable
from shoal.transport.reach.messages import GUEST_PASS_LIMIT_S, GUEST_PASSES, GuestPass

EXPIRES_SHORTEST_S = 1.0
EXPIRES_LONGEST_S = 30 * 86400.0
SMALL_NAMEPLATES = 99  # taken first; wild guess: what two people do not mishear
NAMEPLATES_FREE = 20  # fewer small ones than this, and all up to 999 are taken
REMEMBERED = 512  # in memory: 256 open ones, and as many that are over
GUEST_AGAIN_S = 600.0  # a used invite is led to over relays so long: the reply may have been lost


def join_knock(secret: bytes, nonce: bytes, inviter: bytes) -> bytes:
    """Return what a joiner knocks with: HMAC-SHA256(derive_key(join, ticket secret), nonce || inviter)."""
    return hmac.digest(derive(Context.JOIN, secret), nonce + inviter, "sha256")


class Invites:
    """Makes, recognises and uses up invites. `load` before anything else."""

    def __init__(
        self, table: InviteTable, own_id: bytes, clock: Clock, check_right: Callable[[Role], None]
    ) -> None:
        self._table = table
        self._own_id = own_id
        self._clock = clock
        self._check_right = check_right  # raises Refused for a role that this device may not admit
        self._known: dict[bytes, InviteRow] = {}
        self._used_at: BoundedMap[bytes, float] = BoundedMap(REMEMBERED)  # since this node started

    async def load(self) -> None:
        """Read what is kept: those that are open, then the newest."""
        now = self._clock.wall()
        rows = sorted(await self._table.load(), key=lambda row: not row.is_open(now))  # else as they come
        self._known = {row.id: row for row in rows[:REMEMBERED]}
        for row in self._known.values():
            if row.state == USED:  # when, is not known: perhaps right before this node stopped
                self._used_at.put(row.id, self._clock.monotonic())

    async def make(
        self, network_id: bytes, role: Role, user: str, expires_s: float, addresses: list[str]
    ) -> tuple[Ticket, InviteRow]:
        """Make an invite with a ticket and a typed code, durable on return.

        Raises: LocalMisuse, Refused (this device may not admit that role; too many are open), StorageFault.
        """
        self._check_right(role)
        if not EXPIRES_SHORTEST_S <= expires_s <= EXPIRES_LONGEST_S:
            raise LocalMisuse(
                "No invite was made",
                cause="an invite expires after one second to thirty days",
                next_step="give for example --expires 24h",
            )
        if not is_valid_name(user, empty=True):
            raise LocalMisuse("No invite was made", cause=f"{user[:80]!r} cannot be a user's name")
        now = self._clock.wall()
        secret = Ticket.make_secret()
        expires_at = int(now + expires_s)
        code = TypedCode.make(self._choose_nameplate(now))
        row = InviteRow(
            make_invite_id(secret),
            secret,
            int(role),
            user,
            now,
            float(expires_at),
            nameplate=code.nameplate,
            words=code.word_text,
        )
        await self._table.add(row)
        self._remember(row)
        ticket = Ticket(network_id, self._own_id, secret, expires_at, tuple(addresses[:ADDRESSES_LIMIT]))
        return ticket, row

    def all(self) -> list[InviteRow]:
        """Return what is remembered, newest first."""
        return sorted(self._known.values(), key=lambda row: row.created_at, reverse=True)

    def guest_passes(self, network_id: bytes, relay: bytes) -> list[GuestPass]:
        """Return what a relay has to know to lead newcomers here: spec/guest.md. At most GUEST_PASSES.

        The oldest open invites come first: what a ticket promised is not taken back by newer ones.
        """
        now, since = self._clock.wall(), self._clock.monotonic() - GUEST_AGAIN_S
        rows = sorted(self._known.values(), key=lambda row: row.created_at)
        times = [(row, row.expires_at - now) for row in rows if row.is_open(now)]
        for row in rows:
            used_at = self._used_at.find(row.id)
            if row.state == USED and used_at is not None:
                times.append((row, used_at - since))
        passes = []
        for row, left_s in times:
            if left_s >= 1:
                key = make_guest_pass(row.secret, network_id, self._own_id, relay)
                passes.append(GuestPass(row.id, key, min(int(left_s), GUEST_PASS_LIMIT_S)))
        return passes[:GUEST_PASSES]

    def any_answered(self) -> bool:
        """Whether somebody could have a ticket to which this device gives an answer."""
        return any(self._is_answered(row) for row in self._known.values())

    def match_knock(self, nonce: bytes, mac: bytes) -> bytes | None:
        """Return the invite whose ticket secret made this knock, or None; also one that is over."""
        found: bytes | None = None
        for row in self._known.values():
            fits = hmac.compare_digest(join_knock(row.secret, nonce, self._own_id), mac)
            if fits and self._is_answered(row):
                found = row.id
        return found

    def get(self, invite_id: bytes, joiner: bytes) -> InviteRow:
        """Return an invite that `joiner` may use now (or used already).

        Raises: Refused that says whether it is unknown, used, revoked or expired.
        """
        row = self._known.get(invite_id)
        if row is None:
            raise _refused("unknown", "this device made no such invite, or it was long ago")
        if row.state == USED and row.used_by != joiner:
            raise _refused("used", "another device has joined with it")
        if row.state == REVOKED:
            raise _refused("revoked", "it was taken back")
        if row.state == OPEN and self._clock.wall() >= row.expires_at:
            raise _refused("expired", "its time is over")
        return row

    def match_nameplate(self, nameplate: int) -> bytes | None:
        """Return the invite whose code has this nameplate, until it expires; also one that was used."""
        now = self._clock.wall()
        for row in self.all():
            if row.nameplate == nameplate and row.state != REVOKED and now < row.expires_at:
                return row.id
        return None

    def get_code(self, invite_id: bytes, joiner: bytes) -> InviteRow:
        """Return an invite whose words `joiner` may try now. Raises: Refused."""
        row = self._known.get(invite_id)
        if row is None:
            raise _refused("unknown", "this device made no such invite, or it was long ago")
        check_code(row, joiner, self._clock.wall())
        return row

    async def fail_code(self, invite_id: bytes) -> InviteRow:
        """Count wrong words, durable on return. Raises: Refused (the code is over already), StorageFault."""
        row = await self._table.fail_code(invite_id, self._clock.wall())
        self._change(invite_id, code_failures=row.code_failures)
        return row

    async def take_code(self, invite_id: bytes, joiner: bytes) -> InviteRow:
        """Give a code to the key that knew its words, durable on return. Raises: Refused, StorageFault."""
        row = await self._table.take_code(invite_id, joiner, self._clock.wall())
        self._change(invite_id, code_peer=row.code_peer)
        return row

    async def use(self, invite_id: bytes, joiner: bytes) -> InviteRow:
        """Give an invite to one joiner for good, durable on return. Raises: Refused, StorageFault."""
        self.get(invite_id, joiner)
        row = await self._table.use(invite_id, joiner, self._clock.wall())
        if invite_id not in self._used_at:
            self._used_at.put(invite_id, self._clock.monotonic())
        self._remember(row)
        return row

    async def release(self, invite_id: bytes, joiner: bytes) -> None:
        """Open an invite again whose admission could not be written."""
        await self._table.release(invite_id, joiner)
        row = self._known.get(invite_id)
        if row is not None and row.used_by == joiner:
            self._known[invite_id] = row._replace(state=OPEN, used_by=None)

    async def revoke(self, invite_id: bytes) -> bool:
        """Take an open invite back; returns whether it was open."""
        done = await self._table.revoke(invite_id)
        row = self._known.get(invite_id)
        if done and row is not None:
            self._known[invite_id] = row._replace(state=REVOKED)
        return done

    async def revoke_all(self) -> None:
        """Take all open invites back: this device is no member any more."""
        for row in self.all():
            if row.state == OPEN:
                await self.revoke(row.id)

    def _is_answered(self, row: InviteRow) -> bool:
        """Whether its holder is told what became of it: until KEEP_S after its expiry."""
        return self._clock.wall() < row.expires_at + KEEP_S

    def _change(self, invite_id: bytes, **fields: object) -> None:
        row = self._known.get(invite_id)
        if row is not None:  # it may have been used meanwhile: only what was written changes
            self._known[invite_id] = row._replace(**fields)  # type: ignore[arg-type]

    def _choose_nameplate(self, now: float) -> int:
        """Return a number at random that no invite has which would answer to it."""
        taken = {row.nameplate for row in self._known.values() if now < row.expires_at}
        small = [n for n in range(1, SMALL_NAMEPLATES + 1) if n not in taken]
        if len(small) >= NAMEPLATES_FREE:
            return secrets.choice(small)
        return secrets.choice([n for n in range(1, NAMEPLATE_LIMIT + 1) if n not in taken])

    def _remember(self, row: InviteRow) -> None:
        self._known[row.id] = row
        while len(self._known) > REMEMBERED:
            over = [r for r in self._known.values() if not r.is_open(self._clock.wall()) and r.id != row.id]
            oldest = min(over or list(self._known.values()), key=lambda r: r.created_at)
            del self._known[oldest.id]


def _refused(code: str, cause: str) -> Refused:
    return Refused(
        "The ticket cannot be used",
        cause=cause,
        next_step="ask for a new one: `shoal invite`",
        code=f"invite_{code}",
    )
