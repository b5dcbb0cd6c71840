"""Interfaces: which addresses peers are told."""

from __future__ import annotations

import ipaddress

from shoal.transport.address import Address
from shoal.transport.interfaces import (
    InterfaceAddress,
    choose_addresses,
    is_on_link,
    list_interface_addresses,
)

LOOPBACK = [InterfaceAddress("lo", "127.0.0.1", 8), InterfaceAddress("lo", "::1", 128)]
HOME = [
    *LOOPBACK,
    InterfaceAddress("eth0", "192.168.1.7", 24, 2),
    InterfaceAddress("eth0", "fe80::7", 64, 2),
    InterfaceAddress("eth0", "2001:db8::7", 64, 2),
    InterfaceAddress("eth1", "169.254.3.3", 16, 3),
]


def _chosen(*listen: str, interfaces: list[InterfaceAddress] = HOME) -> list[str]:
    return [str(a) for a in choose_addresses([Address.parse(text) for text in listen], interfaces)]


def test_a_wildcard_stands_for_the_addresses_others_can_use() -> None:
    assert _chosen("0.0.0.0:5") == ["192.168.1.7:5"]
    assert _chosen("[::]:6") == ["[2001:db8::7]:6"]
    assert _chosen("0.0.0.0:5", "[::]:6") == ["192.168.1.7:5", "[2001:db8::7]:6"]


def test_a_machine_with_nothing_but_loopback_names_that() -> None:
    assert _chosen("0.0.0.0:5", interfaces=LOOPBACK) == ["127.0.0.1:5"]
    assert _chosen("0.0.0.0:5", interfaces=[]) == []


def test_what_was_named_is_taken_as_it_is() -> None:
    assert _chosen("127.0.0.1:5") == ["127.0.0.1:5"]
    assert _chosen("home.example:5", "10.0.0.1:6") == ["home.example:5", "10.0.0.1:6"]


def test_eight_addresses_in_turns_of_the_families() -> None:
    many = [InterfaceAddress("eth0", f"10.0.0.{n}", 24, 2) for n in range(1, 10)]
    many += [InterfaceAddress("eth0", f"2001:db8::{n}", 64, 2) for n in range(1, 10)]
    chosen = _chosen("0.0.0.0:5", "[::]:5", interfaces=many)
    assert len(chosen) == 8
    assert sum(text.startswith("[") for text in chosen) == 4


def test_on_link_is_what_needs_no_router() -> None:
    assert is_on_link(ipaddress.ip_address("192.168.1.200"), HOME)
    assert is_on_link(ipaddress.ip_address("fe80::99"), HOME)
    assert not is_on_link(ipaddress.ip_address("192.168.2.1"), HOME)
    assert not is_on_link(ipaddress.ip_address("2001:db9::1"), HOME)


def test_this_machine_can_be_asked() -> None:
    found = list_interface_addresses()
    assert any(own.literal.is_loopback for own in found)
    assert found == sorted(found)
