"""Tickets that name relays: their limits, their size as QR codes, and in which order their ways are tried."""

from __future__ import annotations

import dataclasses
import os
import socket

import pytest
from tests.support.identity import make_keys

from shoal.api import schema as s
from shoal.cli.people import _describe_invite, _draw_code
from shoal.core.errors import ConfigFault, LocalMisuse, Refused, RemoteFault, Unavailable
from shoal.identity.ticket import Ticket, TicketRelay, make_guest_pass
from shoal.membership.join_ways import JoinWays
from shoal.node.relay_settings import IDLE_MIN_S, check_relay, describe_relay
from shoal.node.ticket_relays import ADDRESSES_BESIDE, choose_relay_addresses
from shoal.transport.address import Address
from shoal.transport.config import SessionTiming
from shoal.transport.heartbeat import Beat, Heartbeat
from shoal.transport.join_channel import JoinChannel
from shoal.wire.text import Kind, format_text, parse_text

INVITER, RELAY, OTHER = (make_keys(n).peer_id for n in (1, 2, 3))
V4, V6 = "198.151.100.107:51413", "[2001:db8:1234:5678:9abc:def0:1234:5678]:51413"
OLD = Ticket(b"n" * 32, INVITER, bytes(range(16)), 2**31, ("10.9.0.2:7411",))


def test_a_ticket_reads_back_with_its_relays_and_without_them_is_what_it_was() -> None:
    relays = (TicketRelay(RELAY, (V4, V6)), TicketRelay(OTHER, (V4,)))
    ticket = dataclasses.replace(OLD, relays=relays)
    assert Ticket.parse(ticket.to_text()) == ticket
    assert Ticket.parse(OLD.to_text()).relays == ()
    old, new = (parse_text(Kind.TICKET, t.to_text()) for t in (OLD, ticket))
    assert new.startswith(old)


@pytest.mark.parametrize(
    "relays",
    [
        lambda: (TicketRelay(RELAY, (V4,)),) * 2,
        lambda: tuple(TicketRelay(make_keys(n).peer_id, (V4,)) for n in range(2, 5)),
        lambda: (TicketRelay(RELAY, ()),),
        lambda: (TicketRelay(RELAY, (V4,) * 3),),
        lambda: (TicketRelay(RELAY, ("via shp1",)),),
        lambda: (TicketRelay(bytes(32), (V4,)),),
    ],
    ids=["twice", "three", "nowhere", "three addresses", "a way", "no key"],
)
def test_relays_that_no_ticket_has_are_refused(relays) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LocalMisuse):
        dataclasses.replace(OLD, relays=relays())


def test_every_ticket_that_is_cut_or_goes_on_is_refused() -> None:
    whole = parse_text(Kind.TICKET, dataclasses.replace(OLD, relays=(TicketRelay(RELAY, (V4,)),)).to_text())
    old = len(parse_text(Kind.TICKET, OLD.to_text()))
    for data in (
        *(whole[:cut] for cut in range(old + 1, len(whole))),
        whole + b"\0",
        whole[:old] + b"\0",  # no relays are written by leaving them out
        whole[:old] + b"\3" + whole[old + 1 :],
    ):
        with pytest.raises(LocalMisuse):
            Ticket.parse(format_text(Kind.TICKET, data))


def test_passes_differ_by_ticket_network_inviter_and_relay() -> None:
    secret, network = bytes(16), b"n" * 32
    passes = {
        make_guest_pass(secret, network, INVITER, RELAY),
        make_guest_pass(b"s" * 16, network, INVITER, RELAY),
        make_guest_pass(secret, b"m" * 32, INVITER, RELAY),
        make_guest_pass(secret, network, OTHER, RELAY),
        make_guest_pass(secret, network, INVITER, OTHER),
    }
    assert len(passes) == 5


def test_the_largest_ticket_with_relays_is_a_qr_code_that_fits_a_terminal() -> None:
    relays = tuple(TicketRelay(peer, (V4, V6)) for peer in (RELAY, OTHER))
    own = (V4, V6, "192.168.178.101:51413")
    assert len(own) == ADDRESSES_BESIDE
    ticket = dataclasses.replace(OLD, secret=os.urandom(16), addresses=own, relays=relays)
    assert max(map(len, _draw_code(ticket.to_text()))) <= 80 + len("\x1b[97;40m\x1b[0m")


def test_a_ticket_says_where_its_relays_are_for_somebody_elsewhere() -> None:
    inner, outer = Address("192.168.1.7", 7411), Address("198.51.100.7", 7411)
    more = [Address("203.0.113.8", 1), Address("203.0.113.9", 1)]
    unusable = [Address("127.0.0.1", 7411), Address.via(RELAY), Address("198.51.100.7", 0)]
    assert choose_relay_addresses([inner, *unusable, outer, outer]) == (str(outer),)
    assert choose_relay_addresses([inner, outer, *more]) == (str(outer), str(more[0]))
    assert choose_relay_addresses([inner, *unusable]) == (str(inner),)
    assert choose_relay_addresses(unusable) == ()


