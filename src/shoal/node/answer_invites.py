"""Answers about invites: making one, and how one does that somebody waits for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec

from shoal.api import schema as s
from shoal.core.budget import BoundedMap
from shoal.core.errors import LocalMisuse, Refused
from shoal.core.units import format_time
from shoal.identity.code import TypedCode
from shoal.identity.operations import Role
from shoal.identity.ticket import Ticket
from shoal.membership.events import CodeFailed, InviteUsed
from shoal.node.parts import Parts
from shoal.node.ticket_relays import ADDRESSES_BESIDE, find_ticket_relays
from shoal.storage.invites import CODE_TRIES, OPEN, REVOKED, USED, InviteRow
from shoal.transport.reach.messages import GUEST_PASSES
from shoal.transport.reach.standing import UNDIALLED

ROLES: dict[s.RoleName, Role] = {
    "owner": Role.OWNER,
    "admin": Role.ADMIN,
    "member": Role.MEMBER,
    "storage": Role.STORAGE,
}
WATCHED = 512  # invites whose last wrong try is remembered


class InviteAnswers:
    """The part of `NodeApi` that is about invites of this device."""

    def __init__(self, parts: Parts) -> None:
        self._network = parts.network
        self._clock = parts.clock
        self._parts = parts
        self._last_from: BoundedMap[bytes, str] = BoundedMap(WATCHED)
        self._changed = asyncio.Event()
        parts.base.events.on(CodeFailed, self._on_code_failed)
        parts.base.events.on(InviteUsed, lambda event: self._wake())

    async def invite(self, request: s.InviteRequest) -> s.Invite:
        """Make an invite of this device."""
        self._check_may_invite(request.role)
        ticket, row = await self._network.invites.make(
            self._network.network_id,
            ROLES[request.role],
            request.user or "",
            request.expires_s,
            self._parts.own_addresses(),
        )
        code = TypedCode(row.nameplate, tuple(row.words.split("-"))).text
        relays = await find_ticket_relays(self._parts, row.id)
        if relays:
            ticket = replace(ticket, relays=relays, addresses=ticket.addresses[:ADDRESSES_BESIDE])
        members = self._network.state.members
        return s.Invite(
            ticket.to_text(),
            code,
            format_time(ticket.expires_at),
            [members[relay.peer_id].name for relay in relays if relay.peer_id in members],
            self._find_reach_notice(bool(relays)) or msgspec.UNSET,
        )

    def _check_may_invite(self, role: s.RoleName) -> None:
        """Raises: Refused, in the words of who invites, where this device may not admit such a device."""
        network = self._network
        member = network.state.members.get(network.own_id)
        if network.is_out or member is None:
            raise Refused(
                "No invite was made",
                cause="this device is no member of the network any more",
                next_step="invite on a device that is one",
                code="not_allowed",
            )
        try:
            network.check_may_admit(ROLES[role])
        except Refused as error:
            raise Refused(
                "No invite was made",
                cause=f"this device is {member.role.name.lower()} and may not admit anybody as {role}",
                next_step="invite on a device of an owner (admins admit members and storage): shoal members",
                code=error.code,
            ) from error

    async def invite_state(self, request: s.InviteWaitRequest) -> s.InviteState:
        """Say what became of an invite, after at most `wait_s` if nothing is new."""
        limit_s = min(max(request.wait_s, 0.0), s.WAIT_LIMIT_S)
        invite_id = Ticket.parse(request.ticket).invite_id
        row = self._get(invite_id)
        until = self._clock.monotonic() + limit_s
        while self._state(row) == ("open", request.failures):
            left_s = min(until, self._clock.monotonic() + row.expires_at - self._clock.wall())
            left_s -= self._clock.monotonic()
            if left_s <= 0:
                break
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                pass
            row = self._get(invite_id)
        state, failures = self._state(row)
        return s.InviteState(
            state=state,
            failures=failures,
            tries_left=CODE_TRIES - failures,
            last_from=self._last_from.find(row.id),
            name=self._find_name(row),
        )

    def find_code_notice(self) -> str | None:
        """Return what the status should say about wrong words, or None."""
        now = self._clock.wall()
        said = []
        for row in self._network.invites.all():
            if row.code_failures and row.is_open(now):
                where = self._last_from.find(row.id)
                last = f", last from {where}" if where is not None else ""
                burnt = ": it is burnt, its ticket is not" if row.code_failures >= CODE_TRIES else ""
                said.append(
                    f"wrong words were tried {row.code_failures} of {CODE_TRIES} times for code "
                    f"{row.nameplate}{last}{burnt}"
                )
        return "; ".join(said[:3]) or None

    def _find_reach_notice(self, over_relays: bool) -> str | None:
        """Return why the other device may not get here, as far as this one knows."""
        if over_relays or self._parts.reach.prober.standing().state not in UNDIALLED:
            return None
        where = "the other one has to be in the same local network"
        if self._parts.overlay.find_relays():
            why = f"no relay took this invite (each takes {GUEST_PASSES} open ones of a device, if any)"
            return f"nobody outside can dial this device, and {why}: {where}"
        relay = "a member that others can dial has to run: shoal up --relay"
        return f"nobody outside can dial this device, and it has no relay: {where}, or {relay}"

    def _state(self, row: InviteRow) -> tuple[s.InviteStateName, int]:
        if row.state == OPEN and self._clock.wall() >= row.expires_at:
            return "expired", row.code_failures
        names: dict[str, s.InviteStateName] = {OPEN: "open", USED: "used", REVOKED: "revoked"}
        return names[row.state], row.code_failures

    def _find_name(self, row: InviteRow) -> str | None:
        member = self._network.state.members.get(row.used_by) if row.used_by is not None else None
        return member.name if member is not None else None

    def _get(self, invite_id: bytes) -> InviteRow:
        for row in self._network.invites.all():
            if row.id == invite_id:
                return row
        raise LocalMisuse(
            "There is no such invite",
            cause="this device made none with this ticket, or it was long ago",
            next_step="make one: shoal invite",
            code="unknown_invite",
        )

    def _on_code_failed(self, event: CodeFailed) -> None:
        self._last_from.put(event.invite_id, event.address)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
