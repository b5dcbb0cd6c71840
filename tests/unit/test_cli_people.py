"""People: how members and their ways are shown."""

from __future__ import annotations

import pytest

from shoal.api import schema as s
from shoal.cli.people import _describe_way

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
