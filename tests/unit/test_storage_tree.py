"""Sharing a tree and writing it somewhere else, without a network in between."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.trees import (
    KEYS,
    PART,
    describe_tree,
    make_tree,
    manifest_ordinal,
    read_chunks,
    share_tree,
    write_all,
    write_file,
)

from shoal.core.errors import LocalMisuse, Refused, StorageFault
from shoal.core.units import GIB, MIB
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


def test_everything_a_share_carries_arrives(place: bytes, dest: bytes) -> None:
    tree = make_tree(place + b"/tree", random.Random(1))
    share = share_tree(tree)
    written = write_all(share, dest)
    assert describe_tree(dest + b"/tree") == describe_tree(tree)
    assert written.skipped == []
    assert written.roots == {b"tree": os.path.realpath(dest) + b"/tree"}
    assert os.listdir(dest) == [b"tree"]
    assert os.stat(dest + b"/tree/sparse").st_blocks * 512 < MIB  # still sparse
    again = TreeReader(written.roots, share.built.manifest)  # served on from there
    buffer = memoryview(bytearray(MIB))
    assert all(again.read_into(i, buffer) for i in range(share.built.manifest.chunk_count))
    again.close()


@pytest.mark.parametrize(
    ("around", "made"), [(0o755, 0o755), (0o1777, 0o755), (0o700, 0o700), (0o750, 0o750)]
)
def test_a_new_destination_is_as_open_as_where_it_lies(place: bytes, around: int, made: int) -> None:
    """The node's own umask would close it to everybody else."""
    share = share_tree(write_file(place + b"/x/one.bin", b"one"))
    os.mkdir(place + b"/around")
    os.chmod(place + b"/around", around)
    before = os.umask(0o077)
    try:
        write_all(share, place + b"/around/dest")
    finally:
        os.umask(before)
    assert os.stat(place + b"/around/dest").st_mode & 0o7777 == made


def test_sharing_the_copy_gives_the_same_chunks(place: bytes, dest: bytes) -> None:
    tree = make_tree(place + b"/tree", random.Random(2))
    first = share_tree(tree)
    write_all(first, dest)
    second = share_tree(dest + b"/tree")
    assert second.built.root.object_id == first.built.root.object_id


def test_one_file_and_several_paths(place: bytes, dest: bytes) -> None:
    one = write_file(place + b"/x/one.bin", b"one" * 100_000)
    two = write_file(place + b"/y/two", b"")
    share = share_tree(one, two)
    write_all(share, dest)
    assert sorted(os.listdir(dest)) == [b"one.bin", b"two"]
    assert describe_tree(dest + b"/one.bin") == describe_tree(one)


def test_resuming_keeps_what_was_written(place: bytes, dest: bytes) -> None:
    tree = make_tree(place + b"/tree", random.Random(4))
    share = share_tree(tree)
    chunks = read_chunks(share)
    manifest = share.built.manifest
    writer = TreeWriter(dest, PART, manifest)
    writer.prepare()
    assert not writer.trusts_records
    assert writer.reuse_existing(KEYS) == set()
    absent = manifest_ordinal(share, b"tree/medium")  # a file of its own that nothing was written to
    half = set(list(chunks)[::2]) - {absent}
    for ordinal in half:
        writer.write(ordinal, chunks[ordinal])
    buffer = memoryview(bytearray(MIB))
    served = writer.read_into(min(half), buffer)
    assert bytes(buffer[:served]) == chunks[min(half)]
    with pytest.raises(StorageFault):
        writer.read_into(absent, buffer)
    writer.close()

    again = TreeWriter(dest, PART, manifest)
    again.prepare()
    assert again.trusts_records
    assert again.verify(range(len(chunks)), KEYS) == half
    for ordinal in chunks:
        if ordinal not in half:
            again.write(ordinal, chunks[ordinal])
    again.finish()
    assert again.read_into(0, buffer) == len(chunks[0])  # goes on from the final place
    again.write(0, chunks[0])  # a late duplicate does no harm
    again.close()
    assert describe_tree(dest + b"/tree") == describe_tree(tree)


