"""A disk that fills up while a share is written: a clear error, and a state that is resumed."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.trees import KEYS, PART, READ_KEY, describe_tree, share_tree, write_file

from shoal.content.manifest_builder import ManifestBuilder
from shoal.core.errors import StorageFault
from shoal.core.units import MIB, format_size
from shoal.storage.disk_space import MARGIN_BYTES
from shoal.storage.tree_reader import TreeReader
from shoal.storage.tree_writer import TreeWriter


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[bytes]:
    """A file system of 8 MiB, where we may mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "shoal-test", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield os.fsencode(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def read_chunk(reader: TreeReader, ordinal: int) -> bytes:
    buffer = memoryview(bytearray(MIB))
    return bytes(buffer[: reader.read_into(ordinal, buffer)])


@pytest.mark.parametrize("many_files", [False, True])
def test_a_full_disk_is_noticed_before_and_survived_in_the_middle(
    tmp_path: Path, small_disk: bytes, many_files: bool
) -> None:
    tree = os.fsencode(tmp_path) + b"/tree"
    rng = random.Random(8)
    if many_files:
        for number in range(100):
            write_file(tree + b"/%03d" % number, rng.randbytes(100_000))
    else:
        for number in range(5):
            write_file(tree + b"/%d" % number, rng.randbytes(2 * MIB))
    share = share_tree(tree)
    manifest = share.built.manifest
    everything = set(range(manifest.chunk_count))
    reader = TreeReader(share.roots, manifest)
    writer = TreeWriter(small_disk, PART, manifest)
    writer.prepare()
    with pytest.raises(StorageFault) as caught:
        writer.check_space(everything)
    assert caught.value.code == "disk_full"
    assert f" and a reserve of {format_size(MARGIN_BYTES)} are needed, " in caught.value.cause
    assert caught.value.next_step

    written: set[int] = set()
    fault = None
    for ordinal in sorted(everything):  # as if another program had filled it meanwhile
        try:
            writer.write(ordinal, read_chunk(reader, ordinal))
        except StorageFault as error:
            fault = error
            break
        written.add(ordinal)
    assert fault is not None
    assert fault.code == "disk_full"
    assert 0 < len(written) < len(everything)
    writer.close()

    subprocess.run(["mount", "-o", "remount,size=32m", os.fsdecode(small_disk)], check=True)
    again = TreeWriter(small_disk, PART, manifest)
    again.prepare()
    assert again.trusts_records
    assert written <= again.verify(everything, KEYS)
    again.check_space(everything - written)
    for ordinal in everything - written:
        again.write(ordinal, read_chunk(reader, ordinal))
    again.finish()
    again.close()
    reader.close()
    assert describe_tree(small_disk + b"/tree") == describe_tree(tree)


@pytest.mark.parametrize("many_files", [False, True])
def test_a_draft_that_will_not_fit_is_refused_by_its_entries(
    tmp_path: Path, small_disk: bytes, many_files: bool
) -> None:
    """Only its first chunk is known yet."""
    tree = os.fsencode(tmp_path) + b"/tree"
    for number in range(100 if many_files else 5):
        write_file(tree + b"/%03d" % number, bytes(100_000 if many_files else 2 * MIB))
    manifest = share_tree(tree).built.manifest
    builder = ManifestBuilder(manifest.header, READ_KEY)
    for index in range(len(manifest)):
        entry = manifest.entry(index)
        builder.add_entry(entry.path, entry.kind, entry.mode, entry.mtime_ns, entry.size, None, entry.target)
    builder.add_chunk(*manifest.chunk(0)[1:], 0)
    draft = builder.manifest
    writer = TreeWriter(small_disk, PART, draft)
    writer.prepare()
    with pytest.raises(StorageFault) as caught:
        writer.check_space([0])
    assert caught.value.code == "disk_full"
    subprocess.run(["mount", "-o", "remount,size=96m", os.fsdecode(small_disk)], check=True)
    writer.check_space([0])
    writer.close()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "permission"),
        (errno.EIO, "io"),
    ],
)
def test_what_the_disk_says_becomes_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    source = write_file(os.fsencode(tmp_path) + b"/file", b"x" * 400_000)
    share = share_tree(source)
    dest = os.fsencode(tmp_path) + b"/dest"
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare()

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("shoal.storage.tree_handles.os.pwrite", fail)
        with pytest.raises(StorageFault) as caught:
            writer.write(0, b"x" * 400_000)
    assert caught.value.code == code
    writer.write(0, b"x" * 400_000)
    writer.finish()
    writer.close()
    assert describe_tree(dest + b"/file") == describe_tree(source)


def test_where_space_cannot_be_reserved_it_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_file(os.fsencode(tmp_path) + b"/file", b"x" * 400_000)
    share = share_tree(source)

    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr("shoal.storage.disk_space.os.posix_fallocate", unsupported)
    monkeypatch.setattr("shoal.storage.disk_space._renameat2", None)
    monkeypatch.setattr("shoal.storage.disk_space._syncfs", None)
    monkeypatch.setattr("shoal.storage.disk_space.os.sync", lambda: None)
    dest = os.fsencode(tmp_path) + b"/dest"
    writer = TreeWriter(dest, PART, share.built.manifest)
    writer.prepare()
    writer.write(0, b"x" * 400_000)
    writer.finish()
    writer.close()
    assert describe_tree(dest + b"/file") == describe_tree(source)
