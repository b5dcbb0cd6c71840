"""Later versions of small files: cut where known and new files meet, within bounds."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.support.trees import share_tree

from shoal.content.manifest import Manifest
from shoal.core.units import MIB
from shoal.storage.scan import scan
from shoal.storage.section_parts import FEW_PARTS, split_at_changes

SIZE = 10_000
COUNT = 400


def write_small(tree: Path) -> None:
    rng = random.Random(7)
    tree.mkdir()
    for number in range(COUNT):
        (tree / f"file {number:03}").write_bytes(rng.randbytes(SIZE))


def keys_of(manifest: Manifest) -> list[bytes]:
    return [manifest.chunk_key(ordinal) for ordinal in range(manifest.chunk_count)]


def test_a_new_file_at_the_front_is_a_chunk_of_its_own(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_small(tree)
    before = share_tree(os.fsencode(tree)).built.manifest
    (tree / "a first one").write_bytes(b"new" * 1000)
    after = share_tree(os.fsencode(tree), previous=before).built.manifest
    assert after.chunk_length(0) == 3000
    assert keys_of(after)[1:] == keys_of(before)


def test_a_changed_file_in_the_middle_is_cut_out(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_small(tree)
    before = share_tree(os.fsencode(tree)).built.manifest
    (tree / "file 200").write_bytes(b"other" * 1000)
    after = share_tree(os.fsencode(tree), previous=before).built.manifest
    index = after.find_file(b"tree/file 200")
    assert index is not None
    (ordinal,) = after.chunks_of(index)
    assert after.chunk_length(ordinal) == 5000
    assert len(set(keys_of(after)) - set(keys_of(before))) <= 6
    same = share_tree(os.fsencode(tree), previous=after).built
    assert same.root.object_id == share_tree(os.fsencode(tree), previous=after).built.root.object_id
    assert keys_of(same.manifest) == keys_of(after)  # nothing changed, so nothing is cut again


def test_many_changes_are_cut_as_a_first_version_is(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_small(tree)
    before = share_tree(os.fsencode(tree)).built.manifest
    for number in range(0, COUNT, 2):
        (tree / f"file {number:03}").write_bytes(b"other" * (1000 + number))
    entries = scan([os.fsencode(tree)]).entries
    assert COUNT * SIZE < FEW_PARTS * MIB
    assert [list(part) for part in split_at_changes(entries, before)] == [list(entries)]
    after = share_tree(os.fsencode(tree), previous=before).built.manifest
    assert keys_of(after) == keys_of(share_tree(os.fsencode(tree)).built.manifest)


def test_parts_are_all_entries_in_order(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_small(tree)
    before = share_tree(os.fsencode(tree)).built.manifest
    (tree / "file 000").unlink()
    (tree / "file 100").write_bytes(b"")
    for number in (150, 151, 399):
        (tree / f"file {number:03}").write_bytes(b"x")
    entries = scan([os.fsencode(tree)]).entries
    parts = list(split_at_changes(entries, before))
    assert [entry for part in parts for entry in part] == list(entries)
    assert [len(part) for part in parts][1:] == [2, 247, 1]
    assert [list(part) for part in split_at_changes(entries, None)] == [list(entries)]
