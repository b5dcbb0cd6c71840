"""Guests that lie to a relay, relays that lie to guests and inviters. Real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.guest_world import GuestWorld, guest_world, read_end, wait_no_guests
from tests.support.lying_relay import open_to_nobody
from tests.support.membership_nodes import MembershipNode
from tests.support.transport_nodes import wait_until

from shoal.core.errors import Refused, ShoalError, Unavailable
from shoal.identity.keys import DeviceKeys
from shoal.identity.operations import Admit, Role, sign_joiner
from shoal.identity.ticket import Ticket
from shoal.membership import join_ways
from shoal.membership.invites import join_knock
from shoal.transport.address import Address
from shoal.transport.frame_pipe import FramePipe
from shoal.transport.guest_dial import ask_at_door
from shoal.transport.join_channel import JoinChannel
from shoal.transport.knock import Knock, KnockKind, make_guest_knock, make_knock
from shoal.transport.reach.guest_book import TRIES_BURST
from shoal.transport.reach.guest_messages import GUEST_TABLE, GuestGrant, GuestRefused
from shoal.transport.reach.guests import DOORS_A_PASS, GUEST_BYTES, OFFERS_BURST
from shoal.transport.reach.messages import GuestOffer, GuestPass, GuestPasses, RelayTaken
from shoal.transport.reach.relay_machine import GUESTS_A_PASS, RelayLimits
from shoal.wire.registry import ServiceNumber

REACH = ServiceNumber.REACH


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GuestWorld]:
    async with guest_world(tmp_path) as made:
        yield made


async def newcomer(world: GuestWorld, ticket: Ticket) -> MembershipNode:
    return await world.village.stranger(ticket)


async def open_door(world: GuestWorld, node: MembershipNode, knock: Knock) -> JoinChannel:
    """Connect to the relay with any knock."""
    sock = socket.socket()
    sock.setblocking(False)
    at = world.relay.address
    await asyncio.get_running_loop().sock_connect(sock, (at.host, at.port))
    channel = await node.transport._channels.dial(sock, world.relay.peer_id, knock.name)
    return JoinChannel(FramePipe(channel), node.peer_id, at, True, None)


async def flood(sock: socket.socket) -> None:
    """Send until the other end will not have it. Raises: TimeoutError where it would for ever."""
    async with asyncio.timeout(20.0):
        while True:
            await asyncio.get_running_loop().sock_sendall(sock, bytes(16384))


# -- what should work --------------------------------------------------------------------------------------


async def test_a_newcomer_joins_over_a_relay_and_is_a_member_like_any_other(world: GuestWorld) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, Ticket.parse(ticket.to_text()))
    joined = await node.join(ticket, "laptop")
    assert joined.address.relay == world.relay.peer_id
    assert joined.relay == ticket.relays[0]
    assert node.network.head() == world.inviter.network.head()
    assert node.network.content_secret(0) == world.inviter.network.content_secret(0)
    await wait_no_guests(world)
    await node.dial(world.relay)  # by the admission in its hello, or the broadcast before


async def test_a_newcomer_may_come_again_and_another_with_the_same_ticket_is_told_that_it_is_used(
    world: GuestWorld,
) -> None:
    ticket = await world.ticket()
    first = await newcomer(world, ticket)
    await first.join(ticket, "first")
    await first.join(ticket, "first")  # as if the reply had been lost
    second = await newcomer(world, ticket)
    with pytest.raises(Refused) as caught:
        await second.join(ticket, "second")
    assert caught.value.code == "invite_used"
    assert not world.inviter.network.is_active(second.peer_id)


async def test_who_reaches_nobody_is_told_what_would_help(world: GuestWorld) -> None:
    ticket = replace(await world.ticket(), relays=())
    node = await newcomer(world, ticket)
    with pytest.raises(Unavailable) as caught:
        await node.join(ticket, "laptop")
    assert "its network needs a relay" in caught.value.next_step


# -- guests that lie ---------------------------------------------------------------------------------------


async def test_a_forged_pass_and_one_for_another_relay_get_seven_bytes(world: GuestWorld) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    for key in (b"?" * 32, world.key(ticket, world.inviter.peer_id)):
        with pytest.raises(Refused) as caught:
            await world.open_way(node, key)
        assert caught.value.code == "knock"
    # the inviter is no relay: it lets in nobody, whatever was shown
    at, key = world.inviter.address, world.key(ticket, world.inviter.peer_id)
    with pytest.raises(Refused) as caught:
        await node.transport.open_guest_way(world.inviter.peer_id, at, key, 4.0)
    assert caught.value.code == "knock"
    assert "wrong_knock" in world.relay.rules
    assert world.relaying.status().guests == 0


async def test_a_knock_is_good_once_and_no_pass_opens_another_door(world: GuestWorld) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    key = world.key(ticket)
    knock = make_guest_knock(key, b"n" * 16, world.relay.peer_id)
    (await open_door(world, node, knock)).close()
    as_member = make_knock(key, b"o" * 16, world.relay.peer_id)
    as_joiner = Knock(KnockKind.JOIN, knock.nonce, knock.mac)
    as_guest = Knock(KnockKind.GUEST, b"p" * 16, join_knock(ticket.secret, b"p" * 16, world.relay.peer_id))
    for wrong in (knock, as_member, as_joiner, as_guest):
        with pytest.raises(Refused) as caught:
            await open_door(world, node, wrong)
        assert caught.value.code == "knock"


async def test_who_saw_a_knock_and_is_quicker_with_it_has_no_pass(world: GuestWorld) -> None:
    """The ALPN name is in the clear; a router may hold back whose it is."""
    ticket = await world.ticket()
    thief = await newcomer(world, ticket)
    for number in range(int(TRIES_BURST) + 1):
        seen = make_guest_knock(world.key(ticket), b"%16d" % number, world.relay.peer_id)
        async with await open_door(world, thief, seen) as door:
            with pytest.raises(Refused) as caught:
                await ask_at_door(door, b"?" * 32)
        assert "the proof does not fit" in caught.value.cause
    assert world.relaying.status().streams == 0
    node = await newcomer(world, ticket)
    await node.join(ticket, "owner of the ticket")  # no try was used up


async def test_a_join_moves_less_than_a_guest_may(world: GuestWorld) -> None:
    """Also into a network whose log is much longer than what a guest gets beside it."""
    for number in range(120):
        keys = DeviceKeys.generate()
        name, invite_id = f"device {number}", b"%16d" % number
        signature = sign_joiner(keys, world.relay.network.network_id, invite_id, name)
        suite = int(keys.hpke_suite)
        admit = Admit(keys.peer_id, Role.MEMBER, "", name, suite, keys.hpke_public, invite_id, signature)
        await world.relay.network.author(admit)
    await wait_until(lambda: world.inviter.network.head() == world.relay.network.head())
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    await node.join(ticket, "laptop")
    moved = world.relaying.status().day_bytes
    log_bytes = sum(len(entry.data) for entry in world.relay.network.log.entries())
    assert log_bytes > 150_000
    assert log_bytes < moved < log_bytes * 9 // 8 + GUEST_BYTES // 4


async def test_a_pass_is_over_when_its_invite_is_taken_back(world: GuestWorld) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    await world.inviter.network.invites.revoke(ticket.invite_id)
    await world.reach[world.inviter.peer_id].guests.leave_passes()
    with pytest.raises(Unavailable) as caught:
        await node.join(ticket, "late")
    assert caught.value.code == "inviter_unreachable"
    assert "it does not know this ticket now" in caught.value.cause


async def test_an_inviter_that_refuses_a_guest_is_no_error_of_the_relay(
    world: GuestWorld, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    await world.inviter.network.invites.revoke(ticket.invite_id)  # the relay has not heard of it yet
    with pytest.raises(Unavailable) as caught:
        await world.open_way(node, world.key(ticket))
    assert caught.value.code == "relay_refused"
    await wait_until(lambda: "relay_offer" in world.relay.rules)
    assert [row.message for row in caplog.records if row.levelname == "ERROR"] == []


async def test_an_expired_ticket_is_said_to_be_expired(world: GuestWorld) -> None:
    ticket = await world.ticket(expires_s=3.0)
    node = await newcomer(world, ticket)
    await wait_until(lambda: node.clock.wall() >= ticket.expires_at)
    with pytest.raises(Refused) as caught:
        await node.join(ticket, "late")
    assert caught.value.code == "expired"
    with pytest.raises(Refused) as refused:  # it opens nothing by itself either
        await world.open_way(node, world.key(ticket))
    assert refused.value.code == "knock"


async def test_a_guest_that_takes_all_streams_takes_those_of_its_pass(world: GuestWorld) -> None:
    ticket, other = await world.ticket(), await world.ticket()
    node = await newcomer(world, ticket)
    taken = [await world.open_way(node, world.key(ticket)) for _ in range(GUESTS_A_PASS)]
    with pytest.raises(Unavailable) as caught:
        await world.open_way(node, world.key(ticket))
    assert caught.value.code == "relay_refused"
    assert "as many newcomers as it allows" in caught.value.cause
    friend = await newcomer(world, other)
    await friend.join(other, "friend")  # whose pass is another one
    for sock in taken:
        sock.close()
    await wait_no_guests(world)
    await node.join(ticket, "patient")


async def test_guests_that_say_nothing_stand_in_nobody_s_way(world: GuestWorld) -> None:
    ticket, other = await world.ticket(), await world.ticket()
    node = await newcomer(world, ticket)
    silent = []
    for number in range(DOORS_A_PASS + 1):
        knock = make_guest_knock(world.key(ticket), b"%16d" % number, world.relay.peer_id)
        silent.append(await open_door(world, node, knock))
    await wait_until(lambda: "guests_full" in world.relay.rules)
    friend = await newcomer(world, other)
    await friend.join(other, "friend")
    for door in silent:
        door.close()
    await wait_until(lambda: not world.reach[world.relay.peer_id].guests._doors)
    await node.join(ticket, "sorry")


async def test_a_guest_that_comes_again_and_again_is_slowed_down(world: GuestWorld) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    causes = []
    for number in range(12):
        knock = make_guest_knock(world.key(ticket), b"%16d" % number, world.relay.peer_id)
        try:
            door = await open_door(world, node, knock)
        except (Unavailable, Refused) as error:  # 5 connections a second from one address
            causes.append(error.code)
            await asyncio.sleep(0.3)
            continue
        async with door:
            try:
                await ask_at_door(door, world.key(ticket))
            except Unavailable as error:
                causes.append(error.cause)
    assert any("too often" in cause or "as many newcomers" in cause for cause in causes)
    assert world.relaying.status().guests <= GUESTS_A_PASS


async def test_a_guest_that_floods_is_cut_and_nobody_else_notices(world: GuestWorld) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    session = world.relay.transport.find_session(world.inviter.peer_id)
    assert session is not None
    before = world.relaying.status().day_bytes
    sock = await world.open_way(node, world.key(ticket))
    with pytest.raises((ConnectionError, BrokenPipeError)):
        await flood(sock)
    sock.close()
    await wait_no_guests(world)
    log_bytes = sum(len(entry.data) for entry in world.relay.network.log.entries())
    assert world.relaying.status().day_bytes - before <= GUEST_BYTES + log_bytes * 9 // 8 + 2 * 65536
    assert await session.ping() >= 0
    await node.join(ticket, "sorry")


async def test_a_guest_that_says_something_else_at_the_door_gets_nothing(world: GuestWorld) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    door = await open_door(world, node, make_guest_knock(world.key(ticket), b"n" * 16, world.relay.peer_id))
    async with door:
        await door.send(GUEST_TABLE, GuestGrant(b"t" * 16))
        with pytest.raises(ShoalError):
            await door.receive(GUEST_TABLE, 3.0)
    await wait_until(lambda: "guest_failed" in world.relay.rules)
    assert world.relaying.status().guests == 0


async def test_a_guest_that_does_not_join_is_nobody_at_the_inviter(world: GuestWorld) -> None:
    """The stream leads to the inviter's port: to its doors, which want their own knocks."""
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    sock = await world.open_way(node, world.key(ticket))
    await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.0\r\n\r\n")
    assert await read_end(sock) == b""
    await wait_until(lambda: "bad_preamble" in world.inviter.rules)
    sock = await world.open_way(node, world.key(ticket))
    nonce = b"n" * 16
    wrong = join_knock(b"?" * 16, nonce, world.inviter.peer_id)
    with pytest.raises(Refused) as caught:
        await node.transport.dial_join(
            world.inviter.peer_id, Address.via(world.relay.peer_id), nonce, wrong, 4.0, sock
        )
    assert caught.value.code == "knock"


