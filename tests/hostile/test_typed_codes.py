"""Typed codes under attack: guesses, swaps, replays, reflections, odd points, stalls, who answers first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.code_guests import (
    Guest,
    ask,
    failures,
    make_code,
    refusal,
    tries_left,
    wrong_words,
)
from tests.support.membership_nodes import Village, open_village
from tests.support.transport_nodes import wait_until

from shoal.core.clock import SystemClock
from shoal.core.errors import LimitExceeded, MalformedMessage, Refused, RemoteFault, Unavailable
from shoal.identity.code import TypedCode
from shoal.identity.keys import DeviceKeys
from shoal.identity.ticket import Ticket
from shoal.membership import code_door
from shoal.membership.code_exchange import InviterExchange, JoinerExchange, Transcript
from shoal.membership.code_messages import (
    CODE_TABLE,
    CodeConfirm,
    CodeGrant,
    CodeReady,
    CodeReply,
    CodeStart,
)
from shoal.membership.join_messages import JOIN_TABLE, JoinReceived
from shoal.transport.address import Address

P = 2**255 - 19
BAD_POINTS = {
    "identity": (1).to_bytes(32, "little"),
    "identity, second encoding": (P + 1).to_bytes(32, "little"),
    "identity, sign of zero": (1 | 1 << 255).to_bytes(32, "little"),
    "order 2": (P - 1).to_bytes(32, "little"),
    "order 4": bytes(32),
    "order 4, second encoding": P.to_bytes(32, "little"),
    "order 8": bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    "order 8, other": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    "not on the curve": (2).to_bytes(32, "little"),
    "all ones": b"\xff" * 32,
}


class ShiftedClock(SystemClock):
    def __init__(self) -> None:
        self.shift_s = 0.0

    def wall(self) -> float:
        return super().wall() + self.shift_s


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
async def village(tmp_path: Path, clock: ShiftedClock) -> AsyncIterator[Village]:
    async with open_village(tmp_path, clock) as opened:
        yield opened


async def test_the_fifth_try_with_wrong_words_burns_the_code_and_leaves_the_ticket(village: Village) -> None:
    owner = await village.founder()
    code, ticket = await make_code(owner)
    for left in (4, 3, 2, 1, 0):
        with pytest.raises(Refused) as caught:
            await Guest().find(wrong_words(code), owner)
        assert caught.value.code == ("wrong_words" if left else "code_burnt")
    assert tries_left(owner) == [4, 3, 2, 1, 0]
    with pytest.raises(Refused, match="not joined") as caught:
        await Guest().find(code, owner)  # the right words
    assert caught.value.code == "code_burnt"
    assert owner.rules.count("code_failed") == 5
    node = await village.stranger(ticket)
    await node.join(ticket, "by ticket")
    assert owner.network.is_active(node.peer_id)


async def test_tries_outlive_the_node(village: Village) -> None:
    owner = await village.founder()
    code, ticket = await make_code(owner)
    for count in range(1, 6):
        with pytest.raises(Refused):
            await Guest().find(wrong_words(code), owner)
        owner = await village.start(await village.stop(owner))
        assert failures(owner, ticket) == count
    with pytest.raises(Refused) as caught:
        await Guest().find(code, owner)
    assert caught.value.code == "code_burnt"


async def test_tries_side_by_side_are_five_in_all(village: Village, monkeypatch: pytest.MonkeyPatch) -> None:
    """All channels have passed the first look before any of them shows its words."""
    monkeypatch.setattr(code_door, "EXCHANGES", 8)
    monkeypatch.setattr(code_door, "EXCHANGES_A_GROUP", 8)
    owner = await village.founder()
    code, ticket = await make_code(owner)
    guests = [Guest() for _ in range(8)]
    prepared = []
    for index, guest in enumerate(guests):
        channel = await guest.dial(code, owner)
        exchange = guest.exchange(code if index == 7 else wrong_words(code), channel)
        reply = await ask(channel, CodeStart(exchange.start()))
        assert isinstance(reply, CodeReply)
        prepared.append((channel, exchange.confirm(reply.spake, reply.commitment)))
    said = [refusal(await ask(channel, CodeConfirm(confirmation))) for channel, confirmation in prepared]
    assert said == ["wrong_words"] * 4 + ["code_burnt"] * 4  # the last had the right words
    assert failures(owner, ticket) == 5
    for channel, _ in prepared:
        channel.close()


async def test_a_disk_that_fails_is_no_oracle(village: Village) -> None:
    """Where a try cannot be written down, right and wrong words get one and the same answer."""
    owner = await village.founder()
    code, ticket = await make_code(owner)
    owner.home.disk.fault = "full"
    guest = Guest()
    said = []
    for words in (wrong_words(code), code):
        async with await guest.dial(code, owner) as channel:
            said.append(await guest.confirm(words, channel))
    assert refusal(said[0]) == "try_later"
    assert said[0] == said[1]
    owner.home.disk.fault = None
    assert failures(owner, ticket) == 0
    assert (await guest.find(code, owner)).secret == ticket.secret


async def test_code_and_ticket_are_one_invite(village: Village) -> None:
    owner = await village.founder()
    code, ticket = await make_code(owner)
    first, second = Guest(), Guest()
    found = await first.find(code, owner)
    with pytest.raises(Refused) as caught:
        await second.find(code, owner)  # right words, too late
    assert caught.value.code == "code_used"
    node = await village.stranger(found, first.keys)
    await node.join(found, "first")
    other = await village.stranger(ticket)
    with pytest.raises(Refused) as caught:
        await other.join(ticket, "other")
    assert caught.value.code == "invite_used"
    assert (await first.find(code, owner)).secret == ticket.secret  # its reply was lost: it may ask again

    code, ticket = await make_code(owner)
    node = await village.stranger(ticket)
    await node.join(ticket, "by ticket")
    with pytest.raises(Refused) as caught:
        await Guest().find(code, owner)
    assert caught.value.code == "code_used"
    assert tries_left(owner) == []


async def test_an_expired_or_revoked_code_is_as_none(village: Village, clock: ShiftedClock) -> None:
    owner = await village.founder()
    code, ticket = await make_code(owner, 60.0)
    assert await owner.network.invites.revoke(ticket.invite_id)
    with pytest.raises(Unavailable, match="not joined"):
        await Guest().find(code, owner)
    code, ticket = await make_code(owner, 60.0)
    clock.shift_s = 61.0
    with pytest.raises(Refused) as knocked:
        await Guest().dial(code, owner)
    assert knocked.value.code == "knock"
    with pytest.raises(Unavailable) as caught:
        await Guest().find(code, owner)
    assert caught.value.code == "inviter_not_found"


async def test_a_code_that_expires_between_message_and_confirmation(
    village: Village, clock: ShiftedClock
) -> None:
    owner = await village.founder()
    code, _ = await make_code(owner, 60.0)
    guest = Guest()
    async with await guest.dial(code, owner) as channel:
        exchange = guest.exchange(code, channel)
        reply = await ask(channel, CodeStart(exchange.start()))
        assert isinstance(reply, CodeReply)
        clock.shift_s = 61.0
        answer = await ask(channel, CodeConfirm(exchange.confirm(reply.spake, reply.commitment)))
        assert refusal(answer) == "invite_expired"


async def test_only_open_nameplates_are_answered(village: Village) -> None:
    owner = await village.founder()
    code, _ = await make_code(owner)
    other = TypedCode(code.nameplate % 999 + 1, code.words)
    with pytest.raises(Refused) as caught:
        await Guest().dial(other, owner)
    assert caught.value.code == "knock"


class Ends:
    """A channel as the exchange sees it: both ends of one have the same exporter."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    def exporter(self, label: bytes, context: bytes, length: int) -> bytes:
        assert (label, context) == (b"EXPORTER-shoal-code/1", b"")
        return self.secret[:length]


