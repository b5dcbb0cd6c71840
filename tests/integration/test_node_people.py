"""People: what `peers` and `ping` say of devices that dialled, were dialled, or are gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec import UNSET
from tests.integration.test_node_lifecycle import make_config

from shoal import Node
from shoal.api import schema as s
from shoal.transport.address import Address


async def find_peer(node: Node) -> s.Peer:
    [peer] = (await node.api.peers(s.Nothing())).peers
    return peer


async def test_a_session_is_shown_with_the_address_that_it_really_has(tmp_path: Path) -> None:
    """The end that was dialled shows where the connection comes from, not an address out of a record."""
    async with Node(make_config(tmp_path / "a", "anna")) as anna:
        ticket = (await anna.api.invite(s.InviteRequest())).ticket
        async with Node(make_config(tmp_path / "b", "bert"), ticket=ticket) as bert:
            listening = (await anna.api.status(s.Nothing())).listen
            there, here = await find_peer(bert), await find_peer(anna)
            assert {there.incoming, here.incoming} == {True, False}
            dialler, accepter = (there, here) if here.incoming else (here, there)
            assert dialler.address == dialler.addresses[0]
            assert isinstance(accepter.address, str)
            assert Address.parse(accepter.address).host == "127.0.0.1"
            if dialler is there:
                assert there.address == listening[0]
            assert (await anna.api.ping(s.PeerRequest(peer="bert"))).address == here.address
        for text in (await find_peer(anna)).addresses:
            Address.parse(text)


async def test_a_device_that_was_removed_while_it_was_away_is_told_what_others_say(tmp_path: Path) -> None:
    async with Node(make_config(tmp_path / "a", "anna")) as anna:
        ticket = (await anna.api.invite(s.InviteRequest())).ticket
        async with Node(make_config(tmp_path / "b", "bert"), ticket=ticket) as bert:
            assert (await bert.status()).notice is UNSET
        await anna.api.remove(s.PeerRequest(peer="bert"))
        async with Node(make_config(tmp_path / "b", "bert")) as bert, asyncio.timeout(30):
            while (await bert.status()).notice is UNSET:
                await asyncio.sleep(0.05)
            notice = (await bert.status()).notice
            assert isinstance(notice, str)
            assert notice.startswith("anna does not know this device as a member")
            assert (await find_peer(bert)).reason == "refused"
            checks = (await bert.api.diagnose(s.Nothing())).checks
            [sessions] = [c for c in checks if c.name == "sessions"]
            assert (sessions.state, notice in sessions.detail) == ("warn", True)
