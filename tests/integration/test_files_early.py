"""The first getter fetches while the sharer still hashes: between real nodes, the hashing held by a hook."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.files_nodes import CONTENT_SECRET, FilesNode, files_world
from tests.support.transport_nodes import wait_until

from shoal.apps.files import drafting
from shoal.apps.files import share as share_module
from shoal.apps.files.early import EarlyFetch
from shoal.content.draft import DraftChunk
from shoal.content.feed import DRAFTS
from shoal.content.keys import cut_seed
from shoal.content.link import Link
from shoal.content.seal import SealedObject
from shoal.core.errors import Unavailable
from shoal.core.units import KIB, MIB
from shoal.identity.secrets import DEFAULT_SPACE
from shoal.storage import section_hasher
from shoal.storage.hashing import HashedShare, hash_share
from shoal.storage.scan import ScanResult, scan
from shoal.storage.transfers import TransferState
from shoal.storage.tree_handles import read_exactly
from shoal.storage.tree_reader import TreeReader
from shoal.swarm.fetch import OBJECTS_AT_ONCE
from shoal.testing.trees import find_difference, write_seeded_tree


class HeldHashing:
    """Lets hashing read so many bytes; then it stands still until more are let through."""

    def __init__(self) -> None:
        self._left = 0
        self._state = threading.Condition()
        self.first_bytes = 0  # size of the file that is read before any other, if one is

    def let(self, size_bytes: int) -> None:
        with self._state:
            self._left += size_bytes
            self._state.notify_all()

    def hold(self) -> None:
        with self._state:
            self._left = 0

    def read(self, fd: int, view: memoryview, offset: int) -> bool:
        with self._state:
            is_first = not self.first_bytes or os.fstat(fd).st_size == self.first_bytes
            self._state.wait_for(lambda: self._left >= (len(view) if is_first else 1 << 60), 60.0)
            self._left -= len(view)
        return read_exactly(fd, view, offset)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldHashing]:
    hashing = HeldHashing()
    monkeypatch.setattr(section_hasher, "read_exactly", hashing.read)
    monkeypatch.setattr(drafting, "TELL_S", 0.05)
    yield hashing
    hashing.let(1 << 62)


def has_draft(node: FilesNode, link: Link) -> bool:
    offer = node.swarm.find_offer(link.share_id)
    return offer is not None and any(number >= DRAFTS for number in offer.versions)


def find_draft_number(node: FilesNode, link: Link) -> int:
    """Return the number of the newest draft that a node serves, 0 if it serves none."""
    offer = node.swarm.find_offer(link.share_id)
    return max((n for n in offer.versions if n >= DRAFTS), default=0) if offer is not None else 0


def hash_for(root: Path) -> HashedShare:
    """Hash a tree as a share of the test's network is."""
    return hash_share(
        scan([os.fsencode(root)]),
        read_key=bytes(32),
        content_secret=CONTENT_SECRET,
        generation=0,
        space=DEFAULT_SPACE,
        cut_seed=cut_seed(CONTENT_SECRET),
    )


async def begin(node: FilesNode, path: Path) -> Link:
    return (await node.files.share([os.fsencode(path)])).link


async def test_bytes_are_there_before_hashing_ended(tmp_path: Path, held: HeldHashing) -> None:
    file = tmp_path / "large"
    file.write_bytes(random.Random(1).randbytes(60 * MIB))
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = await begin(a, file)
        held.let(24 * MIB)
        started = await b.files.get(link, os.fsencode(tmp_path / "dest"))
        early = await b.wait_transfer(started.id, lambda s: s.done_bytes > 12 * MIB)
        assert early.state is TransferState.FETCHING
        assert early.bytes == 60 * MIB
        assert early.note == "the sharer is still reading the files"
        share = a.files.find_share(link.share_id)
        assert share is not None
        assert share.state == "hashing"
        assert not (tmp_path / "dest" / "large").exists()
        held.let(1 << 62)
        done = await b.wait_end(started.id)
        assert done.state is TransferState.DONE, done.error
        assert (tmp_path / "dest" / "large").read_bytes() == file.read_bytes()
        assert done.result is not None
        assert done.result.fetched_bytes == 60 * MIB  # nothing twice
        assert (done.result.refetched_bytes, done.result.reused_bytes, done.result.resumed) == (0, 0, False)
        assert os.listdir(tmp_path / "dest") == ["large"]
        assert not list((b.home / "transfers").iterdir())
        offer = a.swarm.find_offer(link.share_id)
        assert offer is not None
        assert list(offer.versions) == [1]
        again = b.swarm.find_offer(link.share_id)
        assert again is not None
        assert list(again.versions) == [1]


