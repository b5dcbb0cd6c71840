"""The command line over a real node: the store's state, check and collection."""

from __future__ import annotations

from pathlib import Path

from shoal.testing.processes import Device


def test_an_empty_store_is_shown_checked_and_collected(tmp_path: Path) -> None:
    with Device(tmp_path, "ada") as ada:
        ada.up()
        found = ada.run("store", "status")
        assert found["chunks"] == found["lost"] == found["file_bytes"] == 0
        assert Path(found["path"]).is_dir()
        assert ada.run("store", "verify")["lost"] == 0
        assert ada.run("store", "gc")["freed_bytes"] == 0
