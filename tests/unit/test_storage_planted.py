"""Links and files that somebody planted where a tree is read or written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.trees import (
    PART,
    describe_tree,
    manifest_ordinal,
    read_chunks,
    share_tree,
    write_all,
    write_file,
)

from shoal.core.errors import Refused, StorageFault
from shoal.core.units import MIB
from shoal.storage.tree_reader import TreeReader
from shoal.storage.tree_writer import TreeWriter


@pytest.fixture
def place(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path)


@pytest.fixture
def dest(place: bytes) -> Iterator[bytes]:
    path = place + b"/dest"
    os.mkdir(path)
    yield path
    for folder, _, _ in os.walk(path):  # so that read-only folders can be removed
        os.chmod(folder, 0o700)


def test_a_provider_follows_no_planted_link(place: bytes) -> None:
    tree = place + b"/tree"
    write_file(tree + b"/folder/file", b"shared")
    write_file(place + b"/other/file", b"secret")
    share = share_tree(tree)
    os.rename(tree + b"/folder", place + b"/moved")
    os.symlink(place + b"/other", tree + b"/folder")
    reader = TreeReader(share.roots, share.built.manifest)
    with pytest.raises(StorageFault):
        reader.read_into(0, memoryview(bytearray(MIB)))
    reader.close()


def test_links_that_lead_out_are_skipped_and_listed(place: bytes, dest: bytes) -> None:
    tree = place + b"/tree"
    write_file(tree + b"/sub/file", b"x")
    bad = {b"abs": b"/etc/passwd", b"up": b"../x", b"sub/up": b"../../x", b"tricky": b"sub/../../x"}
    good = {b"ok": b"sub/file", b"sub/ok": b"../sub/./file", b"sub/top": b".."}
    for name, target in {**bad, **good}.items():
        os.symlink(target, tree + b"/" + name)
    os.symlink(b"tree", place + b"/top")
    written = write_all(share_tree(tree), dest)
    assert {skipped.path for skipped in written.skipped} == {b"tree/" + name for name in bad}
    for name, target in good.items():
        assert os.readlink(dest + b"/tree/" + name) == target
    for name in bad:
        assert not os.path.lexists(dest + b"/tree/" + name)


def test_planted_links_are_not_followed(place: bytes, dest: bytes) -> None:
    tree = place + b"/tree"
    write_file(tree + b"/folder/file", b"x")
    write_file(tree + b"/folder/large", b"x" * 300_000)
    share = share_tree(tree)
    outside = place + b"/outside"
    os.mkdir(outside)

    os.symlink(outside, dest + b"/tree")  # where the top folder goes
    for overwrite in (False, True):
        with pytest.raises(Refused):
            write_all(share, dest, overwrite=overwrite)
    os.unlink(dest + b"/tree")

    os.mkdir(dest + b"/tree")
    os.symlink(outside, dest + b"/tree/folder")  # on the way
    with pytest.raises(Refused):
        write_all(share, dest, overwrite=True)
    os.unlink(dest + b"/tree/folder")
    os.rmdir(dest + b"/tree")

    os.symlink(outside, dest + b"/" + PART)  # the part folder
    with pytest.raises(StorageFault) as caught:
        write_all(share, dest)
    assert caught.value.code == "planted"
    os.unlink(dest + b"/" + PART)

    os.mkdir(dest + b"/" + PART, 0o755)  # not ours alone
    os.chmod(dest + b"/" + PART, 0o755)
    with pytest.raises(StorageFault):
        write_all(share, dest)
    os.rmdir(dest + b"/" + PART)

    for name in (b"file", b"large"):  # inside of it
        chunks = read_chunks(share)
        writer = TreeWriter(dest, PART, share.built.manifest)
        writer.prepare()
        victim = write_file(outside + b"/victim", b"safe")
        os.symlink(victim, dest + b"/" + PART + b"/tree/folder/" + name)
        planted = manifest_ordinal(share, b"tree/folder/" + name)
        with pytest.raises(StorageFault):
            writer.write(planted, chunks[planted])
        writer.discard()
        assert os.listdir(outside) == [b"victim"]
        assert describe_tree(victim)[b"victim"][3] == b"safe"

    write_file(tree + b"/folder/file", b"y")
    write_all(share_tree(tree), dest)
    assert os.listdir(outside) == [b"victim"]


def test_a_link_in_place_of_a_file_is_replaced_not_followed(place: bytes, dest: bytes) -> None:
    tree = place + b"/tree"
    write_file(tree + b"/file", b"new")
    victim = write_file(place + b"/victim", b"safe")
    os.mkdir(dest + b"/tree")
    os.symlink(victim, dest + b"/tree/file")
    share = share_tree(tree)
    with pytest.raises(Refused):
        write_all(share, dest)
    write_all(share, dest, overwrite=True)
    assert describe_tree(dest + b"/tree").keys() == {b"tree", b"tree/file"}
    assert not os.path.islink(dest + b"/tree/file")
    assert describe_tree(victim)[b"victim"][3] == b"safe"


def test_something_that_appears_meanwhile_is_not_overwritten(place: bytes, dest: bytes) -> None:
    file = write_file(place + b"/file", b"new")
    share = share_tree(file)
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare()
    writer.write(0, b"new")
    write_file(dest + b"/file", b"sudden")
    with pytest.raises(Refused):
        writer.finish()
    assert describe_tree(dest + b"/file")[b"file"][3] == b"sudden"
    os.unlink(dest + b"/file")
    writer.finish()
    assert describe_tree(dest + b"/file") == describe_tree(file)
    writer.close()