CODE = TypedCode(7, ("olive", "tango", "magnet"))
KEYS = [DeviceKeys.generate() for _ in range(3)]
ADA, BEN, EVE = (keys.peer_id for keys in KEYS)
NETWORK = b"n" * 32
CHANNEL = Ends(b"x" * 32)


def run(
    joiner: JoinerExchange, inviter: InviterExchange, commitment: bytes | None = None
) -> tuple[bool, bool, bytes, bytes]:
    """Let both ends speak; returns whether inviter and joiner believed, and both confirmations."""
    start = joiner.start()
    reply = inviter.answer(start)
    first = joiner.confirm(reply, commitment or inviter.commitment)
    second = inviter.confirm()
    return inviter.verify(first), joiner.verify(second), first, second


def make_ticket(inviter: bytes = ADA, network: bytes = NETWORK) -> Ticket:
    return Ticket(network, inviter, b"s" * 16, 2_000_000_000, ())


def test_both_ends_agree_where_all_is_as_it_should_be() -> None:
    joiner = JoinerExchange(CODE, CHANNEL, BEN, ADA)
    inviter = InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK)
    assert run(joiner, inviter)[:2] == (True, True)
    assert joiner.open_grant(inviter.blind, inviter.seal(make_ticket())) == make_ticket()


