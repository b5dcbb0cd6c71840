"""Mapper: keeps one port open on the router (`--upnp`): asks, renews, and gives it back at the end.

PCP and NAT-PMP are asked first, by one datagram to the router; then UPnP-IGD, whose library lives in a
process of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from shoal.core.decoders import get_json_decoder
from shoal.core.errors import Unavailable
from shoal.transport.address import Address
from shoal.transport.reach.gateway import ask_gateway, find_gateway
from shoal.transport.reach.gateway_machine import Opened, Protocol, has_restarted
from shoal.transport.reach.pcp import NONCE_BYTES
from shoal.transport.reach.standing import is_inner

log = logging.getLogger("shoal.reach")

LEASE_S = 3600  # a router that was not told forgets it by then
RENEW_S = LEASE_S / 2
RENEW_PCP_S = 600.0  # of PCP and NAT-PMP, where it is one datagram: a router that restarted has forgotten
RETRY_S = 120.0  # after a failure
CHILD_TIMEOUT_S = 15.0
UNMAP_TIMEOUT_S = 3.0  # at the end; the lease runs out anyhow
ANSWER_BYTES = 4096


class _Answer(msgspec.Struct, frozen=True):
    error: str = ""
    code: str = ""
    ip: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a router leads here."""

    address: Address
    port: int  # ours
    protocol: str  # PCP | NAT-PMP | UPnP
    renew_s: float
    gateway: str = ""  # with PCP and NAT-PMP
    answered: tuple[float, int] = (0.0, 0)  # when, and the router's epoch then


class Mapper:
    """Expects `run` to be started as a service and `close` at the end."""

    def __init__(self, find_port: Callable[[], int], on_changed: Callable[[], None]) -> None:
        """`find_port`: what we listen on, 0 for nothing; `on_changed`: the address outside is another one."""
        self._find_port = find_port
        self._on_changed = on_changed
        self._mapped: Mapped | None = None
        self._error = ""
        self._nonce = secrets.token_bytes(NONCE_BYTES)  # of all requests: by it a router knows its owner
        self._again = asyncio.Event()

    @property
    def address(self) -> Address | None:
        """The router's address and port that lead here; None while there is none."""
        return self._mapped.address if self._mapped is not None else None

    @property
    def protocol(self) -> str:
        """By what the router was asked with success: PCP, NAT-PMP or UPnP; else an empty text."""
        return self._mapped.protocol if self._mapped is not None else ""

    @property
    def error(self) -> str:
        """Why there is none, in words; empty before the first answer."""
        return self._error

    def network_changed(self) -> None:
        """Another router, perhaps."""
        self._again.set()

    async def run(self) -> None:
        """Map and renew, for ever. Cancelling leaves the mapping to `close`."""
        while True:
            self._again.clear()
            await self._map()
            try:
                async with asyncio.timeout(self._mapped.renew_s if self._mapped is not None else RETRY_S):
                    await self._again.wait()
            except TimeoutError:
                pass

    async def close(self) -> None:
        """Give the port back; at most UNMAP_TIMEOUT_S. Idempotent."""
        mapped, self._mapped = self._mapped, None
        if mapped is None:
            return
        try:
            if mapped.protocol == "UPnP":
                await _run_child("unmap", mapped.address.port, UNMAP_TIMEOUT_S)
            else:
                protocol: Protocol = "PCP" if mapped.protocol == "PCP" else "NAT-PMP"
                async with asyncio.timeout(UNMAP_TIMEOUT_S):
                    await ask_gateway(mapped.gateway, mapped.port, self._nonce, LEASE_S, protocol, close=True)
        except (Unavailable, TimeoutError) as error:
            log.info("the router was not told that port %s is free: %s", mapped.address.port, error)

    async def _map(self) -> None:
        port = self._find_port()
        before = self._mapped
        try:
            if port == 0:
                raise Unavailable("No port was opened", cause="this node listens on loopback only")
            self._mapped = await self._ask(port)
            self._error = ""
        except Unavailable as error:
            self._mapped = None
            if self._error != (error.cause or error.message):
                self._error = error.cause or error.message
                log.warning("no port was opened on the router: %s", self._error)
        now = self._mapped
        if before is not None and now is not None and _has_restarted(before, now):
            log.info("the router had lost its mappings; the port is open again")
        if (before.address if before is not None else None) != self.address:
            if self._mapped is not None:
                log.info("the router leads %s here, by %s", self._mapped.address, self._mapped.protocol)
            self._on_changed()

    async def _ask(self, port: int) -> Mapped:
        """Ask by PCP or NAT-PMP, then by UPnP. Raises: Unavailable with what the router itself has said."""
        gateway = await find_gateway()
        try:
            if gateway is None:
                raise Unavailable("No port was opened", cause="there is no default route", code="no_router")
            return await self._ask_gateway(gateway, port)
        except Unavailable as error:
            first = error
        try:
            return await self._ask_upnp(port)
        except Unavailable as error:
            if error.code != "no_router":
                raise
            if first.code in ("refused", "inner"):
                raise first from error
            cause = f"no router answered by PCP, NAT-PMP or UPnP: {first.cause}"
            raise Unavailable("No port was opened", cause=cause, code="no_router") from error

    async def _ask_upnp(self, port: int) -> Mapped:
        answer = await _ask_router(port)
        try:
            return Mapped(_read_outer(answer.ip, answer.port), port, "UPnP", RENEW_S)
        except Unavailable as error:
            if error.code == "inner":  # it is of no use: nothing stays open
                await _run_child("unmap", answer.port, CHILD_TIMEOUT_S)
            raise

    async def _ask_gateway(self, gateway: str, port: int) -> Mapped:
        opened = await ask_gateway(gateway, port, self._nonce, LEASE_S)
        assert isinstance(opened, Opened)
        answered = (asyncio.get_running_loop().time(), opened.epoch)
        try:
            address = _read_outer(str(opened.ip), opened.port)
        except Unavailable:  # it is of no use: nothing stays open
            await ask_gateway(gateway, port, self._nonce, LEASE_S, opened.protocol, close=True)
            raise
        renew_s = min(RENEW_PCP_S, opened.lease_s / 2)
        return Mapped(address, port, opened.protocol, renew_s, gateway, answered)


