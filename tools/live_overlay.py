"""Live overlay: real processes on loopback that are killed and come back at random, and stay one network.

`python -m tools.live_overlay --nodes 24 --minutes 5 --seed 1`. At each moment at most a quarter is down; at
the end all are up, and every one is asked for its neighbours: the network is one if links that both ends hold
connect them.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from shoal.testing.processes import CommandFailed, Device

MESH_MEMBERS = 8  # so that a few dozen processes use the views
PAUSE_S = 2.0  # between two kills or starts
SETTLE_S = 120.0


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


def main() -> int:
    """Run it; 0 only if the network is one at the end."""
    parser = argparse.ArgumentParser(prog="live_overlay")
    parser.add_argument("--nodes", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-live-"))
        devices: list[Device] = []
        try:
            for number in range(options.nodes):
                directory = Path(folder) / f"d{number}"
                home = directory / "home"
                device = stack.enter_context(Device(directory, f"d{number}"))
                home.mkdir(mode=0o700)
                (home / "config.toml").write_text(f"mesh_members = {MESH_MEMBERS}\n")
                if devices:
                    device.join(devices[0].run("invite", "--no-wait")["ticket"])
                else:
                    device.up()
                devices.append(device)
            print(f"{len(devices)} devices are up", flush=True)
            killed = churn(devices, dice, options.minutes * 60.0)
            began = time.monotonic()
            while (parts := find_parts(devices)) > 1 and time.monotonic() - began < SETTLE_S:
                time.sleep(PAUSE_S)
        except (CommandFailed, TimeoutError) as error:
            print(f"FAILED: {error}\nrun it again with --seed {options.seed}")
            return 1
        status = devices[0].run("status")["overlay"]
        took_s = time.monotonic() - began
        print(f"{killed} killed; {parts} part(s) {took_s:.0f} s after the last start; {status}")
        return 0 if parts == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