# -- members that lie --------------------------------------------------------------------------------------


async def test_who_may_invite_nobody_leaves_no_passes(world: GuestWorld) -> None:
    member = await world.village.member(world.relay, Role.MEMBER)
    world.add_reach(member)
    session = await member.dial(world.relay)
    with pytest.raises(ShoalError) as caught:
        await session.request(REACH, GuestPasses([GuestPass(b"i" * 16, b"k" * 32, 60)]))
    assert caught.value.code == "not_allowed"


async def test_who_is_no_relay_takes_no_passes_and_a_relay_without_guests_neither(tmp_path: Path) -> None:
    async with guest_world(tmp_path, RelayLimits(guests=0)) as world:
        guests = world.reach[world.inviter.peer_id].guests
        await world.inviter.ticket()
        assert await guests.leave_passes() == []
        back = world.relay.transport.find_session(world.inviter.peer_id)
        assert back is not None
        with pytest.raises(ShoalError) as caught:
            await back.request(REACH, GuestPasses([]))
        assert caught.value.code == "not_a_relay"


async def test_a_removed_inviter_s_passes_are_over(world: GuestWorld) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    sock = await world.open_way(node, world.key(ticket))
    await world.relay.network.remove(world.inviter.peer_id)
    assert await read_end(sock) == b""
    with pytest.raises(Refused) as caught:
        await world.open_way(node, world.key(ticket))
    assert caught.value.code == "knock"


