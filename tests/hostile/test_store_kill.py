"""Kill -9 of a real node while it pins, lets go and collects: what it acknowledged is whole afterwards."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

from shoal.core.units import MIB
from shoal.testing.processes import Device
from shoal.testing.trees import find_difference, write_seeded_tree

SEED = int(os.environ.get("SEED", "1"))
KILLS = 3


def wait_complete(device: Device, timeout_s: float = 60.0) -> dict[str, object]:
    limit = time.monotonic() + timeout_s
    while True:
        found: dict[str, object] = device.run("pins")["pins"][0]
        if found["state"] == "complete":
            return found
        assert time.monotonic() < limit, found
        time.sleep(0.1)


def test_kill_9_during_pin_and_gc(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    print(f"SEED={SEED}")
    with (
        Device(tmp_path / "ada", "ada") as ada,
        Device(tmp_path / "ben", "ben") as ben,
        Device(tmp_path / "cem", "cem") as cem,
    ):
        ada.up()
        ben.join(ada.run("invite")["ticket"])
        cem.join(ada.run("invite")["ticket"])
        tree = tmp_path / "tree"
        write_seeded_tree(tree, rng, 64 * MIB)
        link = ada.run("share", "--wait", str(tree))["link"]
        for _ in range(KILLS):
            pinning = ben.popen("pin", link, "--wait")
            time.sleep(rng.uniform(0.3, 0.8))
            ben.kill()
            pinning.communicate(timeout=30)
            ben.up()
        kept = wait_complete(ben)
        assert kept["done"] == kept["chunks"]
        # a part of it dies, and the node while it collects
        (tree / "one more").write_bytes(rng.randbytes(MIB))
        shutil.rmtree(sorted(p for p in tree.iterdir() if p.is_dir())[0])
        ada.run("share", "--wait", str(tree))
        ben.wait_peers(2)
        assert ben.run("pin", link, "--wait", "60s")["version"] == 2
        collecting = ben.popen("store", "gc")
        time.sleep(rng.uniform(0.25, 0.4))
        ben.kill()
        collecting.communicate(timeout=30)
        ben.up()
        found = ben.run("store", "verify")
        assert found["lost"] == found["missing"] == found["repaired"] == 0
        kept = wait_complete(ben)
        assert kept["done"] == kept["chunks"] == ben.run("store", "status")["chunks"]
        ada.kill()
        cem.run("get", link, str(tmp_path / "cem" / "got"), "--wait", "60s")
        assert find_difference(tree, tmp_path / "cem" / "got" / "tree") is None
