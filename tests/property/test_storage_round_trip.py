"""For all trees: what was shared is what was written, in whatever order, over restarts."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.trees import KEYS, PART, describe_tree, share_tree

from shoal.content.paths import find_target_problem
from shoal.core.units import MIB
from shoal.storage.tree_reader import TreeReader
from shoal.storage.tree_writer import TreeWriter

names = st.binary(min_size=1, max_size=6).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
times = st.integers(-(2**31), 2**33).map(lambda s: s * 10**9) | st.integers(0, 2 * 10**18)
files = st.tuples(
    st.just("file"),
    st.lists(st.tuples(st.sampled_from([0, 0, 100, 70_000, 400_000]), st.integers(0, 300_000)), max_size=3),
    st.integers(0, 0o777),
    times,
)
links = st.tuples(st.just("link"), st.binary(min_size=1, max_size=6).filter(lambda t: b"\0" not in t), times)
nodes: st.SearchStrategy[Any] = st.recursive(
    files | links,
    lambda children: st.tuples(
        st.just("folder"), st.dictionaries(names, children, max_size=5), st.integers(0, 0o777), times
    ),
    max_leaves=12,
)


def make(path: bytes, node: Any, rng: random.Random, share_path: bytes) -> None:
    """Create a drawn tree on the disk; links that a getter would skip are left out."""
    if node[0] == "folder":
        os.mkdir(path)
        for name, child in node[1].items():
            make(path + b"/" + name, child, rng, share_path + b"/" + name)
        os.chmod(path, node[2] | 0o500 if os.geteuid() else node[2])
        os.utime(path, ns=(node[3], node[3]))
    elif node[0] == "link":
        if find_target_problem(share_path, node[1]) is None:
            os.symlink(node[1], path)
            os.utime(path, ns=(node[2], node[2]), follow_symlinks=False)
    else:
        with open(path, "wb") as file:
            for hole, length in node[1]:
                file.seek(hole, os.SEEK_CUR)
                file.write(rng.randbytes(length))
            file.truncate(file.tell() + (node[1][-1][0] if node[1] else 0))
        os.chmod(path, node[2] | 0o400 if os.geteuid() else node[2])
        os.utime(path, ns=(node[3], node[3]))


@given(st.dictionaries(names, nodes, min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_what_is_shared_is_what_is_written(children: dict[bytes, Any], seed: int) -> None:
    rng = random.Random(seed)
    place = tempfile.mkdtemp().encode()
    try:
        tree, dest = place + b"/tree", place + b"/dest"
        make(tree, ("folder", children, 0o755, 10**18), rng, b"tree")
        share = share_tree(tree)
        manifest = share.built.manifest
        assert share.skipped == []
        reader = TreeReader(share.roots, manifest)
        buffer = memoryview(bytearray(MIB))
        order = list(range(manifest.chunk_count))
        rng.shuffle(order)
        stop = rng.randint(0, len(order))
        done: set[int] = set()
        for part in (order[:stop], order[stop:]):  # with a restart between the two
            writer = TreeWriter(dest, PART, manifest)
            writer.prepare()
            here = writer.verify(order, KEYS) | writer.reuse_existing(KEYS)
            assert here == done
            writer.check_space(set(order) - here)
            for ordinal in part:
                length = reader.read_into(ordinal, buffer)
                writer.write(ordinal, buffer[:length])
                assert writer.read_into(ordinal, buffer) == length
            done.update(part)
            writer.close()
        writer = TreeWriter(dest, PART, manifest)
        writer.prepare()
        assert writer.finish().skipped == []
        writer.close()
        reader.close()
        assert os.listdir(dest) == [b"tree"]
        assert describe_tree(dest + b"/tree") == describe_tree(tree)
        again = TreeWriter(dest, PART, manifest)  # into what is there already: nothing to do
        again.prepare()
        assert again.reuse_existing(KEYS) == set(order)
        again.finish()
        again.close()
        assert describe_tree(dest + b"/tree") == describe_tree(tree)
    finally:
        for folder, _, _ in os.walk(place):
            os.chmod(folder, 0o700)
        shutil.rmtree(place)
