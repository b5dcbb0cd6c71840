"""Members that lie inside a session: only that session suffers, and never the node."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest
import uvloop
from tests.support.lying_dialler import GONE, LyingDialler
from tests.support.transport_nodes import (
    Say,
    TransportNetwork,
    TransportNode,
    slower,
    transport_network,
    wait_until,
)

from shoal.core.units import MIB
from shoal.identity.keys import DeviceKeys
from shoal.transport.ports import ServiceBudget
from shoal.transport.session import Session
from shoal.wire.codec import encode
from shoal.wire.frames import Frame, FrameKind
from shoal.wire.limits import BUFFER_BYTES
from shoal.wire.registry import ServiceNumber

LOOPS = {"uvloop": uvloop.new_event_loop}
SWARM = ServiceNumber.SWARM
QUIET = slower(heartbeat_s=60, silence_s=60, probe_s=60)


async def make_liar(network: TransportNetwork) -> tuple[TransportNode, LyingDialler, Session]:
    node, keys = await network.add(timing=QUIET), DeviceKeys.generate()
    network.members.add(keys.peer_id)
    liar = await LyingDialler.member(node, keys)
    await liar.be_session(node, keys)
    ping = await liar.next_frame()
    assert isinstance(ping, Frame)
    session = node.transport.find_session(keys.peer_id)
    assert session is not None
    return node, liar, session


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff12345", b"\x80\0\0\0", b"\0\0\0\0", b"\0\0\0\x07", b"\0\0\0\x08\x09\4\0\2\0\0\0\1"],
    ids=["4GiB", "2GiB", "zero", "short", "kind"],
)
async def test_impossible_frames_end_that_session_only(data: bytes):
    async with transport_network() as network:
        node, liar, session = await make_liar(network)
        friend = await network.add()
        good = await friend.dial(node)
        await liar.send(data)
        assert await liar.wait_gone()
        assert session.close_reason == "fault"
        assert node.rules == ["malformed_frame"]
        assert (await good.request(SWARM, Say(b"x"))).text == b"x"


BAD_MESSAGES = [
    Frame(FrameKind.REQUEST, SWARM, 2, 7, b"\xc1"),
    Frame(FrameKind.REQUEST, SWARM, 2, 7, b"\x91" * 60_000),
    Frame(FrameKind.REQUEST, SWARM, 2, 7, b"\xdd\xff\xff\xff\xff"),
    Frame(FrameKind.REQUEST, SWARM, 98, 7, b"\x90"),
    Frame(FrameKind.NOTICE, SWARM, 98, 0, b"\x90"),
    Frame(FrameKind.NOTICE, SWARM, 2, 0, b"\x92\xc4\xff"),
    Frame(FrameKind.REQUEST, 1, 2, 7, b"\x90"),
    Frame(FrameKind.REQUEST, 1, 8, 7, b"\x91\xc4\x01h"),
    Frame(FrameKind.NOTICE, 1, 4, 0, b"\x90"),
    Frame(FrameKind.NOTICE, 1, 12, 0, b"\x90"),
]


@pytest.mark.parametrize("index", range(len(BAD_MESSAGES)))
async def test_three_malformed_messages_a_minute_are_forgiven(index: int):
    async with transport_network() as network:
        node, liar, session = await make_liar(network)
        bad = BAD_MESSAGES[index]
        for _ in range(3):
            await liar.send_frame(bad.kind, bad.service, bad.message_type, bad.request_id, bad.payload)
        await wait_until(lambda: node.rules.count("malformed_message") == 3)
        assert not session.closed
        await liar.send_frame(bad.kind, bad.service, bad.message_type, bad.request_id, bad.payload)
        assert await liar.wait_gone()
        assert session.close_reason == "fault"


async def test_what_may_be_ignored_is_ignored():
    async with transport_network() as network:
        node, liar, session = await make_liar(network)
        await liar.send_frame(FrameKind.NOTICE, SWARM, 99, 0, b"\xc1")
        await liar.send_frame(FrameKind.NOTICE, 77, 2, 0, b"\xc1")
        await liar.send_frame(FrameKind.NOTICE, 1, 13, 0, b"\xc1")
        await liar.send_frame(FrameKind.RESPONSE, SWARM, 2, 12345, b"\xc1")
        await liar.send_frame(FrameKind.ERROR, SWARM, 0, 12345, b"\xc1")
        await liar.send_frame(FrameKind.CANCEL, SWARM, 0, 12345, b"")
        for service, number in ((SWARM, 99), (77, 2), (1, 16)):
            await liar.send_frame(FrameKind.REQUEST, service, number, 9, b"\x90")
            answer = await liar.next_frame()
            assert isinstance(answer, Frame)
            assert (answer.kind, answer.request_id) == (FrameKind.ERROR, 9)
            assert b"unsupported" in answer.payload
        await liar.send_frame(FrameKind.REQUEST, SWARM, 2, 10, encode(Say(b"x")))
        answer = await liar.next_frame()
        assert isinstance(answer, Frame)
        assert answer.kind is FrameKind.RESPONSE
        assert node.rules == []
        assert not session.closed


async def test_requests_beyond_the_budget_are_refused_and_cancelled_ones_leave_nothing():
    async with transport_network() as network:
        node, liar, session = await make_liar(network)
        for ident in range(1, 41):
            await liar.send_frame(FrameKind.REQUEST, SWARM, 2, ident, encode(Say(b"", "hang")))
        for _ in range(24):
            answer = await liar.next_frame()
            assert isinstance(answer, Frame)
            assert answer.kind is FrameKind.ERROR
            assert b"busy" in answer.payload
        assert session.in_flight == 16
        for ident in range(1, 41):
            await liar.send_frame(FrameKind.CANCEL, SWARM, 0, ident, b"")
        await wait_until(lambda: session.in_flight == 0)
        for ident in range(3):  # the same id twice at once is a fault
            await liar.send_frame(FrameKind.REQUEST, SWARM, 2, ident % 1, encode(Say(b"", "hang")))
        await wait_until(lambda: node.rules.count("malformed_message") == 2)


async def test_rapid_reset_keeps_the_limit():
    async with transport_network() as network:
        _, liar, session = await make_liar(network)
        most = 0
        for ident in range(2000):
            await liar.send_frame(FrameKind.REQUEST, SWARM, 2, ident, encode(Say(b"", "hang")))
            await liar.send_frame(FrameKind.CANCEL, SWARM, 0, ident, b"")
            most = max(most, session.in_flight)
        await wait_until(lambda: session.in_flight == 0)
        assert most <= 16


async def test_messages_over_the_services_size_and_rate():
    async with transport_network() as network:
        node, liar, session = await make_liar(network)
        node.echo.budget = ServiceBudget(4, messages_per_s=0.001, burst=5, message_bytes=1000)
        await liar.send_frame(FrameKind.REQUEST, SWARM, 2, 1, encode(Say(b"x" * 1001)))
        answer = await liar.next_frame()
        assert isinstance(answer, Frame)
        assert b"limit_exceeded" in answer.payload
        for _ in range(10):
            await liar.send_frame(FrameKind.NOTICE, SWARM, 2, 0, encode(Say(b"n")))
        await wait_until(lambda: node.rules.count("over_budget") == 5)
        assert node.echo.notices == [b"n"] * 5
        assert not session.closed


async def test_a_peer_that_never_reads_costs_a_bounded_buffer():
    async with transport_network() as network:
        _, liar, session = await make_liar(network)
        most = 0
        payload = encode(Say(b"x" * 60_000))
        with contextlib.suppress(OSError, AssertionError):
            for ident in range(1200):
                await liar.send_frame(FrameKind.REQUEST, SWARM, 2, ident, payload)
                most = max(most, session.buffered_bytes)
                if session.closed:
                    break
        assert BUFFER_BYTES // 4 < most < BUFFER_BYTES * 1.1


@pytest.mark.parametrize("last_words", [b"", b"\xff\xff\xff\xff12345"], ids=["hung up", "garbage"])
async def test_who_is_gone_before_its_entries_are_stored_gets_no_session(last_words: bytes):
    """Its admission takes a while to become durable; a session on a dead channel would stand for 14 s."""
    async with transport_network() as network:
        node, keys = await network.add(timing=QUIET), DeviceKeys.generate()
        node.view.learn_gate.clear()
        node.view.on_learn = lambda: network.members.add(keys.peer_id)
        liar = await LyingDialler.member(node, keys)
        await liar.say_hello(node, keys, entries=[b"entry"])
        await wait_until(lambda: bool(node.view.learned))
        if last_words:
            await liar.send(last_words)
            assert await liar.next_frame() == GONE
        liar.close()
        (pending,) = node.transport._acceptor._tasks
        assert pending.handed_over
        await asyncio.sleep(0.05)
        node.view.learn_gate.set()
        await wait_until(lambda: not node.transport._acceptor._tasks)
        assert node.transport._all_sessions() == []
        assert node.echo.log == []


async def test_a_member_that_pings_and_never_reads_costs_a_bounded_buffer():
    """Answers to pings, and whatever else TLS has to say, count like all other bytes."""
    async with transport_network() as network:
        node, liar, session = await make_liar(network)
        session._channel.write(b"\0" * (BUFFER_BYTES + 8 * MIB))
        await wait_until(lambda: session.closed)
        assert "slow_reader" in node.rules
        liar.close()


async def test_a_peer_that_says_goodbye_and_never_reads_leaves_no_socket():
    async with transport_network() as network:
        _, liar, session = await make_liar(network)
        channel = session._channel
        channel.start(lambda data: None, lambda error: None)  # an owner that only listens, as a join has
        channel.write(b"\0" * (BUFFER_BYTES - MIB))
        await wait_until(lambda: channel._queued_bytes == 0)
        assert channel.buffered_bytes > MIB
        liar.tls.shutdown()
        await liar.flush()
        await wait_until(lambda: channel.closed)
        assert channel._transport is not None
        await wait_until(lambda: channel.buffered_bytes == 0)
        liar.close()


async def test_a_member_that_comes_again_and_again_is_slowed_down():
    async with transport_network() as network:
        node, keys = await network.add(timing=QUIET), DeviceKeys.generate()
        network.members.add(keys.peer_id)
        liars = [await LyingDialler.member(node, keys) for _ in range(20)]
        for liar in liars:
            await liar.be_session(node, keys)
        liar = await LyingDialler.member(node, keys)
        await liar.say_hello(node, keys)
        answer = await liar.next_frame()
        assert isinstance(answer, Frame)
        assert answer.kind is FrameKind.ERROR
        assert await liar.next_frame() == GONE
        assert node.rules == ["session_churn"]
        assert len(node.transport._all_sessions()) == 1


async def test_replacing_again_and_again_does_not_multiply_the_budgets_of_a_member():
    """A replaced session may finish its requests: one of them, not one for each replacement."""
    async with transport_network() as network:
        timing = slower(QUIET, drain_s=60)
        node, keys = await network.add(timing=timing), DeviceKeys.generate()
        network.members.add(keys.peer_id)
        liars = []
        for _ in range(5):
            liars.append(liar := await LyingDialler.member(node, keys))
            hello = msgspec.structs.replace(liar.make_hello(node, keys), replaces=True)
            await liar.send_frame(FrameKind.REQUEST, ServiceNumber.SESSION, 2, 1, encode(hello))
            assert isinstance(await liar.next_frame(), Frame)
            assert isinstance(await liar.next_frame(), Frame)
            for ident in range(16):
                await liar.send_frame(FrameKind.REQUEST, SWARM, 2, ident, encode(Say(b"x", "hang")))
            await wait_until(lambda: node.transport.sessions()[0].in_flight >= 16)
        assert len(node.transport._all_sessions()) == 2
        await wait_until(lambda: node.echo.cancelled == 3 * 16)


async def test_a_flood_of_pings_is_cut():
    async with transport_network() as network:
        node, liar, _ = await make_liar(network)
        for ident in range(100):
            await liar.send_frame(FrameKind.REQUEST, 1, 8, ident, b"\x91\xc4\x08" + b"h" * 8)
        await wait_until(lambda: node.rules.count("over_budget") >= 55)


async def test_a_member_removed_in_the_middle_gets_nothing_more():
    async with transport_network() as network:
        node, liar, session = await make_liar(network)
        network.members.discard(session.peer_id)
        await liar.send_frame(FrameKind.REQUEST, SWARM, 2, 1, encode(Say(b"secret")))
        goodbye = await liar.next_frame()
        assert isinstance(goodbye, Frame)
        assert (goodbye.kind, goodbye.message_type) == (FrameKind.NOTICE, 6)
        assert await liar.next_frame() == GONE
        assert session.close_reason == "removed"
        assert node.echo.log[-1][0] == "down"


async def test_an_unknown_reason_is_only_closed():
    async with transport_network() as network:
        _, liar, session = await make_liar(network)
        await liar.send_frame(FrameKind.NOTICE, 1, 6, 0, b"\x91\xa7\x1b[31mno")
        await wait_until(lambda: session.closed)
        assert (session.close_reason, session.closed_by) == ("closed", "peer")


async def test_errors_of_a_peer_are_cleaned_for_terminals():
    async with transport_network() as network:
        node, liar, session = await make_liar(network)
        asked = asyncio.ensure_future(session.request(SWARM, Say(b"x")))
        frame = await liar.next_frame()
        assert isinstance(frame, Frame)
        evil = b"\x96\xa7refused\xa1c\xd9\x20" + b"\x1b]0;" + b"a" * 27 + b"\n" + b"\xa0\xa0\xc0"
        await liar.send_frame(FrameKind.ERROR, SWARM, 0, frame.request_id, evil)
        error = (await asyncio.gather(asked, return_exceptions=True))[0]
        assert "\x1b" not in str(error)
        assert "\n" not in str(error)
        assert node.rules == []


async def test_garbage_instead_of_an_answer_is_the_peers_fault():
    async with transport_network() as network:
        node, liar, session = await make_liar(network)
        asked = asyncio.ensure_future(session.request(SWARM, Say(b"x")))
        frame = await liar.next_frame()
        assert isinstance(frame, Frame)
        await liar.send_frame(FrameKind.RESPONSE, SWARM, 2, frame.request_id, b"\xc1")
        error = (await asyncio.gather(asked, return_exceptions=True))[0]
        assert getattr(error, "peer", None) == session.peer_id
        assert node.rules == ["malformed_message"]
