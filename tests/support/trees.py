"""Trees: makes, describes and compares real folders for tests."""

from __future__ import annotations

import os
import random
import stat
import threading
from typing import Any

from shoal.content.keys import ChunkKeys, cut_seed
from shoal.core.units import MIB
from shoal.storage.hashing import HashedShare, hash_share
from shoal.storage.scan import scan
from shoal.storage.tree_reader import TreeReader
from shoal.storage.tree_writer import TreeWriter, WrittenTree

SECRET = bytes(range(32))
READ_KEY = bytes(range(32, 64))
SPACE = bytes(32)
KEYS = {0: ChunkKeys(SECRET)}
PART = b".shoal-part-00112233"
Chunks = dict[int, bytes]


def share_tree(*paths: bytes, **options: Any) -> HashedShare:
    """Scan and hash as a node does."""
    return hash_share(
        scan(list(paths)),
        read_key=READ_KEY,
        content_secret=SECRET,
        generation=0,
        space=SPACE,
        cut_seed=cut_seed(SECRET),
        **options,
    )


def describe_tree(root: bytes) -> dict[bytes, tuple[Any, ...]]:
    """Return everything about a tree that a share carries, by relative path."""
    found: dict[bytes, tuple[Any, ...]] = {}

    def add(path: bytes, name: bytes) -> None:
        info = os.lstat(path)
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISLNK(info.st_mode):
            found[name] = ("link", os.readlink(path), info.st_mtime_ns)
        elif stat.S_ISDIR(info.st_mode):
            found[name] = ("folder", mode, info.st_mtime_ns)
            for child in os.listdir(path):
                add(path + b"/" + child, name + b"/" + child)
        else:
            with open(path, "rb") as file:
                found[name] = ("file", mode, info.st_mtime_ns, file.read())

    add(root, os.path.basename(root))
    return found


def write_file(path: bytes, data: bytes, mode: int = 0o644, mtime_ns: int | None = None) -> bytes:
    """Write a file with its folders; returns the path."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, mode)
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def make_tree(root: bytes, rng: random.Random) -> bytes:
    """Make a tree with everything in it that a share can carry; returns its path."""
    t = 1_600_000_000_123_456_789
    write_file(root + b"/large.bin", rng.randbytes(3_500_000), 0o640, t)
    for number in range(40):
        write_file(
            root + b"/src/pkg/file%02d.py" % number, rng.randbytes(rng.randrange(9000)), 0o644, t + number
        )
    write_file(root + b"/src/tool", b"#!/bin/sh\n", 0o755, t)
    write_file(root + b"/empty", b"", 0o600, t)
    write_file(root + b"/not utf-8 \xff\xfe", b"latin", 0o444, t)
    write_file(root + b"/a", b"a", 0o644, t)
    write_file(root + b"/a.txt", b"a.txt", 0o644, t)
    write_file(root + b"/medium", rng.randbytes(262_144), 0o644, t)
    write_file(root + b"/before epoch", b"old", 0o644, -1_000_000_001)
    os.makedirs(root + b"/empty folder/inside")
    os.makedirs(root + b"/read only")
    write_file(root + b"/read only/file", b"r", 0o400, t)
    os.symlink(b"src/tool", root + b"/link")
    os.symlink(b"../a", root + b"/src/up")
    os.symlink(b"nowhere", root + b"/dangling")
    with open(root + b"/sparse", "wb") as file:
        file.truncate(40_000_000)
        file.seek(20_000_000)
        file.write(rng.randbytes(300_000))
    os.chmod(root + b"/read only", 0o555)
    for folder, _, _ in os.walk(root, topdown=False):
        os.utime(folder, ns=(t, t))
    return root


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
