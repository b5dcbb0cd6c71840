"""Versions folder: keeps what a follow copy replaces and removes, as DEST/.shoal-versions/<time>/<path>.

One folder a change of the copy, named by the time in UTC. Things are moved there by rename, whatever they are
at that moment: what a person changed in the copy is not lost before the bounds of age and number are reached.
"""

from __future__ import annotations

import os
import re
import shutil
from datetime import UTC, datetime
from typing import Final

from shoal.content.paths import VERSIONS_NAME
from shoal.storage.part_tree import planted
from shoal.storage.tree_handles import DIRECTORY_FLAGS

_FORMAT: Final = "%Y-%m-%dT%H-%M-%SZ"
_NAME: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ)(\.\d+)?")


class VersionsFolder:
    """The folder of one change; made when the first thing is moved there. One thread."""

    def __init__(self, base: int, wall_s: float) -> None:
        """`base` is a descriptor of DEST, the caller's."""
        self._base = base
        self._label = datetime.fromtimestamp(wall_s, UTC).strftime(_FORMAT).encode()
        self._fd = -1
        self.moved = 0

    def move(self, path: bytes, name: bytes, parent: int) -> None:
        """Move what lies at `name` in the open folder `parent`; `path` is what it is called in the share.

        Raises: OSError; FileNotFoundError if nothing lies there; StorageFault (code planted).
        """
        if self._fd < 0:
            self._fd = self._make()
        folder, _, last = path.rpartition(b"/")
        made = b""
        for component in folder.split(b"/") if folder else []:
            made += component
            try:
                os.mkdir(made, 0o700, dir_fd=self._fd)
            except FileExistsError:
                pass
            made += b"/"
        target, number = last, 0
        while True:
            try:
                os.stat(made + target, dir_fd=self._fd, follow_symlinks=False)
            except FileNotFoundError:
                break
            number += 1
            target = last + b".%d" % number
        os.rename(name, made + target, src_dir_fd=parent, dst_dir_fd=self._fd)
        self.moved += 1

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _make(self) -> int:
        above = _open(self._base, create=True)
        try:
            number = 0
            while True:
                name = self._label + (b".%d" % number if number else b"")
                try:
                    os.mkdir(name, 0o700, dir_fd=above)
                    return os.open(name, DIRECTORY_FLAGS, dir_fd=above)
                except FileExistsError:
                    number += 1
        finally:
            os.close(above)


def prune_versions(base: int, wall_s: float, age_s: float, count: int) -> int:
    """Remove the folders that are older than `age_s`, and the oldest beyond `count`; return how many.

    Only folders with a name of ours are touched. Raises: OSError, StorageFault.
    """
    try:
        above = _open(base, create=False)
    except FileNotFoundError:
        return 0
    try:
        with os.scandir(above) as found:
            names = sorted(os.fsencode(entry.name) for entry in found)
        dated = [(name, match) for name in names if (match := _NAME.fullmatch(name)) is not None]
        removed = 0
        for position, (name, match) in enumerate(dated):
            made = datetime.strptime(match[1].decode(), _FORMAT).replace(tzinfo=UTC).timestamp()
            if made < wall_s - age_s or position < len(dated) - count:
                shutil.rmtree(name, dir_fd=above)
                removed += 1
        return removed
    finally:
        os.close(above)


def _open(base: int, *, create: bool) -> int:
    """Raises: OSError; StorageFault if others may change what is kept there."""
    if create:
        try:
            os.mkdir(VERSIONS_NAME, 0o700, dir_fd=base)
        except FileExistsError:
            pass
    fd = os.open(VERSIONS_NAME, DIRECTORY_FLAGS, dir_fd=base)
    info = os.fstat(fd)
    if info.st_uid != os.geteuid() or info.st_mode & 0o022:
        os.close(fd)
        raise planted(VERSIONS_NAME, "the folder belongs to another user, or others may write to it")
    return fd
