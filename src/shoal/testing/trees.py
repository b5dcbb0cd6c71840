"""Trees: real and made-up files to share, and their comparison byte by byte."""

from __future__ import annotations

import os
import random
import shutil
import sysconfig
from pathlib import Path

from shoal.core.units import MIB

BLOCK_BYTES = 8 * MIB


def copy_standard_library(target: Path) -> int:
    """Copy this machine's Python standard library, without site-packages; return the number of files.

    Links are followed: a distribution's library may have absolute ones, which a get leaves out on purpose.
    """
    source = Path(sysconfig.get_path("stdlib"))
    ignore = shutil.ignore_patterns("site-packages", "dist-packages", "config-3*")
    shutil.copytree(source, target, ignore=ignore, ignore_dangling_symlinks=True)
    return sum(len(files) for _, _, files in os.walk(target))


def write_random_file(target: Path, size_bytes: int) -> None:
    """Write a file that no compression or deduplication can shorten."""
    with target.open("wb") as file:
        for _ in range(size_bytes // BLOCK_BYTES):
            file.write(os.urandom(BLOCK_BYTES))


def write_seeded_tree(target: Path, rng: random.Random, size_bytes: int) -> None:
    """Write a tree of about `size_bytes`: small files, files of a chunk, a few large ones, folders, oddities.

    The same generator state gives the same tree.
    """
    target.mkdir(parents=True)
    (target / "empty folder").mkdir()
    (target / "empty file").touch()
    (target / "link").symlink_to("empty file")
    left, number = size_bytes, 0
    while left > 0:
        size = min(
            left, rng.choice((rng.randrange(1, 20_000), rng.randrange(1, MIB), rng.randrange(MIB, 48 * MIB)))
        )
        folder = target / f"folder {rng.randrange(8)}"
        folder.mkdir(exist_ok=True)
        (folder / f"file {number}").write_bytes(rng.randbytes(size))
        left -= size
        number += 1


def find_difference(left: Path, right: Path) -> str | None:
    """Compare two files or trees: names, kinds, modes, times, every byte. Returns the first difference."""
    if left.is_symlink() or right.is_symlink():
        same = left.is_symlink() and right.is_symlink() and left.readlink() == right.readlink()
        return None if same else f"{right}: another symlink"
    if not right.exists():
        return f"{right}: missing"
    before, after = left.stat(), right.stat()
    if before.st_mode != after.st_mode:
        return f"{right}: mode {after.st_mode:o} instead of {before.st_mode:o}"
    if left.is_dir():
        names = sorted(os.listdir(left))
        if names != sorted(os.listdir(right)):
            return f"{right}: other names than {left}"
        return next((found for name in names if (found := find_difference(left / name, right / name))), None)
    if before.st_mtime_ns != after.st_mtime_ns:
        return f"{right}: other time"
    return None if has_same_bytes(left, right) else f"{right}: other bytes"


def has_same_bytes(left: Path, right: Path) -> bool:
    """Whether two files hold the same."""
    with left.open("rb") as a, right.open("rb") as b:
        while True:
            block = a.read(BLOCK_BYTES)
            if block != b.read(BLOCK_BYTES):
                return False
            if not block:
                return True
