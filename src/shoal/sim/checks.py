"""Checks: what must hold of a node at every moment, whatever others send it."""

from __future__ import annotations

from shoal.overlay.substrate.config import SubstrateConfig
from shoal.overlay.substrate.machine import SubstrateMachine


def find_broken(own: bytes, config: SubstrateConfig, machine: SubstrateMachine) -> list[str]:
    """Return the invariants of views and broadcast that do not hold."""
    views, tree = machine.views, machine.plumtree
    active, passive = views.active, views.passive
    eager, lazy = tree.eager, tree.lazy
    limits = config.views
    checks = {
        "active view over its cap": len(active) <= limits.active + limits.reserved,
        "passive view over its cap": len(passive) <= limits.passive,
        "a neighbour twice": len(set(active)) == len(active),
        "a passive peer twice": len(set(passive)) == len(passive),
        "a peer in both views": set(active).isdisjoint(passive),
        "ourselves in a view": own not in active and own not in passive,
        "a link eager and lazy": set(eager).isdisjoint(lazy),
        "a tree beside the links": sorted(eager + lazy) == sorted(active),
        "too many values of sizes": len(machine.size.values) <= config.size.leaders_limit,
    }
    return [name for name, holds in checks.items() if not holds]
