"""Discovery without a network: bytes, what is believed and remembered, limits, links that come and go."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from zeroconf import (  # type: ignore[attr-defined]
    DNSAddress,
    DNSRecord,
    DNSService,
    DNSText,
    RecordUpdate,
)

from shoal.core.errors import Unavailable
from shoal.core.observation import Observation
from shoal.core.supervisor import Supervisor
from shoal.testing.clock import ManualClock
from shoal.transport import discovery as discovery_module
from shoal.transport.address import Address
from shoal.transport.announcement import (
    SERVICE_TYPE,
    Announcement,
    Search,
    is_instance_name,
    make_announcement,
    parse_announcement,
)
from shoal.transport.discovery import LOOK_S, RETRY_FIRST_S, Discovery
from shoal.transport.interfaces import ADDRESSES, InterfaceAddress
from shoal.transport.lan_link import LINKS, LanLink, believe_addresses, find_links
from shoal.transport.multicast import Heard, LinkVoice
from shoal.transport.sightings import KNOWN, OFFERS_BURST, STRANGERS, WAITING, Found, Sighting, Sightings

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "spec/vectors/discovery.json").read_text())
DOOR_KEY, OLD_KEY = b"d" * 32, b"o" * 32
OWN, ANNA, BEN = (bytes([number]) * 32 for number in (1, 2, 3))
ETH = InterfaceAddress("eth0", "192.0.2.1", 24, 2)
ETH_LOCAL = InterfaceAddress("eth0", "fe80::1", 64, 2)
ETH_SIX = InterfaceAddress("eth0", "2001:db8::1", 64, 2)
WIFI = InterfaceAddress("wlan0", "198.51.100.1", 25, 3)
LOOP = InterfaceAddress("lo", "127.0.0.1", 8, 1)
LOOP_SIX = InterfaceAddress("lo", "::1", 128, 1)


def pack(*texts: str) -> list[bytes]:
    return [InterfaceAddress("x", text, 0).literal.packed for text in texts]


def make_link(*addresses: InterfaceAddress) -> LanLink:
    [link] = find_links(addresses, [addresses[0].interface], lambda own: True)
    return link


# Bytes


@pytest.mark.parametrize("row", VECTORS["announcements"])
def test_announcements_are_those_of_the_vectors(row: dict[str, Any]) -> None:
    key, nonce, peer = (bytes.fromhex(row[name]) for name in ("door_key", "nonce", "peer_id"))
    made = make_announcement(key, nonce, row["port"], peer)
    assert (made.mac.hex(), made.text.hex()) == (row["mac"], row["text"])
    assert parse_announcement(bytes.fromhex(row["text"]), row["port"]) == made
    assert made.is_by(key, peer)
    assert not made.is_by(key, OWN)
    assert not Announcement(nonce, made.mac, row["port"] ^ 1).is_by(key, peer)  # replayed with another port


def test_other_ways_to_write_an_announcement() -> None:
    first = next(row for row in VECTORS["announcements"] if row["port"] == 4711)
    for why, text in VECTORS["same_as_first_of_4711"].items():
        parsed = parse_announcement(bytes.fromhex(text), 4711)
        assert parsed is not None, why
        assert parsed.mac.hex() == first["mac"], why


@pytest.mark.parametrize("why", VECTORS["invalid"])
def test_what_is_no_announcement(why: str) -> None:
    assert parse_announcement(bytes.fromhex(VECTORS["invalid"][why]), 4711) is None


def test_any_bytes_are_read_without_an_error() -> None:
    rng = random.Random(7)
    text = make_announcement(DOOR_KEY, b"n" * 16, 1, ANNA).text
    for _ in range(2_000):
        changed = bytearray(text[: rng.randrange(len(text) + 1)] + rng.randbytes(rng.randrange(8)))
        for _ in range(rng.randrange(3)):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        parse_announcement(bytes(changed), rng.randrange(-1, 65_537))


def test_names_of_instances() -> None:
    assert is_instance_name("0123456789abcdef._shoal._tcp.local.")
    for name in (
        "_shoal._tcp.local.",
        "0123456789abcdeg._shoal._tcp.local.",
        "\ufffd" * 16 + "._shoal._tcp.local.",
    ):
        assert not is_instance_name(name)


# Search


def test_a_search_tries_every_member_with_every_key_in_slices() -> None:
    members = [bytes([number]) * 32 for number in range(10, 20)]
    announcement = make_announcement(OLD_KEY, b"n" * 16, 5, members[7])
    search = Search(announcement, [DOOR_KEY, OLD_KEY], members)
    assert search.left == 20
    assert search.advance(17) is None
    assert search.left == 3
    assert search.advance(100) == members[7]
    nobody = Search(announcement, [DOOR_KEY], members)
    assert nobody.advance(100) is None
    assert nobody.left == 0
    assert Search(announcement, [], members).advance(5) is None


# Links


def test_links_are_interfaces_with_what_can_be_bound_and_no_loopback() -> None:
    links = find_links([LOOP, LOOP_SIX, WIFI, ETH, ETH_LOCAL, ETH_SIX], None, lambda own: own != ETH_SIX)
    assert [(link.name, link.addresses, link.multicast) for link in links] == [
        ("eth0", (ETH, ETH_LOCAL), ("192.0.2.1", "fe80::1")),
        ("wlan0", (WIFI,), ("198.51.100.1",)),
    ]
    assert not any(link.is_loopback for link in links)


def test_links_can_be_named_and_then_loopback_is_one() -> None:
    links = find_links([LOOP, LOOP_SIX, WIFI, ETH], ["lo", "none"], lambda own: True)
    assert [(link.name, link.multicast, link.is_loopback) for link in links] == [("lo", ("127.0.0.1",), True)]


def test_an_address_that_two_interfaces_have_is_named_by_index() -> None:
    twins = [InterfaceAddress(name, "fe80::1", 64, index) for name, index in (("a", 4), ("b", 5))]
    assert [link.multicast for link in find_links(twins, None, lambda own: True)] == [(4,), (5,)]


def test_at_most_so_many_links_and_those_with_routable_addresses_first() -> None:
    many = [InterfaceAddress(f"veth{n:03}", f"fe80::{n + 1:x}", 64, n + 10) for n in range(100)]
    links = find_links([*many, WIFI], None, lambda own: True)
    assert len(links) == LINKS
    assert links[0].name == "wlan0"


def test_only_addresses_of_the_link_are_believed() -> None:
    link = make_link(ETH, ETH_LOCAL, ETH_SIX)
    believed = believe_addresses(
        link,
        [*pack(
            "fe80::2", "192.0.2.9", "2001:db8::9",
            "198.51.100.9", "8.8.8.8", "2001:db9::1", "127.0.0.1", "::1", "0.0.0.0", "::",
            "224.0.0.251", "ff02::fb", "255.255.255.255", "192.0.2.255", "192.0.2.0", "169.254.169.254",
            "::ffff:192.0.2.9",
        ), b"", b"123"],
        4711,
        4711,
    )  # fmt: skip
    assert [str(address) for address in believed] == [
        "192.0.2.9:4711",
        "[2001:db8::9]:4711",
        "[fe80::2%eth0]:4711",
    ]


def test_ourselves_is_not_believed_but_another_node_of_this_machine_is() -> None:
    link = make_link(ETH)
    assert believe_addresses(link, pack("192.0.2.1"), 4711, 4711) == ()
    assert believe_addresses(link, pack("192.0.2.1"), 4712, 4711) == (Address("192.0.2.1", 4712),)


def test_ipv4_link_local_is_never_believed_even_on_such_a_link() -> None:
    link = make_link(InterfaceAddress("eth0", "169.254.7.7", 16, 2))
    assert believe_addresses(link, pack("169.254.169.254"), 80, 1) == ()


def test_loopback_is_believed_on_loopback_only() -> None:
    link = make_link(LOOP, LOOP_SIX)
    assert believe_addresses(link, pack("127.0.0.1", "192.0.2.1"), 4712, 4711) == (
        Address("127.0.0.1", 4712),
    )


def test_of_many_addresses_few_are_kept() -> None:
    crowd = pack(*(f"192.0.2.{n}" for n in range(2, 200)))
    assert len(believe_addresses(make_link(ETH), crowd, 4711, 1)) == ADDRESSES


def test_a_strange_interface_name_gives_a_numeric_scope() -> None:
    link = make_link(InterfaceAddress("Ethernet Adapter (WLAN)", "fe80::1", 64, 7))
    assert believe_addresses(link, pack("fe80::2"), 1, 2) == (Address("fe80::2%7", 1),)


# Packets


def hear(*records: DNSRecord) -> list[Heard]:
    heard: list[Heard] = []
    voice = LinkVoice(make_link(ETH), lambda link, each: heard.append(each))
    voice.async_update_records(None, 0.0, [RecordUpdate(record, None) for record in records])  # type: ignore[arg-type]
    return heard


def make_records(name: str = "0123456789abcdef", ttl: int = 120) -> tuple[DNSRecord, DNSRecord, DNSRecord]:
    instance, host = f"{name}.{SERVICE_TYPE}", "host.local."
    return (
        DNSService(instance, 33, 1, ttl, 0, 0, 4711, host),
        DNSText(instance, 16, 1, ttl, b"text"),
        DNSAddress(host, 1, 1, ttl, pack("192.0.2.9")[0]),
    )


def test_an_answer_is_taken_whole_out_of_one_packet() -> None:
    service, text, address = make_records()
    unrelated = DNSAddress("printer.local.", 1, 1, 120, pack("192.0.2.10")[0])
    name = f"0123456789abcdef.{SERVICE_TYPE}"
    assert hear(address, unrelated, text, service) == [Heard(name, b"text", 4711, tuple(pack("192.0.2.9")))]
    assert hear(service, text) == [Heard(name, b"text", 4711, ())]
    assert hear(text, address) == []
    assert hear(service, address) == []


def test_goodbyes_and_other_services_are_not_heard() -> None:
    assert hear(*make_records(ttl=0)) == []
    assert hear(*make_records("somebody's printer")) == []


# Sightings


def make_sightings(*members: bytes, keys: Iterable[bytes] = (DOOR_KEY,)) -> Sightings:
    sightings = Sightings(OWN, 0.0)
    sightings.update([OWN, *members], list(keys))
    return sightings


def make_sighting(
    peer: bytes, *hosts: str, key: bytes = DOOR_KEY, nonce: int = 0, link: str = "eth0", port: int = 4711
) -> Sighting:
    announcement = make_announcement(key, nonce.to_bytes(16, "big"), port, peer)
    return Sighting(
        link, f"{nonce:016x}", announcement, tuple(Address(host, port) for host in hosts or ("192.0.2.9",))
    )


def work(sightings: Sightings, now: float = 0.0) -> None:
    while sightings.work(now) == 0.0:
        pass


def take_all(sightings: Sightings, now: float = 0.0, seconds: int = 60) -> list[Found]:
    found = (sightings.take_found(now + second) for second in range(seconds))
    return [each for each in found if each is not None]


def test_a_member_is_found_once_however_often_it_is_heard() -> None:
    sightings = make_sightings(ANNA, BEN)
    for _ in range(3):
        assert sightings.offer(0.0, make_sighting(BEN))
        work(sightings)
    assert take_all(sightings) == [Found(BEN, Address("192.0.2.9", 4711))]
    assert len(sightings) == 1


def test_strangers_the_removed_ourselves_and_foreign_door_keys_are_not_found() -> None:
    sightings = make_sightings(ANNA)
    for nonce, sighting in enumerate(
        (
            make_sighting(BEN, nonce=1),
            make_sighting(OWN, nonce=2),
            make_sighting(ANNA, nonce=3, key=OLD_KEY),
            make_sighting(ANNA, nonce=4)._replace(announcement=Announcement(bytes(16), bytes(32), 4711)),
        ),
        start=1,
    ):
        sightings.offer(0.0, sighting)
        work(sightings)
        assert len(sightings) == nonce
    assert take_all(sightings) == []


def test_an_older_door_key_is_recognised_up_to_sixteen() -> None:
    keys = [bytes([number]) * 32 for number in range(100, 120)]
    sightings = make_sightings(ANNA, BEN, keys=keys)
    sightings.offer(0.0, make_sighting(ANNA, key=keys[15], nonce=1))
    sightings.offer(0.0, make_sighting(BEN, key=keys[16], nonce=2))
    work(sightings)
    assert [found.peer_id for found in take_all(sightings)] == [ANNA]


def test_a_copied_announcement_with_another_port_is_nobodys() -> None:
    sightings = make_sightings(ANNA)
    real = make_sighting(ANNA)
    copied = Announcement(real.announcement.nonce, real.announcement.mac, 22)
    sightings.offer(0.0, real._replace(announcement=copied, addresses=(Address("192.0.2.66", 22),)))
    work(sightings)
    assert take_all(sightings) == []


def test_copies_with_ever_new_addresses_cost_a_bounded_number_of_reports() -> None:
    sightings = make_sightings(ANNA)
    for number in range(100):
        sightings.offer(number * 1.0, make_sighting(ANNA, f"192.0.2.{number + 1}"))
        work(sightings, number * 1.0)
    assert len(take_all(sightings, 100.0)) == ADDRESSES


def test_reports_are_one_a_second_and_members_take_turns() -> None:
    sightings = make_sightings(ANNA, BEN)
    sightings.offer(0.0, make_sighting(ANNA, "192.0.2.2", "192.0.2.3", nonce=1))
    sightings.offer(0.0, make_sighting(BEN, "192.0.2.4", nonce=2))
    work(sightings)
    taken = [(at / 4, found) for at in range(40) if (found := sightings.take_found(at / 4)) is not None]
    assert [(at, found.address.host) for at, found in taken] == [
        (0.0, "192.0.2.2"),
        (1.0, "192.0.2.4"),
        (2.0, "192.0.2.3"),
    ]
    assert sightings.found_wait_s(10.0) is None


def test_who_announced_before_being_known_as_a_member_is_found_then() -> None:
    sightings = make_sightings(ANNA)
    sightings.offer(0.0, make_sighting(BEN))
    work(sightings)
    assert take_all(sightings) == []
    sightings.update([OWN, ANNA, BEN], [DOOR_KEY])
    work(sightings)
    assert take_all(sightings, 100.0) == [Found(BEN, Address("192.0.2.9", 4711))]


def test_a_new_door_key_lets_everybody_be_tried_again() -> None:
    sightings = make_sightings(ANNA)
    sightings.offer(0.0, make_sighting(ANNA, key=b"new" * 8))
    work(sightings)
    sightings.update([ANNA], [b"new" * 8, DOOR_KEY])
    work(sightings)
    assert [found.peer_id for found in take_all(sightings)] == [ANNA]


def test_a_removed_member_is_not_reported_any_more() -> None:
    sightings = make_sightings(ANNA)
    sightings.offer(0.0, make_sighting(ANNA))
    work(sightings)
    sightings.update([OWN], [DOOR_KEY])
    assert take_all(sightings) == []
    sightings.offer(1.0, make_sighting(ANNA))
    work(sightings, 1.0)
    assert take_all(sightings, 1.0) == []


def test_what_was_heard_on_a_link_that_changed_is_reported_anew() -> None:
    sightings = make_sightings(ANNA, BEN)
    sightings.offer(0.0, make_sighting(ANNA, nonce=1))
    sightings.offer(0.0, make_sighting(BEN, nonce=2, link="wlan0"))
    work(sightings)
    assert sightings.known_names("eth0", 9) == [f"{1:016x}"]
    assert len(take_all(sightings)) == 2
    sightings.forget_link("eth0")
    assert (sightings.known_names("eth0", 9), len(sightings)) == ([], 1)
    for sighting in (make_sighting(ANNA, nonce=1), make_sighting(BEN, nonce=2, link="wlan0")):
        sightings.offer(100.0, sighting)
        work(sightings, 100.0)
    assert [found.peer_id for found in take_all(sightings, 100.0)] == [ANNA]


def test_reports_of_a_link_that_is_gone_are_dropped() -> None:
    sightings = make_sightings(ANNA)
    sightings.offer(0.0, make_sighting(ANNA, "192.0.2.2", "192.0.2.3"))
    work(sightings)
    sightings.forget_link("eth0")
    assert take_all(sightings) == []


def test_a_flood_of_strangers_is_bounded_and_pushes_no_member_out() -> None:
    sightings = make_sightings(ANNA)
    sightings.offer(0.0, make_sighting(ANNA))
    work(sightings)
    taken = sum(sightings.offer(0.0, make_sighting(BEN, nonce=nonce)) for nonce in range(1, 100_000))
    assert taken <= min(OFFERS_BURST, WAITING)
    work(sightings)
    for second in range(1, 20):
        for nonce in range(1_000):
            sightings.offer(second, make_sighting(BEN, nonce=second * 1_000 + nonce))
        work(sightings, second)
        assert len(sightings) <= WAITING + STRANGERS + 1
    assert WAITING + STRANGERS + KNOWN == 256
    assert len(sightings.known_names("eth0", 9)) == 1
    assert len(take_all(sightings)) == 1


def test_tries_are_limited_and_the_rest_waits() -> None:
    crowd = [number.to_bytes(32, "big") for number in range(10_000)]
    sightings = make_sightings(*crowd, keys=[DOOR_KEY, OLD_KEY])
    for nonce in range(3):
        sightings.offer(0.0, make_sighting(BEN, nonce=nonce))
    work(sightings)  # 20,000 tries: one stranger
    wait_s = sightings.work(0.0)
    assert wait_s is not None
    assert 0.0 < wait_s < 1.0
    work(sightings, 1.0)
    work(sightings, 2.0)
    assert sightings.work(3.0) is None
    assert len(sightings) == 3


# The driver


class FakeVoice:
    """Stands for multicast on one link."""

    opened: list[FakeVoice]
    broken: bool

    def __init__(self, link: LanLink, on_heard: Callable[[LanLink, Heard], None]) -> None:
        self.link = link
        self.hear = on_heard
        self.announcement: Announcement | None = None
        self.closed = False
        self.asked = 0

    async def open(self, announcement: Announcement | None) -> None:
        FakeVoice.opened.append(self)
        if FakeVoice.broken:
            raise Unavailable("eth0 cannot be used", cause="no such device")
        self.announcement = announcement

    def ask(self, known: Iterable[str] = ()) -> None:
        self.asked += 1

    async def close(self, goodbye: bool = True) -> None:
        self.closed = True


class Bench:
    """A Discovery whose network, interfaces and waiting are the test's."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.interfaces = [ETH]
        self.port = 4711
        self.keys = [DOOR_KEY]
        self.members = {OWN, ANNA}
        self.clock = ManualClock()
        self.found: list[Found] = []
        self.observed: list[Observation] = []
        self.discovery = Discovery(
            own_id=OWN,
            port=lambda: self.port,
            door_keys=lambda: self.keys,
            members=lambda: self.members,
            on_found=lambda peer, address: self.found.append(Found(peer, address)),
            supervisor=supervisor,
            clock=self.clock,
            observe=self.observed.append,
        )

    async def look(self, seconds: float = LOOK_S) -> list[FakeVoice]:
        """Let time pass and interfaces be looked at; returns what is open."""
        self.clock.advance(seconds)
        await self.discovery._look()
        self.discovery._sightings.update(self.members, self.keys)
        self.discovery._ask_all()
        return [voice for voice in FakeVoice.opened if not voice.closed and not FakeVoice.broken]


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    FakeVoice.opened, FakeVoice.broken = [], False
    made = Bench(Supervisor())
    monkeypatch.setattr(discovery_module, "LinkVoice", FakeVoice)
    monkeypatch.setattr(discovery_module, "can_bind", lambda own: True)
    monkeypatch.setattr(discovery_module, "list_interface_addresses", lambda: list(made.interfaces))
    return made


