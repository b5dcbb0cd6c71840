"""Devices behind NATs, in network namespaces with nftables: relayed, punched, cut, and healed.

What this cannot prove stands in docs/reachability.md.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from shoal.testing.nats import Internet, Nat, find_obstacle
from shoal.testing.processes import Device, Json

OBSTACLE = find_obstacle()
pytestmark = pytest.mark.skipif(OBSTACLE is not None, reason=OBSTACLE or "")

CONNECTED_S = 30.0
FALLBACK_S = 15.0  # the bar of issue 4


def wait_for(look: Callable[[], Json], condition: Callable[[Json], bool], timeout_s: float) -> float:
    """Ask again and again until the answer is as wanted; return how long that took."""
    began = time.monotonic()
    while not condition(found := look()):
        assert time.monotonic() - began < timeout_s, found
        time.sleep(0.1)
    return time.monotonic() - began


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
def network(tmp_path: Path, nats: list[Nat]) -> Iterator[tuple[Internet, Device, list[Device]]]:
    """A relay on the internet and a device behind each NAT, all members."""
    with ExitStack() as stack:
        net = stack.enter_context(Internet(1, nats))
        relay = Device(tmp_path / "r", "rel", listen="0.0.0.0:0", prefix=net.public(0))
        stack.enter_context(relay)
        relay.up("--relay")
        devices = []
        for site, name in zip(range(len(nats)), ("ada", "ben", "cyd", "dan"), strict=False):
            device = Device(tmp_path / name, name, listen="0.0.0.0:0", prefix=net.inner(site))
            stack.enter_context(device)
            device.join(relay.run("invite")["ticket"])
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
        assert "via relay rel" in cyd.call("peers").stdout
        for device in devices:
            assert device.run("ping", "rel")["path"] == "direct"
        send_file(tmp_path, ada, ben, 3_000_000)  # over punched lanes
        before = relay.run("status")["relay"]["day_bytes"]
        assert before < 1_000_000, "the file went over the relay"
        send_file(tmp_path, cyd, dan, 3_000_000)
        assert relay.run("status")["relay"]["day_bytes"] > before + 3_000_000


def test_a_cut_direct_path_falls_back_to_the_relay_and_comes_back(tmp_path: Path) -> None:
    with network(tmp_path, [Nat.PORT, Nat.PORT]) as (net, _, (ada, ben)):
        wait_for(lambda: ada.run("ping", "ben"), path_is("direct", "punched"), CONNECTED_S)
        net.cut(0, net.router_ip(1))
        took_s = wait_for(lambda: ada.run("ping", "ben"), path_is("relay"), FALLBACK_S + 5)
        assert took_s <= FALLBACK_S
        send_file(tmp_path, ben, ada, 1_000_000)
        net.heal(0)
        wait_for(lambda: ada.run("ping", "ben"), path_is("direct", "punched"), 45.0)
