"""People: how members and their ways are shown."""

from __future__ import annotations

import pytest

from shoal.api import schema as s
from shoal.cli.people import _describe_invite, _describe_way
from shoal.cli.run import _parse_place

PLAIN = s.Peer("shp1", "ada", "connected", ["10.0.0.2:7411"], 1.0)


@pytest.mark.parametrize(
    ("peer", "way"),
    [
        (PLAIN, "10.0.0.2:7411"),
        (s.Peer("shp1", "ada", "offline", [], None), "-"),
        (s.Peer("shp1", "ada", "relayed", ["10.0.0.2:7411"], 1.0, "relay", "rel"), "via relay rel"),
        (
            s.Peer("shp1", "ada", "connected", ["10.0.0.2:7411"], 1.0, "punched", address="192.0.2.9:7411"),
            "192.0.2.9:7411, through NAT",
        ),
        (
            s.Peer(
                "shp1", "ada", "connected", ["10.0.0.2:7411"], 1.0, address="192.0.2.9:4711", incoming=True
            ),
            "from 192.0.2.9:4711",
        ),
    ],
)
def test_a_peer_is_shown_where_its_session_is(peer: s.Peer, way: str) -> None:
    assert _describe_way(peer) == way


def test_a_qr_code_that_a_terminal_cannot_show_whole_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = s.Invite("sht1" + "a" * 180, "7-olive-tango-magnet", "2026-11-23T20:25:07Z")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "20")
    small = _describe_invite(ticket, "member")
    assert len(small) < 20
    assert "█" not in "".join(small)
    assert small[-1].startswith("Its QR code needs a terminal of ")
    monkeypatch.setenv("LINES", small[-1].split()[7])
    large = _describe_invite(ticket, "member")
    assert "█" in large[0]
    assert large[-len(small) + 2 :] == small[:-2]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.7", "192.0.2.7:7411"),
        ("192.0.2.7:99", "192.0.2.7:99"),
        ("nas.example", "nas.example:7411"),
        ("2001:db8::7", "[2001:db8::7]:7411"),
        ("[2001:db8::7]", "[2001:db8::7]:7411"),
        ("[2001:db8::7]:99", "[2001:db8::7]:99"),
    ],
)
def test_an_inviter_is_looked_for_at_the_usual_port(text: str, address: str) -> None:
    assert str(_parse_place(text)) == address
