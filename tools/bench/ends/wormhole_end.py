"""Wormhole end: magic-wormhole's own command line, its listening socket and its hints on loopback only.

As shipped it listens on all addresses and offers those of every interface; nothing else is changed. Runs in
.venv-bench, without anything of Shoal.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import endpoints
from wormhole import ipaddrs
from wormhole.cli import cli

_listen = endpoints.serverFromString


def listen_on_loopback(reactor: Any, description: str) -> Any:
    """Make the endpoint of a description, on 127.0.0.1."""
    return _listen(reactor, f"{description}:interface=127.0.0.1")


endpoints.serverFromString = listen_on_loopback
ipaddrs.find_addresses = lambda: ["127.0.0.1"]

if __name__ == "__main__":
    cli.wormhole()