async def test_a_getter_that_restarts_goes_on_where_it_was(tmp_path: Path, held: HeldHashing) -> None:
    file = tmp_path / "large"
    file.write_bytes(random.Random(2).randbytes(48 * MIB))
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = await begin(a, file)
        held.let(24 * MIB)
        started = await b.files.get(link, os.fsencode(tmp_path / "dest"))
        await b.wait_transfer(started.id, lambda s: s.done_bytes > 8 * MIB)
        await world.stop(b)
        b = await world.add(again=b)
        again = await b.wait_transfer(started.id, lambda s: s.state is TransferState.FETCHING)
        assert again.done_bytes > 8 * MIB
        held.let(8 * MIB)
        await b.wait_transfer(started.id, lambda s: s.done_bytes > again.done_bytes)
        await world.stop(b)
        held.let(1 << 62)
        assert (await a.wait_hashed(link.share_id)).complete  # closed while the getter is away
        b = await world.add(again=b)
        done = await b.get(link, tmp_path / "dest")
        assert done.state is TransferState.DONE, done.error
        assert (tmp_path / "dest" / "large").read_bytes() == file.read_bytes()
        assert done.result is not None
        assert done.result.fetched_bytes == 48 * MIB
        assert done.result.refetched_bytes == 0


async def test_a_sharer_that_restarts_begins_anew_and_little_is_fetched_twice(
    tmp_path: Path, held: HeldHashing
) -> None:
    tree = tmp_path / "tree"
    write_seeded_tree(tree, random.Random(3), 40 * MIB)
    (tree / "large").write_bytes(random.Random(4).randbytes(24 * MIB))
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = await begin(a, tree)
        held.let(50 * MIB)
        started = await b.files.get(link, os.fsencode(tmp_path / "dest"), wait_s=60.0)
        before = await b.wait_transfer(started.id, lambda s: s.done_bytes > 24 * MIB)
        stopping = asyncio.ensure_future(world.stop(a))
        held.let(64 * MIB)  # the threads notice that they are to stop
        await stopping
        held.hold()  # else all of it is hashed before a draft is begun
        a = await world.add(again=a)
        held.let(32 * MIB)
        await wait_until(lambda: has_draft(a, link))
        held.let(1 << 62)
        done = await b.wait_end(started.id)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        share = a.files.find_share(link.share_id)
        assert share is not None
        assert share.complete
        assert done.result is not None
        assert done.result.fetched_bytes <= share.bytes + 8 * MIB
        assert before.done_bytes > 24 * MIB


@pytest.mark.parametrize(("first_mib", "second_mib"), [(56, 20), (24, 72)])
async def test_a_getter_that_restarts_too_keeps_what_it_has_of_both_drafts(
    tmp_path: Path, held: HeldHashing, first_mib: int, second_mib: int
) -> None:
    """When the getter stops, the second draft describes less than came of the first one; or more."""
    file = tmp_path / "large"
    file.write_bytes(random.Random(15).randbytes(96 * MIB))
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = await begin(a, file)
        held.let(first_mib * MIB)
        started = await b.files.get(link, os.fsencode(tmp_path / "dest"), wait_s=60.0)
        await b.wait_transfer(started.id, lambda s: s.done_bytes > (first_mib - 16) * MIB)
        first = find_draft_number(b, link)
        stopping = asyncio.ensure_future(world.stop(a))
        held.let(8 * MIB)  # the thread notices that it is to stop
        await stopping
        held.hold()
        a = await world.add(again=a)
        held.let(second_mib * MIB)
        await wait_until(lambda: find_draft_number(b, link) > first, 60.0)
        await b.wait_transfer(started.id, lambda s: s.done_bytes > (second_mib - 16) * MIB)
        await world.stop(b)
        b = await world.add(again=b)
        held.let(1 << 62)
        done = await b.wait_end(started.id)
        assert done.state is TransferState.DONE, done.error
        assert (tmp_path / "dest" / "large").read_bytes() == file.read_bytes()
        assert done.result is not None
        assert done.result.fetched_bytes <= (96 + 8) * MIB


