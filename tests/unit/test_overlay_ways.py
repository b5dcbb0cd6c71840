"""The order in which addresses and relays of a peer are tried."""

from __future__ import annotations

import pytest

from shoal.overlay.ways import is_elsewhere, order_ways

OWN = ["192.168.1.7:4711", "203.0.113.5:4711", "[fd00:1:2::7]:4711"]


@pytest.mark.parametrize(
    ("address", "elsewhere"),
    [
        ("192.168.9.3:4711", False),  # perhaps the next floor
        ("10.2.0.2:4711", True),
        ("100.64.3.4:4711", True),
        ("203.0.113.77:4711", False),
        ("8.8.8.8:4711", False),
        ("127.0.0.1:4711", False),
        ("name.example:4711", False),
        ("[fd00:1:2:5::9]:4711", False),
        ("[fd00:9::9]:4711", True),
        ("[2001:db8::1]:4711", False),
        ("nonsense", False),
    ],
)
def test_an_inner_address_of_another_place_is_known_as_that(address: str, elsewhere: bool) -> None:
    assert is_elsewhere(address, OWN) is elsewhere


def test_relays_come_second_and_first_where_the_address_cannot_be_right() -> None:
    assert order_ways(["192.0.2.1:1", "10.2.0.2:1"], ["via r"], OWN) == ["192.0.2.1:1", "via r", "10.2.0.2:1"]
    assert order_ways(["10.2.0.2:1", "10.3.0.2:1"], ["via r"], OWN) == ["via r", "10.2.0.2:1", "10.3.0.2:1"]
    assert order_ways([], ["via r"], OWN) == ["via r"]
    assert order_ways(["10.2.0.2:1"], [], OWN) == ["10.2.0.2:1"]