def test_the_owner_of_a_relay_says_how_many_guests() -> None:
    assert check_relay({}, "here").guests == 4
    assert check_relay({"guests": 0}, "here").guests == 0
    assert "guests 7" in describe_relay(check_relay({"guests": 7}, "here"))
    for wrong in (-1, 65, True, "many"):
        with pytest.raises(ConfigFault):
            check_relay({"guests": wrong}, "here")


def test_a_relay_waits_longer_than_a_session_that_rests_is_silent() -> None:
    timing = SessionTiming()
    beat = Heartbeat(timing, 0.0)
    beat.on_sent(1, 0.0, None)
    beat.on_answer(1, 0.0)
    now = 0.0
    while beat.judge(now, 0.0, False, resting=True) is Beat.NOTHING:
        now += timing.tick_s
    assert now + timing.probe_s < IDLE_MIN_S  # that long the answer may take
    with pytest.raises(ConfigFault):
        check_relay({"idle": f"{int(now)}s"}, "here")
    assert check_relay({"idle": f"{IDLE_MIN_S:g}s"}, "here").idle_s == IDLE_MIN_S


def test_invite_says_over_whom_it_works_or_that_it_does_not() -> None:
    text = OLD.to_text()
    over = "\n".join(_describe_invite(s.Invite(text, None, "later", ["rel", "hub\x1b[2J"]), "member"))
    assert "the ticket works over rel or hub" in over
    assert "\x1b[2J" not in over
    alone = "\n".join(_describe_invite(s.Invite(text, None, "later", notice="nobody can"), "member"))
    assert "Note: nobody can" in alone
    assert "works over" not in alone


class Road:
    """A dialler that writes down what is tried; nothing answers, or as `errors` says."""

    def __init__(self, **errors: Exception) -> None:
        self.tried: list[str] = []
        self.errors = errors

    async def dial_join(
        self,
        inviter: bytes,
        address: Address,
        nonce: bytes,
        mac: bytes,
        timeout_s: float = 8.0,
        sock: socket.socket | None = None,
    ) -> JoinChannel:
        assert inviter == INVITER
        self.tried.append(str(address) if sock is None else "inside")
        if sock is not None:
            sock.close()
        raise self.errors.get("join", Unavailable("no", cause="silence"))

    async def open_guest_way(
        self, relay: bytes, at: Address, guest_pass: bytes, timeout_s: float = 8.0
    ) -> socket.socket:
        assert guest_pass == make_guest_pass(OLD.secret, OLD.network_id, INVITER, relay)
        self.tried.append(f"relay {at}")
        if "relay" in self.errors:
            raise self.errors["relay"]
        return socket.socket()


async def walk(road: Road, ticket: Ticket, own: str = "192.168.1.5:1") -> JoinWays:
    ways = JoinWays(road, ticket, [own])
    assert [found async for found in ways.channels()] == []
    return ways


RELAYED = dataclasses.replace(
    OLD,
    addresses=("10.9.0.2:7411", "203.0.113.5:7411"),
    relays=(TicketRelay(RELAY, (V4, V6)), TicketRelay(OTHER, ("198.51.100.9:1",))),
)


async def test_relays_come_first_where_the_inviter_is_in_an_inner_network_elsewhere() -> None:
    silent = Road(relay=Unavailable("no", cause="no connection"))
    ways = await walk(silent, RELAYED)
    relays = [f"relay {V4}", f"relay {V6}", "relay 198.51.100.9:1"]
    assert silent.tried == [*relays, "10.9.0.2:7411", "203.0.113.5:7411"]
    assert ways.relay_failed
    assert f"relay {V4}: no connection" in ways.failures
    near = Road(relay=Unavailable("no", cause="no connection"))
    await walk(near, RELAYED, own="10.9.0.7:1")
    assert near.tried == ["10.9.0.2:7411", *relays, "203.0.113.5:7411"]


async def test_where_a_relay_leads_to_the_inviter_its_other_address_is_not_needed() -> None:
    road = Road()
    await walk(road, RELAYED)
    assert road.tried[:4] == [f"relay {V4}", "inside", "relay 198.51.100.9:1", "inside"]


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"relay": Refused("no", code="knock")}, "it does not know this ticket now"),
        ({"join": Refused("no", code="knock")}, "who it led to does not know the ticket"),
        ({"join": RemoteFault("another", cause="another key", code="wrong_peer")}, "another key"),
    ],
)
async def test_what_a_relay_does_is_never_taken_for_the_inviter_s_word(
    errors: dict[str, Exception], said: str
) -> None:
    ways = await walk(Road(**errors), dataclasses.replace(RELAYED, addresses=()))
    assert not ways.knock_refused
    assert ways.relay_failed
    assert all(said in failure for failure in ways.failures)
