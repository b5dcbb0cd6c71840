"""The gateway machine: retries, the fall back to NAT-PMP, ends; the codec, byte by byte."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.errors import MalformedMessage
from shoal.transport.reach.gateway import parse_route_get, parse_routes
from shoal.transport.reach.gateway_machine import (
    AGAIN_S,
    Begin,
    Closed,
    Effect,
    Failed,
    GatewayMachine,
    Heard,
    Opened,
    Order,
    Say,
    Timer,
    Unheard,
    has_restarted,
)
from shoal.transport.reach.pcp import pack_pcp, pack_pmp_map, parse_pcp, parse_pmp_address, parse_pmp_map

OWN = ipaddress.IPv4Address("192.168.7.2")
NONCE = bytes(range(12))
PCP_REQUEST = bytes.fromhex(
    "02010000"
    "00000e10"
    "00000000000000000000ffffc0a80702"
    "000102030405060708090a0b"
    "06000000"
    "1cf3"
    "1cf3"
    "00000000000000000000ffff00000000"
)
PCP_ANSWER = bytes.fromhex(
    "02810000"
    "00000708"
    "0000002a"
    "000000000000000000000000"
    "000102030405060708090a0b"
    "06000000"
    "1cf3"
    "1cf4"
    "00000000000000000000ffffcb007109"
)
PMP_REQUEST = bytes.fromhex("000200001cf31cf300000e10")
PMP_ADDRESS = bytes.fromhex("008000000000002acb007109")
PMP_ANSWER = bytes.fromhex("008200000000002a1cf31cf400000e10")
PMP_VERSION = bytes.fromhex("008000010000002a")


def make(**fields: object) -> GatewayMachine:
    return GatewayMachine(Order(7411, OWN, NONCE, 3600, **fields))  # type: ignore[arg-type]


def run(machine: GatewayMachine, *events: object) -> list[Effect]:
    """Return the effects of the last event."""
    effects: list[Effect] = []
    for event in events:
        effects = machine.step(0.0, event)  # type: ignore[arg-type]
    return effects


def test_the_bytes_of_both_protocols() -> None:
    assert pack_pcp(OWN, NONCE, 7411, 7411, 3600) == PCP_REQUEST
    answer = parse_pcp(PCP_ANSWER, NONCE, 7411)
    assert answer is not None
    assert (answer.result, answer.lifetime_s, answer.epoch, answer.port) == (0, 1800, 42, 7412)
    assert str(answer.ip) == "203.0.113.9"
    assert parse_pcp(PMP_VERSION, NONCE, 7411) is None
    assert pack_pmp_map(7411, 7411, 3600) == PMP_REQUEST
    assert str(parse_pmp_address(PMP_ADDRESS).ip) == "203.0.113.9"
    assert parse_pmp_map(PMP_ANSWER, 7411).port == 7412


@given(st.binary(max_size=80))
def test_decoders_raise_nothing_but_malformed_message(data: bytes) -> None:
    for parse in (
        lambda: parse_pcp(data, NONCE, 7411),
        lambda: parse_pmp_address(data),
        lambda: parse_pmp_map(data, 1),
    ):
        try:
            parse()
        except MalformedMessage:
            pass


@given(st.integers(0, 59), st.binary(min_size=1, max_size=1))
def test_no_single_byte_changed_makes_another_request_s_answer_ours(place: int, byte: bytes) -> None:
    changed = PCP_ANSWER[:place] + byte + PCP_ANSWER[place + 1 :]
    same = changed == PCP_ANSWER
    if place in (0, 1, *range(24, 37), 40, 41) and not same:
        with pytest.raises(MalformedMessage):
            parse_pcp(changed, NONCE, 7411)


def test_pcp_opens() -> None:
    machine = make()
    assert run(machine, Begin()) == [Say(PCP_REQUEST, AGAIN_S[0])]
    assert run(machine, Heard(PCP_ANSWER)) == [
        Opened(ipaddress.IPv4Address("203.0.113.9"), 7412, 1800.0, 42, "PCP")
    ]
    assert run(machine, Heard(PCP_ANSWER), Timer(), Unheard()) == []


def test_a_silent_router_is_asked_three_times_by_each_and_given_up() -> None:
    machine = make()
    effects = run(machine, Begin())
    said: list[bytes] = []
    waited_s = 0.0
    while isinstance(effects[0], Say):
        said.append(effects[0].data)
        waited_s += effects[0].wait_s
        effects = run(machine, Timer())
    assert said == [PCP_REQUEST] * 3 + [bytes(2)] * 3
    assert waited_s <= 4.0
    assert effects == [Failed("the router answered neither PCP nor NAT-PMP", False)]


def test_nat_pmp_asks_for_the_address_and_then_for_the_port() -> None:
    machine = make()
    assert run(machine, Begin(), Heard(PMP_VERSION)) == [Say(bytes(2), AGAIN_S[0])]
    assert run(machine, Heard(PMP_ADDRESS)) == [Say(PMP_REQUEST, AGAIN_S[0])]
    opened = run(machine, Heard(PMP_ADDRESS), Heard(PMP_ANSWER))
    assert opened == [Opened(ipaddress.IPv4Address("203.0.113.9"), 7412, 3600.0, 42, "NAT-PMP")]


def test_closing_asks_by_the_protocol_that_opened_and_no_other() -> None:
    machine = make(close=True, protocol="NAT-PMP")
    assert run(machine, Begin()) == [Say(bytes.fromhex("000200001cf3000000000000"), AGAIN_S[0])]
    assert run(machine, Heard(bytes.fromhex("008200000000002a1cf3000000000000"))) == [Closed()]
    machine = make(close=True)
    assert isinstance(run(machine, Begin(), Timer(), Timer(), Timer())[0], Failed)


@pytest.mark.parametrize("code", range(1, 16))
def test_every_refusal_ends_it_with_words(code: int) -> None:
    refusal = PCP_ANSWER[:3] + bytes([code]) + PCP_ANSWER[4:]
    effects = run(make(), Begin(), Heard(refusal))
    assert isinstance(effects[0], Failed)
    assert effects[0].heard
    assert effects[0].why.startswith("the router refused: ")
    assert run(make(), Begin(), Heard(refusal[:24])) == effects  # RFC 6887 section 8.3: errors may be short


def test_an_answer_without_port_or_lifetime_opens_nothing() -> None:
    for data in (PCP_ANSWER[:42] + b"\0\0" + PCP_ANSWER[44:], PCP_ANSWER[:4] + bytes(4) + PCP_ANSWER[8:]):
        assert run(make(), Begin(), Heard(data)) == [Failed("the router's answer opens nothing", True)]


def test_a_router_that_lost_its_mappings_is_told_by_its_epoch() -> None:
    assert not has_restarted((0.0, 100), (1800.0, 1900))
    assert not has_restarted((0.0, 100), (1800.0, 1850))  # its clock is slow
    assert has_restarted((0.0, 100), (1800.0, 20))
    assert has_restarted((0.0, 100), (1800.0, 400))
    assert has_restarted((0.0, 100), (60.0, 4000))


def test_the_gateway_is_the_default_route_of_the_lowest_metric() -> None:
    head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    lan = "eth0 0007A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
    slow = "wlan0 00000000 0107A8C0 0003 0 0 600 00000000 0 0 0\n"
    quick = "eth0 00000000 FE07A8C0 0003 0 0 100 00000000 0 0 0\n"
    unreachable = "lo 00000000 00000000 0200 0 0 1 00000000 0 0 0\n"
    assert parse_routes(head + lan + slow + quick + unreachable) == "192.168.7.254"
    assert parse_routes(head + lan) is None
    assert parse_routes("") is None
    assert parse_routes(head + "nonsense\n") is None
    assert (
        parse_route_get("   route to: default\n    gateway: 192.168.7.1\n  interface: en0\n") == "192.168.7.1"
    )
    assert parse_route_get("    gateway: link#4\n") is None
