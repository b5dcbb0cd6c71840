"""LAN search: what a joiner asks, in which order, how fast, and where it stops, whatever is announced."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from contextlib import aclosing

import pytest

from shoal.transport import lan_search
from shoal.transport.announcement import make_announcement
from shoal.transport.interfaces import InterfaceAddress
from shoal.transport.lan_link import LanLink
from shoal.transport.lan_search import INSTANCES, LanSearch
from shoal.transport.multicast import Heard

LINK = LanLink("eth7", 7, (InterfaceAddress("eth7", "10.9.0.1", 16, 7),), ("10.9.0.1",))


def announce(number: int, *hosts: str, name: str | None = None) -> Heard:
    """Return what is heard of one instance."""
    made = make_announcement(b"d" * 32, number.to_bytes(16, "big"), 4000, b"p" * 32)
    packed = tuple(ipaddress.ip_address(host).packed for host in hosts)
    return Heard(name or f"{number:016x}._shoal._tcp.local.", made.text, 4000, packed)


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> LanSearch:
    """A search on no link at all, that waits for little."""
    monkeypatch.setattr(lan_search, "find_links", lambda *args: [])
    monkeypatch.setattr(lan_search, "DIALS_S", 0.01)
    monkeypatch.setattr(lan_search, "LISTEN_S", 0.05)
    return LanSearch(None)


async def collect(search: LanSearch) -> list[str]:
    async with aclosing(search.find()) as found:
        return [str(address) async for address in found]


async def test_first_addresses_of_everybody_come_before_second_ones(search: LanSearch) -> None:
    for number in (1, 2):
        hosts = [f"10.9.{number}.{n}" for n in (1, 2, 3)]
        search._on_heard(LINK, announce(number, *hosts))
    assert await collect(search) == [f"10.9.{n}.{i}:4000" for i in (1, 2) for n in (1, 2)]


async def test_a_flood_is_cut_off_and_nothing_is_asked_twice(search: LanSearch) -> None:
    for number in range(1, 5000):
        search._on_heard(LINK, announce(number, f"10.9.{number % 200}.{number % 100 + 2}"))
        search._on_heard(LINK, announce(number, f"10.9.{number % 200}.{number % 100 + 2}"))
    found = await collect(search)
    assert len(found) == len(set(found)) == INSTANCES


async def test_addresses_elsewhere_are_never_asked(search: LanSearch) -> None:
    for number, host in enumerate(
        ("127.0.0.1", "169.254.169.254", "8.8.8.8", "224.0.0.251", "10.9.255.255"), 1
    ):
        search._on_heard(LINK, announce(number, host))
    search._on_heard(LINK, Heard("x._shoal._tcp.local.", b"\x03v=9", 4000, (b"\x0a\x09\x02\x02",)))
    assert await collect(search) == []


async def test_dials_keep_their_distance_and_the_whole_is_bounded(
    search: LanSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lan_search, "DIALS_S", 0.1)
    monkeypatch.setattr(lan_search, "SEARCH_LIMIT_S", 0.45)
    for number in range(1, 30):
        search._on_heard(LINK, announce(number, f"10.9.3.{number + 1}"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    times = []
    async with aclosing(search.find()) as found:
        async for _ in found:
            times.append(loop.time() - began)
    assert len(times) <= 5
    assert all(later - earlier >= 0.09 for earlier, later in itertools.pairwise(times))
    assert loop.time() - began < 2.0
