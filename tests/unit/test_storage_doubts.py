"""What a getter must not take for granted: part files, kept files and disks that change behind its back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.trees import (
    KEYS,
    PART,
    SECRET,
    describe_tree,
    manifest_ordinal,
    read_chunks,
    share_tree,
    write_file,
)

from shoal.content.keys import ChunkKeys
from shoal.core.errors import Refused, StorageFault
from shoal.storage.hashing import HashedShare
from shoal.storage.tree_writer import TreeWriter


@pytest.fixture
def dest(tmp_path: Path) -> bytes:
    path = os.fsencode(tmp_path) + b"/dest"
    os.mkdir(path)
    return path


@pytest.fixture
def share(tmp_path: Path) -> HashedShare:
    tree = os.fsencode(tmp_path) + b"/tree"
    write_file(tree + b"/large", os.urandom(900_000))
    write_file(tree + b"/other", os.urandom(900_000))
    write_file(tree + b"/small", os.urandom(1000))
    return share_tree(tree)


def now_ns(dest: bytes) -> int:
    """Return the time of the file system's own clock, which advances in ticks of some milliseconds."""
    probe = write_file(dest + b".probe", b"")
    return os.stat(probe).st_ctime_ns


def wait_tick(dest: bytes) -> None:
    before = now_ns(dest)
    while now_ns(dest) == before:
        pass


def written_parts(dest: bytes, share: HashedShare) -> tuple[set[int], int]:
    """Write all parts as a get does that ends before it can finish; return the chunks, and when it ended."""
    chunks = read_chunks(share)
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare()
    for ordinal, data in chunks.items():
        writer.write(ordinal, data)
    writer.close()
    return set(chunks), now_ns(dest)


def resumed(dest: bytes, share: HashedShare) -> TreeWriter:
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare()
    assert writer.reuse_existing(KEYS) == set()
    return writer


def test_part_files_that_nobody_touched_are_trusted(dest: bytes, share: HashedShare) -> None:
    recorded, ended_ns = written_parts(dest, share)
    writer = resumed(dest, share)
    assert writer.find_trusted(recorded, ended_ns) == recorded
    assert writer.find_trusted(recorded, 0) == set()
    writer.close()


@pytest.mark.parametrize("harm", ["edited", "truncated", "lost", "replaced"])
def test_a_part_file_that_was_touched_is_looked_at_again(dest: bytes, share: HashedShare, harm: str) -> None:
    recorded, ended_ns = written_parts(dest, share)
    victim = dest + b"/" + PART + b"/tree/large"
    wait_tick(dest)
    info = os.stat(victim)
    match harm:
        case "edited":
            with open(victim, "r+b") as file:
                file.write(b"not what was received")
            os.utime(victim, ns=(info.st_mtime_ns, info.st_mtime_ns))
        case "truncated":
            os.truncate(victim, 10)
        case "lost":
            os.unlink(victim)
        case "replaced":
            os.rename(dest + b"/" + PART + b"/tree/other", victim)
    writer = resumed(dest, share)
    trusted = writer.find_trusted(recorded, ended_ns)
    damaged = manifest_ordinal(share, b"tree/large")
    assert damaged not in trusted
    assert manifest_ordinal(share, b"tree/small") in trusted
    assert damaged not in writer.verify(recorded - trusted, KEYS)
    writer.close()


def test_a_kept_file_that_changes_meanwhile_is_left_alone(dest: bytes, share: HashedShare) -> None:
    chunks = read_chunks(share)
    source = share.roots[b"tree"]
    with open(source + b"/large", "rb") as file:
        write_file(dest + b"/tree/large", file.read())
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare()
    here = writer.reuse_existing(KEYS)
    assert here
    for ordinal in chunks.keys() - here:
        writer.write(ordinal, chunks[ordinal])
    wait_tick(dest)
    mine = write_file(dest + b"/tree/large", b"m" * 900_000)
    before = os.stat(mine).st_mtime_ns
    with pytest.raises(Refused) as caught:
        writer.finish()
    assert caught.value.code == "exists"
    assert "tree/large" in caught.value.cause
    assert os.stat(mine).st_mtime_ns == before, "it would look as if it was the share's"
    assert not os.path.exists(dest + b"/tree/other")
    writer.close()
    again = TreeWriter(dest, PART, share.built.manifest)  # asked again, it is seen as what it is
    again.prepare()
    here = again.reuse_existing(KEYS)
    assert manifest_ordinal(share, b"tree/large") not in here
    for ordinal in chunks.keys() - here:
        again.write(ordinal, chunks[ordinal])
    with pytest.raises(Refused):
        again.finish()
    again.close()


