"""Measure limits: how exact one is between real daemons on loopback, and what it does to control messages.

    .venv/bin/python -m tools.measure_limits [--seconds 25] [--rates 1,10,50] [--getters 1]

For each rate and each end (the provider's upload, the getters' download) a file is fetched while samples are
taken ten times a second. Over all windows of 10 s that begin after the first 5 s the largest deviation from
the limit is printed, measured twice: by the bytes that crossed the loopback interface (of a network namespace
with nothing else in it, as root; headers included), and by what the daemons say: the provider of what it
sent, the getters of what is done. `ping` is the round trip between the daemons meanwhile, `change` the time
until a changed limit was met. Several getters send to each other too, which no limit of the provider is for.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from shoal.api.client import Client, connect
from shoal.core.units import parse_rate
from shoal.testing.namespaces import Bridge, find_obstacle
from shoal.testing.processes import Device
from shoal.testing.trees import write_random_file

MB = 1_000_000
SAMPLE_S = 0.1
PING_S = 0.5
SETTLE_S = 5.0  # the bar leaves out the first 5 s
WINDOW_S = 10.0
CHANGE_WINDOW_S = 1.0  # over which the rate is looked at after a change


@dataclass
class Samples:
    """What was seen: (seconds, bytes) on the wire and as the daemons say, and round trips in ms."""

    wire: list[tuple[float, int]] = field(default_factory=list)
    said: list[tuple[float, int]] = field(default_factory=list)
    pings_ms: list[float] = field(default_factory=list)


def find_deviation(
    samples: Sequence[tuple[float, int]], rate_bytes_s: float, settle_s: float, window_s: float
) -> tuple[float, float]:
    """Return the lowest and highest rate of all windows, as a part of `rate_bytes_s`: 0.98, 1.01."""
    found = []
    first = 0
    for at, size in samples:
        while samples[first][0] < at - window_s:
            first += 1
        begin_at, begin = samples[max(0, first - 1)]
        if begin_at >= settle_s and at - begin_at >= window_s:
            found.append((size - begin) / (at - begin_at) / rate_bytes_s)
    if not found:
        raise ValueError("the samples are shorter than a window")
    return min(found), max(found)


class Group:
    """One provider and some getters, real processes on the loopback of one machine."""

    def __init__(self, directory: Path, getters: int, prefix: list[str]) -> None:
        self._stack = ExitStack()
        self.directory = directory
        self.provider = self._stack.enter_context(Device(directory / "provider", "provider", prefix=prefix))
        self.getters = [
            self._stack.enter_context(Device(directory / f"getter{n}", f"getter{n}", prefix=prefix))
            for n in range(getters)
        ]
        self.clients: list[Client] = []

    def __enter__(self) -> Group:
        with ExitStack() as stack:
            stack.callback(self._stack.close)
            self.provider.up()
            for getter in self.getters:
                getter.join(self.provider.run("invite")["ticket"])
                getter.wait_peers(1)
            self.clients = [connect(str(d.home)) for d in (self.provider, *self.getters)]
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        self._stack.close()

    def share(self, size_bytes: int) -> str:
        """Make a file, share it, return its link once it is complete."""
        source = self.directory / "source.bin"
        write_random_file(source, size_bytes)
        return self.clients[0].share(source, wait=True).link

    def start(self, link: str, number: int) -> None:
        """Let every getter begin to fetch into a folder of its own."""
        for client, getter in zip(self.clients[1:], self.getters, strict=True):
            client.start_get(link, getter.directory / f"got{number}")

    def stop(self) -> None:
        """Forget all transfers and what they left."""
        for client in self.clients[1:]:
            for transfer in client.transfers():
                client.control_transfer(transfer.id, "cancel")
            for share in client.shares():
                client.unshare(share.share_id)

    def limit(self, end: str, rate: str) -> None:
        """Set the provider's upload limit, or every getter's download limit."""
        if end == "upload":
            self.clients[0].limits(upload=rate)
        else:
            for client in self.clients[1:]:
                client.limits(download=rate)

    def count_bytes(self, end: str) -> int:
        """Return what the provider has sent, or what all getters have."""
        if end == "upload":
            return self.clients[0].limits().sent_bytes
        return sum(t.done_bytes for client in self.clients[1:] for t in client.transfers())

    def wire_bytes(self) -> int:
        """Return what crossed the loopback interface that the provider sees."""
        for line in Path(f"/proc/{self.provider.pid}/net/dev").read_text().splitlines():
            name, _, counts = line.partition(":")
            if name.strip() == "lo":
                return int(counts.split()[0])
        raise RuntimeError("there is no loopback interface")

    def sample(self, end: str, seconds: float) -> Samples:
        """Look for a while."""
        samples = Samples()
        began = time.monotonic()
        pinged_at = began
        while (now := time.monotonic()) - began < seconds:
            samples.wire.append((now - began, self.wire_bytes()))
            now = time.monotonic()
            samples.said.append((now - began, self.count_bytes(end)))
            if now - pinged_at >= PING_S:
                pinged_at = now
                rtt_ms = self.clients[1].ping("provider").rtt_ms
                samples.pings_ms += [rtt_ms] if rtt_ms is not None else []
            time.sleep(max(0.0, SAMPLE_S - (time.monotonic() - now)))
        return samples

    def time_change(self, end: str, rate: str) -> float:
        """Change a limit and return after how many seconds the rate of the next second was within 10 %."""
        wanted = parse_rate(rate)
        began = time.monotonic()
        self.limit(end, rate)
        samples = self.sample(end, 4 * CHANGE_WINDOW_S).said
        for number, (at, size) in enumerate(samples):
            later = next((s for s in samples[number:] if s[0] >= at + CHANGE_WINDOW_S), None)
            if later is None:
                break
            if abs((later[1] - size) / (later[0] - at) / wanted - 1) < 0.1:
                return at
        return time.monotonic() - began


@contextmanager
def make_machine() -> Iterator[list[str]]:
    """Yield the words before a command that make it run where nothing else uses loopback, if possible."""
    if find_obstacle() is not None:
        yield []
        return
    with Bridge(1) as machine:
        yield machine.prefix(0)


def main() -> None:
    """Print one line a rate and end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=25.0, help="of each measurement")
    parser.add_argument("--rates", default="1,10,50", help="in MB/s")
    parser.add_argument("--getters", type=int, default=1)
    parser.add_argument("--dir", default="/dev/shm", help="where homes and files go; tmpfs by default")
    options = parser.parse_args()
    rates = [int(rate) for rate in options.rates.split(",")]
    with (
        tempfile.TemporaryDirectory(
            prefix="shoal-limits-", dir=options.dir, ignore_cleanup_errors=True
        ) as root,
        make_machine() as prefix,
        Group(Path(root), options.getters, prefix) as group,
    ):
        link = group.share(int(max(rates) * MB * (options.seconds + 10)))
        if not prefix:
            print("wire: with whatever else uses loopback here")
        print(f"{options.getters} getters, {options.seconds:.0f} s each; any 10 s after the first 5 s")
        print("limit of    MB/s  wire             said             ping p50, p99 ms   change s")
        number = 0
        for end in ("upload", "download"):
            for rate in rates:
                number += 1
                show(group, link, number, end, rate, options.seconds)


def show(group: Group, link: str, number: int, end: str, rate: int, seconds: float) -> None:
    """Measure one limit and print what came of it."""
    together = rate * MB * (len(group.getters) if end == "download" else 1)
    group.limit(end, f"{rate} MB/s")
    group.start(link, number)
    samples = group.sample(end, seconds)
    change_s = group.time_change(end, f"{rate / 2:.1f} MB") if len(group.getters) == 1 else None
    group.stop()
    group.limit(end, "unlimited")
    alone = len(group.getters) == 1 or end == "download"
    wire = _format(find_deviation(samples.wire, together, SETTLE_S, WINDOW_S)) if alone else f"{'-':>15}"
    said = _format(find_deviation(samples.said, together, SETTLE_S, WINDOW_S))
    pings = quantiles(samples.pings_ms, n=100, method="inclusive")
    change = "-" if change_s is None else f"{change_s:.1f}"
    print(f"{end:<9} {rate:6d}  {wire}  {said}  {pings[49]:8.1f} {pings[98]:7.1f}  {change:>9}", flush=True)


def _format(deviation: tuple[float, float]) -> str:
    return " ".join(f"{part - 1:+7.1%}" for part in deviation)


if __name__ == "__main__":
    main()
