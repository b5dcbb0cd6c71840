"""Sharing a tree and writing it somewhere else, without a network in between."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.trees import (
    KEYS,
    PART,
    READ_KEY,
    SECRET,
    SPACE,
    describe_tree,
    make_tree,
    share_tree,
    write_file,
)

from shoal.content.keys import cut_seed
from shoal.content.paths import PART_PREFIX
from shoal.core.errors import LocalMisuse, Refused, StorageFault, Unavailable
from shoal.core.units import GIB, MIB
from shoal.storage.hashing import HashedShare, hash_share
from shoal.storage.scan import scan
from shoal.storage.tree_reader import TreeReader
from shoal.storage.tree_writer import TreeWriter, WrittenTree

Chunks = dict[int, bytes]


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


def read_chunks(share: HashedShare) -> Chunks:
    """Read all chunks as a provider does, verified."""
    manifest = share.built.manifest
    reader = TreeReader(share.roots, manifest)
    buffer = memoryview(bytearray(MIB))
    chunks: Chunks = {}
    for ordinal in range(manifest.chunk_count):
        length = reader.read_into(ordinal, buffer)
        chunks[ordinal] = bytes(buffer[:length])
        assert KEYS[0].key(chunks[ordinal]) == manifest.chunk_key(ordinal)
    reader.close()
    return chunks


def write_all(
    share: HashedShare, dest: bytes, chunks: Chunks | None = None, *, overwrite: bool = False
) -> WrittenTree:
    """Write a whole share as a getter does; chunks in a shuffled order from two threads."""
    chunks = read_chunks(share) if chunks is None else chunks
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare(overwrite=overwrite)
    here = writer.reuse_existing(KEYS)
    order = [ordinal for ordinal in chunks if ordinal not in here]
    writer.check_space(order)
    random.Random(5).shuffle(order)

    def work(part: list[int]) -> None:
        for ordinal in part:
            writer.write(ordinal, chunks[ordinal])

    threads = [threading.Thread(target=work, args=(order[i::2],)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = writer.finish(overwrite=overwrite)
    writer.close()
    return written


def manifest_ordinal(share: HashedShare, path: bytes) -> int:
    """Return the first chunk of a file."""
    index = share.built.manifest.find_file(path)
    assert index is not None
    return share.built.manifest.chunks_of(index)[0]


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


def test_paths_with_one_name_are_refused(place: bytes) -> None:
    one, two = write_file(place + b"/x/name", b"1"), write_file(place + b"/y/name", b"2")
    with pytest.raises(LocalMisuse, match="one share"):
        scan([one, two])
    assert len(scan([one, one]).entries) == 1


def test_missing_relative_and_special_paths_are_refused(place: bytes) -> None:
    os.mkfifo(place + b"/fifo")
    for path in (place + b"/nothing", b"relative", place + b"/fifo"):
        with pytest.raises(LocalMisuse):
            scan([path])
    with pytest.raises(LocalMisuse):
        scan([])


def test_what_cannot_be_shared_is_listed(place: bytes) -> None:
    tree = place + b"/tree"
    write_file(tree + b"/file", b"x")
    write_file(tree + b"/home/keys/secret", b"x")
    write_file(tree + b"/" + PART_PREFIX + b"ab/half", b"x")
    os.mkfifo(tree + b"/fifo")
    result = scan([tree], avoid=[tree + b"/home", place + b"/not there"])
    assert [entry.path for entry in result.entries] == [b"tree", b"tree/file"]
    assert {skipped.path for skipped in result.skipped} == {
        b"tree/home",
        b"tree/fifo",
        b"tree/" + PART_PREFIX + b"ab",
    }
    with pytest.raises(LocalMisuse, match="cannot be shared"):
        scan([tree + b"/home"], avoid=[tree + b"/home"])


def test_a_link_given_by_the_person_is_followed_others_are_not(place: bytes) -> None:
    write_file(place + b"/real/file", b"x")
    os.symlink(place + b"/real", place + b"/alias")
    os.symlink(place, place + b"/real/loop")
    result = scan([place + b"/alias"])
    assert [entry.path for entry in result.entries] == [b"alias", b"alias/file", b"alias/loop"]
    assert share_tree(place + b"/alias").built.manifest.file_count == 1


def test_files_that_vanish_or_change_are_listed(place: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = place + b"/tree"
    for name in (b"gone", b"stays", b"grows", b"large"):
        write_file(tree + b"/" + name, b"x" * (300_000 if name == b"large" else 10))
    scanned = scan([tree])
    os.unlink(tree + b"/gone")
    write_file(tree + b"/grows", b"y" * 400_000)  # before it is read: what is there now is shared
    real_fstat = os.fstat
    calls = 0

    def lying_fstat(fd: int) -> os.stat_result:
        nonlocal calls
        info = real_fstat(fd)
        if info.st_size == 300_000:  # changes each time somebody looks
            calls += 1
            os.utime(tree + b"/large", ns=(calls, calls))
        return info

    monkeypatch.setattr("shoal.storage.section_hasher.os.fstat", lying_fstat)

    share = hash_share(
        scanned,
        read_key=READ_KEY,
        content_secret=SECRET,
        generation=0,
        space=SPACE,
        cut_seed=cut_seed(SECRET),
    )
    manifest = share.built.manifest
    assert list(manifest.files.paths()) == [b"tree", b"tree/grows", b"tree/stays"]
    assert manifest.total_bytes == 400_010
    assert dict(share.skipped) == {
        b"tree/gone": "it vanished while it was read",
        b"tree/large": "it changed while it was read",
    }
    assert calls >= 4  # read twice


def test_a_file_that_changed_once_is_read_again(place: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_file(place + b"/file", b"a" * 300_000)
    real_fstat, changed = os.fstat, False

    def fstat(fd: int) -> os.stat_result:
        nonlocal changed
        info = real_fstat(fd)
        if not changed:
            changed = True
            write_file(path, b"b" * 280_000)
        return info

    monkeypatch.setattr("shoal.storage.section_hasher.os.fstat", fstat)
    share = share_tree(path)
    assert share.skipped == []
    assert share.built.manifest.total_bytes == 280_000
    assert read_chunks(share)[0] == b"b" * 280_000


def test_nothing_left_is_an_error(place: bytes) -> None:
    path = write_file(place + b"/file", b"a")
    scanned = scan([path])
    os.unlink(path)
    with pytest.raises(StorageFault, match="Nothing is left"):
        hash_share(
            scanned,
            read_key=bytes(32),
            content_secret=bytes(32),
            generation=0,
            space=bytes(32),
            cut_seed=1,
        )


def test_hashing_and_scanning_can_be_stopped(place: bytes) -> None:
    make_tree(place + b"/tree", random.Random(1))
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Unavailable):
        scan([place + b"/tree"], cancelled=stopped)
    with pytest.raises(Unavailable):
        share_tree(place + b"/tree", cancelled=stopped)


def test_a_new_version_reads_only_what_changed(place: bytes) -> None:
    tree = place + b"/tree"
    rng = random.Random(3)
    for name in (b"big1", b"big2", b"big3"):
        write_file(tree + b"/" + name, rng.randbytes(2 * MIB))
    for number in range(20):
        write_file(tree + b"/small/%02d" % number, rng.randbytes(5000))
    first = share_tree(tree)
    same = share_tree(tree, previous=first.built.manifest)
    assert same.read_bytes == 0
    assert same.built.root.object_id == first.built.root.object_id
    write_file(tree + b"/big2", rng.randbytes(2 * MIB))
    second = share_tree(tree, previous=first.built.manifest)
    assert second.read_bytes == 2 * MIB
    fresh = share_tree(tree)
    assert second.built.root.object_id == fresh.built.root.object_id
    os.unlink(tree + b"/small/07")
    third = share_tree(tree, previous=fresh.built.manifest)
    assert third.read_bytes == 19 * 5000
    assert third.built.root.object_id == share_tree(tree).built.root.object_id


def test_a_provider_notices_a_changed_file(place: bytes) -> None:
    tree = place + b"/tree"
    write_file(tree + b"/large", bytes(2 * MIB))
    write_file(tree + b"/small", b"small")
    write_file(tree + b"/gone", b"gone")
    share = share_tree(tree)
    reader = TreeReader(share.roots, share.built.manifest)
    buffer = memoryview(bytearray(MIB))
    manifest = share.built.manifest
    count = manifest.chunk_count
    assert all(reader.read_into(i, buffer) for i in range(count))
    write_file(tree + b"/large", bytes(2 * MIB))  # same bytes, another time
    os.unlink(tree + b"/gone")
    untouched = manifest_ordinal(share, b"tree/small")
    for ordinal in set(range(count)) - {untouched}:
        with pytest.raises(StorageFault) as caught:
            reader.read_into(ordinal, buffer)
        assert caught.value.code == "changed"
    assert reader.read_into(untouched, buffer) == 5
    with pytest.raises(LocalMisuse):
        reader.read_into(1, buffer[:5])
    with pytest.raises(IndexError):
        reader.read_into(count, buffer)
    reader.close()


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