@pytest.mark.parametrize(
    ("joiner", "inviter"),
    [
        (JoinerExchange(CODE, CHANNEL, BEN, ADA), InviterExchange(CODE, Ends(b"y" * 32), BEN, ADA, NETWORK)),
        (JoinerExchange(CODE, CHANNEL, BEN, EVE), InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK)),
        (JoinerExchange(CODE, CHANNEL, BEN, ADA), InviterExchange(CODE, CHANNEL, EVE, ADA, NETWORK)),
        (JoinerExchange(CODE, CHANNEL, ADA, BEN), InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK)),
        (
            JoinerExchange(replace(CODE, nameplate=8), CHANNEL, BEN, ADA),
            InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK),
        ),
        (
            JoinerExchange(TypedCode(7, ("olive", "tango", "melon")), CHANNEL, BEN, ADA),
            InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK),
        ),
    ],
    ids=["exporter", "inviter's key", "joiner's key", "roles", "nameplate", "words"],
)
def test_neither_end_believes_where_something_differs(
    joiner: JoinerExchange, inviter: InviterExchange
) -> None:
    assert run(joiner, inviter)[:2] == (False, False)


def test_a_swapped_commitment_is_noticed_by_both() -> None:
    joiner = JoinerExchange(CODE, CHANNEL, BEN, ADA)
    inviter = InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK)
    assert run(joiner, inviter, commitment=b"c" * 32)[:2] == (False, False)


def test_a_key_swapped_between_message_and_confirmation_is_noticed() -> None:
    """Someone in between knows the words of nobody: he passes on the messages and puts in one of his own."""
    joiner = JoinerExchange(CODE, CHANNEL, BEN, ADA)
    inviter = InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK)
    mallory = JoinerExchange(CODE, CHANNEL, BEN, ADA)  # even with the right words
    joiner.start()
    reply = inviter.answer(mallory.start())
    assert not inviter.verify(joiner.confirm(reply, inviter.commitment))
    assert not joiner.verify(inviter.confirm())


def test_every_field_of_the_transcript_counts() -> None:
    base = Transcript(b"e" * 32, b"j" * 32, b"i" * 32, 7, b"c" * 32, b"A" + b"x" * 32, b"B" + b"y" * 32)
    packs = {base.pack()}
    for field in base._fields:
        value = getattr(base, field)
        other = 8 if isinstance(value, int) else value[:-1] + b"\x00"
        packs.add(base._replace(**{field: other}).pack())
    packs.add(base._replace(joiner=base.inviter, inviter=base.joiner).pack())
    assert len(packs) == len(base._fields) + 2
    assert {len(pack) for pack in packs} == {196}


def test_what_was_said_does_not_come_back() -> None:
    """Reflection: own SPAKE2 message, with its side and with the other one; own confirmation."""
    joiner = JoinerExchange(CODE, CHANNEL, BEN, ADA)
    start = joiner.start()
    for reflected in (start, b"B" + start[1:]):
        fresh = JoinerExchange(CODE, CHANNEL, BEN, ADA)
        own = fresh.start()
        with pytest.raises(MalformedMessage):
            fresh.confirm(own if reflected is start else b"B" + own[1:], b"c" * 32)
    inviter = InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK)
    joiner = JoinerExchange(CODE, CHANNEL, BEN, ADA)
    _, _, first, second = run(joiner, inviter)
    assert first != second
    assert not joiner.verify(first)
    assert not inviter.verify(second)