def test_what_an_older_version_left_in_the_part_folder_does_not_arrive(place: bytes, dest: bytes) -> None:
    tree = make_tree(place + b"/tree", random.Random(7))
    old = share_tree(tree)
    writer = TreeWriter(dest, PART, old.built.manifest)
    writer.prepare()
    for ordinal, data in read_chunks(old).items():
        writer.write(ordinal, data)
    writer.close()
    os.unlink(tree + b"/a")
    shutil.rmtree(tree + b"/src")
    write_file(tree + b"/src", b"a file now")
    os.unlink(tree + b"/empty")
    os.mkdir(tree + b"/empty")
    write_file(tree + b"/medium", b"shorter")
    for number in range(40):
        write_file(tree + b"/new/%d" % number, b"new")
    write_all(share_tree(tree), dest)
    assert describe_tree(dest + b"/tree") == describe_tree(tree)


@pytest.mark.parametrize("others", [0, 40])  # with many files small ones are finished as they are written
@pytest.mark.parametrize("size", [100_000, 3_000_000])
@pytest.mark.parametrize("data", [b"", b"x" * 4096])
def test_what_an_older_version_left_in_a_hole_does_not_arrive(
    place: bytes, dest: bytes, data: bytes, size: int, others: int
) -> None:
    tree = place + b"/tree"
    for number in range(others):
        write_file(tree + b"/other%d" % number, b"other")
    write_file(tree + b"/file", random.Random(size).randbytes(size))
    old = share_tree(tree)
    writer = TreeWriter(dest, PART, old.built.manifest)
    writer.prepare()
    for ordinal, chunk in read_chunks(old).items():
        writer.write(ordinal, chunk)
    writer.close()
    with open(tree + b"/file", "wb") as file:
        file.truncate(size)
        for offset in (20_480, 61_440):
            file.seek(offset)
            file.write(data)
    share = share_tree(tree)
    assert share.built.manifest.stream_bytes < size
    write_all(share, dest)
    assert describe_tree(dest + b"/tree") == describe_tree(tree)


@pytest.mark.parametrize(("size", "change"), [(20_000_000, 1_500_000), (20_000_000, -9_000_000)])
def test_what_only_a_file_to_be_replaced_has_is_copied_before(
    place: bytes, dest: bytes, size: int, change: int
) -> None:
    """A follow that was interrupted between two versions verifies what it may have: it lies at DEST only."""
    tree = place + b"/tree"
    data = random.Random(8).randbytes(size)
    write_file(tree + b"/grows", data)
    write_all(share_tree(tree), dest)
    write_file(tree + b"/grows", (data + random.Random(9).randbytes(max(0, change)))[: size + change])
    share = share_tree(tree)
    chunks = read_chunks(share)
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare(overwrite=True)
    here = writer.reuse_existing(KEYS)
    verified = writer.verify(chunks.keys() - here, KEYS)
    assert 0 in here | verified
    for ordinal in chunks.keys() - here - verified:
        writer.write(ordinal, chunks[ordinal])
    writer.finish(overwrite=True)
    writer.close()
    assert describe_tree(dest + b"/tree") == describe_tree(tree)


