"""A large file has the same chunks whatever number of threads hashed it, and however it was sliced."""

from __future__ import annotations

import errno
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.trees import READ_KEY, SECRET, SPACE, write_file

from shoal.content.cut import Cutter
from shoal.content.keys import ChunkKeys, cut_seed
from shoal.core.errors import Unavailable
from shoal.core.units import KIB, MIB
from shoal.storage import hashing, large_file, section_hasher
from shoal.storage.draft_rows import DraftRows
from shoal.storage.hashing import HashedShare, hash_share
from shoal.storage.large_file import LargeFile
from shoal.storage.scan import scan
from shoal.storage.section import Section
from shoal.storage.section_hasher import SectionHasher
from shoal.storage.tree_handles import TreeHandles, read_exactly

SEED = cut_seed(SECRET)
SIZES = st.integers(300 * KIB, 9 * MIB)


def make_data(kind: str, size: int, seed: int) -> bytes:
    """Data that resynchronises at once, late, or never."""
    rng = random.Random(seed)
    if kind == "random":
        return rng.randbytes(size)
    if kind == "zeros":
        return bytes(size)
    if kind == "period":
        period = rng.randbytes(rng.choice((1000, 300 * KIB, 3 * MIB)))
        return (period * (size // len(period) + 1))[:size]
    return (rng.randbytes(rng.randrange(2 * MIB)) + bytes(3 * MIB) + rng.randbytes(size))[:size]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["random", "zeros", "period", "zeros within"]),
    size=SIZES,
    seed=st.integers(0, 1000),
    slice_bytes=st.sampled_from([200 * KIB, MIB, 2 * MIB + 1, 5 * MIB]),
    hole=st.sampled_from([0, 0, MIB]),
)
def test_slices_give_the_cuts_and_keys_of_one_thread(
    tmp_path: Path, kind: str, size: int, seed: int, slice_bytes: int, hole: int
) -> None:
    data = make_data(kind, size, seed)
    path = os.fsencode(tmp_path / "file")
    with open(path, "wb") as file:
        file.write(data[:MIB] if hole else data)
        if hole and len(data) > MIB:
            file.seek(MIB + hole)
            file.write(data[MIB:])
    entry = scan([path]).entries[-1]
    assert entry.data_bytes == size
    section, counted = Section(), []
    large = LargeFile(TreeHandles(roots={b"file": path}), entry, section, slice_bytes)

    def run() -> None:
        hasher = SectionHasher(
            TreeHandles(roots={b"file": path}),
            SEED,
            ChunkKeys(SECRET),
            0,
            lambda size_bytes, files: counted.append((size_bytes, files)),
            threading.Event(),
        )
        while (number := large.take()) is not None:
            if large.hash_slice(number, hasher):
                large.finish(hasher)

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(run) for _ in range(3)]:
            future.result()
    lengths = Cutter(SEED).cut_whole(data)
    assert list(section.lengths) == lengths
    position, keys = 0, b""
    for length in lengths:
        keys += ChunkKeys(SECRET).key(data[position : position + length])
        position += length
    assert bytes(section.keys) == keys
    assert len(section.generations) == len(lengths)
    assert section.as_scanned
    assert (sum(s for s, _ in counted), sum(f for _, f in counted)) == (size, 1)
    assert [(e.path, e.size) for e in section.entries] == [(b"file", size + (hole if size > MIB else 0))]


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "SPLIT_BYTES", 4 * MIB)
    monkeypatch.setattr(large_file.LargeFile.__init__, "__defaults__", (2 * MIB,))


def hash_tree(root: bytes, threads: int, **options: object) -> HashedShare:
    return hash_share(
        scan([root]),
        read_key=READ_KEY,
        content_secret=SECRET,
        generation=0,
        space=SPACE,
        cut_seed=SEED,
        threads=threads,
        **options,  # type: ignore[arg-type]
    )


def make_mixed_tree(root: Path) -> bytes:
    base = os.fsencode(root)
    os.makedirs(base + b"/empty")
    write_file(base + b"/a", random.Random(1).randbytes(21 * MIB))
    write_file(base + b"/b", b"b" * 1000)
    write_file(base + b"/c", random.Random(2).randbytes(9 * MIB) + bytes(9 * MIB))
    write_file(base + b"/d", random.Random(3).randbytes(300 * KIB))
    return base


@pytest.mark.usefixtures("small_slices")
def test_a_tree_is_the_same_with_one_thread_and_with_three(tmp_path: Path) -> None:
    root = make_mixed_tree(tmp_path / "tree")
    progress: list[tuple[int, int]] = []
    one = hash_tree(root, 1)
    three = hash_tree(root, 3, progress=lambda *done: progress.append(done))
    assert three.built.root.object_id == one.built.root.object_id
    assert three.read_bytes == one.read_bytes == one.built.manifest.stream_bytes
    assert max(progress)[1] == 4
    again = hash_tree(root, 2, previous=three.built.manifest)
    assert (again.built.root.object_id, again.read_bytes) == (one.built.root.object_id, 0)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("change", ["rewritten", "shorter", "unreadable", "gone bad"])
def test_a_large_file_that_is_not_what_it_was_is_read_again_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """It changes when a slice in the middle is read, for good or for once."""
    root = make_mixed_tree(tmp_path / "tree")
    new = random.Random(4).randbytes(21 * MIB if change == "rewritten" else 13 * MIB)
    acted = threading.Event()

    def read(fd: int, view: memoryview, offset: int) -> bool:
        if os.fstat(fd).st_size == 21 * MIB and offset >= 9 * MIB:
            if change == "gone bad" or (change == "unreadable" and not acted.is_set()):
                acted.set()
                raise OSError(errno.EIO, "a bad sector")
            if change in ("rewritten", "shorter") and not acted.is_set():
                acted.set()
                write_file(root + b"/a", new)
        return read_exactly(fd, view, offset)

    monkeypatch.setattr(section_hasher, "read_exactly", read)
    rows = DraftRows(0)
    share = hash_tree(root, 2, rows=rows)
    assert acted.is_set()
    monkeypatch.setattr(section_hasher, "read_exactly", read_exactly)
    if change == "gone bad":
        assert [s.path for s in share.skipped] == [b"tree/a"]
        info = os.stat(root)
        os.unlink(root + b"/a")
        os.utime(root, ns=(info.st_atime_ns, info.st_mtime_ns))
    else:
        assert not share.skipped
    assert share.built.root.object_id == hash_tree(root, 1).built.root.object_id
    told = rows.take()
    assert sum(row.length for row in told) == 39 * MIB + 300 * KIB + 1000


def count_open_files() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.mark.usefixtures("small_slices")
def test_hashing_of_a_large_file_stops_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_mixed_tree(tmp_path / "tree")
    cancelled, read = threading.Event(), 0

    def count(fd: int, view: memoryview, offset: int) -> bool:
        nonlocal read
        read += len(view)
        if offset >= 4 * MIB:
            cancelled.set()
        return read_exactly(fd, view, offset)

    monkeypatch.setattr(section_hasher, "read_exactly", count)
    open_files = count_open_files()
    with pytest.raises(Unavailable):
        hash_tree(root, 2, cancelled=cancelled)
    assert read < 21 * MIB
    assert count_open_files() == open_files
