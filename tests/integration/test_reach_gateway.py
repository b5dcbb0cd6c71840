"""Asking a router by PCP and NAT-PMP over real UDP on loopback: who agrees, refuses, is silent, lies."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from tests.support.fake_gateway import open_gateway
from tests.support.transport_nodes import wait_until

from shoal.core.errors import Unavailable
from shoal.transport.reach import mapper as mapper_module
from shoal.transport.reach.gateway import ask_gateway
from shoal.transport.reach.gateway_machine import Opened
from shoal.transport.reach.mapper import Mapper

NONCE = b"n" * 12
_NUMBERS = itertools.count(1)


def make_host() -> str:
    """Return a loopback address of this test's own."""
    return f"127.53.51.{next(_NUMBERS)}"


async def test_pcp_opens_a_port_and_closes_it() -> None:
    host = make_host()
    async with open_gateway(host, "pcp") as (_, seen):
        opened = await ask_gateway(host, 7411, NONCE, 3600)
        assert isinstance(opened, Opened)
        assert (str(opened.ip), opened.port, opened.protocol) == ("203.0.113.9", 7411, "PCP")
        await ask_gateway(host, 7411, NONCE, 3600, "PCP", close=True)
        assert seen == ["PCP map 7411 3600", "PCP delete 7411 0"]


async def test_a_router_that_knows_no_pcp_is_asked_by_nat_pmp() -> None:
    host = make_host()
    async with open_gateway(host, "nat-pmp") as (_, seen):
        opened = await ask_gateway(host, 7411, NONCE, 3600)
        assert isinstance(opened, Opened)
        assert (str(opened.ip), opened.port, opened.protocol) == ("203.0.113.9", 7412, "NAT-PMP")
        assert seen == ["PCP map 7411 3600", "NAT-PMP address", "NAT-PMP map 7411 3600"]


async def test_where_nobody_listens_that_is_known_at_once() -> None:
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable) as caught:
            await ask_gateway(make_host(), 7411, NONCE, 3600)
    assert caught.value.code == "no_router"


async def test_a_refusal_is_told_in_words() -> None:
    host = make_host()
    async with open_gateway(host, "refuses"):
        with pytest.raises(Unavailable, match="does not allow it") as caught:
            await ask_gateway(host, 7411, NONCE, 3600)
    assert caught.value.code == "refused"


@pytest.mark.parametrize("lie", ["nonce", "short", "opcode", "port"])
async def test_what_does_not_fit_the_request_opens_nothing(lie: str) -> None:
    host = make_host()
    async with open_gateway(host, lie) as (gateway, seen):
        asking = asyncio.ensure_future(ask_gateway(host, 7411, NONCE, 3600))
        await wait_until(lambda: len(seen) >= 2)  # it asked again: the answers were as if none had come
        gateway.kind = "pcp"
        opened = await asking
        assert isinstance(opened, Opened)
        assert str(opened.ip) == "203.0.113.9"


async def run_mapper(monkeypatch: pytest.MonkeyPatch, host: str) -> Mapper:
    """Return a mapper that has asked once; UPnP finds nobody."""

    async def find_gateway() -> str:
        return host

    async def no_child(action: str, port: int, timeout_s: float) -> object:
        raise Unavailable("The router did nothing", cause="no router answered", code="no_router")

    monkeypatch.setattr(mapper_module, "find_gateway", find_gateway)
    monkeypatch.setattr(mapper_module, "_run_child", no_child)
    mapper = Mapper(lambda: 7411, lambda: None)
    await mapper._map()
    return mapper


async def test_the_mapper_opens_renews_and_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host()
    async with open_gateway(host, "pcp") as (gateway, seen):
        mapper = await run_mapper(monkeypatch, host)
        assert (str(mapper.address), mapper.protocol) == ("203.0.113.9:7411", "PCP")
        gateway.epoch = 0  # it restarted
        await mapper._map()
        assert str(mapper.address) == "203.0.113.9:7411"
        await mapper.close()
        await mapper.close()
        assert seen == ["PCP map 7411 3600", "PCP map 7411 3600", "PCP delete 7411 0"]


@pytest.mark.parametrize(
    ("outer", "words"),
    [
        ("0.0.0.0", "0.0.0.0"),
        ("10.9.8.7", "behind another NAT"),
        ("100.64.1.1", "behind another NAT"),
        ("127.0.0.1", "127.0.0.1"),
        ("224.0.0.1", "224.0.0.1"),
    ],
)
async def test_an_outer_address_that_leads_nowhere_is_not_told_to_others(
    monkeypatch: pytest.MonkeyPatch, outer: str, words: str
) -> None:
    host = make_host()
    async with open_gateway(host, "pcp", outer) as (_, seen):
        mapper = await run_mapper(monkeypatch, host)
        assert mapper.address is None
        assert words in mapper.error
        assert seen[-1] == "PCP delete 7411 0"  # nothing stays open that is of no use


async def test_a_lease_is_renewed_in_time_whatever_the_router_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for said_s, renew_s in ((1, 60.0), (600, 300.0), (2**32 - 1, 600.0)):
        host = make_host()
        async with open_gateway(host, "pcp") as (gateway, _):
            gateway.lifetime_s = said_s
            mapper = await run_mapper(monkeypatch, host)
            assert mapper._mapped is not None
            assert mapper._mapped.renew_s == renew_s