async def test_what_changes_while_it_is_hashed_is_delivered_as_it_is_in_the_end(
    tmp_path: Path, held: HeldHashing
) -> None:
    """The file that is read is rewritten (its size and time stay), one behind it vanishes, one grows."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(random.Random(5).randbytes(32 * MIB))
    (tree / "b").write_bytes(random.Random(6).randbytes(3 * MIB))
    (tree / "c").write_bytes(b"c" * 300 * KIB)
    (tree / "d").write_bytes(random.Random(7).randbytes(8 * MIB))
    held.first_bytes = 32 * MIB
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = await begin(a, tree)
        held.let(24 * MIB)
        started = await b.files.get(link, os.fsencode(tmp_path / "dest"))
        await b.wait_transfer(started.id, lambda s: s.done_bytes > 4 * MIB)
        info = (tree / "a").stat()
        (tree / "a").write_bytes(random.Random(8).randbytes(32 * MIB))
        os.utime(tree / "a", ns=(info.st_atime_ns, info.st_mtime_ns))
        (tree / "c").unlink()
        with (tree / "d").open("ab") as file:
            file.write(b"more")
        held.let(1 << 62)
        done = await b.wait_end(started.id)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert done.result is not None
        assert done.result.blamed == []


async def test_a_sharer_that_tells_other_chunks_than_it_closes_with(
    tmp_path: Path, held: HeldHashing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the draft is another tree's, well described and served; names and sizes are the same."""
    tree, other = tmp_path / "tree", tmp_path / "other" / "tree"
    for root, seed in ((tree, 9), (other, 10)):
        root.mkdir(parents=True)
        (root / "x").write_bytes(random.Random(seed).randbytes(9 * MIB))
        (root / "y").write_bytes(random.Random(1).randbytes(5 * MIB))
        os.utime(root / "x", ns=(1, 1_000_000_000))
        os.utime(root / "y", ns=(1, 1_000_000_000))
    held.let(1 << 62)
    lie = hash_for(other)
    held.hold()

    class LyingRows(drafting.DraftRows):
        told = False

        def take(self) -> list[DraftChunk]:
            if self.told:
                return []
            self.told = True
            manifest = lie.built.manifest
            return [DraftChunk(*manifest.chunk(i)[1:], 0) for i in range(manifest.chunk_count)]

    monkeypatch.setattr(drafting, "DraftRows", LyingRows)
    monkeypatch.setattr(drafting, "TreeReader", lambda _, manifest: TreeReader(lie.roots, manifest))
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = await begin(a, tree)
        started = await b.files.get(link, os.fsencode(tmp_path / "dest"))
        await b.wait_transfer(started.id, lambda s: s.done_bytes == 14 * MIB)
        assert not (tmp_path / "dest" / "tree").exists()
        held.let(1 << 62)
        done = await b.wait_end(started.id)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert done.result is not None
        assert done.result.fetched_bytes == 14 * MIB + 9 * MIB  # what was right of the draft is kept


@pytest.mark.parametrize("fault", ["wrong keys", "too much", "no entries"])
async def test_a_draft_that_is_not_usable_costs_only_the_wait(
    tmp_path: Path, held: HeldHashing, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    file = tmp_path / "large"
    file.write_bytes(random.Random(11).randbytes(20 * MIB))
    honest = drafting.seal_chunks

    def lie(read_key: bytes, rows: list[DraftChunk]) -> list[SealedObject]:
        if fault == "too much":
            rows = rows * 20
        elif fault == "wrong keys":
            rows = [row._replace(key=bytes(reversed(row.key))) for row in rows]
        return honest(read_key, rows)

    monkeypatch.setattr(drafting, "seal_chunks", lie)
    if fault == "no entries":
        monkeypatch.setattr(drafting, "KIND_ENTRIES", 3)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = await begin(a, file)
        held.let(16 * MIB)
        started = await b.files.get(link, os.fsencode(tmp_path / "dest"))
        await wait_until(lambda: has_draft(a, link))
        await b.wait_transfer(started.id, lambda s: bool(s.note))
        held.let(1 << 62)
        done = await b.wait_end(started.id)
        assert done.state is TransferState.DONE, done.error
        assert (tmp_path / "dest" / "large").read_bytes() == file.read_bytes()
        assert done.result is not None
        assert done.result.blamed == []


async def test_a_getter_serves_what_it_has_of_a_draft(tmp_path: Path, held: HeldHashing) -> None:
    file = tmp_path / "large"
    file.write_bytes(random.Random(12).randbytes(32 * MIB))
    async with files_world(tmp_path) as world:
        a, b, c = await world.add(), await world.add(), await world.add()
        link = await begin(a, file)
        held.let(24 * MIB)
        first = await b.files.get(link, os.fsencode(tmp_path / "b"))
        await b.wait_transfer(first.id, lambda s: s.done_bytes > 12 * MIB)
        offer = a.swarm.find_offer(link.share_id)
        assert offer is not None
        offer.versions[max(offer.versions)].have = 0
        second = await c.files.get(link, os.fsencode(tmp_path / "c"))
        early = await c.wait_transfer(second.id, lambda s: s.done_bytes > 12 * MIB)
        assert set(early.providers) == {b.peer_id}
        held.let(1 << 62)
        for node, started in ((b, first), (c, second)):
            done = await node.wait_end(started.id)
            assert done.state is TransferState.DONE, done.error
        assert (tmp_path / "c" / "large").read_bytes() == file.read_bytes()


async def test_who_wants_a_part_or_has_something_there_waits(tmp_path: Path, held: HeldHashing) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "x").write_bytes(random.Random(13).randbytes(20 * MIB))
    (tree / "y").write_bytes(b"y" * MIB)
    (tmp_path / "dest" / "tree").mkdir(parents=True)
    (tmp_path / "dest" / "tree" / "x").write_bytes((tree / "x").read_bytes())
    async with files_world(tmp_path) as world:
        a, b, c = await world.add(), await world.add(), await world.add()
        link = await begin(a, tree)
        held.let(16 * MIB)
        part = await b.files.get(link, os.fsencode(tmp_path / "part"), only=[b"y"])
        there = await c.files.get(link, os.fsencode(tmp_path / "dest"))
        waiting = "waiting until the sharer has finished reading the files"
        await b.wait_transfer(part.id, lambda s: s.note == waiting)
        await wait_until(lambda: has_draft(a, link))
        await c.wait_transfer(there.id, lambda s: s.note == waiting)
        held.let(1 << 62)
        done = await b.wait_end(part.id)
        assert done.state is TransferState.DONE, done.error
        assert (tmp_path / "part" / "tree" / "y").read_bytes() == b"y" * MIB
        done = await c.wait_end(there.id)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert done.result is not None
        assert done.result.fetched_bytes <= 2 * MIB