def test_a_grant_that_does_not_fit_is_refused() -> None:
    for ticket in (make_ticket(inviter=EVE), make_ticket(network=b"m" * 32)):
        joiner = JoinerExchange(CODE, CHANNEL, BEN, ADA)
        inviter = InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK)
        run(joiner, inviter)
        with pytest.raises(RemoteFault):
            joiner.open_grant(inviter.blind, inviter.seal(ticket))
    for spoil in range(2):
        joiner = JoinerExchange(CODE, CHANNEL, BEN, ADA)
        inviter = InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK)
        run(joiner, inviter)
        sealed = inviter.seal(make_ticket())
        damaged = bytes([sealed[0] ^ 1]) + sealed[1:]
        with pytest.raises(RemoteFault):
            joiner.open_grant(os.urandom(32) if spoil else inviter.blind, sealed if spoil else damaged)


@pytest.mark.parametrize("name", list(BAD_POINTS))
def test_odd_points_are_refused_by_both_ends(name: str) -> None:
    with pytest.raises(MalformedMessage):
        InviterExchange(CODE, CHANNEL, BEN, ADA, NETWORK).answer(b"A" + BAD_POINTS[name])
    joiner = JoinerExchange(CODE, CHANNEL, BEN, ADA)
    joiner.start()
    with pytest.raises(MalformedMessage):
        joiner.confirm(b"B" + BAD_POINTS[name], b"c" * 32)


async def test_what_is_no_try_is_closed_without_a_word_and_not_counted(village: Village) -> None:
    owner = await village.founder()
    code, ticket = await make_code(owner)
    good = JoinerExchange(code, CHANNEL, BEN, owner.peer_id).start()
    openings = [
        CodeStart(b"A" + BAD_POINTS["identity"]),
        CodeStart(b"A" + BAD_POINTS["identity, second encoding"]),
        CodeStart(b"A" + BAD_POINTS["order 8"]),
        CodeStart(b"B" + good[1:]),
        CodeStart(good + b"x"),
        CodeStart(good[:-1]),
        CodeStart(b""),
        CodeStart(b"A" * 60_000),
        CodeConfirm(b"c" * 32),
        CodeReady(),
        CodeGrant(b"b" * 32, b"sealed"),
        CodeReply(good, b"c" * 32),
    ]
    for opening in openings:
        async with await Guest().dial(code, owner) as channel:
            with pytest.raises(Unavailable):
                await ask(channel, opening)
    async with await Guest().dial(code, owner) as channel:  # a message of joins by ticket
        await channel.send(JOIN_TABLE, JoinReceived())
        with pytest.raises(Unavailable):
            await channel.receive(CODE_TABLE, 5.0)
    guest = Guest()
    for second in (CodeReady(), CodeConfirm(b"c" * 33), CodeStart(good)):  # in place of the confirmation
        async with await guest.dial(code, owner) as channel:
            reply = await ask(channel, CodeStart(guest.exchange(code, channel).start()))
            assert isinstance(reply, CodeReply)
            with pytest.raises(Unavailable):
                await ask(channel, second)
    assert failures(owner, ticket) == 0
    assert (await guest.find(code, owner)).secret == ticket.secret


async def test_nothing_is_granted_before_the_joiner_is_ready(village: Village) -> None:
    owner = await village.founder()
    code, _ = await make_code(owner)
    guest = Guest()
    async with await guest.dial(code, owner) as channel:
        exchange = guest.exchange(code, channel)
        reply = await ask(channel, CodeStart(exchange.start()))
        assert isinstance(reply, CodeReply)
        answer = await ask(channel, CodeConfirm(exchange.confirm(reply.spake, reply.commitment)))
        assert isinstance(answer, CodeConfirm)
        assert exchange.verify(answer.confirmation)
        with pytest.raises(Unavailable):
            await channel.receive(CODE_TABLE, 0.3)


async def test_a_confirmation_is_worth_nothing_on_another_channel(village: Village) -> None:
    """Replay of both of a joiner's messages, by the same key, and by somebody else's."""
    owner = await village.founder()
    code, ticket = await make_code(owner)
    guest = Guest()
    async with await guest.dial(code, owner) as channel:
        exchange = guest.exchange(code, channel)
        start = exchange.start()
        reply = await ask(channel, CodeStart(start))
        assert isinstance(reply, CodeReply)
        confirmation = exchange.confirm(reply.spake, reply.commitment)
    for count, replayer in enumerate((guest, Guest()), 1):
        async with await replayer.dial(code, owner) as channel:
            assert isinstance(await ask(channel, CodeStart(start)), CodeReply)
            assert refusal(await ask(channel, CodeConfirm(confirmation))) == "wrong_words"
        assert failures(owner, ticket) == count