class Meddler(ChunkKeys):
    """Keys that write into a file once so many chunks were looked at."""

    def __init__(self, victim: bytes, calls: int) -> None:
        super().__init__(SECRET)
        self.calls = calls
        self._victim = victim

    def key(self, plaintext: bytes | bytearray | memoryview) -> bytes:
        found = super().key(plaintext)
        self.calls -= 1
        if not self.calls:
            with open(self._victim, "r+b") as file:
                file.write(b"not what was verified")
        return found


def test_what_is_taken_from_a_file_at_dest_is_verified_as_it_is_taken(tmp_path: Path, dest: bytes) -> None:
    """The file is replaced in the end, so nobody looks whether it stayed what it was."""
    tree = os.fsencode(tmp_path) + b"/tree"
    content = os.urandom(3_000_000)
    write_file(tree + b"/large", content)
    share = share_tree(tree)
    chunks = read_chunks(share)
    victim = write_file(dest + b"/tree/large", content[:-1] + bytes([content[-1] ^ 1]))
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare(overwrite=True)
    here = writer.reuse_existing({0: Meddler(victim, len(chunks))})
    assert 0 not in here
    assert here == writer.verify(here, KEYS)
    for ordinal in chunks.keys() - here:
        writer.write(ordinal, chunks[ordinal])
    writer.finish(overwrite=True)
    writer.close()
    assert describe_tree(dest + b"/tree") == describe_tree(tree)


def test_kept_files_and_an_error_at_the_end_can_be_finished_again(
    dest: bytes, share: HashedShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = read_chunks(share)
    source = share.roots[b"tree"]
    with open(source + b"/large", "rb") as file:
        write_file(dest + b"/tree/large", file.read())
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare()
    here = writer.reuse_existing(KEYS)
    for ordinal in chunks.keys() - here:
        writer.write(ordinal, chunks[ordinal])

    def fail(*_: object) -> None:
        raise OSError(5, "no")

    with monkeypatch.context() as patch:
        patch.setattr("os.path.realpath", fail)  # right after everything has its final name
        with pytest.raises(StorageFault):
            writer.finish()
    writer.close()
    again = TreeWriter(dest, PART, share.built.manifest)
    again.prepare()
    assert again.reuse_existing(KEYS) == set(chunks)
    again.finish()
    again.close()
    assert describe_tree(dest + b"/tree") == describe_tree(source)


def test_a_failed_sync_is_said_apart(
    dest: bytes, share: HashedShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports it once and forgets the pages: a second sync would call lost bytes saved."""
    chunks = read_chunks(share)
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare()
    for ordinal, data in chunks.items():
        writer.write(ordinal, data)

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(StorageFault) as caught:
            writer.finish()
    assert caught.value.code == "sync"
    assert not os.path.exists(dest + b"/tree")
    writer.discard()


def test_names_that_differ_only_in_how_an_accent_is_written(tmp_path: Path, dest: bytes) -> None:
    """A disk that takes capitals for small letters takes both ways to write an accent for one, too."""
    tree = os.fsencode(tmp_path) + b"/two"
    write_file(tree + "/caf\u00e9".encode(), b"one")
    write_file(tree + "/cafe\u0301".encode(), b"two")
    share = share_tree(tree)
    os.mkdir(dest + b"/" + PART.swapcase())  # as such a disk would answer
    with pytest.raises(StorageFault) as caught:
        TreeWriter(dest, PART, share.built.manifest).prepare()
    assert caught.value.code == "names"


def test_a_dest_without_the_folder_above_it_says_so(tmp_path: Path, share: HashedShare) -> None:
    with pytest.raises(StorageFault) as caught:
        TreeWriter(os.fsencode(tmp_path / "no" / "such"), PART, share.built.manifest).prepare()
    assert "make the folder above it" in caught.value.next_step
