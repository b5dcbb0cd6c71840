"""What a person shares: scanned, hashed, and read again chunk by chunk."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.trees import (
    READ_KEY,
    SECRET,
    SPACE,
    make_tree,
    manifest_ordinal,
    read_chunks,
    share_tree,
    write_file,
)

from shoal.content.keys import cut_seed
from shoal.content.paths import PART_PREFIX
from shoal.core.errors import LocalMisuse, StorageFault, Unavailable
from shoal.core.units import MIB
from shoal.storage.entry_table import TIME_REASON
from shoal.storage.hashing import hash_share
from shoal.storage.scan import SYSTEM_REASON, check_root, scan
from shoal.storage.system_folders import SystemFolders
from shoal.storage.tree_reader import TreeReader


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


def test_homes_of_other_networks_are_left_out_with_their_keys(place: bytes) -> None:
    tree = place + b"/tree"
    write_file(tree + b"/file", b"x")
    write_file(tree + b"/.local/share/shoal/keys/device.key", b"x")
    write_file(tree + b"/.local/share/shoal/shoal.db", b"x")
    write_file(tree + b"/piano/keys/c", b"x")
    result = scan([tree])
    assert [s.path for s in result.skipped] == [b"tree/.local/share/shoal"]
    assert "keys" in result.skipped[0].reason
    assert b"tree/piano/keys/c" in [entry.path for entry in result.entries]
    with pytest.raises(LocalMisuse, match="cannot be shared"):
        scan([tree + b"/.local/share/shoal"])


@pytest.mark.parametrize("name", [b".shoal-versions", b".Shoal-Part-12"])
def test_what_a_getter_keeps_beside_its_copies_is_no_folder_to_share(place: bytes, name: bytes) -> None:
    write_file(place + b"/" + name + b"/file", b"x")
    with pytest.raises(LocalMisuse, match="cannot be shared"):
        scan([place + b"/" + name])


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no such folder on this system")
@pytest.mark.parametrize("path", [b"/proc", b"/proc/self", b"/proc/cpuinfo", b"/sys/class", b"/dev"])
def test_what_only_shows_the_system_is_nothing_to_share(path: bytes) -> None:
    looks: list[Callable[[bytes], object]] = [check_root, lambda path: scan([path])]
    for look in looks:
        with pytest.raises(LocalMisuse, match="cannot be shared") as refused:
            look(path)
        assert refused.value.cause == SYSTEM_REASON


def test_file_systems_that_hold_no_files_are_known_by_their_kind(place: bytes) -> None:
    info = os.stat(place)
    device = f"{os.major(info.st_dev)}:{os.minor(info.st_dev)}"
    mounts = os.fsdecode(place) + "/mounts"
    for kind, expected in (("sysfs", True), ("ext4", False), ("autofs", False)):
        write_file(os.fsencode(mounts), f"36 35 {device} / /mnt rw shared:1 - {kind} /dev/x rw\n".encode())
        assert SystemFolders(mounts, folders=[]).has(info) is expected
    for text in (b"", b"36 35 x:y / /mnt rw - proc\n", b" - proc\n", b"\xff - \xff"):
        write_file(os.fsencode(mounts), text)
        assert not SystemFolders(mounts, folders=[b"/not there"]).has(info)


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


def test_what_is_found_and_hashed_is_no_small_objects(place: bytes) -> None:
    count, tree = 2000, place + b"/tree"
    os.mkdir(tree)
    for number in range(count):
        with open(tree + b"/%d" % number, "wb") as file:
            file.write(b"%d" % number)
    held: list[int] = []

    def look(_size: int, files: int) -> None:
        if files == count:  # all of them are rows now
            held.append(sys.getallocatedblocks())

    share_tree(tree)  # what is made once is there
    before = sys.getallocatedblocks()
    scanned = scan([tree])
    held.append(sys.getallocatedblocks())
    assert len(scanned.entries) == count + 1
    share_tree(tree, progress=look)
    assert len(held) == 2
    assert max(held) - before < count // 2  # it was four for each file that was found, and as many hashed


FAR_AWAY_S = 9_300_000_000  # in 2264; nanoseconds of it take 65 bits


def test_files_with_times_that_cannot_be_written_down_are_listed(place: bytes) -> None:
    tree = place + b"/tree"
    for name in (b"file", b"folder/below", b"later", b"stays"):
        write_file(tree + b"/" + name, b"x")
    far = FAR_AWAY_S * 10**9
    os.utime(tree + b"/folder", ns=(far, far))
    if os.stat(tree + b"/folder").st_mtime_ns != far:
        pytest.skip("this filesystem keeps no such times")
    os.utime(tree + b"/file", ns=(far, far))
    scanned = scan([tree])
    assert [s.path for s in scanned.skipped] == [b"tree/file", b"tree/folder"]
    os.utime(tree + b"/later", ns=(far, far))
    share = hash_share(
        scanned,
        read_key=READ_KEY,
        content_secret=SECRET,
        generation=0,
        space=SPACE,
        cut_seed=cut_seed(SECRET),
    )
    assert list(share.built.manifest.files.paths()) == [b"tree", b"tree/stays"]
    assert {reason for _, reason in share.skipped} == {TIME_REASON}
    assert [s.path for s in share.skipped] == [b"tree/file", b"tree/folder", b"tree/later"]


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
