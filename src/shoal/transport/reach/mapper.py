"""Mapper: keeps one port open on the router (`--upnp`): asks, renews, and gives it back at the end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import sys
from collections.abc import Callable

import msgspec

from shoal.core.decoders import get_json_decoder
from shoal.core.errors import Unavailable
from shoal.transport.address import Address

log = logging.getLogger("shoal.reach")

LEASE_S = 3600  # a router that was not told forgets it by then
RENEW_S = LEASE_S / 2
RETRY_S = 120.0  # after a failure
CHILD_TIMEOUT_S = 15.0
UNMAP_TIMEOUT_S = 3.0  # at the end; the lease runs out anyhow
ANSWER_BYTES = 4096


class _Answer(msgspec.Struct, frozen=True):
    error: str = ""
    code: str = ""
    ip: str = ""
    port: int = 0


class Mapper:
    """Expects `run` to be started as a service and `close` at the end."""

    def __init__(self, find_port: Callable[[], int], on_changed: Callable[[], None]) -> None:
        """`find_port`: what we listen on, 0 for nothing; `on_changed`: the address outside is another one."""
        self._find_port = find_port
        self._on_changed = on_changed
        self._mapped: Address | None = None
        self._error = ""
        self._again = asyncio.Event()

    @property
    def address(self) -> Address | None:
        """The router's address and port that lead here; None while there is none."""
        return self._mapped

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
                async with asyncio.timeout(RENEW_S if self._mapped is not None else RETRY_S):
                    await self._again.wait()
            except TimeoutError:
                pass

    async def close(self) -> None:
        """Give the port back; at most UNMAP_TIMEOUT_S. Idempotent."""
        mapped, self._mapped = self._mapped, None
        if mapped is None:
            return
        try:
            await _run_child("unmap", mapped.port, UNMAP_TIMEOUT_S)
        except Unavailable as error:
            log.info("the router was not told that port %s is free: %s", mapped.port, error)

    async def _map(self) -> None:
        port = self._find_port()
        before = self._mapped
        try:
            if port == 0:
                raise Unavailable("No port was opened", cause="this node listens on loopback only")
            self._mapped = _read_address(await _ask_router(port))
            self._error = ""
        except Unavailable as error:
            self._mapped = None
            if self._error != (error.cause or error.message):
                self._error = error.cause or error.message
                log.warning("no port was opened on the router: %s", self._error)
        if self._mapped != before:
            if self._mapped is not None:
                log.info("the router leads %s here", self._mapped)
            self._on_changed()


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


def _read_address(answer: _Answer) -> Address:
    """Return what the router said it is. Raises: Unavailable for an address that leads nowhere."""
    try:
        ip = ipaddress.ip_address(answer.ip)
    except ValueError as error:
        raise Unavailable("No port was opened", cause="the router has no address outside") from error
    if ip.is_unspecified or ip.is_loopback or not 0 < answer.port < 65536:
        raise Unavailable("No port was opened", cause=f"the router's address outside is {ip}")
    return Address(str(ip), answer.port)
