"""Punching over loopback: both ends get the same connection, and no task or socket of the others stays."""

from __future__ import annotations

import asyncio
import socket

import pytest

from shoal.transport.address import Address
from shoal.transport.reach import punch
from shoal.transport.reach.messages import PREAMBLE_BYTES, TOKEN_BYTES
from shoal.transport.reach.punch import PunchPort

TOKEN = bytes(range(TOKEN_BYTES))


def _at(port: int) -> Address:
    return Address("127.0.0.1", port)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine gets more time than a NAT does."""
    monkeypatch.setattr(punch, "PUNCH_S", 30.0)


def _tasks() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


async def _send(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def test_both_ends_keep_the_same_connection() -> None:
    one, other = PunchPort(socket.AF_INET), PunchPort(socket.AF_INET)
    ours, theirs = await asyncio.gather(
        one.open([_at(other.port)], TOKEN, asks=True), other.open([_at(one.port)], TOKEN, asks=False)
    )
    one.close()
    other.close()
    with ours, theirs:
        assert ours.getsockname() == theirs.getpeername()
        assert ours.getpeername() == theirs.getsockname()
        await _send(ours, b"x")
        assert await asyncio.get_running_loop().sock_recv(theirs, 2) == b"x"
    assert not _tasks()


async def test_a_connection_of_somebody_else_is_not_taken() -> None:
    one, other = PunchPort(socket.AF_INET), PunchPort(socket.AF_INET)
    opening = asyncio.create_task(other.open([], TOKEN, asks=False))
    await asyncio.sleep(0)  # it listens
    strangers = [socket.create_connection(("127.0.0.1", other.port)) for _ in range(4)]
    strangers[0].sendall(bytes(PREAMBLE_BYTES))
    strangers[1].sendall(b"short")
    strangers[2].close()
    ours = await one.open([_at(other.port)], TOKEN, asks=True)
    theirs = await opening
    one.close()
    other.close()
    with ours, theirs:
        assert theirs.getpeername() == ours.getsockname()
        assert strangers[3].recv(1) == b""  # silent, and closed with the port
    for stranger in strangers:
        stranger.close()
    assert not _tasks()


async def test_a_flood_of_strangers_takes_a_bounded_number_of_sockets() -> None:
    port = PunchPort(socket.AF_INET)
    opening = asyncio.create_task(port.open([], TOKEN, asks=False))
    await asyncio.sleep(0)  # it listens
    strangers: list[socket.socket] = []

    async def flood() -> None:
        for _ in range(8 * punch.ACCEPTED):
            strangers.append(socket.create_connection(("127.0.0.1", port.port), timeout=5.0))
            for _ in range(8):  # turns of the loop: it is accepted
                await asyncio.sleep(0)

    try:
        with pytest.raises(ConnectionError):  # refused from some time on
            await flood()
        assert len(strangers) >= punch.ACCEPTED
        assert len(port._open) == punch.ACCEPTED
    finally:
        opening.cancel()
        await asyncio.wait([opening])
        port.close()
        for stranger in strangers:
            stranger.close()
    assert not _tasks()


async def test_cancelling_leaves_nothing() -> None:
    port = PunchPort(socket.AF_INET)
    unused = PunchPort(socket.AF_INET)  # bound, but nobody listens there: refused again and again
    opening = asyncio.create_task(port.open([_at(unused.port)], TOKEN, asks=False))
    await asyncio.sleep(0.05)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not _tasks()
    port.close()
    unused.close()


async def test_a_connection_that_comes_when_the_time_is_over_is_no_fault() -> None:
    """Both in one turn of the loop: the time took the future, the connection wants to set it."""
    arrived: asyncio.Queue[socket.socket] = asyncio.Queue()
    found: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    naming = asyncio.create_task(punch._name_one(arrived, TOKEN, found))
    await asyncio.sleep(0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as ours:
            found.cancel()
            arrived.put_nowait(ours)
            await naming