# -- relays that lie ---------------------------------------------------------------------------------------


async def test_a_relay_that_leads_to_somebody_else_is_found_out_by_the_key_in_the_ticket(
    world: GuestWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else answers the join's knock, as a relay could that read the ticket over a shoulder."""
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    liar = await world.village.member(world.relay, Role.ADMIN)
    await liar.ticket()
    shown: list[JoinChannel] = []

    async def write_down(channel: JoinChannel) -> None:
        shown.append(channel)

    liar.transport.on_join = write_down
    monkeypatch.setattr(liar.network, "match_join_knock", lambda nonce, mac: b"i" * 16)

    async def elsewhere(*_: object) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        at = liar.address
        await asyncio.get_running_loop().sock_connect(sock, (at.host, at.port))
        return sock

    monkeypatch.setattr(node.transport, "open_guest_way", elsewhere)
    with pytest.raises(Unavailable) as caught:
        await node.join(ticket, "victim")
    assert caught.value.code == "inviter_unreachable"
    assert "over relay" in caught.value.cause
    assert not node.network.door_keys()
    await asyncio.sleep(0.2)
    assert not shown, "it saw the newcomer's key"
    monkeypatch.undo()
    await node.join(ticket, "victim")  # the ticket is as good as before


@pytest.mark.parametrize("lie", ["cuts", "floods", "is silent"])
async def test_a_relay_that_cuts_floods_or_says_nothing_costs_bounded_time(
    world: GuestWorld, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    ends: list[socket.socket] = []

    async def lying(*_: object) -> socket.socket:
        return open_to_nobody(lie, ends)

    monkeypatch.setattr(node.transport, "open_guest_way", lying)
    monkeypatch.setattr(join_ways, "RELAY_TIMEOUT_S", 1.0)
    with pytest.raises(Unavailable) as caught:
        async with asyncio.timeout(20.0):
            await node.join(ticket, "victim")
    assert "check that the inviting device and a relay" in caught.value.next_step
    for end in ends:
        end.close()


async def test_a_relay_that_brings_guests_whom_nobody_expects_is_refused(world: GuestWorld) -> None:
    ticket = await world.ticket()
    session = world.relay.transport.find_session(world.inviter.peer_id)
    assert session is not None
    with pytest.raises(ShoalError) as caught:
        await session.request(REACH, GuestOffer(b"?" * 16, b"t" * 16))
    assert caught.value.code == "stranger"
    member = await world.village.member(world.relay)
    world.add_reach(member)
    await member.dial(world.inviter)
    other = member.transport.find_session(world.inviter.peer_id)
    assert other is not None
    with pytest.raises(ShoalError) as caught:  # it has the id, but was not left a pass
        await other.request(REACH, GuestOffer(ticket.invite_id, b"t" * 16))
    assert caught.value.code == "stranger"
    codes = []
    for number in range(int(OFFERS_BURST) + 3):
        try:
            answer = await session.request(REACH, GuestOffer(ticket.invite_id, b"%16d" % number))
            codes.append("taken" if isinstance(answer, RelayTaken) else "?")
        except ShoalError as error:
            codes.append(error.code)
    assert codes[0] == "taken"
    assert codes[-1] == "busy"


async def test_what_a_relay_says_is_shown_clean_and_short(
    world: GuestWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = await world.ticket()
    node = await newcomer(world, ticket)
    guests = world.reach[world.relay.peer_id].guests

    async def rude(*_: object) -> bytes:
        raise Unavailable("no", cause="\x1b[31mdo as I say\n" + "x" * 200, code="relay_full")

    monkeypatch.setattr(guests, "_lead", rude)
    with pytest.raises(Unavailable) as caught:
        await node.join(ticket, "victim")
    assert "[31mdo as I say" in caught.value.cause
    assert caught.value.cause.isprintable()
    assert GuestRefused("no", "x" * 300, True).check() is None
