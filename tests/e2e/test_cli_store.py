"""The command line over real nodes: copies that are kept, the store's state, check and collection."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from tests.e2e.conftest import MakeNetwork, code_of

from shoal.core.units import MIB
from shoal.testing.processes import CommandFailed, Device
from shoal.testing.trees import find_difference, write_seeded_tree

SEED = 20261122


def test_an_empty_store_is_shown_checked_and_collected(tmp_path: Path) -> None:
    with Device(tmp_path, "ada") as ada:
        ada.up()
        found = ada.run("store", "status")
        assert found["chunks"] == found["lost"] == found["file_bytes"] == 0
        assert Path(found["path"]).is_dir()
        assert ada.run("store", "verify")["lost"] == 0
        assert ada.run("store", "gc")["freed_bytes"] == 0


def test_a_copy_outlives_its_files_and_a_pin_its_sharer(tmp_path: Path, network: MakeNetwork) -> None:
    ada, ben, cem = network("ada", "ben", "cem")
    tree = tmp_path / "tree"
    write_seeded_tree(tree, random.Random(SEED), 4 * MIB)
    shutil.copytree(tree, tmp_path / "same", symlinks=True)
    link = ada.run("share", "--copy", str(tree))["link"]
    shutil.rmtree(tree)
    assert ada.run("store", "status")["chunks"] == ada.run("pins")["pins"][0]["chunks"] > 2
    kept = ben.run("pin", link)
    assert (kept["state"], kept["done"]) == ("complete", kept["chunks"])
    ben.kill()
    ben.up()
    ada.kill()
    cem.wait_peers(1)
    got = cem.run("get", link, str(tmp_path / "cem"), "--wait", "60s")
    assert got["bytes"] > 0
    assert find_difference(tmp_path / "same", tmp_path / "cem" / "tree") is None
    found = ben.run("store", "verify")
    assert found["chunks"] == kept["chunks"]
    assert found["lost"] == found["missing"] == 0
    assert ben.run("unpin", link)["pins"][0]["state"] == "ended"
    assert ben.run("store", "gc")["freed_bytes"] > 4 * MIB
    assert ben.run("store", "status")["live_bytes"] == 0
    assert ben.call("pins").stdout == "nothing is pinned\n"


def test_a_quota_refuses_a_pin(tmp_path: Path, network: MakeNetwork) -> None:
    ada, ben = network("ada", "ben")
    (tmp_path / "file").write_bytes(random.Random(SEED).randbytes(2 * MIB))
    link = ada.run("share", "--wait", str(tmp_path / "file"))["link"]
    ben.run("config", "set", "store_quota", "1 MiB")
    ben.stop()
    ben.up()
    ben.wait_peers(1)
    with pytest.raises(CommandFailed) as failed:
        ben.run("pin", link)
    assert code_of(failed) == (4, "quota")
    assert ben.run("store", "status")["file_bytes"] == 0
    assert ben.call("pins").returncode == 0
