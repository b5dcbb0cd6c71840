"""Rows seen while hashing goes on: they are the manifest's in the end, or gaps where something changed."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path

import pytest
from tests.support.trees import READ_KEY, SECRET, SPACE, describe_tree, make_tree, read_chunks, write_file

from shoal.content.draft import GAP_KEY, DraftChunk
from shoal.content.keys import cut_seed
from shoal.core.units import KIB, MIB
from shoal.storage import section_hasher
from shoal.storage.draft_rows import DraftRows
from shoal.storage.hashing import HashedShare, hash_share
from shoal.storage.scan import ScanResult, scan
from shoal.storage.tree_handles import read_exactly


def hash_with(rows: DraftRows, scanned: ScanResult) -> HashedShare:
    return hash_share(
        scanned,
        read_key=READ_KEY,
        content_secret=SECRET,
        generation=0,
        space=SPACE,
        cut_seed=cut_seed(SECRET),
        rows=rows,
    )


def keys_of(share: HashedShare) -> list[tuple[int, bytes]]:
    manifest = share.built.manifest
    return [manifest.chunk(i)[1:] for i in range(manifest.chunk_count)]


@pytest.mark.parametrize("seed", range(6))
def test_rows_are_those_of_the_manifest_whenever_they_are_taken(tmp_path: Path, seed: int) -> None:
    root = make_tree(os.fsencode(tmp_path / "tree"), random.Random(seed))
    write_file(root + b"/zz", random.Random(seed).randbytes(20 * MIB + seed))
    rows, taken, over = DraftRows(0), [], threading.Event()

    def take() -> None:
        while not over.wait(0.001):
            taken.extend(rows.take())

    taker = threading.Thread(target=take)
    taker.start()
    share = hash_with(rows, scan([root]))
    over.set()
    taker.join()
    taken.extend(rows.take())
    assert [(row.length, row.key) for row in taken] == keys_of(share)


@pytest.mark.parametrize("change", ["shorter", "gone", "touched", "in the middle"])
def test_a_section_that_is_not_as_scanned_becomes_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """What lies behind it stays where the scan found it."""
    root = os.fsencode(tmp_path / "tree")
    os.mkdir(root)
    write_file(root + b"/a", random.Random(1).randbytes(2 * MIB))
    changing = write_file(root + b"/b", random.Random(2).randbytes(12 * MIB))
    write_file(root + b"/c", random.Random(3).randbytes(3 * MIB))
    scanned = scan([root])
    rows = DraftRows(0)
    taken: list[DraftChunk] = []
    if change == "in the middle":

        def read(fd: int, view: memoryview, offset: int) -> bool:
            if os.fstat(fd).st_size == 12 * MIB and offset and not taken:
                taken.extend(rows.take())  # some of it is told
                write_file(changing, random.Random(4).randbytes(12 * MIB))
            return read_exactly(fd, view, offset)

        monkeypatch.setattr(section_hasher, "read_exactly", read)
    elif change == "shorter":
        write_file(changing, b"b" * MIB)
    elif change == "gone":
        os.unlink(changing)
    else:
        os.utime(changing, ns=(7, 7))
    share = hash_with(rows, scanned)
    taken += rows.take()
    assert sum(row.length for row in taken) == 17 * MIB
    assert any(row.key == GAP_KEY for row in taken)
    ends = keys_of(share)
    assert [(r.length, r.key) for r in taken[:2]] == ends[:2]
    behind = [key for key in ends if key in [(r.length, r.key) for r in taken[-8:]]]
    assert sum(length for length, _ in behind) == 3 * MIB
    if change == "gone":
        assert [s.path for s in share.skipped] == [b"tree/b"]
    else:
        assert b"".join(read_chunks(share).values())[2 * MIB :].endswith(random.Random(3).randbytes(3 * MIB))


@pytest.mark.parametrize("size", [200 * KIB, 20 * MIB])
def test_a_file_that_fails_in_the_middle_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Nothing of it is in the chunks, whatever of it was read before."""
    root = os.fsencode(tmp_path / "tree")
    os.mkdir(root)
    write_file(root + b"/a", b"a" * 1000)
    bad = write_file(root + b"/b", b"")
    with open(bad, "wb") as file:  # two runs of data, so that the first one can be read
        os.pwrite(file.fileno(), os.urandom(size // 2), 0)
        os.pwrite(file.fileno(), os.urandom(size // 2), 4 * size)
    write_file(root + b"/c", b"c" * 1000)

    def read(fd: int, view: memoryview, offset: int) -> bool:
        if offset >= size // 2 - KIB:
            raise OSError(errno.EIO, "a bad sector")
        return read_exactly(fd, view, offset)

    monkeypatch.setattr(section_hasher, "read_exactly", read)
    share = hash_with(DraftRows(0), scan([root]))
    assert [s.path for s in share.skipped] == [b"tree/b"]
    assert b"".join(read_chunks(share).values()) == b"a" * 1000 + b"c" * 1000
    assert sorted(describe_tree(root)) == [b"tree", b"tree/a", b"tree/b", b"tree/c"]
