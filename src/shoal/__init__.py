"""Shoal: one private peer-to-peer server network out of the machines a group of people already has.

    from shoal import connect       # ask the node of this user, see api/client.py
    from shoal import Node          # run one: async with Node(config) as node

Both are imported when they are first used: `import shoal` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.version import __version__

if TYPE_CHECKING:
    from shoal.api.client import Client, connect
    from shoal.node.config import NodeConfig, load_config
    from shoal.node.node import Node

_PLACES = {
    "Client": "shoal.api.client",
    "Node": "shoal.node.node",
    "NodeConfig": "shoal.node.config",
    "connect": "shoal.api.client",
    "load_config": "shoal.node.config",
}

__all__ = ["Client", "Node", "NodeConfig", "__version__", "connect", "load_config"]


def __getattr__(name: str) -> object:
    """Import a public name on its first use (PEP 562)."""
    if name not in _PLACES:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
