"""Session bench: small requests a second over one session, and memory a session, both ends in one process.

python -m tests.support.session_bench
"""

from __future__ import annotations

import asyncio
import gc
import os
import time

import uvloop
from tests.support.transport_nodes import Say, transport_network

from shoal.transport.config import AdmissionLimits, SessionTiming
from shoal.wire.registry import ServiceNumber

REQUESTS = 20_000
SESSIONS = 300
ROOMY = AdmissionLimits(connections_burst=10_000, knocks_burst=10_000)


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure_requests(in_flight: int) -> float:
    async with transport_network() as network:
        one = await network.add(timing=SessionTiming(), limits=ROOMY)
        two = await network.add(timing=SessionTiming(), limits=ROOMY)
        session = await one.dial(two)

        async def ask(count: int) -> None:
            for _ in range(count):
                await session.request(ServiceNumber.SWARM, Say(b"x" * 32))

        started = time.perf_counter()
        await asyncio.gather(*(ask(REQUESTS // in_flight) for _ in range(in_flight)))
        return REQUESTS / (time.perf_counter() - started)


async def measure_notices() -> float:
    async with transport_network() as network:
        one = await network.add(timing=SessionTiming(), limits=ROOMY)
        two = await network.add(timing=SessionTiming(), limits=ROOMY)
        session = await one.dial(two)
        started = time.perf_counter()
        sent = 0
        while sent < REQUESTS:
            if session.notify(ServiceNumber.SWARM, Say(b"x" * 32)):
                sent += 1
            if sent % 200 == 0:
                await asyncio.sleep(0)
        while len(two.echo.notices) < REQUESTS:
            await asyncio.sleep(0.001)
        return REQUESTS / (time.perf_counter() - started)


async def measure_sessions() -> tuple[float, float]:
    """Return sessions a second and KiB a session end; every session has two ends here."""
    async with transport_network() as network:
        hub = await network.add(timing=SessionTiming(), limits=ROOMY)
        others = [await network.add(timing=SessionTiming(), limits=ROOMY) for _ in range(SESSIONS)]
        for node in others:
            node.transport._tls_warm = None
        gc.collect()
        before, started = resident_bytes(), time.perf_counter()
        for node in others:
            await node.dial(hub)
        elapsed = time.perf_counter() - started
        gc.collect()
        return SESSIONS / elapsed, (resident_bytes() - before) / SESSIONS / 2 / 1024


async def main() -> None:
    for in_flight in (1, 16):
        print(f"requests in flight {in_flight}: {await measure_requests(in_flight):.0f}/s")
    print(f"notices: {await measure_notices():.0f}/s")
    rate, kib = await measure_sessions()
    print(f"sessions: {rate:.0f}/s, {kib:.0f} KiB a session end")


if __name__ == "__main__":
    uvloop.run(main())