async def test_sparse_files_and_many_small_ones(tmp_path: Path, held: HeldHashing) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(300):
        (tree / f"{number:03}").write_bytes(random.Random(number).randbytes(64 * KIB))
    with (tree / "sparse").open("wb") as file:
        file.truncate(40 * MIB)
        os.pwrite(file.fileno(), random.Random(14).randbytes(6 * MIB), 8 * MIB)
    async with files_world(tmp_path) as world:
        a, b = await world.add(), await world.add()
        link = await begin(a, tree)
        held.let(16 * MIB)
        started = await b.files.get(link, os.fsencode(tmp_path / "dest"))
        await b.wait_transfer(started.id, lambda s: s.done_bytes > 4 * MIB)
        held.let(1 << 62)
        done = await b.wait_end(started.id)
        assert done.state is TransferState.DONE, done.error
        assert find_difference(tree, tmp_path / "dest" / "tree") is None
        assert done.result is not None
        assert done.result.fetched_bytes <= 26 * MIB


async def test_the_link_is_there_while_the_scan_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan that stands still, of 100 GB that are all hole."""
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(100 * 10**9)
    gate = threading.Event()

    def slow_scan(*arguments: Any, **options: Any) -> ScanResult:
        assert gate.wait(30.0)
        return scan(*arguments, **options)

    monkeypatch.setattr(share_module, "scan", slow_scan)
    async with files_world(tmp_path) as world:
        a = await world.add()
        started = time.monotonic()
        status = await a.files.share([os.fsencode(tmp_path / "huge")])
        assert time.monotonic() - started < 1.0
        assert status.state == "hashing"
        gate.set()
        assert (await a.wait_hashed(status.share_id)).complete


class Shelf:
    """The get of an EarlyFetch, as far as reading goes: keeps objects, and how many came at once."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.batches: list[int] = []

    async def store_entries(self) -> None:
        pass

    async def put(self, objects: Iterable[tuple[bytes, bytes]], *, is_root: bool) -> None:
        batch = dict(objects)
        self.batches.append(len(batch))
        self.objects |= batch

    def find_blocking(self, object_id: bytes) -> bytes | None:
        return self.objects.get(object_id)

    def find_missing_blocking(self, object_ids: Sequence[bytes]) -> list[bytes]:
        return [object_id for object_id in object_ids if object_id not in self.objects]


async def test_segments_are_stored_as_they_come() -> None:
    """A draft that names many of them, up to 1 MiB each; then its sharer goes."""
    ids = [number.to_bytes(32, "big") for number in range(5 * OBJECTS_AT_ONCE)]

    async def get_objects(wanted: list[bytes]) -> dict[bytes, bytes]:
        if ids[-1] in wanted:
            raise Unavailable("gone")
        return dict.fromkeys(wanted, b"sealed")

    async def run(work: Callable[[None], Any]) -> Any:
        return work(None)

    early, shelf = EarlyFetch.__new__(EarlyFetch), Shelf()
    parts: dict[str, Any] = {
        "_draft": SimpleNamespace(
            manifest=SimpleNamespace(chunk_count=0),
            find_missing=lambda find_missing: find_missing(ids),
        ),
        "_owner": shelf,
        "_fetch": SimpleNamespace(get_objects=get_objects),
        "_context": SimpleNamespace(run=run),
    }
    for name, part in parts.items():
        setattr(early, name, part)
    assert not await early._read()
    assert shelf.batches == [OBJECTS_AT_ONCE] * 4
