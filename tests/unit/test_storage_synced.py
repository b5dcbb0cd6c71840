"""What a finished get says is there is on the disk: every file and folder synced after its last change."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.trees import KEYS, PART, describe_tree, make_tree, share_tree, write_all, write_file

from shoal.core.errors import StorageFault
from shoal.storage.tree_writer import TreeWriter


class SyncedDisk:
    """Notes what each inode was when it was synced last, one by one or with its whole file system."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.single = self.whole = 0
        self._saved: dict[int, object] = {}

    def sync(self, fd: int) -> None:
        self.single += 1
        info = os.fstat(fd)
        names = os.listdir(fd) if stat.S_ISDIR(info.st_mode) else []
        self._saved[info.st_ino] = _describe(info, [os.fsencode(name) for name in names])

    def sync_all(self, _: int) -> int:
        self.whole += 1
        for folder, folders, files in os.walk(self.root):
            for path in (folder, *(os.path.join(folder, name) for name in (*folders, *files))):
                info = os.lstat(path)
                names = os.listdir(path) if stat.S_ISDIR(info.st_mode) else []
                self._saved[info.st_ino] = _describe(info, names)
        return 0

    def find_unsaved(self, top: bytes) -> list[bytes]:
        """Return what at and below `top` is otherwise than it was synced; links are what their folder is."""
        unsaved: list[bytes] = []
        for folder, _, files in os.walk(top):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                info = os.lstat(path)
                names = os.listdir(path) if stat.S_ISDIR(info.st_mode) else []
                if not stat.S_ISLNK(info.st_mode) and self._saved.get(info.st_ino) != _describe(info, names):
                    unsaved.append(path)
        return unsaved


def _describe(info: os.stat_result, names: list[bytes]) -> object:
    return info.st_mode, info.st_size * bool(not names), sorted(name for name in names if name != PART)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncedDisk]:
    root = os.fsencode(tmp_path)
    disk = SyncedDisk(root)
    monkeypatch.setattr(os, "fsync", disk.sync)
    monkeypatch.setattr("shoal.storage.disk_space._syncfs", disk.sync_all)
    yield disk
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o700)


def make_few(tree: bytes) -> None:
    write_file(tree + b"/a/b/c/file", b"deep")
    write_file(tree + b"/a/large", b"x" * 600_000)
    os.symlink(b"b", tree + b"/a/link")
    os.makedirs(tree + b"/empty/inside")
    write_file(tree + b"/closed/file", b"r", 0o400)
    os.chmod(tree + b"/closed", 0o555)


def make_folders(tree: bytes) -> None:
    for number in range(100):
        os.makedirs(tree + b"/%03d/inside" % number)
    write_file(tree + b"/050/file", b"one")


def make_many(tree: bytes) -> None:
    make_tree(tree, random.Random(9))


@pytest.mark.parametrize(
    ("make", "whole"),
    [(make_few, False), (make_folders, True), (make_many, True)],
    ids=["few", "folders", "many"],
)
@pytest.mark.parametrize("lies", ["nothing", "some"])
def test_all_of_it_is_saved(
    tmp_path: Path, disk: SyncedDisk, make: Callable[[bytes], None], whole: bool, lies: str
) -> None:
    tree, dest = os.fsencode(tmp_path) + b"/tree", os.fsencode(tmp_path) + b"/dest"
    make(tree)
    share = share_tree(tree)
    if lies == "some":
        write_file(dest + (b"/tree/a" if make is make_many else b"/tree/a/b/other"), b"other")
        write_file(dest + b"/tree/050/file", b"two")
    disk.sync_all(0)
    disk.single = disk.whole = 0
    write_all(share, dest, overwrite=True)
    if lies == "nothing":
        assert describe_tree(dest + b"/tree") == describe_tree(tree)
    assert disk.find_unsaved(dest) == []
    assert disk.find_unsaved(os.path.dirname(dest)) == []
    assert (disk.whole > 0) is whole
    if not whole:
        assert disk.single < 32


def test_what_a_folder_lost_is_not_trusted(
    tmp_path: Path, disk: SyncedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, dest = os.fsencode(tmp_path) + b"/tree", os.fsencode(tmp_path) + b"/dest"
    write_file(tree + b"/a/file", b"deep")
    share = share_tree(tree)
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare()
    writer.reuse_existing(KEYS)
    writer.write(0, b"deep")

    def fail(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageFault) as caught:
        writer.finish()
    assert caught.value.code == "sync"
    assert not os.path.exists(dest + b"/tree")
    writer.close()
