"""Database: group commit, isolation of jobs, a disk that fails, damaged and newer files."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from shoal.core.errors import ConfigFault, LocalMisuse, Refused, StorageFault, Unavailable
from shoal.storage.database import GROUP_LIMIT, Connection, Database
from shoal.storage.schema import MIGRATIONS, migrate
from shoal.testing.disk import FailingDisk


def _put(name: str, value: bytes = b"v") -> Callable[[Connection], str]:
    def run(connection: Connection) -> str:
        connection.execute("INSERT INTO named_values VALUES (?, ?)", (name, value))
        return name

    return run


def _names(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT name FROM named_values ORDER BY name")]


async def _open(tmp_path: Path, disk: FailingDisk | None = None) -> Database:
    path = str(tmp_path / "shoal.db")
    database = Database(path, connect=disk.connect) if disk else Database(path)
    await database.open()
    return database


async def test_what_was_acknowledged_is_there_after_opening_again(tmp_path: Path) -> None:
    database = await _open(tmp_path)
    assert await database.write(_put("a")) == "a"
    assert await database.read(_names) == ["a"]
    await database.close()
    await database.close()
    again = await _open(tmp_path)
    assert await again.read(_names) == ["a"]
    assert await again.check() == []
    await again.close()


async def test_its_files_are_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        database = await _open(tmp_path)
        await database.write(_put("a"))
        for name in ("shoal.db", "shoal.db-wal", "shoal.db-shm"):
            assert stat.S_IMODE(os.stat(tmp_path / name).st_mode) == 0o600
        await database.close()
    finally:
        os.umask(old)


async def test_concurrent_writers_share_commits(tmp_path: Path) -> None:
    disk = FailingDisk()
    database = await _open(tmp_path, disk)
    disk.gate.clear()
    first = database.submit(_put("first"))
    others = [database.submit(_put(f"n{i}")) for i in range(GROUP_LIMIT * 2)]
    disk.gate.set()
    await asyncio.gather(first, *others)
    assert database.writes == 1 + GROUP_LIMIT * 2
    assert database.commits <= 4
    await database.close()


async def test_more_writers_than_the_queue_holds_all_get_their_turn(tmp_path: Path) -> None:
    database = await _open(tmp_path)
    await asyncio.gather(*(database.write(_put(f"n{i}"), durable=False) for i in range(6000)))
    assert len(await database.read(_names)) == 6000
    await database.close()


async def test_a_failing_job_undoes_only_itself(tmp_path: Path) -> None:
    disk = FailingDisk()
    database = await _open(tmp_path, disk)

    def refuse(connection: Connection) -> None:
        connection.execute("INSERT INTO named_values VALUES ('half', x'00')")
        raise Refused("no")

    def broken(connection: Connection) -> None:
        connection.execute("INSERT INTO named_values VALUES ('half2', x'00')")
        raise KeyError("bug")

    disk.gate.clear()
    blocker = database.submit(_put("blocker"))
    jobs = [database.submit(run) for run in (_put("a"), refuse, broken, _put("a"), _put("b"))]
    disk.gate.set()
    await blocker
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert results[0] == "a"
    assert isinstance(results[1], Refused)
    assert isinstance(results[2], KeyError)
    assert isinstance(results[3], StorageFault)
    assert results[3].code == "constraint"
    assert results[4] == "b"
    assert await database.read(_names) == ["a", "b", "blocker"]
    await database.close()


@pytest.mark.parametrize(("fault", "code"), [("full", "disk_full"), ("io", "io")])
async def test_a_disk_that_fails_is_a_fault_and_the_node_goes_on(
    tmp_path: Path, fault: str, code: str
) -> None:
    disk = FailingDisk()
    database = await _open(tmp_path, disk)
    await database.write(_put("before"))
    disk.fault = fault
    jobs = [database.submit(_put(f"n{i}")) for i in range(20)]
    for result in await asyncio.gather(*jobs, return_exceptions=True):
        assert isinstance(result, StorageFault)
        assert result.code == code
        assert result.next_step
    assert await database.read(_names) == ["before"]
    disk.fault = None
    await database.write(_put("after"))
    assert await database.read(_names) == ["after", "before"]
    await database.close()


async def test_a_job_too_large_for_the_disk_does_not_take_small_ones_with_it(tmp_path: Path) -> None:
    gate = FailingDisk()
    database = await _open(tmp_path, gate)
    pages = await database.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await database.write(lambda c: c.execute(f"PRAGMA max_page_count={pages + 8}").fetchone())
    gate.gate.clear()
    blocker = database.submit(_put("blocker"))
    jobs = [database.submit(run) for run in (_put("a"), _put("huge", bytes(1 << 20)), _put("b"))]
    gate.gate.set()
    results = await asyncio.gather(blocker, *jobs, return_exceptions=True)
    assert results[1] == "a"
    assert isinstance(results[2], StorageFault)
    assert results[2].code == "disk_full"
    assert results[3] == "b"
    assert await database.read(_names) == ["a", "b", "blocker"]
    await database.close()


async def test_a_cancelled_writer_harms_nobody(tmp_path: Path) -> None:
    disk = FailingDisk()
    database = await _open(tmp_path, disk)
    disk.gate.clear()
    cancelled = asyncio.ensure_future(database.write(_put("cancelled")))
    other = asyncio.ensure_future(database.write(_put("other")))
    await asyncio.wait([cancelled], timeout=0.01)
    cancelled.cancel()
    disk.gate.set()
    assert await other == "other"
    assert await database.read(_names) == ["cancelled", "other"]
    await database.close()


async def test_writing_from_threads(tmp_path: Path) -> None:
    database = await _open(tmp_path)
    names = await asyncio.gather(
        *(asyncio.to_thread(database.write_blocking, _put(f"t{i}")) for i in range(8))
    )
    assert await asyncio.to_thread(database.read_blocking, _names) == sorted(names)
    with pytest.raises(StorageFault):
        await asyncio.to_thread(database.write_blocking, _put("t0"))
    await database.close()


async def test_readers_cannot_write(tmp_path: Path) -> None:
    database = await _open(tmp_path)
    with pytest.raises(StorageFault):
        await database.read(_put("a"))
    await database.close()


async def test_closing_commits_what_is_queued_and_refuses_the_rest(tmp_path: Path) -> None:
    disk = FailingDisk()
    database = await _open(tmp_path, disk)
    disk.gate.clear()
    queued = [database.submit(_put(f"n{i}")) for i in range(10)]
    closing = asyncio.ensure_future(database.close())
    await asyncio.wait([closing], timeout=0.01)
    with pytest.raises(Unavailable):
        await database.write(_put("late"))
    with pytest.raises(Unavailable):
        await database.read(_names)
    disk.gate.set()
    await closing
    await asyncio.gather(*queued)
    again = await _open(tmp_path)
    assert len(await again.read(_names)) == 10
    await again.close()


async def test_closing_is_bounded_on_a_disk_that_hangs(tmp_path: Path) -> None:
    disk = FailingDisk()
    database = await _open(tmp_path, disk)
    disk.gate.clear()
    hanging = database.submit(_put("a"))
    await asyncio.wait_for(database.close(timeout_s=0.05), 5)
    disk.gate.set()
    assert await hanging == "a"


async def test_a_database_opens_once(tmp_path: Path) -> None:
    database = await _open(tmp_path)
    with pytest.raises(LocalMisuse):
        await database.open()
    await database.close()


async def test_a_file_that_is_no_database_is_a_fault_with_a_next_step(tmp_path: Path) -> None:
    path = tmp_path / "shoal.db"
    path.write_bytes(b"this is not a database at all, but long enough to be looked at" * 100)
    database = Database(str(path))
    with pytest.raises(StorageFault) as caught:
        await database.open()
    assert caught.value.code == "corrupt"
    assert "move that file away" in caught.value.next_step
    await database.close()


async def test_damaged_pages_are_found_and_named(tmp_path: Path) -> None:
    database = await _open(tmp_path)
    for i in range(200):
        await database.write(_put(f"name{i:04}", bytes(2000)), durable=False)
    await database.close()
    path = tmp_path / "shoal.db"
    with path.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xa5" * 4096 * 40)
    again = await _open(tmp_path)
    assert await again.check() != []
    with pytest.raises(StorageFault) as caught:
        await again.read(
            lambda c: c.execute("SELECT count(*), sum(length(value)) FROM named_values").fetchall()
        )
    assert caught.value.code == "corrupt"
    await again.close()


async def test_tables_of_a_newer_release_ask_for_an_upgrade(tmp_path: Path) -> None:
    await (await _open(tmp_path)).close()
    connection = sqlite3.connect(tmp_path / "shoal.db")
    connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    connection.close()
    database = Database(str(tmp_path / "shoal.db"))
    with pytest.raises(ConfigFault) as caught:
        await database.open()
    assert caught.value.code == "newer_home"
    assert "upgrade shoal" in caught.value.next_step
    await database.close()


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "shoal.db")
    connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    with pytest.raises(ConfigFault) as caught:
        await Database(str(tmp_path / "shoal.db")).open()
    assert caught.value.code == "foreign_database"


async def test_the_file_is_not_followed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "shoal.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFault):
        await Database(str(tmp_path / "shoal.db")).open()
    assert not (tmp_path / "elsewhere").exists()


def test_a_migration_is_whole_or_not_at_all(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
    path = str(tmp_path / "m.db")
    first = "CREATE TABLE a (x); -- a comment; with a semicolon\nCREATE TABLE b (x);"
    migrate(connection, path, (first,))
    with pytest.raises(sqlite3.Error):
        migrate(connection, path, (first, "CREATE TABLE c (x);\nCREATE TABLE a (x);"))
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 1
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]
    assert names == ["a", "b"]
    migrate(connection, path, (first, "CREATE TABLE c (x);"))
    migrate(connection, path, (first, "CREATE TABLE c (x);"))
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 2
    connection.close()


async def test_what_was_written_is_let_go_of_at_once(tmp_path: Path) -> None:
    database = await _open(tmp_path)
    gone = threading.Event()

    def write() -> asyncio.Future[str]:
        run = _put("large")
        weakref.finalize(run, gone.set)
        return database.submit(run)

    assert await write() == "large"
    assert await asyncio.to_thread(gone.wait, 10.0)  # not only when somebody writes again
    await database.close()


WAL_HEADER_BYTES = 32
FRAME_BYTES = 24 + 4096


def lose_unsynced(wal: bytes, at_the_fault: bytes, synced_bytes: int) -> bytes:
    """Return what a disk has of a -wal file: what an fsync failed for only if it was written again."""
    kept = bytearray(wal)
    assert (synced_bytes - WAL_HEADER_BYTES) % FRAME_BYTES == 0
    for start in range(synced_bytes, len(at_the_fault), FRAME_BYTES):
        frame = slice(start, start + FRAME_BYTES)
        if wal[frame] == at_the_fault[frame]:
            kept[frame] = bytes(len(wal[frame]))
    return bytes(kept)


async def test_what_is_acknowledged_after_a_failed_fsync_does_not_lean_on_what_it_lost(
    tmp_path: Path,
) -> None:
    disk = FailingDisk()
    database = await _open(tmp_path, disk)
    wal = tmp_path / "shoal.db-wal"
    await database.write(_put("before"))
    synced_bytes = wal.stat().st_size
    await database.write(_put("early"), durable=False)
    disk.fault = "sync"
    with pytest.raises(StorageFault):
        await database.write(_put("refused"))
    at_the_fault = wal.read_bytes()  # the kernel calls all of its pages clean now, whatever the disk has
    with pytest.raises(StorageFault):  # and as long as nobody can write them again nothing is promised
        await database.write(_put("refused too"), durable=False)
    disk.fault = None
    await database.write(_put("promised"))
    after = tmp_path / "after"
    after.mkdir()
    (after / "shoal.db").write_bytes((tmp_path / "shoal.db").read_bytes())
    (after / "shoal.db-wal").write_bytes(lose_unsynced(wal.read_bytes(), at_the_fault, synced_bytes))
    await database.close()
    again = await _open(after)
    assert await again.read(_names) == ["before", "early", "promised"]
    await again.close()


async def test_a_failed_fsync_is_not_tried_again_for_each_of_a_group(tmp_path: Path) -> None:
    disk = FailingDisk()
    database = await _open(tmp_path, disk)
    disk.fault = "sync"
    disk.gate.clear()
    writes = [database.submit(_put(f"{number}")) for number in range(50)]
    disk.gate.set()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(result, StorageFault) for result in results)
    assert disk.failures < 10  # one for each group, and the writer took them as they came
    disk.fault = None
    assert await database.write(_put("promised")) == "promised"
    assert await database.read(_names) == ["promised"]
    await database.close()
