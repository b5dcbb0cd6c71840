"""Peers and networks that lie on lanes: tokens, OPEN, records, pace."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from tests.support.lane_brokers import CLIENT, SERVER, World, make_world, wait_until

from shoal.core.errors import LimitExceeded, MalformedMessage, RemoteFault, ShoalError, Unavailable
from shoal.testing.lanes import LaneKeys, make_lane_pair, make_tcp_pair
from shoal.transport.lane import Lane
from shoal.transport.lane_broker import PENDING_A_SESSION, TOKEN_VALID_S
from shoal.transport.lane_messages import LaneAccept, LaneOpen
from shoal.transport.lane_record import (
    LaneRole,
    RecordSealer,
    RecordType,
    derive_lane_key,
    pack_preamble,
)
from shoal.wire.registry import ServiceNumber

SWARM = ServiceNumber.SWARM


async def _get_token(world: World) -> bytes:
    answer = await world.server.on_request(world.at_server, LaneOpen(SWARM, b"", True, b""))  # type: ignore[arg-type]
    assert isinstance(answer, LaneAccept)
    return answer.lane_id


def _open_record(lane_id: bytes, secret: bytes = b"x" * 32) -> bytes:
    return RecordSealer(derive_lane_key(secret, lane_id, CLIENT, SERVER, LaneRole.OPENER)).seal(
        RecordType.OPEN
    )


def _receive_all(lane: Lane) -> None:
    while lane.receive() is not None:
        pass


def _send_much(lane: Lane) -> None:
    for _ in range(200):
        lane.send(2**20)


async def test_stolen_token_gets_not_one_byte_and_no_lane() -> None:
    async with make_world() as world:
        token = await _get_token(world)
        thief = await world.dial_raw(pack_preamble(token) + _open_record(token, secret=b"y" * 32))
        assert await world.wait_end(thief) == b""
        assert world.server.lane_count == 0
        assert world.taker[SERVER].lanes.empty()
        # the token is spent by it: its owner is refused too, and asks for another
        owner = await world.dial_raw(pack_preamble(token) + _open_record(token))
        assert await world.wait_end(owner) == b""
        assert world.answers == [True, False]
        await wait_until(lambda: world.server.slots_taken == 0)


async def test_replayed_opening_finds_its_token_used() -> None:
    async with make_world() as world:
        token = await _get_token(world)
        bytes_on_the_wire = pack_preamble(token) + _open_record(token)
        first = await world.dial_raw(bytes_on_the_wire)
        await asyncio.wait_for(world.taker[SERVER].lanes.get(), 3)
        second = await world.dial_raw(bytes_on_the_wire)
        assert await world.wait_end(second) == b""
        assert world.answers == [True, False]
        assert world.server.lane_count == 1
        first.close()


async def test_token_expires_and_gives_its_slot_back() -> None:
    async with make_world() as world:
        token = await _get_token(world)
        start = time.monotonic()
        world.now = lambda: start + TOKEN_VALID_S + 0.1
        late = await world.dial_raw(pack_preamble(token) + _open_record(token))
        assert await world.wait_end(late) == b""
        assert world.answers == [False]
        assert world.server.slots_taken == 0
        assert [o.rule for o in world.seen] == ["lane_token"]


async def test_a_flood_of_tokens_is_one_subject_whatever_port_it_comes_from() -> None:
    async with make_world() as world:
        for token in (b"t" * 16, b"u" * 16):
            sock = await world.dial_raw(pack_preamble(token))
            assert await world.wait_end(sock) == b""
        assert {(o.rule, o.subject) for o in world.seen} == {("lane_token", "127.0.0.1")}


@pytest.mark.parametrize("preamble", [b"\x00" * 24, b"SHOALLN2" + b"t" * 16, b"SHOALLN1" + b"t" * 16])
async def test_wrong_preamble_is_closed_without_an_answer(preamble: bytes) -> None:
    async with make_world() as world:
        sock = await world.dial_raw(preamble)
        assert await world.wait_end(sock) == b""
        assert world.answers == [False]
        assert len(world.seen) == 1


async def test_silent_opener_is_dropped_and_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.transport.lane_broker.OPEN_TIMEOUT_S", 0.2)
    async with make_world() as world:
        token = await _get_token(world)
        sock = await world.dial_raw(pack_preamble(token) + b"\x00\x00")
        assert await asyncio.wait_for(world.wait_end(sock), 3) == b""
        assert world.server.slots_taken == 0


async def test_acceptor_that_does_not_hold_the_secret_is_noticed() -> None:
    async with make_world() as world:
        world.at_server.secret = b"z" * 32  # as if somebody stood between: the exporters differ
        with pytest.raises((MalformedMessage, Unavailable)):
            await world.client.open(world.at_client, SWARM, b"", True)
        await wait_until(lambda: world.client.slots_taken + world.server.slots_taken == 0)


async def test_tokens_of_a_session_are_limited() -> None:
    async with make_world() as world:
        for _ in range(PENDING_A_SESSION):
            await _get_token(world)
        with pytest.raises(Unavailable):
            await _get_token(world)


async def test_answer_with_another_id_is_a_fault() -> None:
    async with make_world() as world:

        async def lie(session: object, message: object) -> LaneAccept:
            return LaneAccept(b"?" * 16)

        world.client.on_request = lie
        with pytest.raises(MalformedMessage):
            await world.server.open(world.at_server, SWARM, b"", True)
        world.server.on_request = lie
        with pytest.raises((Unavailable, MalformedMessage)):
            await world.client.open(world.at_client, SWARM, b"", True)
        assert world.client.slots_taken + world.server.slots_taken == 0


class Wire:
    """The raw end of a lane's connection, with the keys to make good records and to spoil them."""

    def __init__(self, window_s: float = 30.0) -> None:
        self.sock, other = make_tcp_pair()
        keys = LaneKeys()
        self.sealer = keys.sealer(LaneRole.OPENER)
        self.lane: Lane = keys.lane(other, LaneRole.ACCEPTOR, window_s)

    def record(self, data: bytes = b"data") -> bytes:
        return self.sealer.seal(RecordType.DATA, data)

    def refused(self, kind: type[ShoalError] = RemoteFault) -> str:
        """Assert that receiving fails, that the lane is closed by it, and return the code."""
        with pytest.raises(kind) as caught:
            _receive_all(self.lane)
        assert self.lane.is_closed
        return caught.value.code


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.sock.close()
    made.lane.close()


