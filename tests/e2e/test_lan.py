"""Two daemons on one local network, each in a network namespace of its own."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.testing.namespaces import Bridge, find_obstacle
from shoal.testing.processes import Device

OBSTACLE = find_obstacle()
pytestmark = pytest.mark.skipif(OBSTACLE is not None, reason=OBSTACLE or "")

FOUND_S = 30.0  # two announcements, a dial, and what a loaded machine takes


@pytest.fixture
def lan() -> Iterator[Bridge]:
    with Bridge(2) as bridge:
        yield bridge


def wait_connected(device: Device) -> None:
    limit = time.monotonic() + FOUND_S
    while not any(peer["state"] == "connected" for peer in device.run("peers")["peers"]):
        assert time.monotonic() < limit, device.run("peers")
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("listen", "first", "second"),
    [
        ("0.0.0.0:0", ("10.77.0.1/24", "10.77.0.2/24"), ("10.77.0.11/24", "10.77.0.12/24")),
        ("[::]:0", ("fd77::1/64", "fd77::2/64"), ("fd77::11/64", "fd77::12/64")),
    ],
    ids=["ipv4", "ipv6"],
)
def test_devices_find_each_other_by_lan_discovery_alone(
    tmp_path: Path, lan: Bridge, listen: str, first: tuple[str, str], second: tuple[str, str]
) -> None:
    """Every address and port that either of them ever knew is gone: only the LAN can bring them together."""
    for machine in range(2):
        lan.set_address(machine, first[machine])
    with (
        Device(tmp_path / "a", "ada", listen=listen, lan=True, prefix=lan.prefix(0)) as ada,
        Device(tmp_path / "b", "ben", listen=listen, lan=True, prefix=lan.prefix(1)) as ben,
    ):
        ada.up()
        ben.join(ada.run("invite")["ticket"])
        ada.stop()
        ben.stop()
        for machine in range(2):
            lan.drop_address(machine, first[machine])
            lan.set_address(machine, second[machine])
        ada.up()
        ben.up()
        wait_connected(ada)
        wait_connected(ben)
        (tmp_path / "a" / "hello.txt").write_text("over the LAN")
        link = ada.run("share", str(tmp_path / "a" / "hello.txt"), "--wait")["link"]
        ben.run("get", link, str(tmp_path / "b"))
        assert (tmp_path / "b" / "hello.txt").read_text() == "over the LAN"


def test_without_lan_discovery_devices_that_moved_stay_apart(tmp_path: Path, lan: Bridge) -> None:
    """The control of the test above: with --no-lan nothing brings them together."""
    for machine, address in enumerate(("10.77.0.1/24", "10.77.0.2/24")):
        lan.set_address(machine, address)
    with (
        Device(tmp_path / "a", "ada", listen="0.0.0.0:0", prefix=lan.prefix(0)) as ada,
        Device(tmp_path / "b", "ben", listen="0.0.0.0:0", prefix=lan.prefix(1)) as ben,
    ):
        ada.up()
        ben.join(ada.run("invite")["ticket"])
        ada.stop()
        ben.stop()
        for machine, (old, new) in enumerate((("1", "11"), ("2", "12"))):
            lan.drop_address(machine, f"10.77.0.{old}/24")
            lan.set_address(machine, f"10.77.0.{new}/24")
        ada.up()
        ben.up()
        time.sleep(8)
        assert ada.run("status")["peers"] == 0