async def test_a_device_in_between_gets_nothing_and_costs_a_try(village: Village) -> None:
    """Ben dials Eve, who passes every message on to Ada: the TLS channels and the keys are not the same."""
    ada = await village.founder()
    eve = await village.founder()
    code, ticket = await make_code(ada)
    eve.network.invites._choose_nameplate = lambda now: code.nameplate  # type: ignore[method-assign]
    await make_code(eve)
    between = Guest(eve.home.keys)
    ben = Guest()
    async with await ben.dial(code, eve) as to_eve, await between.dial(code, ada) as to_ada:
        exchange = ben.exchange(code, to_eve)
        reply = await ask(to_ada, CodeStart(exchange.start()))
        assert isinstance(reply, CodeReply)
        confirmation = exchange.confirm(reply.spake, reply.commitment)
        assert refusal(await ask(to_ada, CodeConfirm(confirmation))) == "wrong_words"
    assert failures(ada, ticket) == 1


async def test_who_stalls_is_let_go_and_holds_only_its_own_places(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_door, "MESSAGE_TIMEOUT_S", 1.0)
    owner = await village.founder()
    code, ticket = await make_code(owner)
    stalled = [await Guest().dial(code, owner) for _ in range(code_door.EXCHANGES_A_GROUP)]
    await wait_until(lambda: owner.door._running.total() == code_door.EXCHANGES_A_GROUP)
    async with await Guest().dial(code, owner) as third:
        with pytest.raises(Unavailable):
            await ask(third, CodeStart(b"A" * 33))
    assert "joins_full" in owner.rules
    node = await village.stranger(ticket)  # a ticket has places of its own
    await wait_until(lambda: all(channel.closed for channel in stalled))
    await wait_until(lambda: owner.door._running.total() == 0)
    assert failures(owner, ticket) == 0
    await node.join(ticket, "by ticket")


async def test_exchanges_are_begun_at_a_bounded_rate(
    village: Village, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_door, "EXCHANGES_BURST", 2.0)
    monkeypatch.setattr(code_door, "EXCHANGES_S", 0.001)
    owner = await village.founder()
    code, ticket = await make_code(owner)
    said = []
    for _ in range(3):
        guest = Guest()
        async with await guest.dial(code, owner) as channel:
            said.append(await ask(channel, CodeStart(guest.exchange(code, channel).start())))
    assert [isinstance(each, CodeReply) for each in said] == [True, True, False]
    assert refusal(said[2]) == "too_often"
    assert failures(owner, ticket) == 0


async def test_who_answers_first_gets_one_guess_and_the_inviter_is_still_found(village: Village) -> None:
    owner = await village.founder()
    code, ticket = await make_code(owner)
    liars = []
    for _ in range(5):
        liar = await village.founder()
        liar.network.invites._choose_nameplate = lambda now: code.nameplate  # type: ignore[method-assign]
        while (await make_code(liar))[0] == code:
            pass
        liars.append(liar)
    found = await Guest().find(code, *liars[:4], owner)
    assert found.secret == ticket.secret
    with pytest.raises(Refused) as caught:
        await Guest().find(code, *liars, owner)
    assert caught.value.code == "wrong_words"
    assert str(liars[0].address) in caught.value.cause
    assert failures(owner, ticket) == 0


async def test_a_silent_or_babbling_host_is_passed_by(village: Village) -> None:
    owner = await village.founder()
    code, ticket = await make_code(owner)

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" * 1000)
        await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]

        class Babbler:
            address = Address("127.0.0.1", port)

        found = await Guest().find(code, Babbler(), owner)  # type: ignore[arg-type]
    assert found.secret == ticket.secret
    assert found.addresses == (str(owner.address),)


def test_messages_of_wrong_lengths_are_refused() -> None:
    for message in (
        CodeStart(b"A" * 32),
        CodeReply(b"B" * 33, b"c" * 31),
        CodeReply(b"B" * 34, b"c" * 32),
        CodeConfirm(b"c" * 31),
        CodeGrant(b"b" * 31, b""),
    ):
        with pytest.raises(MalformedMessage):
            message.check()
    with pytest.raises(LimitExceeded):
        CodeGrant(b"b" * 32, b"s" * 4097).check()
