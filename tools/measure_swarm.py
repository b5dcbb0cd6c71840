"""Measure a swarm: one provider and several getters, each on a machine with a limited uplink.

    .venv/bin/python -m tools.measure_swarm [--getters 8] [--rate 10] [--size 200] [--json]

Makes network namespaces on one bridge with a token bucket (tbf) on every uplink, measures the goodput u of
one plain TCP transfer through such a bucket, starts a daemon in each, shares `size` MB at the first and lets
all others get it at once. No method can be done sooner than the bound

    max(F/u_s, F/d_min, N F/(u_s + sum u_i))

of N getters of F bytes (downlinks are not limited here, so F/d_min is none). The bar of issue 3: all done
within 1.15 x that, and a mean uplink use of 0.75 or more. *Use* is what left a node's interface over u x the
time to the last one. Needs root on Linux, ip and tc.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from shoal.api.client import Client, connect
from shoal.testing.namespaces import Bridge, find_limit_obstacle
from shoal.testing.processes import Device

MB = 1_000_000
PORT = 7070  # of the plain transfer; nothing else is on these machines
PLAIN_S = 4.0  # how long the plain transfer takes
WAIT_S = 60.0
BAR_RATIO = 1.15
BAR_USE = 0.75

SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as s:
    for _ in range(int(sys.argv[3])):
        s.sendall(bytes(65536))
"""
RECEIVE = """
import socket, sys, time
with socket.create_server(("", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    s = server.accept()[0]
    total = len(s.recv(65536))
    began = time.monotonic()
    while got := len(s.recv(1 << 20)):
        total += got
    print(total / (time.monotonic() - began))
"""


@dataclass(frozen=True)
class Outcome:
    """What was measured; `uses` begins with the provider's, `seconds` and `shares` are of the getters."""

    getters: int
    size_bytes: int
    goodput_bytes_s: float
    bound_s: float
    seconds: list[float]
    uses: list[float]
    provider_parts: list[float]  # of the file, what each getter had from the provider itself
    sent_parts: float  # of the file, what left the provider's interface

    @property
    def ratio(self) -> float:
        """The last getter's time over the bound."""
        return max(self.seconds) / self.bound_s

    @property
    def use(self) -> float:
        """The mean over all nodes."""
        return sum(self.uses) / len(self.uses)


