"""Join channels: the ALPN that is answered only while an invite is open."""

from __future__ import annotations

import asyncio
import secrets

import pytest
import uvloop
from tests.support.transport_nodes import (
    INVITE_ID,
    Say,
    TransportNode,
    join_mac,
    transport_network,
    wait_until,
)

from shoal.core.errors import Refused, ShoalError, Unavailable
from shoal.transport.join_channel import JoinChannel
from shoal.wire.registry import MessageTable, ServiceNumber

LOOPS = {"uvloop": uvloop.new_event_loop}
TABLE = MessageTable(ServiceNumber.MEMBERSHIP, {2: Say})


async def dial_join(joiner: TransportNode, inviter: TransportNode) -> JoinChannel:
    nonce = secrets.token_bytes(16)
    mac = join_mac(nonce, inviter.peer_id)
    return await joiner.transport.dial_join(inviter.peer_id, inviter.address, nonce, mac)


async def test_messages_both_ways_over_one_exporter():
    async with transport_network() as network:
        inviter, joiner = await network.add(), await network.add(members=set())
        inviter.view.invites = True
        facts: list[object] = []

        async def on_join(channel: JoinChannel) -> None:
            message = await channel.receive(TABLE)
            facts.extend((channel.peer_id, channel.invite_id, channel.is_dialler, message))
            facts.append(channel.exporter(b"EXPORTER-x", b"", 32))
            await channel.send(TABLE, Say(b"z" * 60_000))

        inviter.transport.on_join = on_join
        async with await dial_join(joiner, inviter) as channel:
            assert channel.peer_id == inviter.peer_id
            assert channel.own_id == joiner.peer_id
            await channel.send(TABLE, Say(b"hello"))
            assert await channel.receive(TABLE) == Say(b"z" * 60_000)
            expected = [joiner.peer_id, INVITE_ID, False, Say(b"hello")]
            assert facts == [*expected, channel.exporter(b"EXPORTER-x", b"", 32)]
            with pytest.raises(Unavailable):  # the inviter's handler returned: its end is closed
                await channel.receive(TABLE)
        await wait_until(lambda: inviter.transport._acceptor._joins == 0)


async def test_a_last_word_is_heard_by_who_was_about_to_speak():
    async with transport_network() as network:
        inviter, joiner = await network.add(), await network.add(members=set())
        inviter.view.invites = True

        async def on_join(channel: JoinChannel) -> None:
            await channel.send(TABLE, Say(b"no"))  # and ends it, before it has heard anything

        inviter.transport.on_join = on_join
        async with await dial_join(joiner, inviter) as channel:
            await wait_until(lambda: channel.closed)
            await channel.send(TABLE, Say(b"hello"))
            assert await channel.receive(TABLE) == Say(b"no")
            with pytest.raises(Unavailable):
                await channel.send(TABLE, Say(b"hello"))


async def test_no_open_invite_no_answer():
    async with transport_network() as network:
        inviter, joiner = await network.add(), await network.add()
        with pytest.raises(Refused):
            await dial_join(joiner, inviter)
        assert inviter.rules == ["wrong_knock"]


async def test_wrong_secret_and_replay_are_refused():
    async with transport_network() as network:
        inviter, joiner = await network.add(), await network.add()
        inviter.view.invites = True

        async def on_join(channel: JoinChannel) -> None:
            await channel.receive(TABLE)

        inviter.transport.on_join = on_join
        nonce = secrets.token_bytes(16)
        with pytest.raises(Refused):
            await joiner.transport.dial_join(inviter.peer_id, inviter.address, nonce, b"m" * 32)
        mac = join_mac(nonce, inviter.peer_id)
        (await joiner.transport.dial_join(inviter.peer_id, inviter.address, nonce, mac)).close()
        with pytest.raises(Refused):
            await joiner.transport.dial_join(inviter.peer_id, inviter.address, nonce, mac)


async def test_garbage_silence_and_a_joiner_that_leaves():
    async with transport_network() as network:
        inviter, joiner = await network.add(), await network.add()
        inviter.view.invites = True
        errors: list[ShoalError] = []

        async def on_join(channel: JoinChannel) -> None:
            try:
                await channel.receive(TABLE, timeout_s=0.2)
            except ShoalError as error:
                errors.append(error)
                raise

        inviter.transport.on_join = on_join
        channel = await dial_join(joiner, inviter)
        await wait_until(lambda: len(errors) == 1)
        assert errors[0].code == "timeout"
        channel = await dial_join(joiner, inviter)
        channel._channel.write(b"\xff" * 20)
        await wait_until(lambda: len(errors) == 2)
        (await dial_join(joiner, inviter)).close()
        await wait_until(lambda: len(errors) == 3)
        assert inviter.rules == ["join_failed"] * 3


async def test_joins_are_bounded():
    async with transport_network() as network:
        inviter, joiner = await network.add(), await network.add()
        inviter.view.invites = True
        release = asyncio.Event()

        async def on_join(channel: JoinChannel) -> None:
            await release.wait()

        inviter.transport.on_join = on_join
        channels = [await dial_join(joiner, inviter) for _ in range(9)]
        await wait_until(lambda: inviter.rules == ["joins_full"])
        release.set()
        await wait_until(lambda: inviter.transport._acceptor._joins == 0)
        for channel in channels:
            channel.close()


async def test_no_more_joins_at_once_than_the_limit():
    async with transport_network() as network:
        inviter, joiner = await network.add(), await network.add(members=set())
        inviter.view.invites = True
        most = running = 0

        async def on_join(channel: JoinChannel) -> None:
            nonlocal most, running
            running += 1
            most = max(most, running)
            await channel.receive(TABLE)
            running -= 1

        inviter.transport.on_join = on_join
        dials = (dial_join(joiner, inviter) for _ in range(16))
        channels = await asyncio.gather(*dials, return_exceptions=True)
        await wait_until(lambda: inviter.rules.count("joins_full") == 8)
        await wait_until(lambda: running == 8)
        assert most == 8
        for channel in channels:
            if isinstance(channel, JoinChannel):
                channel.close()
        await wait_until(lambda: inviter.transport._acceptor._joins == 0)
