"""Live overlay: real processes that are killed and come back at random stay one network; and what they cost.

    python -m tools.live_overlay --nodes 24 --minutes 5 --seed 1
    python -m tools.live_overlay --nodes 24 --minutes 0 --idle-s 120      (root: a network namespace each)

At each moment at most a quarter is down; at the end all are up, and every one is asked for its neighbours:
the network is one if links that both ends hold connect them. With `--idle-s` nothing is killed before the
counters of every node's interface have been read twice.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from shoal.testing.namespaces import INTERFACE, Bridge, find_obstacle
from shoal.testing.processes import CommandFailed, Device

MESH_MEMBERS = 8  # so that a few dozen processes use the views
PAUSE_S = 2.0  # between two kills or starts
SETTLE_S = 120.0
QUIET_S = 90.0  # from the last join until counters are read: what is broadcast of newcomers is forgotten


def find_parts(devices: list[Device]) -> int:
    """Return into how many parts the links that both ends hold divide the devices."""
    links: dict[str, set[str]] = {}
    for device in devices:
        own = str(device.run("status")["peer_id"])
        links[own] = {str(p["peer_id"]) for p in device.run("peers")["peers"] if p["neighbour"]}
    parts, left = 0, set(links)
    while left:
        parts += 1
        queue = [left.pop()]
        while queue:
            here = queue.pop()
            found = {peer for peer in links[here] & left if here in links[peer]}
            left -= found
            queue += found
    return parts


def churn(devices: list[Device], dice: random.Random, seconds: float) -> int:
    """Kill and start devices at random for a while; return how many were killed."""
    down: list[Device] = []
    killed = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if len(down) < len(devices) // 4 and (not down or dice.random() < 0.5):
            device = dice.choice([one for one in devices if one not in down])
            device.kill()
            down.append(device)
            killed += 1
        else:
            down.pop(dice.randrange(len(down))).up()
        time.sleep(PAUSE_S * dice.uniform(0.5, 1.5))
    for device in down:
        device.up()
    return killed


def wait_one(devices: list[Device]) -> tuple[int, float]:
    """Wait until the devices are one network; return how many parts they are then, and after how long."""
    began = time.monotonic()
    while (parts := find_parts(devices)) > 1 and time.monotonic() - began < SETTLE_S:
        time.sleep(PAUSE_S)
    return parts, time.monotonic() - began


def measure_idle(devices: list[Device], bridge: Bridge, seconds: float) -> dict[str, float]:
    """Return bytes a second of a node, both directions, as its interface counts them: Ethernet, ACKs, all.

    `acks` of the mean are TCP's that carry nothing else, `begun` all of connections that began meanwhile.
    """
    time.sleep(QUIET_S)
    counter = subprocess.Popen(
        [*bridge.hub_prefix, sys.executable, "-m", "tools.live_packets", str(seconds)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    before = [_count(device) for device in devices]
    began = time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began
    rates = [(_count(device) - then) / took_s for device, then in zip(devices, before, strict=True)]
    packets = json.loads(counter.communicate(timeout=20.0)[0])
    shares = {kind: 2 * packets[kind] / len(devices) / seconds for kind in ("acks", "begun")}
    return {"mean": sum(rates) / len(rates), "max": max(rates), **shares}


def _count(device: Device) -> int:
    command = [
        *device.prefix,
        "cat",
        *(f"/sys/class/net/{INTERFACE}/statistics/{way}_bytes" for way in ("rx", "tx")),
    ]
    return sum(
        map(int, subprocess.run(command, capture_output=True, check=True, timeout=20.0).stdout.split())
    )


def start(stack: ExitStack, nodes: int, mesh_members: int, bridge: Bridge | None) -> list[Device]:
    """Start devices, all of them members of one network that the first one owns."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-live-"))
    devices: list[Device] = []
    for number in range(nodes):
        directory = Path(folder) / f"d{number}"
        home = directory / "home"
        if bridge is None:
            device = Device(directory, f"d{number}")
        else:
            address = f"192.0.2.{number + 1}"
            bridge.set_address(number, f"{address}/24")
            device = Device(directory, f"d{number}", listen=f"{address}:0", prefix=bridge.prefix(number))
        stack.enter_context(device)
        home.mkdir(mode=0o700)
        (home / "config.toml").write_text(f"mesh_members = {mesh_members}\n")
        if devices:
            device.join(devices[0].run("invite", "--no-wait")["ticket"])
        else:
            device.up()
        devices.append(device)
    return devices


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run it. Raises: CommandFailed, TimeoutError."""
    dice = random.Random(options.seed)
    with ExitStack() as stack:
        bridge = stack.enter_context(Bridge(options.nodes)) if options.idle_s else None
        devices = start(stack, options.nodes, options.mesh_members, bridge)
        found: dict[str, Any] = {"nodes": len(devices), "parts_after_joins": wait_one(devices)[0]}
        if bridge is not None:
            found["idle_bytes_s"] = measure_idle(devices, bridge, options.idle_s)
        found["killed"] = churn(devices, dice, options.minutes * 60.0)
        found["parts"], found["one_after_s"] = wait_one(devices)
        found["overlay"] = devices[0].run("status")["overlay"]
    return found


def main() -> int:
    """Run it; 0 only if the network is one at the end."""
    parser = argparse.ArgumentParser(prog="live_overlay")
    parser.add_argument("--nodes", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=5.0, help="of killing and starting")
    parser.add_argument("--idle-s", type=float, default=0.0, help="measure an idle node's bytes first; root")
    parser.add_argument("--mesh-members", type=int, default=MESH_MEMBERS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.idle_s and (obstacle := find_obstacle()) is not None:
        parser.error(f"--idle-s: {obstacle}")
    try:
        found = run(options)
    except (CommandFailed, TimeoutError) as error:
        print(f"FAILED: {error}\nrun it again with --seed {options.seed}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0 if found["parts"] == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