class Swarm:
    """One provider and some getters, real daemons on machines with an uplink of `rate_bytes_s` each."""

    def __init__(self, directory: Path, getters: int, rate_bytes_s: float) -> None:
        self.directory = directory
        self.rate_bytes_s = rate_bytes_s
        self._getters = getters
        self.devices: list[Device] = []
        self.clients: list[Client] = []
        self._stack = ExitStack()

    def __enter__(self) -> Swarm:
        with ExitStack() as stack:
            self.bridge = stack.enter_context(Bridge(self._getters + 1))
            for machine in range(self._getters + 1):
                self.bridge.set_address(machine, f"10.78.0.{machine + 1}/24")
                device = Device(
                    self.directory / f"node{machine}",
                    f"node{machine}",
                    listen=f"10.78.0.{machine + 1}:0",
                    prefix=self.bridge.prefix(machine),
                )
                self.devices.append(stack.enter_context(device))
            self.devices[0].up()
            for device in self.devices[1:]:
                device.join(self.devices[0].run("invite")["ticket"])
            self.clients = [stack.enter_context(connect(str(d.home))) for d in self.devices]
            self._wait_all_meet()
            for machine in range(self._getters + 1):
                self.bridge.limit_uplink(machine, self.rate_bytes_s)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _wait_all_meet(self) -> None:
        limit = time.monotonic() + WAIT_S
        while any(client.status().peers < self._getters for client in self.clients):
            if time.monotonic() > limit:
                raise TimeoutError(f"the nodes did not all meet within {WAIT_S:.0f} s")
            time.sleep(0.2)

    def share(self, size_bytes: int, machine: int = 0, name: str = "source.bin") -> str:
        """Make a file, share it, return its link once it is complete."""
        source = self.devices[machine].directory / name
        with source.open("wb") as file, open("/dev/urandom", "rb") as random_bytes:
            for start in range(0, size_bytes, MB):
                file.write(random_bytes.read(min(MB, size_bytes - start)))
        return self.clients[machine].share(source, wait=True).link

    def measure_plain(self) -> float:
        """Return the goodput of one TCP transfer from the first machine to the second, in bytes a second."""
        count = int(self.rate_bytes_s * PLAIN_S / 65536)
        receive = [*self.bridge.prefix(1), sys.executable, "-c", RECEIVE, str(PORT)]
        with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            receiver.stdout.readline()
            self.bridge.run(0, sys.executable, "-c", SEND, "10.78.0.2", str(PORT), str(count))
            return float(receiver.stdout.read())

    def sent_bytes(self, machine: int) -> int:
        """Return what left a machine's interface so far."""
        for line in Path(f"/proc/{self.devices[machine].pid}/net/dev").read_text().splitlines():
            name, _, counts = line.partition(":")
            if name.strip() == "eth0":
                return int(counts.split()[8])
        raise RuntimeError("a machine without its interface")

    def race(self, link: str, size_bytes: int, goodput_bytes_s: float) -> Outcome:
        """Let all get a share at once and return what came of it."""
        provider = self.clients[0].status().peer_id
        before = [self.sent_bytes(machine) for machine in range(self._getters + 1)]
        began = time.monotonic()

        def get(machine: int) -> tuple[float, float]:
            dest = self.devices[machine].directory / "got"
            result = self.clients[machine].get(link, dest)
            seconds = time.monotonic() - began
            return seconds, result.providers.get(provider, 0) / size_bytes

        with ThreadPoolExecutor(self._getters) as pool:
            try:
                done = list(pool.map(get, range(1, self._getters + 1)))
            except KeyboardInterrupt:
                for device in self.devices:
                    device.kill()  # the gets end with them: the pool waits for its threads
                raise
        last_s = max(seconds for seconds, _ in done)
        sent = [self.sent_bytes(m) - earlier for m, earlier in enumerate(before)]
        capacity = goodput_bytes_s * (self._getters + 1)
        return Outcome(
            getters=self._getters,
            size_bytes=size_bytes,
            goodput_bytes_s=goodput_bytes_s,
            bound_s=max(size_bytes / goodput_bytes_s, self._getters * size_bytes / capacity),
            seconds=[seconds for seconds, _ in done],
            uses=[count / goodput_bytes_s / last_s for count in sent],
            provider_parts=[part for _, part in done],
            sent_parts=sent[0] / size_bytes,
        )


def show(outcome: Outcome) -> None:
    """Print what was measured."""
    print(f"plain TCP through the same bucket: {outcome.goodput_bytes_s / MB:.2f} MB/s")
    print("getter  seconds  from the provider itself  use of its uplink")
    rows = zip(outcome.seconds, outcome.provider_parts, outcome.uses[1:], strict=True)
    for number, (seconds, part, use) in enumerate(rows, 1):
        print(f"{number:6d}  {seconds:7.2f}  {part:24.1%}  {use:17.2f}")
    print(f"provider: sent {outcome.sent_parts:.2f} x the file, use of its uplink {outcome.uses[0]:.2f}")
    print(f"bound {outcome.bound_s:.2f} s, last {max(outcome.seconds):.2f} s")
    print(f"ratio {outcome.ratio:.3f} (bar {BAR_RATIO}), mean use {outcome.use:.3f} (bar {BAR_USE})")


def main() -> int:
    """Measure once; exit code 1 where it cannot be measured, 0 whatever the figures are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--getters", type=int, default=8, choices=range(2, 33), metavar="2..32")
    parser.add_argument("--rate", type=float, default=10.0, help="of every uplink, MB/s")
    parser.add_argument("--size", type=int, default=200, help="of the file, MB")
    parser.add_argument("--dir", default="/dev/shm", help="where homes and files go; tmpfs by default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    obstacle = find_limit_obstacle()
    if obstacle is not None:
        print(f"A swarm cannot be measured here: {obstacle}.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # machines are removed then too
    try:
        with (
            tempfile.TemporaryDirectory(
                prefix="shoal-swarm-", dir=options.dir, ignore_cleanup_errors=True
            ) as root,
            Swarm(Path(root), options.getters, options.rate * MB) as swarm,
        ):
            goodput = swarm.measure_plain()
            link = swarm.share(options.size * MB)
            outcome = swarm.race(link, options.size * MB, goodput)
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps(asdict(outcome) | {"ratio": outcome.ratio, "use": outcome.use}))
    else:
        show(outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main())
