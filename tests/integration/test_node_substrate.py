"""Twelve nodes on loopback whose mesh ends at four: views, operations that reach all, a get, losses."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.support.transport_nodes import wait_until

from shoal.api import schema as s
from shoal.identity.ids import format_peer_id
from shoal.node.config import NodeConfig
from shoal.node.node import Node

NODES = 12
MESH = 4


def make_config(home: Path) -> NodeConfig:
    return NodeConfig(
        home=str(home), listen=["127.0.0.1:0"], name=home.name, user="u", lan=False, mesh_members=MESH
    )


def find_links(node: Node) -> set[bytes]:
    """Return who broadcasts of a node go to."""
    overlay = node.api._parts.overlay
    return {peer.peer_id for peer in overlay.peers_status() if peer.neighbour}


def is_one(nodes: list[Node]) -> bool:
    """Whether everybody is reached from the first node over links that both ends hold."""
    links = {node.api._parts.network.own_id: find_links(node) for node in nodes}
    first = next(iter(links))
    seen, queue = {first}, [first]
    while queue:
        here = queue.pop()
        for peer in links[here]:
            if peer in links and here in links[peer] and peer not in seen:
                seen.add(peer)
                queue.append(peer)
    return len(seen) == len(nodes)


@asynccontextmanager
async def open_nodes(path: Path) -> AsyncIterator[list[Node]]:
    stack = AsyncExitStack()
    async with stack:
        nodes = [await stack.enter_async_context(Node(make_config(path / "n0")))]
        for number in range(1, NODES):
            ticket = (await nodes[number // 3].api.invite(s.InviteRequest(role="owner"))).ticket
            node = Node(make_config(path / f"n{number}"), ticket=ticket)
            nodes.append(await stack.enter_async_context(node))
        yield nodes


def count_members(node: Node) -> int:
    return len(node.api._parts.network.active_members())


async def test_twelve_nodes_stay_one_network(tmp_path: Path) -> None:
    dice = random.Random(1)
    async with open_nodes(tmp_path) as nodes:
        await wait_until(lambda: all(count_members(node) == NODES for node in nodes), 30.0)
        await wait_until(lambda: is_one(nodes), 40.0)
        status = await nodes[5].api.status(s.Nothing())
        assert isinstance(status.overlay, s.Overlay)
        assert status.overlay.mode == "views"
        # a get: whoever is asked for it is often no neighbour
        shared = tmp_path / "file"
        shared.write_bytes(dice.randbytes(100_000))
        share = await nodes[0].api.share(s.ShareRequest(paths=[str(shared)]))
        own_id = nodes[0].api._parts.network.own_id
        far = next((n for n in nodes[1:] if own_id not in find_links(n)), nodes[-1])
        await far.api.get(s.GetRequest(link=share.link, dest=str(tmp_path / "out")))
        fetched = tmp_path / "out" / "file"
        await wait_until(lambda: fetched.exists() and fetched.read_bytes() == shared.read_bytes(), 40.0)
        # a removal reaches everybody, and nobody keeps anything of the device
        gone = nodes[-1].api._parts.network.own_id
        await nodes[0].api.remove(s.PeerRequest(peer=format_peer_id(gone)))
        rest = nodes[:-1]
        await wait_until(lambda: all(count_members(node) == NODES - 1 for node in rest), 30.0)
        assert not any(gone in {p.peer_id for p in n.api._parts.overlay.peers_status()} for n in rest)
        await wait_until(lambda: is_one(rest), 40.0)
        # a quarter ends at once
        left = dice.sample(rest, len(rest) * 3 // 4)
        for node in rest:
            if node not in left:
                await node.__aexit__(None, None, None)
        await wait_until(lambda: is_one(left), 40.0)
