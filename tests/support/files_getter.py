"""Getter process: one node with a home that gets a link and can be killed at any moment.

`python -m tests.support.files_getter SETTINGS` (JSON: home, seed, sharer, address, link, dest; hex and text)
prints a line of JSON at every change of its transfer.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.support.files_nodes import FilesNode, FilesWorld

from shoal.content.link import Link
from shoal.identity.keys import DeviceKeys
from shoal.identity.operations import Role
from shoal.storage.database import connect_sqlite
from shoal.transport.address import Address


async def run(settings: dict[str, str]) -> None:
    """Start the node, resume or begin the transfer, report until its end."""
    keys = DeviceKeys.from_seed(bytes.fromhex(settings["seed"]))
    sharer = bytes.fromhex(settings["sharer"])
    home = Path(settings["home"])
    world = FilesWorld(home)
    world.roles = {keys.peer_id: Role.MEMBER, sharer: Role.MEMBER}
    home.mkdir(exist_ok=True)
    node = FilesNode(world, home, keys, connect_sqlite)
    await node.start()
    await node.transport.dial(sharer, Address.parse(settings["address"]))
    link, dest = Link.parse(settings["link"]), os.fsencode(settings["dest"])
    if not node.files.transfers():
        await node.files.get(link, dest, wait_s=None)
    (status,) = node.files.transfers()
    while True:
        line: dict[str, object] = {"state": status.state.value, "done_bytes": status.done_bytes}
        if status.result is not None:
            line["fetched_bytes"] = status.result.fetched_bytes
            line["refetched_bytes"] = status.result.refetched_bytes
            line["resumed"] = status.result.resumed
        if status.error is not None:
            line["error"] = str(status.error)
        print(json.dumps(line), flush=True)
        if status.state.is_end:
            break
        status = await node.files.wait_transfer(status.id, status.revision, 1.0)
    await node.stop()


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
