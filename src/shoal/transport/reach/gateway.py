"""Gateway: finds this network's router, and carries out an order of it over UDP (PCP, NAT-PMP)."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import subprocess
import sys
from typing import cast

from shoal.core.errors import Unavailable
from shoal.transport.interfaces import find_source
from shoal.transport.reach.gateway_machine import (
    Begin,
    Closed,
    Effect,
    Failed,
    GatewayMachine,
    Heard,
    Input,
    Opened,
    Order,
    Protocol,
    Say,
    Timer,
    Unheard,
)
from shoal.transport.reach.pcp import ANSWER_BYTES, PORT

ROUTES = "/proc/net/route"
_UP_GATEWAY = 0x3  # RTF_UP and RTF_GATEWAY
ROUTE_TIMEOUT_S = 2.0


async def find_gateway() -> str | None:
    """Return the IPv4 address of the router that packets to far away go to, or None."""
    return await asyncio.to_thread(_ask_route if sys.platform == "darwin" else _read_routes)


def parse_routes(text: str) -> str | None:
    """Return the gateway of Linux's default route with the lowest metric; addresses are in host order."""
    found: list[tuple[int, str]] = []
    for line in text.splitlines()[1:]:
        words = line.split()
        try:
            destination, gateway, flags = int(words[1], 16), int(words[2], 16), int(words[3], 16)
            metric, mask = int(words[6]), int(words[7], 16)
        except (IndexError, ValueError):
            continue
        if destination == 0 and mask == 0 and flags & _UP_GATEWAY == _UP_GATEWAY and gateway:
            found.append((metric, str(ipaddress.IPv4Address(gateway.to_bytes(4, sys.byteorder)))))
    return min(found)[1] if found else None


def parse_route_get(text: str) -> str | None:
    """Return the gateway in what macOS's `route -n get default` prints."""
    found = re.search(r"^\s*gateway:\s*([0-9.]+)\s*$", text, re.MULTILINE)
    try:
        return str(ipaddress.IPv4Address(found[1])) if found is not None else None
    except ValueError:
        return None


def _read_routes() -> str | None:
    try:
        with open(ROUTES) as file:
            return parse_routes(file.read())
    except OSError:
        return None


def _ask_route() -> str | None:
    words = ("/sbin/route", "-n", "get", "default")
    try:
        done = subprocess.run(
            words,
            check=False,
            capture_output=True,
            text=True,
            timeout=ROUTE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_route_get(done.stdout)


async def ask_gateway(
    gateway: str, port: int, nonce: bytes, lease_s: int, protocol: Protocol = "PCP", close: bool = False
) -> Opened | Closed:
    """Let a router open a TCP port, or close it. Takes at most some four seconds. Cancelling is safe.

    Raises: Unavailable, with the code `refused` where the router speaks one of the protocols.
    """
    own = find_source_towards(gateway)
    machine = GatewayMachine(Order(port, own, nonce, lease_s, protocol=protocol, close=close))
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Opened | Closed] = loop.create_future()
    try:
        transport, talk = await loop.create_datagram_endpoint(
            lambda: _Talk(machine, result), remote_addr=(gateway, PORT), local_addr=(str(own), 0)
        )
    except OSError as error:
        raise Unavailable("The router was not asked", cause=str(error), code="no_router") from error
    try:
        talk.begin()
        return await result
    finally:
        talk.close()
        transport.close()


def find_source_towards(gateway: str) -> ipaddress.IPv4Address:
    """Return our address on the way to a router. Raises: Unavailable without a route."""
    text = find_source(socket.AF_INET, gateway)
    if not text:
        raise Unavailable(
            "The router was not asked", cause=f"there is no route to {gateway}", code="no_router"
        )
    return ipaddress.IPv4Address(text)


class _Talk(asyncio.DatagramProtocol):
    """Drives one machine. The socket is connected: the kernel drops what others send."""

    def __init__(self, machine: GatewayMachine, result: asyncio.Future[Opened | Closed]) -> None:
        self._machine = machine
        self._result = result
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._step(Heard(data[: ANSWER_BYTES + 1]))

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, ConnectionRefusedError):
            self._step(Unheard())

    def begin(self) -> None:
        self._step(Begin())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _step(self, event: Input) -> None:
        for effect in self._machine.step(self._loop.time(), event):
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        self.close()
        match effect:
            case Say(data, wait_s):
                if self._transport is not None:
                    self._transport.sendto(data)
                self._timer = self._loop.call_later(wait_s, self._step, Timer())
            case Opened() | Closed():
                if not self._result.done():
                    self._result.set_result(effect)
            case Failed(why, heard):
                if not self._result.done():
                    code = "refused" if heard else "no_router"
                    self._result.set_exception(Unavailable("No port was opened", cause=why, code=code))
