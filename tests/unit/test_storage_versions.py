"""The folder where a follow copy keeps what it replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shoal.core.errors import StorageFault
from shoal.storage.versions_folder import VersionsFolder, prune_versions

DAY_S = 86400.0
NOW = 1_760_000_000.0


def keep(base: Path, wall_s: float, *paths: str) -> None:
    """Move files, made for it, to the versions folder of a moment."""
    fd = os.open(base, os.O_RDONLY)
    try:
        versions = VersionsFolder(fd, wall_s)
        for path in paths:
            (base / "file").write_text(path)
            versions.move(path.encode(), b"file", fd)
        versions.close()
    finally:
        os.close(fd)


def prune(base: Path, age_s: float, count: int) -> list[str]:
    """Prune and return what is left."""
    fd = os.open(base, os.O_RDONLY)
    try:
        prune_versions(fd, NOW, age_s, count)
    finally:
        os.close(fd)
    folder = base / ".shoal-versions"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_things_keep_their_paths_and_nothing_is_overwritten(tmp_path: Path) -> None:
    keep(tmp_path, NOW, "a/b", "a/b", "c")
    keep(tmp_path, NOW, "a/b")
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    first, second = ".shoal-versions/2025-10-09T08-53-20Z", ".shoal-versions/2025-10-09T08-53-20Z.1"
    assert found == [f"{second}/a/b", f"{first}/a/b", f"{first}/a/b.1", f"{first}/c"]


def test_old_and_many_ones_are_removed_and_nothing_else(tmp_path: Path) -> None:
    assert prune(tmp_path, DAY_S, 5) == []
    for days in range(10):
        keep(tmp_path, NOW - days * DAY_S, "x")
    (tmp_path / ".shoal-versions" / "a person's own").mkdir()
    assert len(prune(tmp_path, 100 * DAY_S, 100)) == 11
    assert len(prune(tmp_path, 4.5 * DAY_S, 100)) == 6
    assert len(prune(tmp_path, 4.5 * DAY_S, 2)) == 3
    assert prune(tmp_path, 0.0, 0) == ["a person's own"]


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".shoal-versions").symlink_to("elsewhere")
    with pytest.raises(OSError, match=r"directory|symbolic"):
        keep(tmp_path, NOW, "x")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_folder_that_others_may_write_to_keeps_nothing(tmp_path: Path) -> None:
    """They could take what is moved there, or put something else in its place."""
    (tmp_path / ".shoal-versions").mkdir()
    (tmp_path / ".shoal-versions").chmod(0o777)
    with pytest.raises(StorageFault) as caught:
        keep(tmp_path, NOW, "x")
    assert caught.value.code == "planted"
    assert os.listdir(tmp_path / ".shoal-versions") == []
    (tmp_path / ".shoal-versions").chmod(0o755)  # a person may let others look
    keep(tmp_path, NOW, "x")
