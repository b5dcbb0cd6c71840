"""A router that opens ports by PCP or NAT-PMP, or lies about it.

In a test: `async with open_gateway("pcp", ...)`. As a program: fake_gateway.py BIND_IP OUTER_IP KIND LOG.
Kinds: `pcp`; `nat-pmp` (answers PCP as RFC 6886 routers do: version 0); `silent`; `refuses`; and the lies
`nonce`, `short`, `opcode`, `port`: answers that do not fit the request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

PORT = 5351


class Gateway(asyncio.DatagramProtocol):
    """Answers what comes; `seen` holds a line a request."""

    def __init__(self, outer: str, kind: str, on_seen: Callable[[str], None]) -> None:
        self.outer = ipaddress.IPv4Address(outer)
        self.kind = kind
        self.epoch = 1000
        self.lifetime_s: int | None = None
        self._on_seen = on_seen
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self.epoch += 1
        for answer in self._answer(data):
            self._transport.sendto(answer, addr)

    def _answer(self, data: bytes) -> list[bytes]:
        if data[0] == 2:
            port, lifetime_s = int.from_bytes(data[40:42], "big"), int.from_bytes(data[4:8], "big")
            self._on_seen(f"PCP {'map' if lifetime_s else 'delete'} {port} {lifetime_s}")
            return self._answer_pcp(data, lifetime_s)
        if data[:2] == b"\0\0":
            self._on_seen("NAT-PMP address")
            return [] if self.kind == "silent" else [self._pmp(128) + self.outer.packed]
        port, lifetime_s = int.from_bytes(data[4:6], "big"), int.from_bytes(data[8:12], "big")
        self._on_seen(f"NAT-PMP {'map' if lifetime_s else 'delete'} {port} {lifetime_s}")
        if self.kind == "silent":
            return []
        outer = 0 if lifetime_s == 0 else port + 1
        return [self._pmp(130) + port.to_bytes(2, "big") + outer.to_bytes(2, "big") + data[8:12]]

    def _pmp(self, opcode: int, result: int = 0) -> bytes:
        return bytes([0, opcode]) + result.to_bytes(2, "big") + self.epoch.to_bytes(4, "big")

    def _answer_pcp(self, data: bytes, lifetime_s: int) -> list[bytes]:
        if self.kind == "nat-pmp":
            return [self._pmp(128, 1)]
        if self.kind == "silent":
            return []
        result = 2 if self.kind == "refuses" else 0
        given_s = lifetime_s if self.lifetime_s is None or not lifetime_s else self.lifetime_s
        head = (
            bytes([2, 129, 0, result])
            + given_s.to_bytes(4, "big")
            + self.epoch.to_bytes(4, "big")
            + bytes(12)
        )
        outer = ipaddress.IPv6Address(f"::ffff:{self.outer}").packed
        right = head + data[24:42] + data[40:42] + outer
        lies = {
            "nonce": [head + bytes(12) + right[36:]],
            "short": [right[:59], right[:24], b"", b"\2"],
            "opcode": [b"\2\202" + right[2:], b"\2\1" + right[2:], b"\3\201" + right[2:]],
            "port": [right[:40] + b"\0\7" + right[42:], right[:36] + b"\21" + right[37:]],
        }
        return lies.get(self.kind, [right])


@asynccontextmanager
async def open_gateway(
    host: str, kind: str, outer: str = "203.0.113.9"
) -> AsyncIterator[tuple[Gateway, list[str]]]:
    """A gateway on a loopback address, and what it was asked."""
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    transport, gateway = await loop.create_datagram_endpoint(
        lambda: Gateway(outer, kind, seen.append), local_addr=(host, PORT)
    )
    try:
        yield gateway, seen
    finally:
        transport.close()


async def main(host: str, outer: str, kind: str, log: str) -> None:
    """Run until killed."""

    def note(line: str) -> None:
        with open(log, "a") as file:
            file.write(line + "\n")

    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Gateway(outer, kind, note), local_addr=(host, PORT))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
