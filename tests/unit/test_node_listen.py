"""Listen: the default gives way, what was named does not, and a picked port is kept over restarts."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from shoal.node.listen import choose_listen, describe_fault, find_fault, pack_addresses, unpack_addresses
from shoal.transport.address import Address


@pytest.fixture
def taken() -> Iterator[Address]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)
        yield Address("127.0.0.1", sock.getsockname()[1])


def test_a_named_address_is_taken_as_it_is(taken: Address) -> None:
    assert choose_listen([taken], is_default=False) == [taken]


def test_the_default_gives_way(taken: Address) -> None:
    nowhere = Address("192.0.2.1", 9)
    assert choose_listen([taken, nowhere], is_default=True) == [Address("127.0.0.1", 0)]
    fault = find_fault(taken)
    assert fault is not None
    assert describe_fault(fault) == "it is in use"


def test_a_picked_port_is_kept_while_it_is_free(taken: Address) -> None:
    any_port = Address("127.0.0.1", 0)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        free = Address("127.0.0.1", sock.getsockname()[1])
    assert choose_listen([any_port], False, [free]) == [free]
    assert choose_listen([any_port], False, [taken]) == [any_port]
    assert choose_listen([any_port, any_port], False, [free]) == [free, any_port]
    assert choose_listen([Address("::1", 0)], False, [free]) == [Address("::1", 0)]


def test_addresses_survive_packing() -> None:
    addresses = [Address("127.0.0.1", 4), Address("::1", 5)]
    assert unpack_addresses(pack_addresses(addresses)) == addresses
    assert unpack_addresses(None) == []
    assert unpack_addresses(b"\xff") == []
