"""Nodes whose mesh ends at four grow to six and shrink again; operations and versions arrive throughout."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.support.transport_nodes import wait_until

from shoal.api import schema as s
from shoal.apps.files import follow, watch_pace
from shoal.identity.ids import format_peer_id
from shoal.node.config import NodeConfig
from shoal.node.node import Node
from shoal.swarm.service import SwarmService

MESH = 4
BOUND_S = 60.0


class Growing:
    """Nodes that join one after the other, by whoever was there first."""

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self.path = path
        self.stack = stack
        self.nodes: list[Node] = []

    async def grow(self) -> Node:
        home = self.path / f"n{len(list(self.path.iterdir()))}"
        ticket = None
        if self.nodes:
            inviter = self.nodes[len(self.nodes) // 2]
            ticket = (await inviter.api.invite(s.InviteRequest(role="owner"))).ticket
        config = NodeConfig(
            home=str(home), listen=["127.0.0.1:0"], name=home.name, user="u", lan=False, mesh_members=MESH
        )
        node = await self.stack.enter_async_context(Node(config, ticket=ticket))
        self.nodes.append(node)
        await self.agree()
        return node

    async def remove(self, node: Node) -> None:
        self.nodes.remove(node)
        gone = node.api._parts.network.own_id
        await self.nodes[0].api.remove(s.PeerRequest(peer=format_peer_id(gone)))
        await self.agree()
        await node.__aexit__(None, None, None)

    async def agree(self) -> None:
        """Wait until everybody knows of everybody, and of nobody else."""
        wanted = {node.api._parts.network.own_id for node in self.nodes}
        await wait_until(
            lambda: all(node.api._parts.network.active_members() == wanted for node in self.nodes), BOUND_S
        )

    async def modes(self) -> set[str]:
        found = [(await node.api.status(s.Nothing())).overlay for node in self.nodes]
        return {overlay.mode for overlay in found if isinstance(overlay, s.Overlay)}


async def test_operations_and_versions_arrive_while_a_mesh_becomes_views_and_a_mesh_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "CHECK_S", 3600.0)  # a follower hears of a version, or never does
    monkeypatch.setattr(watch_pace, "INTERVAL_S", 0.4)
    monkeypatch.setattr(SwarmService, "announce", lambda self, offer: None)  # not by a provider's notice
    shared, homes = tmp_path / "shared", tmp_path / "homes"
    shared.mkdir()
    homes.mkdir()
    told = shared / "told"
    told.write_text("0")
    async with AsyncExitStack() as stack:
        network = Growing(homes, stack)
        author = await network.grow()
        await network.grow()
        share = await author.api.share(s.ShareRequest(paths=[str(shared)], watch=True))
        follower = await network.grow()
        copy = tmp_path / "copy"
        await follower.api.follow(s.FollowRequest(link=share.link, dest=str(copy)))
        fetched = copy / "shared" / "told"

        async def tell(text: str) -> None:
            told.write_text(text)
            await wait_until(lambda: fetched.exists() and fetched.read_text() == text, BOUND_S)

        await tell("in the mesh")
        assert await network.modes() == {"mesh"}
        for number in range(3):
            await network.grow()
            await tell(f"with {4 + number} members")
        assert await network.modes() == {"views"}
        for number in range(3):
            await network.remove(network.nodes[-1])
            await tell(f"with {5 - number} members again")
        assert await network.modes() == {"mesh"}
