"""Invites: made once, used once, told apart when they are over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.identity import make_keys
from tests.support.stores import open_stores

from shoal.core.errors import LocalMisuse, Refused
from shoal.identity.operations import Role
from shoal.identity.ticket import Ticket, make_guest_pass
from shoal.membership.invites import GUEST_AGAIN_S, REMEMBERED, Invites, join_knock
from shoal.storage.invites import KEEP_S, InviteRow
from shoal.storage.invites import Invites as InviteTable
from shoal.testing.clock import ManualClock
from shoal.transport.reach.messages import GUEST_PASSES

OWN = make_keys(1).peer_id
ANN, BOB = b"a" * 32, b"b" * 32
NETWORK = b"n" * 32
RELAY = b"r" * 32


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[InviteTable]:
    async with open_stores(tmp_path) as stores:
        yield stores.invites


def allow(role: Role) -> None:
    """Every role may be admitted."""


async def make(invites: Invites, expires_s: float = 3600) -> Ticket:
    ticket, _ = await invites.make(NETWORK, Role.MEMBER, "", expires_s, ["192.0.2.1:1"] * 12)
    return ticket


async def test_a_ticket_names_the_invite_and_few_addresses(table: InviteTable) -> None:
    clock = ManualClock()
    invites = Invites(table, OWN, clock, allow)
    ticket = await make(invites)
    assert len(ticket.addresses) == 8
    assert len(ticket.secret) >= 16
    assert ticket.expires_at == int(clock.wall()) + 3600
    assert invites.all()[0].id == ticket.invite_id
    assert Ticket.parse(ticket.to_text()) == ticket


async def test_an_invite_is_used_by_one_joiner_only_and_that_survives_a_restart(table: InviteTable) -> None:
    clock = ManualClock()
    invites = Invites(table, OWN, clock, allow)
    ticket = await make(invites)
    await invites.use(ticket.invite_id, ANN)
    again = Invites(table, OWN, clock, allow)
    await again.load()
    for one in (invites, again):
        clock.advance(4000)  # also after its time: it is Ann's
        assert (await one.use(ticket.invite_id, ANN)).used_by == ANN
        with pytest.raises(Refused) as refused:
            await one.use(ticket.invite_id, BOB)
        assert refused.value.code == "invite_used"


async def test_what_is_over_is_told_apart(table: InviteTable) -> None:
    clock = ManualClock()
    invites = Invites(table, OWN, clock, allow)
    expired, revoked = await make(invites, 10), await make(invites)
    assert await invites.revoke(revoked.invite_id)
    assert not await invites.revoke(revoked.invite_id)
    clock.advance(10)
    for invite_id, code in (
        (expired.invite_id, "invite_expired"),
        (revoked.invite_id, "invite_revoked"),
        (b"?" * 16, "invite_unknown"),
    ):
        with pytest.raises(Refused) as refused:
            await invites.use(invite_id, ANN)
        assert refused.value.code == code


async def test_an_admission_that_failed_opens_the_invite_again(table: InviteTable) -> None:
    invites = Invites(table, OWN, ManualClock(), allow)
    ticket = await make(invites)
    await invites.use(ticket.invite_id, ANN)
    await invites.release(ticket.invite_id, BOB)  # not the one who used it
    assert invites.all()[0].used_by == ANN
    await invites.release(ticket.invite_id, ANN)
    assert (await invites.use(ticket.invite_id, BOB)).used_by == BOB


async def test_a_knock_is_matched_to_its_invite_for_this_inviter_only(table: InviteTable) -> None:
    invites = Invites(table, OWN, ManualClock(), allow)
    first, second = await make(invites), await make(invites)
    nonce = b"0" * 16
    assert invites.match_knock(nonce, join_knock(first.secret, nonce, OWN)) == first.invite_id
    assert invites.match_knock(nonce, join_knock(second.secret, nonce, OWN)) == second.invite_id
    assert invites.match_knock(nonce, join_knock(first.secret, nonce, ANN)) is None
    assert invites.match_knock(b"1" * 16, join_knock(first.secret, nonce, OWN)) is None


async def test_passes_for_a_relay_are_those_of_open_invites_and_for_a_while_of_used_ones(
    table: InviteTable,
) -> None:
    clock = ManualClock()
    invites = Invites(table, OWN, clock, allow)
    first, used, revoked = await make(invites, 100), await make(invites), await make(invites)
    await invites.revoke(revoked.invite_id)
    passes = {row.invite_id: row for row in invites.guest_passes(NETWORK, RELAY)}
    assert passes.keys() == {first.invite_id, used.invite_id}
    assert passes[first.invite_id].key == make_guest_pass(first.secret, NETWORK, OWN, RELAY)
    assert passes[first.invite_id].seconds == 100
    await invites.use(used.invite_id, ANN)
    clock.advance(100)  # the first is over
    await invites.use(used.invite_id, ANN)  # its reply was lost; that gives no more time
    (row,) = invites.guest_passes(NETWORK, RELAY)
    assert (row.invite_id, row.seconds) == (used.invite_id, int(GUEST_AGAIN_S - 100))
    clock.advance(GUEST_AGAIN_S - 100)
    assert invites.guest_passes(NETWORK, RELAY) == []
    again = Invites(table, OWN, clock, allow)
    await again.load()  # when it was used nobody knows now
    assert [row.invite_id for row in again.guest_passes(NETWORK, RELAY)] == [used.invite_id]


async def test_what_was_promised_is_not_taken_back_by_newer_invites(table: InviteTable) -> None:
    clock = ManualClock()
    invites = Invites(table, OWN, clock, allow)
    tickets = []
    for _ in range(GUEST_PASSES + 3):
        tickets.append(await make(invites))
        clock.advance(1)
    known = {row.invite_id for row in invites.guest_passes(NETWORK, RELAY)}
    assert known == {ticket.invite_id for ticket in tickets[:GUEST_PASSES]}
    await invites.use(tickets[0].invite_id, ANN)
    known = {row.invite_id for row in invites.guest_passes(NETWORK, RELAY)}
    assert tickets[GUEST_PASSES].invite_id in known


async def test_an_open_invite_is_not_pushed_out_by_newer_used_ones_at_a_restart(table: InviteTable) -> None:
    clock = ManualClock()
    invites = Invites(table, OWN, clock, allow)
    kept = await make(invites, 30 * 86400)
    for _ in range(REMEMBERED):
        clock.advance(1)
        ticket = await make(invites, 86400)
        await invites.use(ticket.invite_id, ANN)
    again = Invites(table, OWN, clock, allow)
    await again.load()
    assert len(again.all()) == REMEMBERED
    assert again.get(kept.invite_id, BOB).state == "open"


async def test_the_door_is_shut_thirty_days_after_the_last_invite(table: InviteTable) -> None:
    clock = ManualClock()
    invites = Invites(table, OWN, clock, allow)
    ticket = await make(invites, 60)
    mac = join_knock(ticket.secret, b"0" * 16, OWN)
    clock.advance(60 + KEEP_S - 1)
    assert invites.any_answered()
    assert invites.match_knock(b"0" * 16, mac) == ticket.invite_id
    clock.advance(2)
    assert not invites.any_answered()
    assert invites.match_knock(b"0" * 16, mac) is None


async def test_impossible_invites_are_not_made(table: InviteTable) -> None:
    invites = Invites(table, OWN, ManualClock(), allow)
    for expires_s in (0, -5, 31 * 86400):
        with pytest.raises(LocalMisuse):
            await make(invites, expires_s)
    with pytest.raises(LocalMisuse):
        await invites.make(NETWORK, Role.MEMBER, "a\nb", 60, [])
    assert not invites.any_answered()


async def test_leaving_takes_all_open_invites_back(table: InviteTable) -> None:
    invites = Invites(table, OWN, ManualClock(), allow)
    used, *_ = [await make(invites) for _ in range(3)]
    await invites.use(used.invite_id, ANN)
    await invites.revoke_all()
    assert sorted(row.state for row in invites.all()) == ["revoked", "revoked", "used"]


async def test_memory_of_invites_is_bounded_and_keeps_open_ones(table: InviteTable) -> None:
    clock = ManualClock()
    invites = Invites(table, OWN, clock, allow)
    kept = await make(invites)
    for n in range(REMEMBERED + 20):
        row = InviteRow(n.to_bytes(16, "big"), b"s" * 16, 3, "", clock.wall() + 1 + n, 0.0, "used", ANN)
        invites._remember(row)
    assert len(invites.all()) == REMEMBERED
    assert kept.invite_id in [row.id for row in invites.all()]
