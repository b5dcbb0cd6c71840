"""LAN node: a process with nothing but Discovery, or one that announces what it is told, for machines of a Bridge.

    python -m tests.support.lan_node '{"own": ..., "port": ..., "door_keys": [...], "members": [...]}'
    python -m tests.support.lan_node '{"lies": [{"text": ..., "port": ..., "addresses": [...]}]}'

Prints one JSON object a line; a line on its standard input makes it print what it has (`status`) or end (`close`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import resource
import secrets
import sys
import time
from typing import Any

import uvloop
from zeroconf import IPVersion, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from shoal.core.clock import SystemClock
from shoal.core.observation import Observation
from shoal.core.supervisor import Supervisor
from shoal.transport.address import Address
from shoal.transport.announcement import SERVICE_TYPE
from shoal.transport.discovery import Discovery


def say(**fields: object) -> None:
    """Tell the test something."""
    print(json.dumps(fields), flush=True)


async def lines() -> asyncio.StreamReader:
    """Return standard input as a stream."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def run_node(config: dict[str, Any]) -> None:
    """Run Discovery until told to end."""
    observed: dict[str, int] = {}

    def on_found(peer_id: bytes, address: Address) -> None:
        say(found=peer_id.hex(), host=address.host, port=address.port, at=time.monotonic())

    def observe(observation: Observation) -> None:
        observed[observation.rule] = observed.get(observation.rule, 0) + 1

    async with Supervisor() as supervisor:
        discovery = Discovery(
            own_id=bytes.fromhex(config["own"]),
            port=lambda: int(config["port"]),
            door_keys=lambda: [bytes.fromhex(key) for key in config["door_keys"]],
            members=lambda: {bytes.fromhex(member) for member in config["members"]},
            on_found=on_found,
            supervisor=supervisor,
            clock=SystemClock(),
            observe=observe,
            interfaces=config.get("interfaces"),
        )
        await discovery.start()
        say(ready=True)
        stream = await lines()
        while line := (await stream.readline()).strip():
            if line == b"close":
                break
            say(
                remembered=len(discovery._sightings),
                links=[link.name for link in discovery.links],
                observed=observed,
                restarts=sum(service.restarts for service in supervisor.status()),
                cpu_s=time.process_time(),
                peak_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            )
        began = time.monotonic()
        await discovery.close()
        say(closed_s=time.monotonic() - began)


async def run_liar(config: dict[str, Any]) -> None:
    """Announce each lie under a name of its own, until told to end."""
    spoken = AsyncZeroconf(interfaces=config["interfaces"], ip_version=IPVersion.V4Only)
    await spoken.zeroconf.async_wait_for_start()
    stream = await lines()
    for lie in config["lies"]:
        info = ServiceInfo(
            SERVICE_TYPE,
            f"{secrets.token_hex(8)}.{SERVICE_TYPE}",
            addresses=[ipaddress.ip_address(address).packed for address in lie["addresses"]],
            port=lie["port"],
            properties=bytes.fromhex(lie["text"]) if lie["text"] else secrets.token_bytes(100),
            server=f"{secrets.token_hex(8)}.local.",
        )
        for _ in range(lie.get("times", 1)):
            spoken.zeroconf.async_send(spoken.zeroconf.generate_service_broadcast(info, None))
        await asyncio.sleep(config.get("pause_s", 0))
    say(told=len(config["lies"]))
    await stream.readline()
    await spoken.async_close()


def main() -> None:
    """Run what the argument says."""
    config = json.loads(sys.argv[1])
    job = run_liar(config) if "lies" in config else run_node(config)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop if config.get("uvloop") else None)
    with runner:
        runner.run(job)


if __name__ == "__main__":
    main()
