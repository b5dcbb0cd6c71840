"""Graph: what the links of a network look like as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.chance import Chance
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.sim.network import Network

SOURCES = 400  # nodes from which shortest paths are counted; the mean is then known to about 0.1 %


@dataclass(frozen=True, slots=True)
class Paths:
    """Shortest paths from some sources."""

    mean: float  # over all pairs that are connected
    hops: float  # to the last node, mean over the sources
    reached: float  # share of all nodes, the smallest of all sources


def find_links(network: Network[SubstrateMachine]) -> list[list[int]]:
    """Return the active view of each node, as numbers; of nodes that are alive."""
    number, nodes = network.number, network.nodes
    return [
        [number[peer] for peer in node.machine.views.active if nodes[number[peer]].alive]
        if node.alive
        else []
        for node in nodes
    ]


def measure_paths(links: Sequence[Sequence[int]], alive: Sequence[int], chance: Chance) -> Paths:
    """Count hops from SOURCES nodes (or all, if there are fewer)."""
    total = pairs = eccentricities = 0
    reached = len(alive)
    sources = chance.sample(alive, SOURCES)
    for source in sources:
        seen = bytearray(len(links))
        seen[source] = 1
        front, hops, found = [source], 0, 1
        while front:
            following = []
            for node in front:
                for peer in links[node]:
                    if not seen[peer]:
                        seen[peer] = 1
                        following.append(peer)
            if following:
                hops += 1
                total += hops * len(following)
                found += len(following)
            front = following
        pairs += found - 1
        eccentricities += hops
        reached = min(reached, found)
    return Paths(total / max(1, pairs), eccentricities / max(1, len(sources)), reached / max(1, len(alive)))


def measure_clustering(links: Sequence[Sequence[int]], alive: Sequence[int]) -> float:
    """Return the mean of how many of a node's neighbours are neighbours of each other, 0 to 1."""
    views = [frozenset(view) for view in links]
    total = 0.0
    for node in alive:
        view = views[node]
        if len(view) > 1:
            total += sum(len(views[peer] & view) for peer in links[node]) / (len(view) * (len(view) - 1))
    return total / max(1, len(alive))


def measure_symmetry(links: Sequence[Sequence[int]]) -> float:
    """Return the share of links that both ends have."""
    views = [frozenset(view) for view in links]
    total = sum(map(len, links))
    return sum(node in views[peer] for node, view in enumerate(links) for peer in view) / max(1, total)


def count_components(links: Sequence[Sequence[int]], alive: Sequence[int]) -> int:
    """Return into how many parts the network has fallen; a link counts whichever end has it."""
    parent = {node: node for node in alive}

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in alive:
        for peer in links[node]:
            if peer in parent:
                parent[find(node)] = find(peer)
    return sum(find(node) == node for node in alive)
