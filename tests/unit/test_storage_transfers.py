"""Transfers: rows, and the ledger of chunks across restarts of the process and of the machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.stores import PlainSealer, open_stores

from shoal.core.errors import LocalMisuse, Refused, StorageFault
from shoal.storage import chunk_ledger as ledger_module
from shoal.storage import transfers as transfers_module
from shoal.storage.boot import read_boot_id
from shoal.storage.chunk_ledger import PAGE_CHUNKS, ChunkLedger
from shoal.storage.stores import Stores
from shoal.storage.transfers import TransferRow, Transfers, TransferState
from shoal.testing.disk import FailingDisk

SHARE = b"s" * 32


def _transfer(number: int = 1, dest: bytes = b"/tmp/x\xff") -> TransferRow:
    return TransferRow(bytes([number]) * 16, SHARE, f"secret link {number}", dest, 1.0 + number, 1.0)


async def _with_transfer(stores: Stores) -> Transfers:
    await stores.transfers.add(_transfer())
    return stores.transfers


async def test_a_transfer_is_found_by_link_and_place(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        await stores.transfers.add(_transfer())
        await stores.transfers.add(_transfer(2))
        await stores.transfers.add(_transfer(1, dest=b"/y")._replace(id=b"3" * 16))
        with pytest.raises(Refused) as caught:
            await stores.transfers.add(_transfer()._replace(id=b"4" * 16))
        assert caught.value.code == "transfer_exists"
    async with open_stores(tmp_path) as stores:
        assert await stores.transfers.find_target("secret link 1", b"/tmp/x\xff") == _transfer()
        assert await stores.transfers.find_target("secret link 1", b"/z") is None
        assert len(await stores.transfers.load()) == 3
    for path in tmp_path.iterdir():
        assert b"secret link" not in path.read_bytes()


async def test_a_transfer_changes_and_goes(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        transfers = await _with_transfer(stores)
        await transfers.update(
            _transfer().id,
            state=TransferState.FETCHING,
            total_bytes=9,
            providers={b"p" * 32: 5},
            resumed=True,
        )
        found = await transfers.find(_transfer().id)
        assert found is not None
        assert found.providers == {b"p" * 32: 5}
        assert (found.state, found.total_bytes, found.resumed) == (TransferState.FETCHING, 9, True)
        ledger = await transfers.open_ledger(found.id, 1, 10)
        ledger.mark([1])
        await ledger.flush()
        assert await transfers.drop(found.id)
        ledger.mark([2], done_bytes=5)
        await ledger.close()  # dropped meanwhile: nothing to save, no error
        rows = await stores.database.read(
            lambda c: c.execute("SELECT count(*) FROM transfer_pages").fetchone()
        )
        assert rows == (0,)


async def test_the_oldest_ended_transfers_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers_module, "TRANSFER_LIMIT", 2)
    async with open_stores(tmp_path) as stores:
        for number in (1, 2):
            await stores.transfers.add(_transfer(number))
        with pytest.raises(Refused) as caught:
            await stores.transfers.add(_transfer(3))
        assert caught.value.code == "too_many_transfers"
        await stores.transfers.update(_transfer(2).id, state=TransferState.DONE)
        await stores.transfers.add(_transfer(3))
        assert [row.id[0] for row in await stores.transfers.load()] == [1, 3]


async def test_marked_chunks_come_back_with_their_counters(tmp_path: Path) -> None:
    count = PAGE_CHUNKS * 2 + 7
    marked = [0, 7, 8, PAGE_CHUNKS - 1, PAGE_CHUNKS, count - 1]
    async with open_stores(tmp_path) as stores:
        transfers = await _with_transfer(stores)
        ledger = await transfers.open_ledger(_transfer().id, 1, count)
        assert list(ledger.missing()) == list(range(count))
        ledger.mark(marked[:3], 100, done_bytes=100)
        ledger.mark(marked, 100, done_bytes=200, providers={b"p" * 32: 200})
        await ledger.close()
        with pytest.raises(LocalMisuse):
            ledger.mark([1])
    async with open_stores(tmp_path) as stores:
        ledger = await stores.transfers.open_ledger(_transfer().id, 1, count)
        assert list(ledger.ordinals()) == marked
        assert ledger.count == len(marked)
        assert set(ledger.missing()) == set(range(count)) - set(marked)
        assert ledger.doubtful == []
        assert ledger.page(2) == b"\x40"
        assert ledger.bits()[:2] == b"\x81\x01"
        row = await stores.transfers.find(_transfer().id)
        assert row is not None
        assert (row.done_bytes, row.providers) == (200, {b"p" * 32: 200})


async def test_a_chunk_can_be_taken_back(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        transfers = await _with_transfer(stores)
        ledger = await transfers.open_ledger(_transfer().id, 1, 3)
        ledger.mark([0, 1, 2])
        assert ledger.complete
        await ledger.flush()
        ledger.unmark([1])
        await ledger.close()
        assert list((await transfers.open_ledger(_transfer().id, 1, 3)).ordinals()) == [0, 2]


async def test_chunks_of_another_boot_are_doubted(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        before = Transfers(stores.database, PlainSealer(), boot_id=b"A" * 16)
        after = Transfers(stores.database, PlainSealer(), boot_id=b"B" * 16)
        await before.add(_transfer())
        ledger = await before.open_ledger(_transfer().id, 1, 10)
        ledger.mark([1, 2, 3])
        await ledger.close()
        ledger = await after.open_ledger(_transfer().id, 1, 10)
        assert ledger.count == 0
        assert ledger.doubtful == [1, 2, 3]
        ledger.mark([1, 3])  # verified; chunk 2 was not whole
        await ledger.close()
        assert (await after.open_ledger(_transfer().id, 1, 10)).doubtful == [2]
        await after.forget_doubtful(_transfer().id)
        ledger = await after.open_ledger(_transfer().id, 1, 10)
        assert (ledger.doubtful, list(ledger.ordinals())) == ([], [1, 3])


async def test_another_version_of_the_share_starts_anew(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        transfers = await _with_transfer(stores)
        ledger = await transfers.open_ledger(_transfer().id, 1, 10)
        ledger.mark(range(10))
        await ledger.close()
        assert (await transfers.open_ledger(_transfer().id, 2, 10)).count == 0
        assert (await transfers.open_ledger(_transfer().id, 1, 10)).count == 0


async def test_versions_that_are_named_stay_recorded(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        transfers = await _with_transfer(stores)
        for version in (1, 2, 3):
            ledger = await transfers.open_ledger(_transfer().id, version, 10, keep=(1, 2))
            ledger.mark(range(version))
            await ledger.close()
        assert await transfers.recorded_versions(_transfer().id) == [1, 2, 3]
        assert (await transfers.open_ledger(_transfer().id, 4, 10, keep=(2, 7))).count == 0
        assert await transfers.recorded_versions(_transfer().id) == [2]
        assert (await transfers.open_ledger(_transfer().id, 2, 10)).count == 2


async def test_chunks_are_forgotten_at_the_end(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        transfers = await _with_transfer(stores)
        ledger = await transfers.open_ledger(_transfer().id, 1, 10)
        ledger.mark(range(10))
        await ledger.close()
        await transfers.forget_chunks(_transfer().id)
        assert (await transfers.open_ledger(_transfer().id, 1, 10)).count == 0


async def test_enough_bytes_are_saved_without_being_asked(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        transfers = await _with_transfer(stores)
        ledger = await transfers.open_ledger(_transfer().id, 1, 100)
        ledger.mark([5], ledger_module.FLUSH_BYTES - 1)
        ledger.mark([6], 1)
        # the queue is in order: when this write is done, so is the ledger's
        await stores.database.write(lambda _: None)
        assert list((await transfers.open_ledger(_transfer().id, 1, 100)).ordinals()) == [5, 6]
        await ledger.close()


async def test_few_bytes_are_saved_after_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "FLUSH_INTERVAL_S", 0.0)
    async with open_stores(tmp_path) as stores:
        transfers = await _with_transfer(stores)
        ledger = await transfers.open_ledger(_transfer().id, 1, 100)
        ledger.mark([5], 1)
        while ledger.saves == 0:
            await stores.database.write(lambda _: None)
        assert list((await transfers.open_ledger(_transfer().id, 1, 100)).ordinals()) == [5]
        await ledger.close()


async def test_marks_survive_a_full_disk(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with open_stores(tmp_path, disk.connect) as stores:
        transfers = await _with_transfer(stores)
        ledger = await transfers.open_ledger(_transfer().id, 1, 100)
        disk.fault = "full"
        ledger.mark([1, 2], done_bytes=2)
        with pytest.raises(StorageFault):
            await ledger.flush()
        assert ledger.fault is not None
        assert ledger.fault.code == "disk_full"
        ledger.mark([3], done_bytes=3)
        disk.fault = None
        await ledger.flush()
        assert ledger.fault is None
        await ledger.close()
        assert list((await transfers.open_ledger(_transfer().id, 1, 100)).ordinals()) == [1, 2, 3]
        row = await transfers.find(_transfer().id)
        assert row is not None
        assert row.done_bytes == 3


async def test_a_ledger_that_outlives_its_database_loses_nothing_but_the_last_marks(tmp_path: Path) -> None:
    async with open_stores(tmp_path) as stores:
        transfers = await _with_transfer(stores)
        ledger = await transfers.open_ledger(_transfer().id, 1, 100)
    ledger.mark([1], ledger_module.FLUSH_BYTES)  # in the background: no error


@given(
    count=st.integers(1, PAGE_CHUNKS + 100),
    steps=st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(0, PAGE_CHUNKS + 99), max_size=20)), max_size=10
    ),
)
def test_a_ledger_counts_like_a_set(count: int, steps: list[tuple[bool, list[int]]]) -> None:
    async def run() -> None:
        pages: dict[int, bytes] = {}

        def save(changed: dict[int, bytes], _: dict[str, object]) -> asyncio.Future[None]:
            pages.update(changed)
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done

        ledger = ChunkLedger(count, {}, {}, save)
        expected: set[int] = set()
        for add, ordinals in steps:
            inside = [i for i in ordinals if i < count]
            (ledger.mark if add else ledger.unmark)(inside)
            expected = expected | set(inside) if add else expected - set(inside)
        await ledger.close()
        assert ledger.count == len(expected)
        again = ChunkLedger(count, pages, {}, save)
        assert set(again.ordinals()) == expected
        assert set(again.missing()) == set(range(count)) - expected

    asyncio.run(run())


def test_a_damaged_page_counts_no_chunk_that_does_not_exist() -> None:
    def save(_: dict[int, bytes], __: dict[str, object]) -> asyncio.Future[None]:
        raise AssertionError

    ledger = ChunkLedger(10, {0: b"\xff" * 600, 9: b"\xff"}, {0: b"\xff" * 600}, save)
    assert ledger.count == 10
    assert ledger.doubtful == []


def test_the_boot_id_stays_the_same() -> None:
    assert len(read_boot_id()) == 16
    assert read_boot_id() == read_boot_id()
