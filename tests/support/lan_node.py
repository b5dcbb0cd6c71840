"""LAN node: a process with nothing but Discovery, or one that tells lies, for the machines of a Bridge.

    python -m tests.support.lan_node '{"own": ..., "port": ..., "door_keys": [...], "members": [...]}'
    python -m tests.support.lan_node '{"lies": [{"text": ..., "port": ..., "addresses": [...]}]}'

    python -m tests.support.lan_node '{"ask": "eth0", "family": 6, "seconds": 2}'

Prints one JSON object a line. On standard input `status` asks what it has, `close` ends it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import resource
import secrets
import socket
import sys
import time
from typing import Any

import uvloop
from zeroconf import DNSOutgoing, DNSQuestion, IPVersion, ServiceInfo  # type: ignore[attr-defined]
from zeroconf.asyncio import AsyncZeroconf

from shoal.core.clock import SystemClock
from shoal.core.observation import Observation
from shoal.core.supervisor import Supervisor
from shoal.transport.address import Address
from shoal.transport.announcement import SERVICE_TYPE, Announcement
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
        if config.get("reach"):
            supervisor.spawn("reach", reach(address))

    def observe(observation: Observation) -> None:
        observed[observation.rule] = observed.get(observation.rule, 0) + 1

    async def reach(address: Address) -> None:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address.host, address.port), 3)
        writer.close()
        say(reached=address.host)

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
        server = await asyncio.start_server(lambda _, writer: writer.close(), port=int(config["port"]))
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
        server.close()


async def run_liar(config: dict[str, Any]) -> None:
    """Announce each lie, and a crowd of strangers, each under a name of its own; wait to be told to end."""
    spoken = AsyncZeroconf(interfaces=config["interfaces"], ip_version=IPVersion.V4Only)
    await spoken.zeroconf.async_wait_for_start()
    stream = await lines()
    crowd = (
        {
            "text": Announcement(secrets.token_bytes(16), secrets.token_bytes(32), 5000).text.hex(),
            "port": 5000,
        }
        for _ in range(config.get("crowd", 0))
    )
    for lie in itertools.chain(config["lies"], crowd):
        info = ServiceInfo(
            SERVICE_TYPE,
            f"{secrets.token_hex(8)}.{SERVICE_TYPE}",
            addresses=[
                ipaddress.ip_address(address).packed for address in lie.get("addresses", config["interfaces"])
            ],
            port=lie["port"],
            properties=bytes.fromhex(lie["text"]) if lie["text"] else secrets.token_bytes(100),
            server=f"{secrets.token_hex(8)}.local.",
        )
        for _ in range(lie.get("times", 1)):
            spoken.zeroconf.async_send(spoken.zeroconf.generate_service_broadcast(info, None))
        await asyncio.sleep(config.get("pause_s", 0))
    say(told=True)
    await stream.readline()
    await spoken.async_close()


async def run_asker(config: dict[str, Any]) -> None:
    """Ask by multicast on one interface and print what comes back directly."""
    # an id, because zeroconf drops a packet that is the same as one of the last second, such as a node's own
    question = DNSOutgoing(0, multicast=False, id_=1 + secrets.randbelow(65_535))
    question.add_question(DNSQuestion(SERVICE_TYPE, 12, 1))
    six = config["family"] == 6
    index = socket.if_nametoindex(config["ask"])
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        else:
            by_index = socket.inet_aton("0.0.0.0") * 2 + index.to_bytes(4, sys.byteorder)  # struct ip_mreqn
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, by_index)
        sock.settimeout(config["seconds"])
        sock.sendto(question.packets()[0], ("ff02::fb" if six else "224.0.0.251", 5353))
        try:
            while True:
                say(answer=sock.recv(9000).hex())
        except TimeoutError:
            say(asked=True)


def main() -> None:
    """Run what the argument says."""
    config = json.loads(sys.argv[1])
    jobs = {"lies": run_liar, "ask": run_asker}
    job = next((jobs[name] for name in jobs if name in config), run_node)(config)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop if config.get("uvloop") else None)
    with runner:
        runner.run(job)


if __name__ == "__main__":
    main()
