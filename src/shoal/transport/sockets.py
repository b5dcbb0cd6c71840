"""Sockets: reading what comes before a lane, a relay or a channel owns the socket."""

from __future__ import annotations

import asyncio
import socket


async def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read `size` bytes and not one more: what follows is for somebody else. The socket does not block.

    Cancelling loses what was read. Raises: ConnectionResetError at its end, OSError.
    """
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        if not part:
            raise ConnectionResetError("the other end closed it")
        data += part
    return data
