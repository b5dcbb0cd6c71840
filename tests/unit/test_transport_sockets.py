"""Reading exactly so many bytes from a socket: in whatever pieces they come, and nothing of what follows."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from shoal.transport.sockets import read_exactly

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        yield one, other


async def test_what_follows_stays_in_the_socket(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"preamble and a record")
    assert await read_exactly(ours, 8) == b"preamble"
    assert ours.recv(100) == b" and a record"


async def test_pieces_are_put_together(pair: Pair) -> None:
    ours, theirs = pair
    reading = asyncio.create_task(read_exactly(ours, 5))
    for byte in b"piece":
        await asyncio.sleep(0)
        assert not reading.done()
        theirs.send(bytes([byte]))
    assert await asyncio.wait_for(reading, 30.0) == b"piece"


@pytest.mark.parametrize("sent", [b"", b"sho"])
async def test_an_end_before_the_last_byte_is_an_error(pair: Pair, sent: bytes) -> None:
    ours, theirs = pair
    theirs.sendall(sent)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        await read_exactly(ours, 5)


async def test_a_cancelled_read_leaves_the_socket_usable(pair: Pair) -> None:
    ours, theirs = pair
    reading = asyncio.create_task(read_exactly(ours, 5))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    theirs.sendall(b"again")
    assert await read_exactly(ours, 5) == b"again"