async def _ask_router(port: int) -> _Answer:
    """Ask for our port, then for any. Raises: Unavailable."""
    try:
        return await _run_child("map", port, CHILD_TIMEOUT_S)
    except Unavailable as error:
        if error.code != "refused":
            raise
    return await _run_child("map any", port, CHILD_TIMEOUT_S)


async def _run_child(action: str, port: int, timeout_s: float) -> _Answer:
    """Run the helper process once. It is killed when it takes too long. Raises: Unavailable."""
    order = msgspec.json.encode({"action": action, "port": port, "lease_s": LEASE_S}) + b"\n"
    command = (sys.executable, "-m", "shoal.transport.reach.map_ports")
    pipe = asyncio.subprocess.PIPE
    try:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        raise Unavailable("The router was not asked", cause=str(error)) from error
    try:
        async with asyncio.timeout(timeout_s):
            said, _ = await child.communicate(order)
    except TimeoutError as error:
        raise Unavailable("The router was not asked", cause=f"it took over {timeout_s:g} s") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        answer = get_json_decoder(_Answer).decode(said[:ANSWER_BYTES])
    except msgspec.DecodeError as error:
        raise Unavailable("The router was not asked", cause="the helper process failed") from error
    if answer.error:
        raise Unavailable("The router did nothing", cause=answer.error, code=answer.code or "upnp")
    return answer


def _has_restarted(before: Mapped, now: Mapped) -> bool:
    """Whether the router lost its mappings between two answers; UPnP does not say."""
    is_same = before.gateway != "" and before.gateway == now.gateway
    return is_same and has_restarted(before.answered, now.answered)


def _read_outer(text: str, port: int) -> Address:
    """Raises: Unavailable for an address outside that leads nowhere, or only into another inner network."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError as error:
        raise Unavailable("No port was opened", cause="the router has no address outside") from error
    nowhere = ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip.is_link_local
    if nowhere or not 0 < port < 65536:
        raise Unavailable("No port was opened", cause=f"the router's address outside is {ip}", code="inner")
    if is_inner(str(ip)):
        cause = f"the router is behind another NAT itself: its address outside is {ip}"
        raise Unavailable("No port was opened", cause=cause, code="inner")
    return Address(str(ip), port)
