"""Writing a part of a share: only selected names appear, and what is here is recognised again."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.support.trees import (
    KEYS,
    PART,
    Chunks,
    describe_tree,
    make_tree,
    read_chunks,
    share_tree,
    write_file,
)

from shoal.content.selection import Selection, select
from shoal.core.errors import Refused
from shoal.core.units import MIB
from shoal.storage.hashing import HashedShare
from shoal.storage.selected_chunks import SelectedChunks
from shoal.storage.tree_reader import TreeReader
from shoal.storage.tree_writer import TreeWriter, WrittenTree


class World:
    """A shared tree, and getters that want a part of it."""

    def __init__(self, place: Path) -> None:
        self.place = os.fsencode(place)
        self.dest = self.place + b"/dest"
        self.notes = self.place + b"/notes/transfer.pieces"
        self.tree = make_tree(self.place + b"/tree", random.Random(7))
        self.share: HashedShare = share_tree(self.tree)
        self.manifest = self.share.built.manifest
        self.manifest.content_id = self.share.built.root.object_id
        self.chunks: Chunks = read_chunks(self.share)

    def start(self, *patterns: bytes, notes: bytes | None = None) -> tuple[TreeWriter, Selection]:
        selection = select(self.manifest, patterns)
        selected = SelectedChunks(self.manifest, selection, notes or self.notes)
        return TreeWriter(self.dest, PART, self.manifest, selected), selection

    def get(self, *patterns: bytes, overwrite: bool = False) -> tuple[WrittenTree, set[int]]:
        """Get what the patterns select; returns also what was here already."""
        writer, selection = self.start(*patterns)
        writer.prepare(overwrite=overwrite)
        here = writer.reuse_existing(KEYS)
        for ordinal in set(selection.wanted()) - here:
            writer.write(ordinal, self.chunks[ordinal])
        written = writer.finish(overwrite=overwrite)
        writer.close()
        return written, here


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_only_what_is_selected_gets_a_name(world: World) -> None:
    written, _ = world.get(b"src/pkg/file0*", b"/medium", b"link")
    expected = {
        path: what
        for path, what in describe_tree(world.tree).items()
        if path in (b"tree", b"tree/src", b"tree/src/pkg", b"tree/medium", b"tree/link")
        or path.startswith(b"tree/src/pkg/file0")
    }
    assert len(expected) == 15
    assert describe_tree(world.dest + b"/tree") == expected
    assert os.listdir(world.dest) == [b"tree"]
    reader = TreeReader(written.roots, world.manifest)  # what is whole is served from there
    buffer = memoryview(bytearray(MIB))
    _, selection = world.start(b"src/pkg/file0*", b"/medium", b"link")
    assert selection.whole()
    for ordinal in selection.whole():
        assert bytes(buffer[: reader.read_into(ordinal, buffer)]) == world.chunks[ordinal]
    reader.close()


def test_the_same_again_writes_nothing(world: World) -> None:
    world.get(b"*.py")
    before = describe_tree(world.dest + b"/tree")
    _, here = world.get(b"*.py")
    _, selection = world.start(b"*.py")
    assert here == set(selection.wanted())
    assert any(not selection.is_whole(ordinal) for ordinal in here)
    assert describe_tree(world.dest + b"/tree") == before


def test_what_was_written_before_a_crash_is_recognised(world: World) -> None:
    writer, selection = world.start(b"*.py", b"large.bin")
    writer.prepare()
    wanted = selection.wanted()
    for ordinal in wanted[: len(wanted) // 2 + 1]:
        writer.write(ordinal, world.chunks[ordinal])
    again, _ = world.start(b"*.py", b"large.bin")
    again.prepare()
    assert again.verify(wanted, KEYS) == set(wanted[: len(wanted) // 2 + 1])
    for ordinal in wanted[len(wanted) // 2 + 1 :]:
        again.write(ordinal, world.chunks[ordinal])
    again.finish()
    again.close()
    writer.close()
    assert len(describe_tree(world.dest + b"/tree")) == 1 + 1 + 2 + 40


def test_damaged_notes_only_cost_chunks(world: World) -> None:
    world.get(b"*.py")
    with open(world.notes, "r+b") as file:
        file.seek(36 + 10)
        file.write(b"\0" * 20)
        file.seek(0, os.SEEK_END)
        file.write(b"half a record")
    _, here = world.get(b"*.py")
    _, selection = world.start(b"*.py")
    assert here < set(selection.wanted())
    os.unlink(world.notes)
    assert world.get(b"*.py")[1] == set()
    world.manifest.content_id = bytes(32)  # another version: the notes are not about it
    assert world.get(b"*.py")[1] == set()


def test_all_of_it_later_and_a_part_of_what_is_here(world: World) -> None:
    world.get(b"/large.bin")
    whole = TreeWriter(world.dest, PART, world.manifest)
    whole.prepare()
    here = whole.reuse_existing(KEYS)
    assert sum(world.manifest.chunk_length(o) for o in here) >= 3_500_000
    for ordinal in set(world.chunks) - here:
        whole.write(ordinal, world.chunks[ordinal])
    whole.finish()
    whole.close()
    assert describe_tree(world.dest + b"/tree") == describe_tree(world.tree)
    world.notes += b".other"  # without notes: the files beside the wanted ones tell that a chunk is right
    _, here = world.get(b"src/pkg/*")
    _, selection = world.start(b"src/pkg/*")
    assert here == set(selection.wanted())


def test_what_is_not_selected_is_left_alone(world: World) -> None:
    os.mkdir(world.dest)
    mine = write_file(world.dest + b"/tree/large.bin", b"mine")
    world.get(b"*.py")
    with open(mine, "rb") as file:
        assert file.read() == b"mine"
    with pytest.raises(Refused) as caught:
        world.get(b"large.bin")
    assert caught.value.code == "exists"
    written, _ = world.get(b"large.bin", overwrite=True)
    assert list(written.roots) == [b"tree"]
    assert os.path.getsize(mine) == 3_500_000


def test_space_is_counted_for_what_is_selected(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    needed: list[int] = []
    monkeypatch.setattr("shoal.storage.tree_writer.has_room", lambda _fd, _size: False)
    monkeypatch.setattr(
        "shoal.storage.tree_writer.check_free_space", lambda _fd, size, _where: needed.append(size)
    )
    writer, selection = world.start(b"src/tool", b"/medium")
    writer.prepare()
    writer.check_space(selection.wanted())
    writer.close()
    assert 262_144 + 10 <= needed[0] < 262_144 + 10 + 8192
