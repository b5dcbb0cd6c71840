"""Namespaces: machines of a pretended local network, each a Linux network namespace on one bridge.

    with Bridge(2) as lan:
        lan.set_address(0, "192.0.2.1/24")
        subprocess.run([*lan.prefix(0), "some", "program"])

Needs root and the `ip` command. There is no route to anywhere else, and nothing else runs on these machines.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from types import TracebackType

MACHINES = 64  # of one bridge
INTERFACE = "eth0"  # of each machine
UPLINK_BURST_BYTES = 64 * 1024  # one segment as the kernel hands it over; less is cut into packets, at a cost
UPLINK_WAIT_S = 0.1  # how long a packet may wait in a limited uplink before packets are dropped
COMMAND_TIMEOUT_S = 20.0  # `ip` takes milliseconds; deleting namespaces may wait for the kernel


def find_obstacle() -> str | None:
    """Return why there can be no bridge here, or None."""
    if sys.platform != "linux":
        return "network namespaces are Linux only"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the ip command (iproute2) is not installed"
    return None


def find_limit_obstacle() -> str | None:
    """Return why there can be no bridge with limited uplinks here, or None. Tries it: a container's root may
    not be allowed to.
    """
    obstacle = find_obstacle()
    if obstacle is None and shutil.which("tc") is None:
        obstacle = "the tc command (iproute2) is not installed"
    if obstacle is None:
        try:
            with Bridge(1) as bridge:
                bridge.limit_uplink(0, 1_000_000)
        except RuntimeError as error:
            obstacle = f"network namespaces or token buckets are not permitted here: {error}"
    return obstacle


class Bridge:
    """`count` machines joined by a switch, between `with` and its end.

    Each has loopback and `eth0`, both up; eth0 has only its IPv6 link-local address until `set_address`.
    Names are unique, so that tests run side by side. At the end, also of one that failed half way, processes
    that still run in the namespaces are killed and everything is removed.
    """

    def __init__(self, count: int) -> None:
        if not 0 < count <= MACHINES:
            raise ValueError(f"a bridge has 1 to {MACHINES} machines, not {count}")
        self.count = count
        self._token = f"shoal-{os.getpid()}-{secrets.token_hex(3)}"
        self._hub = f"{self._token}-hub"
        self._stack = ExitStack()

    def __enter__(self) -> Bridge:
        with ExitStack() as stack:
            self._add_namespace(stack, self._hub)
            _ip(
                "-n",
                self._hub,
                "link",
                "add",
                "br0",
                "type",
                "bridge",
                "forward_delay",
                "0",
                "stp_state",
                "0",
            )
            _ip("-n", self._hub, "link", "set", "br0", "up")
            for machine in range(self.count):
                name = self._name(machine)
                self._add_namespace(stack, name)
                peer = ("peer", "name", INTERFACE, "netns", name)
                _ip("-n", self._hub, "link", "add", f"port{machine}", "type", "veth", *peer)
                _ip("-n", self._hub, "link", "set", f"port{machine}", "master", "br0", "up")
                _ip("-n", name, "link", "set", INTERFACE, "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def prefix(self, machine: int) -> list[str]:
        """Return the words before a command that make it run on a machine."""
        return ["ip", "netns", "exec", self._name(machine)]

    @property
    def hub_prefix(self) -> list[str]:
        """The words before a command that make it run where the bridge is, which sees every packet."""
        return ["ip", "netns", "exec", self._hub]

    def set_address(self, machine: int, cidr: str, interface: str = INTERFACE) -> None:
        """Give a machine one more address, such as 192.0.2.1/24 or fd00::1/64; it is usable at once."""
        quick = ("nodad",) if ":" in cidr else ()
        _ip("-n", self._name(machine), "address", "add", cidr, "dev", interface, *quick)

    def drop_address(self, machine: int, cidr: str) -> None:
        """Take an address away."""
        _ip("-n", self._name(machine), "address", "del", cidr, "dev", INTERFACE)

    def set_plugged(self, machine: int, plugged: bool) -> None:
        """Pull the cable out of a machine, or put it in again; its IPv6 addresses go with it, as on Linux."""
        _ip("-n", self._name(machine), "link", "set", INTERFACE, "up" if plugged else "down")

    def limit_uplink(self, machine: int, rate_bytes_s: float) -> None:
        """Let a machine send no more than this, by a token bucket (tbf); called again it changes the rate."""
        rate = ("rate", f"{int(rate_bytes_s * 8)}bit", "burst", str(UPLINK_BURST_BYTES))
        wait = ("latency", f"{UPLINK_WAIT_S * 1000:.0f}ms")
        _run(
            "tc", "-n", self._name(machine), "qdisc", "replace", "dev", INTERFACE, "root", "tbf", *rate, *wait
        )

    def add_cable(self, one: int, other: int, name: str) -> None:
        """Join two machines by one more interface, called `name` on both: a second network of theirs."""
        ends = (self._name(one), self._name(other))
        _ip("-n", ends[0], "link", "add", name, "type", "veth", "peer", "name", name, "netns", ends[1])
        for end in ends:
            _ip("-n", end, "link", "set", name, "up")

    def addresses(self, machine: int) -> list[str]:
        """Return the addresses of eth0, as `ADDRESS/LENGTH`, those included that the system still checks."""
        shown = _ip("-n", self._name(machine), "-oneline", "address", "show", "dev", INTERFACE)
        words = [line.split() for line in shown.splitlines()]
        return [
            line[line.index(family) + 1] for line in words for family in ("inet", "inet6") if family in line
        ]

    def run(self, machine: int, *command: str) -> str:
        """Run a command on a machine and return what it printed. Raises: RuntimeError with what it said."""
        return _run(*self.prefix(machine), *command)

    def _name(self, machine: int) -> str:
        if not 0 <= machine < self.count:
            raise IndexError(f"this bridge has no machine {machine}")
        return f"{self._token}-{machine}"

    def _add_namespace(self, stack: ExitStack, name: str) -> None:
        stack.callback(_drop_namespace, name)
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")


def _drop_namespace(name: str) -> None:
    """Kill what still runs in a namespace and remove it with its interfaces; one never made is fine."""
    for pid in _run("ip", "netns", "pids", name, check=False).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    _run("ip", "netns", "del", name, check=False)


def _ip(*words: str) -> str:
    return _run("ip", *words)


def _run(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout
