"""Sessions between real transports on loopback sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import uvloop
from tests.support.transport_nodes import Say, slower, transport_network, wait_until

from shoal.core.clock import SystemClock
from shoal.core.errors import ConfigFault, LocalMisuse, Refused, RemoteFault, Unavailable
from shoal.transport.address import Address
from shoal.transport.config import SessionTiming
from shoal.transport.heartbeat import TURN
from shoal.wire.registry import ServiceNumber

SWARM = ServiceNumber.SWARM


LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


async def test_dial_makes_one_settled_session_at_both_ends():
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        session = await a.dial(b)
        other = await b.wait_session(a)
        assert session.settled
        assert other.settled
        assert session.is_dialler
        assert not other.is_dialler
        assert session.peer_id == b.peer_id
        assert other.peer_id == a.peer_id
        assert session.dial_address == b.address
        assert other.dial_address is None
        assert session.over_loopback
        assert session.path == "direct"
        assert await a.dial(b) is session
        assert session.exporter(b"EXPORTER-x", b"c", 32) == other.exporter(b"EXPORTER-x", b"c", 32)
        await wait_until(lambda: session.rtt_ms is not None and other.rtt_ms is not None)
        assert a.echo.log == [("up", b.peer_id, "")]
        assert b.echo.log == [("up", a.peer_id, "")]


async def test_requests_go_both_ways_and_errors_keep_their_class():
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        session = await a.dial(b)
        other = await b.wait_session(a)
        answers = await asyncio.gather(*(session.request(SWARM, Say(b"%d" % i)) for i in range(100)))
        assert [answer.text for answer in answers] == [b"%d" % i for i in range(100)]
        assert (await other.request(SWARM, Say(b"x" * 60_000))).text == b"x" * 60_000
        with pytest.raises(Refused) as refused:
            await session.request(SWARM, Say(b"", "refuse"))
        assert (refused.value.message, refused.value.cause, refused.value.code) == ("no", "because", "nope")
        with pytest.raises(Unavailable) as failed:
            await session.request(SWARM, Say(b"", "bug"))
        assert failed.value.code == "internal"
        assert not session.closed
        with pytest.raises(Unavailable) as late:
            await session.request(SWARM, Say(b"", "hang"), timeout_s=0.05)
        assert late.value.code == "timeout"
        await wait_until(lambda: b.echo.cancelled == 1)
        task = asyncio.ensure_future(session.request(SWARM, Say(b"", "hang")))
        await asyncio.sleep(0.05)
        task.cancel()
        await wait_until(lambda: b.echo.cancelled == 2)
        assert session.in_flight == 0
        assert other.in_flight == 0


async def test_notices_and_ping():
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        session = await a.dial(b)
        assert session.notify(SWARM, Say(b"hello"))
        await wait_until(lambda: b.echo.notices == [b"hello"])
        assert 0 < await session.ping() < 1000
        session.close()
        assert not session.notify(SWARM, Say(b"late"))
        with pytest.raises(Unavailable):
            await session.request(SWARM, Say(b"late"))


async def test_heartbeats_carry_the_head():
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        await a.dial(b)
        await b.wait_session(a)
        a.view.own_head = b"H" * 32
        await wait_until(lambda: b"H" * 8 in b.heads.heads)


async def test_closing_tells_the_peer_why_and_fails_what_is_in_flight():
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        session = await a.dial(b)
        other = await b.wait_session(a)
        asked = asyncio.ensure_future(session.request(SWARM, Say(b"", "hang")))
        await wait_until(lambda: other.in_flight == 1)
        b.transport.close_peer(a.peer_id, "removed")
        assert other.closed
        assert b.echo.log[-1] == ("down", a.peer_id, "removed")
        with pytest.raises(Unavailable):
            await asked
        await wait_until(lambda: b.echo.cancelled == 1)
        assert (session.close_reason, session.closed_by) == ("removed", "peer")
        assert a.echo.log[-1] == ("down", b.peer_id, "removed")
        assert a.transport.sessions() == []
        assert b.transport.sessions() == []


async def test_closing_the_transport_says_goodbye_to_everybody():
    async with transport_network() as network:
        hub = await network.add()
        others = [await network.add() for _ in range(4)]
        sessions, address = [await node.dial(hub) for node in others], hub.address
        await hub.transport.close()
        await hub.transport.close()
        await wait_until(lambda: all(session.closed for session in sessions))
        assert {(s.close_reason, s.closed_by) for s in sessions} == {("shutdown", "peer")}
        with pytest.raises(Unavailable):
            await hub.dial(others[0])
        with pytest.raises(Unavailable):
            await others[0].transport.dial(hub.peer_id, address)


@pytest.mark.parametrize("turn", range(5))
async def test_simultaneous_dials_end_in_one_session(turn: int):
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        results = await asyncio.gather(a.dial(b), b.dial(a))
        await wait_until(lambda: len(a.transport._all_sessions()) == len(b.transport._all_sessions()) == 1)
        one, two = a.transport.sessions()[0], b.transport.sessions()[0]
        assert one.exporter(b"EXPORTER-x", b"", 32) == two.exporter(b"EXPORTER-x", b"", 32)
        assert one.is_dialler != two.is_dialler
        assert results == [one, two]
        assert (await one.request(SWARM, Say(b"1"))).text == b"1"
        assert (await two.request(SWARM, Say(b"2"))).text == b"2"
        assert a.echo.count("up") == b.echo.count("up") == 1


async def test_a_storm_of_simultaneous_dials_settles():
    async with transport_network() as network:
        nodes = [await network.add() for _ in range(8)]
        pairs = [(x, y) for x in nodes for y in nodes if x is not y]
        results = await asyncio.gather(*(x.dial(y) for x, y in pairs), return_exceptions=True)
        assert not [r for r in results if isinstance(r, BaseException)]
        await wait_until(lambda: all(len(n.transport._all_sessions()) == 7 for n in nodes))
        for x, y in pairs:
            one, two = x.transport.find_session(y.peer_id), y.transport.find_session(x.peer_id)
            assert one is not None
            assert two is not None
            assert one.exporter(b"EXPORTER-x", b"", 32) == two.exporter(b"EXPORTER-x", b"", 32)


async def test_a_restarted_peer_replaces_its_old_session_at_once():
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        old = await b.dial(a)
        first = await a.wait_session(b)
        # the process of b ends without a word: its socket stays open at a
        b.transport._table.remove(old)
        again = await network.add(keys=b.keys)
        await again.dial(a)
        await wait_until(lambda: a.transport.find_session(b.peer_id) is not first)
        assert first.closed
        assert first.close_reason == "replaced"
        kinds = [(kind, reason) for kind, _, reason in a.echo.log]
        assert kinds == [("up", ""), ("down", "replaced"), ("up", "")]


async def test_worn_sessions_are_replaced_make_before_break():
    async with transport_network() as network:
        timing = slower(replace_age_s=0.3)
        a, b = await network.add(timing=timing), await network.add()
        old = await a.dial(b)
        before = await b.wait_session(a)
        asked = asyncio.ensure_future(old.request(SWARM, Say(b"", "hang"), timeout_s=0.8))
        await wait_until(lambda: a.transport.find_session(b.peer_id) is not old)
        assert not old.closed  # its request is still in flight
        assert a.transport.find_session(b.peer_id) is not None
        with pytest.raises(Unavailable):
            await asked
        await wait_until(lambda: old.closed and before.closed)
        assert old.close_reason == "replaced"


async def test_after_an_address_that_is_silent_the_next_way_is_tried_at_once():
    """A firewall that drops: the dial of the first address is over when `replace` says so."""
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        old = await a.dial(b)
        silent = socket.socket()
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(Unavailable, match="did not become"):
            await a.transport.replace(b.peer_id, Address("127.0.0.1", silent.getsockname()[1]), 0.2)
        new = await a.transport.replace(b.peer_id, b.address)
        assert new is not old
        assert a.transport.find_session(b.peer_id) is new
        silent.close()


async def test_dead_peer_is_noticed_and_a_stall_of_our_own_loop_is_not_a_death():
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        session = await a.dial(b)
        other = await b.wait_session(a)
        # both loops are this one: a stall of it leaves nothing received for far longer than silence + probe
        import time

        time.sleep(1.2)
        await asyncio.sleep(0.5)
        assert not session.closed
        assert not other.closed
        other._channel._transport.pause_reading()  # b is there but silent: nothing is read, nothing answered
        other._host = Silent(other._host)
        await wait_until(lambda: session.closed, timeout_s=2)
        assert (session.close_reason, session.closed_by) == ("dead", "network")


class Silent:
    """A host whose sessions are never judged, so that they send no heartbeat."""

    def __init__(self, host):
        self._inner = host
        host._table._sessions.clear()

    def __getattr__(self, name):
        return getattr(self._inner, name)


class JumpingClock(SystemClock):
    """A clock whose wall time jumps, as after a sleep."""

    jump_s = 0.0

    def wall(self) -> float:
        return super().wall() + self.jump_s


async def test_after_a_sleep_peers_are_probed_at_once():
    async with transport_network() as network:
        clock = JumpingClock()
        timing = slower(heartbeat_s=60, heads_s=60, silence_s=60)
        a, b = await network.add(timing=timing, clock=clock), await network.add(timing=timing)
        session = await a.dial(b)
        other = await b.wait_session(a)
        await wait_until(lambda: session.rtt_ms is not None)
        clock.jump_s = 3600
        await asyncio.sleep(0.5)
        assert not session.closed  # it answered
        other._channel._transport.pause_reading()  # the network changed while we slept
        clock.jump_s = 7200
        await wait_until(lambda: session.closed, timeout_s=2)
        assert session.close_reason == "dead"


def test_a_dead_peer_is_noticed_within_ten_seconds():
    timing = SessionTiming()
    assert timing.silence_s + timing.probe_s + 2 * timing.tick_s <= 10
    assert timing.silence_s > timing.heartbeat_s * TURN + timing.tick_s


async def test_who_was_just_admitted_shows_its_entries():
    async with transport_network() as network:
        a, b = await network.add(members=set()), await network.add()
        a.view.members |= {b.peer_id}
        a.view.entries = [b"entry one", b"entry two"]
        b.view.on_learn = lambda: network.members.add(a.peer_id)
        await a.dial(b)
        assert b.view.learned == [b"entry one", b"entry two"]
        network.members.discard(a.peer_id)


async def test_who_is_refused_without_its_entries_shows_them_at_once():
    async with transport_network() as network:
        a, b = await network.add(members=set()), await network.add()
        a.view.members |= {b.peer_id}
        asked: list[bytes] = []

        def show(peer_id: bytes, head: bytes) -> list[bytes]:
            asked.append(peer_id)
            return [b"entry"] if len(asked) > 1 else []

        a.view.show_admission = show
        b.view.on_learn = lambda: network.members.add(a.peer_id)
        await a.dial(b)
        assert asked == [b.peer_id] * 2
        assert b.view.learned == [b"entry"]
        network.members.discard(a.peer_id)
        stranger = await network.add(members={b.peer_id})
        with pytest.raises(Unavailable) as error:
            await stranger.dial(b)
        assert error.value.code == "stranger"  # it has nothing to show, and does not come back with it


async def test_a_session_that_rests_has_fewer_heartbeats_until_it_is_used():
    async with transport_network() as network:
        timing = slower(resting_s=60.0, rest_after_s=0.1, silence_s=30.0)
        a, b = await network.add(timing=timing), await network.add(timing=timing)
        session = await a.dial(b)
        other = await b.wait_session(a)
        await wait_until(lambda: session.records > 4)
        session.may_rest = other.may_rest = True
        await asyncio.sleep(0.3)  # what was under way
        before = session.records
        await asyncio.sleep(1.0)
        assert session.records == before
        assert await session.request(SWARM, Say(b"x")) == Say(b"x")
        other.may_rest = False
        await wait_until(lambda: session.records > before + 3)


async def test_missing_parents_say_synchronise_elsewhere():
    async with transport_network() as network:
        a, b = await network.add(members=set()), await network.add()
        a.view.members |= {b.peer_id}
        a.view.entries = [b"entry"]
        b.view.learn_error = Unavailable("parents are missing", code="synchronise")
        with pytest.raises(Unavailable) as error:
            await a.dial(b)
        assert error.value.code == "synchronise"


async def test_errors_of_dialling():
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        with pytest.raises(LocalMisuse):
            await a.dial(a)
        with pytest.raises(Refused):
            await a.transport.dial(b"x" * 32, b.address)
        with pytest.raises(Unavailable) as gone:
            await a.transport.dial(b.peer_id, Address("127.0.0.1", 1))
        assert "refused" in gone.value.cause
        c = await network.add()
        with pytest.raises(Refused) as knock:  # the knock names its responder
            await a.transport.dial(b.peer_id, c.address)
        assert knock.value.code == "knock"
        assert c.rules == ["wrong_knock"]


async def test_another_key_behind_the_right_knock_is_a_fault():
    async with transport_network() as network:
        a, b, c = await network.add(), await network.add(), await network.add()
        c.transport._channels._gate._own_id = b.peer_id
        with pytest.raises(RemoteFault) as error:
            await a.transport.dial(b.peer_id, c.address)
        assert error.value.code == "wrong_peer"


async def test_port_that_is_taken_is_a_config_fault():
    async with transport_network() as network:
        a = await network.add()
        with pytest.raises(ConfigFault) as error:
            await network.add(listen=str(a.address))
        assert str(a.address) in error.value.message
        assert "--listen" in error.value.next_step


async def test_ipv6_and_names():
    async with transport_network() as network:
        a, b = await network.add(listen="[::1]:0"), await network.add(listen="[::]:0")
        session = await b.dial(a)
        assert session.over_loopback
        session.close()
        await a.transport.dial(b.peer_id, Address("localhost", b.address.port))


async def test_a_name_whose_first_address_is_silent_is_dialled_at_the_next(monkeypatch: pytest.MonkeyPatch):
    """Typically IPv6 that goes nowhere: it must not use up the time of the address that answers."""
    silent, filling = socket.socket(), []
    silent.bind(("127.0.0.2", 0))
    silent.listen(0)
    port = silent.getsockname()[1]
    for _ in range(3):  # a full backlog: further connections get no answer at all
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(silent.getsockname())
        filling.append(sock)

    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def two_addresses(host: str, *more: Any, **options: Any) -> Any:
        if host != "localhost":
            return await resolve(host, *more, **options)
        return [*await resolve("127.0.0.2", *more, **options), *await resolve("127.0.0.1", *more, **options)]

    async with transport_network() as network:
        a, b = await network.add(), await network.add(listen=f"127.0.0.1:{port}")
        monkeypatch.setattr(loop, "getaddrinfo", two_addresses, raising=False)
        await a.transport.dial(b.peer_id, Address("localhost", port), timeout_s=1.5)
    for sock in [silent, *filling]:
        sock.close()


async def test_cancelled_dial_leaves_nothing():
    async with transport_network() as network:
        a, b = await network.add(), await network.add()
        task = asyncio.ensure_future(a.dial(b))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await wait_until(lambda: not len(a.transport._dials))
        assert len(a.transport._all_sessions()) <= 1
        assert (await (await a.dial(b)).request(SWARM, Say(b"x"))).text == b"x"