@pytest.mark.parametrize("keep", [0, 3, 5, 10, 24])
def test_truncated_stream(wire: Wire, keep: int) -> None:
    wire.sock.sendall(wire.record() + wire.record()[:keep])
    wire.sock.shutdown(socket.SHUT_WR)
    assert wire.refused() == "lane_truncated"


def test_end_record_is_the_only_good_end(wire: Wire) -> None:
    wire.sock.sendall(wire.record() + wire.sealer.seal(RecordType.END))
    assert wire.lane.receive() == b"data"
    assert wire.lane.receive() is None
    assert wire.lane.receive() is None


def test_bad_tag(wire: Wire) -> None:
    bad = bytearray(wire.record())
    bad[-1] ^= 1
    wire.sock.sendall(bad)
    assert wire.refused() == "lane_tag"


def test_reordered_records(wire: Wire) -> None:
    first, second = wire.record(b"one"), wire.record(b"two")
    wire.sock.sendall(second + first)
    assert wire.refused() == "lane_tag"


def test_replayed_record(wire: Wire) -> None:
    record = wire.record()
    wire.sock.sendall(record + record)
    assert wire.refused() == "lane_tag"


def test_dropped_record(wire: Wire) -> None:
    wire.record()
    wire.sock.sendall(wire.record())
    assert wire.refused() == "lane_tag"


def test_type_that_was_changed_on_the_way(wire: Wire) -> None:
    record = bytearray(wire.sealer.seal(RecordType.END))
    record[0] = RecordType.OPEN
    wire.sock.sendall(record)
    assert wire.refused() == "malformed"


def test_own_records_sent_back(wire: Wire) -> None:
    wire.lane.send_record(b"secret")
    wire.sock.sendall(wire.sock.recv(4096))
    assert wire.refused() == "lane_tag"


@pytest.mark.parametrize("length", [2**20 + 4096 + 17, 2**32 - 1])
def test_oversize_header_is_refused_at_once(wire: Wire, length: int) -> None:
    wire.sock.sendall(b"\x01" + length.to_bytes(4, "big"))
    with pytest.raises(LimitExceeded):
        wire.lane.receive()


def test_garbage(wire: Wire) -> None:
    wire.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert wire.refused() == "malformed"


def test_one_byte_at_a_time_is_given_up() -> None:
    wire = Wire(window_s=0.4)
    stop = threading.Event()

    def drip() -> None:
        for byte in wire.record(b"x" * 60_000):
            if stop.wait(0.02):
                return
            try:
                wire.sock.send(bytes([byte]))
            except OSError:
                return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    started = time.monotonic()
    assert wire.refused() == "lane_slow"
    assert time.monotonic() - started < 3
    stop.set()
    thread.join()
    wire.sock.close()


def test_slow_but_steady_is_not_given_up() -> None:
    wire = Wire(window_s=0.3)
    data = wire.record(b"x" * 300_000)

    def drip() -> None:
        for start in range(0, len(data), 40_000):
            wire.sock.sendall(data[start : start + 40_000])
            time.sleep(0.1)

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    view = wire.lane.receive()
    assert view is not None
    assert len(view) == 300_000
    thread.join()
    wire.sock.close()
    wire.lane.close()


def test_a_lane_may_rest_between_records() -> None:
    wire = Wire(window_s=0.1)
    timer = threading.Timer(0.5, lambda: wire.sock.sendall(wire.record()))
    timer.start()
    assert wire.lane.receive() == b"data"
    timer.join()
    wire.sock.close()
    wire.lane.close()


def test_peer_that_does_not_read_is_given_up() -> None:
    sender, receiver = make_lane_pair(window_s=0.3)
    with pytest.raises(RemoteFault) as caught:
        _send_much(sender)
    assert caught.value.code == "lane_slow"
    receiver.close()


def test_peer_that_resets() -> None:
    sender, receiver = make_lane_pair()
    receiver.close()
    with pytest.raises(RemoteFault) as caught:
        _send_much(sender)
    assert caught.value.code == "lane_reset"


@pytest.mark.parametrize("direction", ["send", "receive"])
def test_close_from_another_thread_wakes_the_owner(direction: str) -> None:
    sender, receiver = make_lane_pair()
    failed: list[ShoalError] = []

    def work() -> None:
        try:
            while True:
                if direction == "send":
                    sender.send(2**20)
                else:
                    sender.receive()
        except ShoalError as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(0.2)
    sender.close()
    thread.join(2)
    assert not thread.is_alive()
    assert [error.code for error in failed] == ["lane_closed"]
    sender.close()
    receiver.close()
    with pytest.raises(Unavailable):
        sender.send(1)