async def test_each_link_has_a_voice_with_a_nonce_of_its_own(bench: Bench) -> None:
    bench.interfaces = [ETH, WIFI, LOOP]
    voices = await bench.look()
    assert [voice.link.name for voice in voices] == ["eth0", "wlan0"]
    announced = [voice.announcement for voice in voices]
    assert all(each is not None and each.is_by(DOOR_KEY, OWN) and each.port == 4711 for each in announced)
    assert len({each.nonce for each in announced if each is not None}) == 2
    assert await bench.look() == voices


async def test_other_addresses_another_port_or_door_key_mean_new_names(bench: Bench) -> None:
    changes: list[Callable[[], object]] = [
        lambda: setattr(bench, "interfaces", [ETH, ETH_LOCAL]),
        lambda: setattr(bench, "port", 4712),
        lambda: setattr(bench, "keys", [OLD_KEY, DOOR_KEY]),
    ]
    [voice] = await bench.look()
    for change in changes:
        change()
        [after] = await bench.look()
        assert after is not voice
        assert voice.closed
        voice = after
    bench.interfaces = []
    assert await bench.look() == []


async def test_without_port_or_door_key_it_only_listens(bench: Bench) -> None:
    bench.port = 0
    [voice] = await bench.look()
    assert voice.announcement is None
    bench.port, bench.keys = 4711, []
    [voice] = await bench.look()
    assert voice.announcement is None
    bench.keys = [DOOR_KEY]
    [voice] = await bench.look()
    assert voice.announcement is not None


