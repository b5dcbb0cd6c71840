"""The store over a real directory and database: format, grouping, restart, collection, care."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3
from tests.support.store_vectors import PATH, make_vectors

from shoal.core.errors import StorageFault, Unavailable
from shoal.storage.database import Database
from shoal.storage.segment_disk import SegmentDirectory
from shoal.storage.segment_format import (
    KEY_BYTES,
    is_file_header,
    parse_place,
    parse_record_header,
    parse_segment_name,
)
from shoal.storage.segment_index import find_chunk
from shoal.storage.segment_store import NewChunk
from shoal.storage.store import Store


@contextmanager
def opened(directory: Path, **options: object) -> Iterator[Store]:
    database = Database(str(directory / "shoal.db"))
    database.open_blocking()
    store = Store(database, str(directory / "store"), **options)  # type: ignore[arg-type]
    store.open_blocking()
    try:
        yield store
    finally:
        store.close_blocking()
        database.close_blocking()


def await_that(condition: Callable[[], bool]) -> None:
    """Give other threads 20 s to make it so."""
    moment = threading.Event()
    for _ in range(20_000):
        if condition():
            return
        moment.wait(0.001)
    raise AssertionError("it did not come to that within 20 s")


def make_chunk(holder: int, ordinal: int, size: int = 1000) -> NewChunk:
    sealed = blake3(b"%d" % ordinal).digest(size)
    return NewChunk(holder, ordinal, blake3(sealed).digest(), sealed)


def key(chunk: NewChunk) -> bytes:
    return chunk.object_id[:KEY_BYTES]


def test_today_s_code_makes_the_bytes_of_the_vectors() -> None:
    found = json.loads(PATH.read_text())
    assert found == make_vectors()
    data = bytes.fromhex(found["file"])
    assert is_file_header(data[:32], found["number"])
    assert parse_segment_name(found["name"]) == found["number"]
    for record in found["records"]:
        _, offset = parse_place(record["place"])
        assert parse_record_header(data[offset : offset + 48]) == (
            bytes.fromhex(record["id"]),
            record["length"],
        )


@pytest.mark.parametrize(
    "name", ["1.seg", "00000000.seg", "0000000a.seg", "00000001.seg.new", "x", "²0000001.seg"]
)
def test_other_names_are_no_segments(name: str) -> None:
    assert parse_segment_name(name) is None


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    chunks = [make_chunk(1, ordinal) for ordinal in range(300)]
    with opened(tmp_path, segment_bytes=64 * 1024) as store:
        store.put_blocking(chunks[:20])
        for chunk in chunks[20:]:
            store.put_blocking([chunk])
    assert len(os.listdir(tmp_path / "store")) > 3
    assert os.stat(tmp_path / "store").st_mode & 0o777 == 0o700
    with opened(tmp_path, segment_bytes=64 * 1024) as store:
        assert store.segments.ordinals(1) == list(range(300))
        for chunk in chunks:
            assert store.segments.find_key(1, chunk.ordinal) == key(chunk)
            assert store.read(key(chunk)) == chunk.sealed


def test_puts_of_several_threads_share_an_fsync(tmp_path: Path) -> None:
    with opened(tmp_path) as store, ThreadPoolExecutor(16) as pool:
        with store.segments.lock:  # the writer waits for it with the first put, the others for the writer
            done = [pool.submit(store.put_blocking, [make_chunk(1, 0)])]
            await_that(lambda: store.groups == 1)
            done += [pool.submit(store.put_blocking, [make_chunk(1, n)]) for n in range(1, 16)]
            await_that(lambda: len(store._queue) == 15)
        for put in done:
            put.result()
        assert store.groups == 2
        assert store.segments.ordinals(1) == list(range(16))


def test_a_chunk_of_two_holders_goes_with_the_last_one(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.put_blocking([make_chunk(1, 0), make_chunk(1, 1)])
        store.put_blocking([make_chunk(2, 0)])
        assert store.segments.use().chunks == 2
        assert store.release_blocking(1) == 2
        assert store.read(key(make_chunk(2, 0))) == make_chunk(2, 0).sealed
        assert store.read(key(make_chunk(1, 1))) is None
        assert store.release_blocking(2) == 1
        assert store.segments.use().live_bytes == 0


def test_holds_are_copied_without_writing_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        chunks = [make_chunk(1, ordinal) for ordinal in range(1500)]
        store.put_blocking(chunks)
        store.put_blocking([make_chunk(2, 7)])
        before = store.segments.use()
        store.segments.lose([(key(chunks[3]), _place_of(store, key(chunks[3])))])
        pairs = [(ordinal + 10, ordinal) for ordinal in range(1500)]
        assert store.segments.copy_holds(2, 1, [*pairs, (5000, 4000)]) == 1499  # what is lost is not held
        assert store.segments.copy_holds(2, 1, pairs) == 0
        assert store.segments.use().file_bytes == before.file_bytes
        assert store.release_blocking(1) == 1500
        assert store.segments.use().chunks == 1499
        assert store.read(key(chunks[1499])) == chunks[1499].sealed
        assert store.segments.find_key(2, 1509) == key(chunks[1499])
        assert store.verify_blocking().repaired_rows == 0
        store.release_blocking(2)
        assert store.segments.use().chunks == 0


def _place_of(store: Store, wanted: bytes) -> int:
    found = store.segments.index.read(lambda connection: find_chunk(connection, wanted))
    assert found is not None
    return found[0]


def test_collecting_gives_space_back_while_everybody_reads(tmp_path: Path) -> None:
    count = 2000
    with opened(tmp_path, segment_bytes=128 * 1024) as store:
        for start in range(0, count, 100):
            store.put_blocking([make_chunk(1 + (n % 4 > 0), n) for n in range(start, start + 100)])
        before = store.segments.use()
        store.release_blocking(2)
        wrong: list[int] = []
        reads = 0
        ended = threading.Event()

        def read() -> None:
            nonlocal reads
            while not ended.is_set():
                for n in range(0, count, 4):
                    chunk = make_chunk(1, n)
                    if store.read(key(chunk)) != chunk.sealed:
                        wrong.append(n)
                    reads += 1

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            done = store.collect_blocking(everything=True)
            ended.set()
            for reader in readers:
                reader.result()
        after = store.segments.use()
        assert not wrong
        assert reads
        assert done.freed_bytes > 0.7 * before.file_bytes
        assert after.file_bytes < 0.3 * before.file_bytes
        assert after.chunks == count // 4
        sizes = sum(os.stat(tmp_path / "store" / name).st_size for name in os.listdir(tmp_path / "store"))
        assert sizes == after.file_bytes
        found = store.verify_blocking()
        assert (found.chunks, found.lost, found.missing, found.repaired_rows) == (count // 4, 0, 0, 0)


def test_rot_is_found_by_the_scrub_and_never_served(tmp_path: Path) -> None:
    chunk = make_chunk(1, 0)
    with opened(tmp_path) as store:
        store.put_blocking([chunk])
    path = tmp_path / "store" / "00000001.seg"
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    heard = threading.Event()
    with opened(tmp_path) as store:
        lost: list[bytes] = []

        def on_lost(keys: list[bytes]) -> None:
            lost.extend(keys)
            heard.set()

        store.segments.on_lost = on_lost
        assert heard.wait(5.0)  # the scrub alone
        assert lost == [key(chunk)]
        assert store.read(key(chunk)) is None
        assert store.segments.use().lost == 1
        store.put_blocking([chunk])
        assert store.read(key(chunk)) == chunk.sealed
        assert store.segments.use().lost == 0


def test_a_reader_finds_rot_by_itself(tmp_path: Path) -> None:
    chunk = make_chunk(1, 0)
    with opened(tmp_path, scrub_bytes_s=1.0) as store:
        store.put_blocking([chunk])
        os.truncate(tmp_path / "store" / "00000001.seg", 200)
        try:
            assert store.read(key(chunk)) is None  # the scrub was faster
        except StorageFault as fault:
            assert fault.code == "rot"  # noqa: PT017 - either of the two is right
        assert store.read(key(chunk)) is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_writer_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as store:

        def run_out(chunks: object) -> None:
            raise MemoryError

        monkeypatch.setattr(store.segments, "put", run_out)
        for _ in range(2):
            with pytest.raises(Unavailable):
                store.put_blocking([make_chunk(1, 1)])


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        assert (await store.use()).chunks == 0
    with pytest.raises(Unavailable):
        await asyncio.to_thread(store.put_blocking, [make_chunk(1, 0)])


def test_what_was_put_is_let_go_of_at_once(tmp_path: Path) -> None:
    gone = threading.Event()

    class Sealed(bytes):
        def __del__(self) -> None:
            gone.set()

    def put(store: Store) -> None:
        chunk = make_chunk(1, 1)
        store.put_blocking([chunk._replace(sealed=Sealed(chunk.sealed))])

    with opened(tmp_path) as store:
        put(store)
        assert gone.wait(10.0)  # not only when somebody puts again


def test_a_file_that_is_deleted_while_it_is_opened_is_not_kept_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = SegmentDirectory(str(tmp_path))
    (tmp_path / "00000001.seg").write_bytes(b"record")
    real_open, opened_fds = os.open, []

    def open_slowly(path: str, flags: int) -> int:
        opened_fds.append(real_open(path, flags))
        directory.unlink("00000001.seg")  # as a collection does
        return opened_fds[-1]

    monkeypatch.setattr("shoal.storage.segment_disk.os.open", open_slowly)
    assert directory.read("00000001.seg", 0, 6) == b"record"
    assert len(opened_fds) == 1
    with pytest.raises(OSError):  # its space is free
        os.fstat(opened_fds[0])
    directory.close()


def test_a_segment_that_cannot_be_collected_does_not_keep_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, segment_bytes=20_000) as store:
        store.put_blocking([make_chunk(1 if n % 10 == 0 else 2, n) for n in range(19)])
        store.put_blocking([make_chunk(1 if n % 10 == 0 else 2, n) for n in range(20, 39)])
        store.put_blocking([make_chunk(1, 100)])
        assert len(list((tmp_path / "store").iterdir())) == 3
        store.release_blocking(2)
        real_pread = os.pread
        bad = os.stat(tmp_path / "store" / "00000001.seg").st_ino

        def pread(fd: int, size: int, offset: int) -> bytes:
            if size > 48 and os.fstat(fd).st_ino == bad:
                raise OSError(errno.EACCES, "Permission denied")
            return real_pread(fd, size, offset)

        monkeypatch.setattr("shoal.storage.segment_disk.os.pread", pread)
        with pytest.raises(StorageFault, match="not read"):
            store.collect_blocking()
        assert sorted(path.name for path in (tmp_path / "store").iterdir())[0] == "00000001.seg"
        assert not (tmp_path / "store" / "00000002.seg").exists()