def test_finish_again_after_a_crash_in_the_middle(
    place: bytes, dest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = make_tree(place + b"/tree", random.Random(4))
    share = share_tree(tree)
    chunks = read_chunks(share)
    for broken in ("_settle", "_rename_all", "_dress_kept"):
        writer = TreeWriter(dest, PART, share.built.manifest)
        writer.prepare()
        here = writer.reuse_existing(KEYS)
        for ordinal in chunks.keys() - here:
            writer.write(ordinal, chunks[ordinal])
        with monkeypatch.context() as patch:

            def crash(*_: object, **__: object) -> None:
                raise OSError(5, "crash")

            patch.setattr(f"shoal.storage.placement.Placement.{broken}", crash)
            with pytest.raises(StorageFault):
                writer.finish()
        writer.close()
    assert write_all(share, dest, chunks).skipped == []
    assert describe_tree(dest + b"/tree") == describe_tree(tree)
    assert os.listdir(dest) == [b"tree"]


def test_an_existing_different_file_is_never_overwritten_unasked(place: bytes, dest: bytes) -> None:
    tree = place + b"/tree"
    write_file(tree + b"/a", b"new")
    write_file(tree + b"/b", b"same")
    write_file(tree + b"/c", b"x" * 600_000)
    os.symlink(b"a", tree + b"/l")
    share = share_tree(tree)
    for name, data in ((b"a", b"other length"), (b"a", b"old"), (b"c", b"y" * 600_000), (b"l", b"file")):
        write_file(dest + b"/tree/" + name, data)
        before = describe_tree(dest + b"/tree")
        with pytest.raises(Refused) as caught:
            write_all(share, dest)
        assert caught.value.code == "exists"
        assert describe_tree(dest + b"/tree") == before
        os.unlink(dest + b"/tree/" + name)
    write_file(dest + b"/tree/a", b"old")
    write_file(dest + b"/tree/c", b"y" * 600_000)
    write_file(dest + b"/tree/mine", b"not of the share")
    write_all(share, dest, overwrite=True)
    found = describe_tree(dest + b"/tree")
    assert found.pop(b"tree/mine")[3] == b"not of the share"
    assert found == describe_tree(tree)


def test_identical_existing_files_are_kept_and_not_fetched(place: bytes, dest: bytes) -> None:
    tree = make_tree(place + b"/tree", random.Random(6))
    share = share_tree(tree)
    write_all(share, dest)
    inode = os.stat(dest + b"/tree/large.bin").st_ino
    os.unlink(dest + b"/tree/src/pkg/file07.py")
    os.utime(dest + b"/tree/large.bin", (1, 1))
    manifest = share.built.manifest
    writer = TreeWriter(dest, PART, manifest)
    writer.prepare()
    assert not writer.trusts_records
    here = writer.reuse_existing(KEYS)
    missing = set(range(manifest.chunk_count)) - here
    lost = manifest.find_file(b"tree/src/pkg/file07.py")
    assert lost is not None
    assert missing == set(manifest.chunks_of(lost))
    chunks = read_chunks(share)
    for ordinal in missing:
        writer.write(ordinal, chunks[ordinal])
    assert writer.verify(range(manifest.chunk_count), KEYS) == set(range(manifest.chunk_count))
    writer.finish()
    writer.close()
    assert os.stat(dest + b"/tree/large.bin").st_ino == inode
    assert describe_tree(dest + b"/tree") == describe_tree(tree)


def test_data_where_the_share_has_a_hole_is_different(place: bytes, dest: bytes) -> None:
    tree = place + b"/tree"
    os.mkdir(tree)
    with open(tree + b"/sparse", "wb") as file:
        file.truncate(5_000_000)
    with open(tree + b"/half", "wb") as file:
        file.truncate(5_000_000)
        file.seek(2_000_000)
        file.write(b"x" * 400_000)
    share = share_tree(tree)
    assert share.built.manifest.stream_bytes < 500_000
    for name in (b"sparse", b"half"):
        write_all(share, dest)
        with open(dest + b"/tree/" + name, "r+b") as file:
            file.seek(4_500_000)
            file.write(b"x")
        with pytest.raises(Refused):
            write_all(share, dest)
        write_all(share, dest, overwrite=True)
        assert describe_tree(dest + b"/tree") == describe_tree(tree)


def test_a_sparse_file_of_5_gib(place: bytes, dest: bytes) -> None:
    path = place + b"/sparse"
    with open(path, "wb") as file:
        file.truncate(5 * GIB)
        for offset in (0, 3 * GIB + 12_288, 5 * GIB - 4096):
            file.seek(offset)
            file.write(b"x" * 4096)
    share = share_tree(path)
    manifest = share.built.manifest
    assert manifest.total_bytes == 5 * GIB
    assert manifest.stream_bytes < MIB
    write_all(share, dest)
    copy = os.stat(dest + b"/sparse")
    assert copy.st_size == 5 * GIB
    assert copy.st_blocks * 512 < MIB
    again = share_tree(dest + b"/sparse")
    assert again.built.root.object_id == share.built.root.object_id


def test_a_missing_file_is_noticed_at_the_end(place: bytes, dest: bytes) -> None:
    share = share_tree(write_file(place + b"/tree/file", b"x"), write_file(place + b"/tree/two", b"y"))
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare()
    with pytest.raises(StorageFault):
        writer.finish()
    with pytest.raises(LocalMisuse):
        writer.write(0, b"wrong length")
    writer.discard()
    assert os.listdir(dest) == []
    with pytest.raises(LocalMisuse):
        writer.write(0, b"xy")


def test_dest_that_cannot_be_used(place: bytes) -> None:
    share = share_tree(write_file(place + b"/file", b"x"))
    write_file(place + b"/a file", b"")
    for dest in (place + b"/a file", place + b"/no/such/folder"):
        with pytest.raises(StorageFault):
            TreeWriter(dest, PART, share.built.manifest).prepare()
    made = TreeWriter(place + b"/made", PART, share.built.manifest)
    made.prepare()
    made.discard()
    TreeWriter(place + b"/never there", PART, share.built.manifest).discard()
    TreeWriter(place + b"/a file", PART, share.built.manifest).discard()