async def test_a_link_that_cannot_be_used_is_observed_and_tried_again_later_or_when_it_changed(
    bench: Bench,
) -> None:
    FakeVoice.broken = True
    for _ in range(4):
        await bench.look(1.0)
    assert len(FakeVoice.opened) == 1
    assert [each.rule for each in bench.observed] == ["lan_unusable"]
    await bench.look(RETRY_FIRST_S)
    assert len(FakeVoice.opened) == 2
    FakeVoice.broken = False
    bench.interfaces = [WIFI]
    assert [voice.link.name for voice in await bench.look(1.0) if voice.link.name == "wlan0"] == ["wlan0"]


async def test_questions_become_rarer(bench: Bench) -> None:
    [voice] = await bench.look()
    for _ in range(3_600):
        await bench.look(1.0)
    assert 15 <= voice.asked <= 20  # 1, 4, 13, 40, 121, 364 s, then every 300 s


async def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that")


async def test_from_hearing_to_finding_and_to_the_end(bench: Bench) -> None:
    async with bench.discovery._supervisor as supervisor:
        await bench.discovery.start()
        await wait_for(lambda: len(FakeVoice.opened) == 1)
        [voice] = FakeVoice.opened
        said = make_announcement(DOOR_KEY, b"n" * 16, 4712, ANNA)
        addresses = tuple(pack("192.0.2.9", "8.8.8.8"))
        voice.hear(voice.link, Heard("x", b"\x03v=1", 4712, addresses))
        voice.hear(voice.link, Heard("x", said.text, 22, addresses))
        voice.hear(voice.link, Heard("x", said.text, 4712, addresses))
        await wait_for(lambda: bool(bench.found))
        assert bench.found == [Found(ANNA, Address("192.0.2.9", 4712))]
        for _ in range(1_000):
            voice.hear(voice.link, Heard("x", said.text, 4712, addresses))
        assert {each.rule for each in bench.observed} == {"lan_flood"}
        closing: Awaitable[None] = bench.discovery.close()
        await closing
        assert voice.closed
        assert bench.discovery.links == []
        voice.hear(voice.link, Heard("x", said.text, 4712, addresses))
        await bench.discovery.close()
        await wait_for(lambda: not any(service.running for service in supervisor.status()))
    assert len(bench.found) == 1


async def test_close_without_start_is_quick(bench: Bench) -> None:
    await bench.discovery.close()
