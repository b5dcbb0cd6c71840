"""Devices behind NATs, in network namespaces with nftables: relayed, punched, cut, and healed.

What this cannot prove stands in docs/reachability.md.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from shoal.testing.namespaces import INTERFACE, Bridge
from shoal.testing.nats import Internet, Nat, find_obstacle
from shoal.testing.processes import Device, Json
from shoal.transport.address import Address

OBSTACLE = find_obstacle()
pytestmark = pytest.mark.skipif(OBSTACLE is not None, reason=OBSTACLE or "")

CONNECTED_S = 30.0
FALLBACK_S = 15.0  # the bar of issue 4
REDIAL_S = 10.0  # likewise


def wait_for(look: Callable[[], Json], condition: Callable[[Json], bool], timeout_s: float) -> float:
    """Ask again and again until the answer is as wanted; return how long that took."""
    began = time.monotonic()
    while not condition(found := look()):
        assert time.monotonic() - began < timeout_s, found
        time.sleep(0.1)
    return time.monotonic() - began


def reach_of(device: Device) -> Json:
    found: Json = device.run("status").get("reach", {"state": "unknown", "asked": 0, "mapped": None})
    return found


def path_is(*paths: str) -> Callable[[Json], bool]:
    return lambda ping: ping["path"] in paths


def send_file(tmp_path: Path, source: Device, getter: Device, size_bytes: int) -> None:
    data = bytes(n * 31 % 251 for n in range(1000)) * (size_bytes // 1000)
    (source.directory / "file.bin").write_bytes(data)
    link = source.run("share", str(source.directory / "file.bin"), "--wait")["link"]
    getter.run("get", link, str(getter.directory / "got"), timeout_s=60)
    found = [p for p in (getter.directory / "got").rglob("*") if p.is_file()]
    found += [getter.directory / "got"] if (getter.directory / "got").is_file() else []
    assert any(p.read_bytes() == data for p in found)


@contextmanager
def network(
    tmp_path: Path, nats: list[Nat], ipv6: bool = False
) -> Iterator[tuple[Internet, Device, list[Device]]]:
    """A relay on the internet and a device behind each NAT, all members."""
    listen = ("--listen", "[::]:0") if ipv6 else ()
    with ExitStack() as stack:
        net = stack.enter_context(Internet(1, nats))
        if ipv6:
            net.add_ipv6()
        relay = Device(tmp_path / "r", "rel", listen="0.0.0.0:0", prefix=net.public(0))
        stack.enter_context(relay)
        relay.up("--relay", *listen)
        devices = []
        for site, name in zip(range(len(nats)), ("ada", "ben", "cyd", "dan"), strict=False):
            device = Device(tmp_path / name, name, listen="0.0.0.0:0", prefix=net.inner(site))
            stack.enter_context(device)
            device.join(relay.run("invite")["ticket"], *listen)
            devices.append(device)
        yield net, relay, devices


def test_every_pair_of_nat_classes_connects_and_directly_where_theory_allows(tmp_path: Path) -> None:
    """Two behind each class: port-preserving NATs meet by punching, a symmetric one keeps the relay."""
    nats = [Nat.PORT, Nat.PORT, Nat.SYMMETRIC, Nat.SYMMETRIC]
    with network(tmp_path, nats) as (_, relay, devices):
        for one, other in itertools.combinations(range(4), 2):
            device, peer = devices[one], devices[other].name
            wait_for(
                lambda d=device, p=peer: d.run("ping", p), path_is("relay", "direct", "punched"), CONNECTED_S
            )  # type: ignore[misc]
        ada, ben, cyd, dan = devices
        wait_for(lambda: ada.run("ping", "ben"), path_is("direct", "punched"), CONNECTED_S)
        assert {ada.run("ping", "ben")["path"], ben.run("ping", "ada")["path"]} == {"direct", "punched"}
        for one, other in ((ada, cyd), (ben, dan), (cyd, dan)):
            assert one.run("ping", other.name)["path"] == "relay"
            shown = next(p for p in one.run("peers")["peers"] if p["name"] == other.name)
            assert (shown["state"], shown["path"], shown["relay"]) == ("relayed", "relay", "rel")
            addresses = [Address.parse(text) for p in one.run("peers")["peers"] for text in p["addresses"]]
            assert addresses
            assert one.run("ping", other.name)["relay"] == "rel"
        assert "via relay rel" in cyd.call("peers").stdout
        shown = ben.call("peers").stdout + ada.call("peers").stdout
        assert "via relay rel" in shown
        assert ", through NAT" in shown
        assert "via shp1" not in shown
        for device in devices:
            assert device.run("ping", "rel")["path"] == "direct"
        send_file(tmp_path, ada, ben, 3_000_000)  # over punched lanes
        before = relay.run("status")["relay"]["day_bytes"]
        assert before < 1_000_000, "the file went over the relay"
        send_file(tmp_path, cyd, dan, 3_000_000)
        assert relay.run("status")["relay"]["day_bytes"] > before + 3_000_000


def test_a_cut_direct_path_falls_back_to_the_relay_and_comes_back(tmp_path: Path) -> None:
    """The direct path is punched through the IPv6 firewalls of two routers; their IPv4 NATs are symmetric."""
    with network(tmp_path, [Nat.SYMMETRIC, Nat.SYMMETRIC], ipv6=True) as (net, _, (ada, ben)):
        wait_for(lambda: ada.run("ping", "ben"), path_is("direct", "punched"), CONNECTED_S)
        assert {ada.run("ping", "ben")["path"], ben.run("ping", "ada")["path"]} == {"direct", "punched"}
        net.cut(0, net.inner_ipv6(1))
        # by `peers`: a `ping` over the dead session takes five seconds to say so

        def find_states() -> Json:
            return {p["name"]: p["state"] for p in ada.run("peers")["peers"]}

        took_s = wait_for(find_states, lambda found: found["ben"] == "relayed", FALLBACK_S + 5)
        print(f"FALLBACK: over the relay again after {took_s:.1f} s")
        assert took_s <= FALLBACK_S
        send_file(tmp_path, ben, ada, 1_000_000)
        net.heal(0)
        wait_for(lambda: ada.run("ping", "ben"), path_is("direct", "punched"), 45.0)


@pytest.mark.timeout(300)
def test_devices_find_out_how_they_can_be_reached(tmp_path: Path) -> None:
    """Three on the internet, one behind each kind of NAT; what `status` and `doctor` say.

    Five members are a large network here: those behind NATs keep sessions with the relay, or none would reach
    the other.
    """
    with ExitStack() as stack:
        net = stack.enter_context(Internet(3, [Nat.PORT, Nat.SYMMETRIC]))
        public = [
            stack.enter_context(
                Device(tmp_path / f"p{n}", f"pub{n}", listen="0.0.0.0:7411", prefix=net.public(n))
            )
            for n in range(3)
        ]
        inner = [
            stack.enter_context(
                Device(tmp_path / f"i{n}", f"in{n}", listen="0.0.0.0:7411", prefix=net.inner(n))
            )
            for n in range(2)
        ]
        for device in (*public, *inner):
            device.home.mkdir(mode=0o700, parents=True)
            (device.home / "config.toml").write_text("mesh_members = 2\n")
        public[0].up("--relay")
        for device in public[1:]:
            device.join(public[0].run("invite")["ticket"])
        for device in inner:
            device.join(public[0].run("invite")["ticket"])
        for device, state in ((public[0], "public"), (inner[0], "nat"), (inner[1], "symmetric")):
            found = lambda d=device: reach_of(d)  # noqa: E731
            wait_for(found, lambda reach, s=state: reach["state"] == s and reach["asked"] >= 2, 60.0)  # type: ignore[misc]
        assert inner[0].run("status")["overlay"]["mode"] == "views"
        wait_for(lambda: inner[0].run("ping", "in1"), path_is("relay"), CONNECTED_S)
        for site, device in enumerate(inner):
            check = next(c for c in device.run("doctor")["checks"] if c["name"] == "reachable")
            assert check["state"] == "warn"
            assert "forward TCP port 7411" in check["next_step"]
            assert device.run("status")["reach"]["observed"] == [net.router_ip(site)]
        net.forward(0, 7411)
        inner[0].stop()
        inner[0].up()
        wait_for(lambda: reach_of(inner[0]), lambda reach: reach["state"] == "public", 60.0)

        def find_addresses() -> Json:
            return {p["name"]: p["addresses"] for p in public[1].run("peers")["peers"]}

        wait_for(
            find_addresses, lambda found: f"{net.router_ip(0)}:7411" in found["in0"], 70.0
        )  # or a round later


def test_a_router_that_speaks_upnp_opens_a_port_and_gets_it_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        lan = stack.enter_context(Bridge(2))
        lan.set_address(0, "192.168.7.1/24")
        lan.set_address(1, "192.168.7.2/24")
        for machine in range(2):
            lan.run(machine, "ip", "route", "add", "239.0.0.0/8", "dev", "eth0")
        log = tmp_path / "router.log"
        script = Path(__file__).parents[1] / "support" / "fake_router.py"
        command = [*lan.prefix(0), sys.executable, str(script), "192.168.7.1", "203.0.113.9", str(log)]
        router = subprocess.Popen(command)
        stack.callback(router.wait)
        stack.callback(router.kill)
        device = Device(tmp_path / "a", "ada", listen="0.0.0.0:7411", prefix=lan.prefix(1))
        stack.enter_context(device)
        device.up("--upnp")
        wait_for(lambda: reach_of(device), lambda r: r["mapped"] == "203.0.113.9:7411", 20.0)
        checks = {c["name"]: c for c in device.run("doctor")["checks"]}
        assert checks["port mapping"]["state"] == "ok"
        device.stop()
        words = log.read_text().split("\n")
        assert "AddPortMapping 7411 TCP 192.168.7.2 7411 3600" in words
        assert "DeletePortMapping 7411 TCP" in words


def test_a_router_that_speaks_pcp_opens_a_port_and_gets_it_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        lan = stack.enter_context(Bridge(2))
        lan.set_address(0, "192.168.7.1/24")
        lan.set_address(1, "192.168.7.2/24")
        lan.run(1, "ip", "route", "add", "default", "via", "192.168.7.1")
        log = tmp_path / "router.log"
        script = Path(__file__).parents[1] / "support" / "fake_gateway.py"
        command = [*lan.prefix(0), sys.executable, str(script), "192.168.7.1", "203.0.113.9", "pcp", str(log)]
        router = subprocess.Popen(command)
        stack.callback(router.wait)
        stack.callback(router.kill)
        device = Device(tmp_path / "a", "ada", listen="0.0.0.0:7411", prefix=lan.prefix(1))
        stack.enter_context(device)
        device.up("--upnp")
        wait_for(lambda: reach_of(device), lambda r: r["mapped"] == "203.0.113.9:7411", 20.0)
        checks = {c["name"]: c for c in device.run("doctor")["checks"]}
        assert checks["port mapping"]["detail"].endswith("by PCP")
        device.stop()
        assert log.read_text().split("\n")[-2] == "PCP delete 7411 0"


def test_no_router_is_said_plainly(tmp_path: Path) -> None:
    with Device(tmp_path / "a", "ada", listen="0.0.0.0:0", prefix=[]) as device, Bridge(1) as lan:
        device.prefix = lan.prefix(0)
        lan.set_address(0, "192.168.7.2/24")
        device.up("--upnp")

        def find_check() -> Json:
            checks = device.run("doctor")["checks"]
            return next(c for c in checks if c["name"] == "port mapping")  # type: ignore[no-any-return]

        wait_for(find_check, lambda check: check["state"] == "warn", 20.0)
        assert "no router answered" in find_check()["detail"]


def test_when_the_network_changes_peers_are_dialled_again_within_ten_seconds(tmp_path: Path) -> None:
    """Another default route, another address, a cable that was out: ada moves, ben stays where he is."""
    with ExitStack() as stack:
        lan = stack.enter_context(Bridge(3))  # ada, ben, and the router between their networks
        for cidr in ("10.0.1.1/24", "10.0.2.1/24", "192.0.2.254/24"):
            lan.set_address(2, cidr)
        for key in ("ip_forward=1", "conf.all.send_redirects=0", f"conf.{INTERFACE}.send_redirects=0"):
            lan.run(2, "sysctl", "-q", "-w", f"net.ipv4.{key}")
        lan.set_address(0, "10.0.1.2/24")
        lan.set_address(0, "10.0.2.2/24")
        lan.set_address(1, "192.0.2.1/24")
        lan.run(1, "ip", "route", "add", "default", "via", "192.0.2.254")

        def route(net: str, own: str) -> None:
            way = ("default", "via", f"{net}.1", "src", own)
            lan.run(0, "ip", "route", "replace", *way)

        route("10.0.1", "10.0.1.2")
        ada = stack.enter_context(Device(tmp_path / "a", "ada", listen="0.0.0.0:7411", prefix=lan.prefix(0)))
        ben = stack.enter_context(Device(tmp_path / "b", "ben", listen="0.0.0.0:7411", prefix=lan.prefix(1)))
        ben.up()
        ada.join(ben.run("invite")["ticket"])
        wait_for(lambda: ada.run("status"), lambda status: status["peers"] == 1, CONNECTED_S)

        def check_redialled(what: str) -> None:
            find = lambda: {"code": ada.call("ping", "ben", "--json").returncode}  # noqa: E731
            took_s = wait_for(find, lambda ping: ping["code"] == 0, REDIAL_S + 10)
            print(f"REDIAL: {what}, {took_s:.1f} s")
            assert took_s <= REDIAL_S

        rules = "add table ip fw\nadd chain ip fw c { type filter hook forward priority 0; }\n"
        for side in ("saddr", "daddr"):
            rules += f"add rule ip fw c ip {side} 10.0.1.2 drop\n"
        lan.run(2, "sh", "-c", 'printf %s "$0" | nft -f -', rules)
        route("10.0.2", "10.0.2.2")
        check_redialled("another default route")
        lan.drop_address(0, "10.0.2.2/24")
        lan.set_address(0, "10.0.2.77/24")
        route("10.0.2", "10.0.2.77")
        check_redialled("another address")
        lan.set_plugged(0, False)
        lan.set_plugged(0, True)
        route("10.0.2", "10.0.2.77")
        check_redialled("a cable")
