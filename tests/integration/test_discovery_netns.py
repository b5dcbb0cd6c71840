"""Discovery between machines of a bridge: nothing but a switch, no route to anywhere, no other service."""

from __future__ import annotations

import ipaddress
import itertools
import json
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from shoal.testing.namespaces import Bridge, find_obstacle
from shoal.transport.announcement import Announcement, make_announcement

pytestmark = pytest.mark.skipif(find_obstacle() is not None, reason=find_obstacle() or "")

ROOT = Path(__file__).parents[2]
FOUND_S = (
    15.0  # a link is looked at every 3 s, IPv6 addresses are checked for 2 s; the rest is a slow machine
)
CHANGE_S = 10.0  # new interfaces and addresses are noticed within
CLOSE_S = 1.5  # 1 s, and a slow machine
DOOR_KEY = secrets.token_bytes(32)
ANNA, BEN, CARL = (secrets.token_bytes(32) for _ in range(3))
PORTS = {ANNA: 4711, BEN: 4712, CARL: 4713}
IPV6_OFF = "echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6"


class Program:
    """A tests.support.lan_node on a machine, and what it has said."""

    def __init__(self, lan: Bridge, machine: int, **config: Any) -> None:
        self._process = subprocess.Popen(
            [*lan.prefix(machine), sys.executable, "-m", "tests.support.lan_node", json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.said: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, wanted: Callable[[dict[str, Any]], Any], timeout_s: float = FOUND_S) -> dict[str, Any]:
        """Return the first thing said, from the beginning or until the time is up, that is wanted."""
        end = time.monotonic() + timeout_s
        for each in self.said:
            if wanted(each):
                return each
        while (left_s := end - time.monotonic()) > 0:
            try:
                self.said.append(json.loads(self._lines.get(timeout=left_s)))
            except queue.Empty:
                break
            if wanted(self.said[-1]):
                return self.said[-1]
        raise AssertionError(f"not said within {timeout_s} s; said was {self.said}")

    def wait_found(self, peer: bytes, network: str = "", timeout_s: float = FOUND_S) -> dict[str, Any]:
        """Wait until a peer is found at an address of a network (any if empty)."""
        return self.wait(
            lambda each: each.get("found") == peer.hex() and (not network or is_in(each["host"], network)),
            timeout_s,
        )

    def found(self) -> list[tuple[bytes, str, int]]:
        """Return everybody found until now."""
        self.status()
        return [(bytes.fromhex(e["found"]), e["host"], e["port"]) for e in self.said if "found" in e]

    def status(self) -> dict[str, Any]:
        """Ask what it has."""
        count = sum("remembered" in each for each in self.said)
        self._write("status\n")
        seen = 0

        def is_newest(each: dict[str, Any]) -> bool:
            nonlocal seen
            seen += "remembered" in each
            return "remembered" in each and seen > count

        return self.wait(is_newest)

    def close(self) -> None:
        """End it, and check that it ends in time and whole."""
        if self._process.poll() is None:
            self._write("close\n")
        try:
            assert self._process.wait(10) == 0
        finally:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        while not self._lines.empty():
            self.said.append(json.loads(self._lines.get()))
        for each in self.said:
            assert each.get("closed_s", 0.0) < CLOSE_S

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs; all are ended, in time, before their bridge is."""
    with ExitStack() as stack:

        def start_one(lan: Bridge, machine: int, own: bytes | None = None, **config: Any) -> Program:
            if own is not None:
                defaults = {
                    "own": own.hex(),
                    "port": PORTS[own],
                    "door_keys": [DOOR_KEY.hex()],
                    "members": [ANNA.hex(), BEN.hex()],
                }
                config = defaults | config
            program = Program(lan, machine, **config)
            stack.callback(program.close)
            return program

        yield start_one


@pytest.fixture
def lan() -> Iterator[Bridge]:
    with Bridge(3) as bridge:
        yield bridge


@pytest.fixture
def ordered(lan: Bridge, start: Start) -> tuple[Bridge, Start]:
    """The bridge and `start`, in the order that ends programs first."""
    return lan, start


def is_in(host: str, network: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    wanted = ipaddress.ip_network(network)
    return address.version == wanted.version and address in wanted


def make_lie(announcement: Announcement | None, port: int, *addresses: str, times: int = 1) -> dict[str, Any]:
    text = "" if announcement is None else announcement.text.hex()
    return {"text": text, "port": port, "addresses": addresses, "times": times}


@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_two_nodes_find_each_other_on_both_families(ordered: tuple[Bridge, Start], uvloop: bool) -> None:
    lan, start = ordered
    for machine in (0, 1):
        lan.set_address(machine, f"192.0.2.{machine + 1}/24")
        lan.set_address(machine, f"fd00::{machine + 1}/64")
    anna = start(lan, 0, ANNA, uvloop=uvloop, reach=True)
    ben = start(lan, 1, BEN, uvloop=uvloop)
    for one, other, machine in ((anna, BEN, 2), (ben, ANNA, 1)):
        assert one.wait_found(other, f"192.0.2.{machine}/32")["port"] == PORTS[other]
        one.wait_found(other, f"fd00::{machine}/128")
        assert one.wait_found(other, "fe80::/10")["host"].endswith("%eth0")
    for network in ("192.0.2.2/32", "fd00::2/128", "fe80::/10"):  # what is found can be connected
        anna.wait(lambda each, n=network: "reached" in each and is_in(each["reached"], n))
    times = [each["at"] for each in anna.said if "found" in each]
    assert all(later - earlier > 0.95 for earlier, later in itertools.pairwise(times))


def test_without_ipv6(ordered: tuple[Bridge, Start]) -> None:
    lan, start = ordered
    for machine in (0, 1):
        lan.run(machine, "sh", "-c", IPV6_OFF)
        lan.set_address(machine, f"192.0.2.{machine + 1}/24")
    anna, ben = start(lan, 0, ANNA), start(lan, 1, BEN)
    assert anna.wait_found(BEN)["host"] == "192.0.2.2"
    assert ben.wait_found(ANNA)["host"] == "192.0.2.1"


@pytest.mark.parametrize("address", [None, "fd00::{}/64"], ids=["link-local", "unique local"])
def test_with_nothing_but_ipv6(ordered: tuple[Bridge, Start], address: str | None) -> None:
    lan, start = ordered
    for machine in (0, 1):
        if address is not None:
            lan.set_address(machine, address.format(machine + 1))
    anna, ben = start(lan, 0, ANNA, reach=True), start(lan, 1, BEN)
    network = "fe80::/10" if address is None else "fd00::/64"
    anna.wait_found(BEN, network)
    ben.wait_found(ANNA, network)
    anna.wait(lambda each: "reached" in each and is_in(each["reached"], network))


@pytest.mark.parametrize("interfaces", [None, ["lo"]], ids=["network", "loopback"])
def test_two_nodes_of_one_machine(ordered: tuple[Bridge, Start], interfaces: list[str] | None) -> None:
    lan, start = ordered
    for machine in (0, 1):
        lan.set_address(machine, f"192.0.2.{machine + 1}/24")
    members = [each.hex() for each in (ANNA, BEN, CARL)]
    programs = [start(lan, 0, own, interfaces=interfaces, members=members) for own in (ANNA, BEN)]
    host = "192.0.2.1" if interfaces is None else "127.0.0.1"
    for program, other in zip(programs, (BEN, ANNA), strict=True):
        assert program.wait_found(other, f"{host}/32")["port"] == PORTS[other]
    carl = start(lan, 1, CARL, members=members)
    if interfaces is None:
        for each in (ANNA, BEN):
            carl.wait_found(each)
        programs[0].wait_found(CARL)
        programs[1].wait_found(CARL)
    else:
        time.sleep(2)
        assert carl.found() == []
        assert all(peer != CARL for program in programs for peer, _, _ in program.found())


def test_who_does_not_belong_and_what_is_copied_is_ignored(ordered: tuple[Bridge, Start]) -> None:
    lan, start = ordered
    for machine in range(3):
        lan.set_address(machine, f"192.0.2.{machine + 1}/24")
    anna = start(lan, 0, ANNA)
    anna.wait(lambda each: "ready" in each)
    time.sleep(1)  # its sockets are open
    foreign = make_announcement(secrets.token_bytes(32), secrets.token_bytes(16), 5001, BEN)
    stranger = make_announcement(DOOR_KEY, secrets.token_bytes(16), 5002, CARL)
    real = make_announcement(DOOR_KEY, secrets.token_bytes(16), 5003, BEN)
    elsewhere = make_announcement(DOOR_KEY, secrets.token_bytes(16), 5004, BEN)
    myself = make_announcement(DOOR_KEY, secrets.token_bytes(16), 5005, ANNA)
    start(
        lan,
        2,
        interfaces=["192.0.2.3"],
        lies=[
            make_lie(foreign, 5001, "192.0.2.3"),
            make_lie(stranger, 5002, "192.0.2.3"),
            make_lie(real, 22, "192.0.2.3"),  # copied, with another port
            make_lie(elsewhere, 5004, "198.51.100.3", "127.0.0.1", "224.0.0.251", "169.254.169.254"),
            make_lie(myself, 5005, "192.0.2.3"),
            make_lie(None, 5006, "192.0.2.3"),
            make_lie(real, 5003, "192.0.2.3", times=3),  # shows that the others were heard
        ],
        pause_s=0.05,
    )
    anna.wait_found(BEN)
    time.sleep(3)
    assert anna.found() == [(BEN, "192.0.2.3", 5003)]


def test_a_flood_of_announcements_costs_little_and_hides_nobody(ordered: tuple[Bridge, Start]) -> None:
    lan, start = ordered
    for machine in range(3):
        lan.set_address(machine, f"192.0.2.{machine + 1}/24")
    anna = start(lan, 0, ANNA)
    anna.wait(lambda each: "ready" in each)
    time.sleep(1)
    before = anna.status()
    liar = start(lan, 2, interfaces=["192.0.2.3"], lies=[], crowd=1_000)
    liar.wait(lambda each: "told" in each)
    time.sleep(1)
    after = anna.status()
    assert 30 < after["remembered"] <= 256
    assert after["observed"]["lan_flood"] > 100
    assert after["peak_kib"] - before["peak_kib"] < 32 * 1024
    assert after["cpu_s"] - before["cpu_s"] < 3.0
    assert anna.found() == []
    start(lan, 1, BEN)
    anna.wait_found(BEN)
    assert anna.status()["remembered"] <= 256
    assert anna.status()["restarts"] == 0


def test_networks_that_come_and_change_are_noticed(ordered: tuple[Bridge, Start]) -> None:
    lan, start = ordered
    for machine in (0, 1):
        lan.set_plugged(machine, plugged=False)
    anna, ben = start(lan, 0, ANNA), start(lan, 1, BEN)
    anna.wait(lambda each: "ready" in each)
    assert anna.status()["links"] == []
    for machine in (0, 1):
        lan.set_plugged(machine, plugged=True)
        lan.set_address(machine, f"192.0.2.{machine + 1}/24")
    anna.wait_found(BEN, "192.0.2.2/32", CHANGE_S)
    for machine in (0, 1):  # another Wi-Fi
        lan.drop_address(machine, f"192.0.2.{machine + 1}/24")
        lan.set_address(machine, f"198.51.100.{machine + 1}/24")
    anna.wait_found(BEN, "198.51.100.2/32", CHANGE_S)
    ben.wait_found(ANNA, "198.51.100.1/32", CHANGE_S)
    assert anna.status()["restarts"] == 0


def test_a_port_that_somebody_holds_is_observed_and_does_no_harm(ordered: tuple[Bridge, Start]) -> None:
    lan, start = ordered
    for machine in (0, 1):
        lan.set_address(machine, f"192.0.2.{machine + 1}/24")
    hold = "import socket, sys; held = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
    hold += "held.bind(('::', 5353)); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [*lan.prefix(0), sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        anna = start(lan, 0, ANNA)
        start(lan, 1, BEN)
        anna.wait(lambda each: "ready" in each)
        time.sleep(1)
        status = anna.status()
        assert status["observed"] == {"lan_unusable": 1}
        assert (status["links"], status["restarts"]) == ([], 0)
    finally:
        holder.kill()
        holder.wait()
    lan.set_address(0, "198.51.100.1/24")  # something has changed: tried again at once
    anna.wait_found(BEN, timeout_s=CHANGE_S)


def test_nothing_of_one_network_is_shown_on_another(ordered: tuple[Bridge, Start]) -> None:
    lan, start = ordered
    lan.add_cable(0, 1, "home")
    for machine in (0, 1):
        lan.set_address(machine, f"192.0.2.{machine + 1}/24")
        lan.set_address(machine, f"198.51.100.{machine + 1}/24", "home")
    anna = start(lan, 0, ANNA)
    anna.wait(lambda each: "ready" in each)
    time.sleep(5)  # IPv6 addresses of both are checked
    assert sorted(anna.status()["links"]) == ["eth0", "home"]
    here, there = (ipaddress.ip_address(text).packed for text in ("192.0.2.1", "198.51.100.1"))
    for interface, family, inside, outside in (
        ("eth0", 4, here, there),
        ("home", 4, there, here),
        ("eth0", 6, here, there),
        ("home", 6, there, here),
    ):
        asker = start(lan, 1, ask=interface, family=family, seconds=1)
        asker.wait(lambda each: "asked" in each)
        answers = [bytes.fromhex(each["answer"]) for each in asker.said if "answer" in each]
        assert any(inside in answer for answer in answers), (interface, family)
        assert not any(outside in answer for answer in answers), (interface, family)
