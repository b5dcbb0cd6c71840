"""Segment collector: gives space back, and finds what rotted, while everybody reads on.

Collecting copies what is still held out of a mostly dead segment to the log's end, like a put; when the index
names nothing in it any more its row is deleted, then its file. A crash in between leaves a chunk at its old
or its new place, or a file without a row, which the next start deletes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shoal.core.units import MIB
from shoal.storage import segment_index as sql
from shoal.storage.database import Connection
from shoal.storage.segment_format import (
    FILE_HEADER_BYTES,
    KEY_BYTES,
    RECORD_HEADER_BYTES,
    make_place,
    parse_record_header,
    segment_name,
)
from shoal.storage.segment_index import SegmentRow
from shoal.storage.segment_store import SegmentStore

LIVE_SHARE = 0.5  # a segment is collected when less of it is live: at most one byte copied for one won
STEP_CHUNKS = 64  # copied, or checked, before others have their turn
STEP_BYTES = 1 * MIB


class Moved(NamedTuple):
    """What one step of a collection did."""

    chunks: int
    size_bytes: int
    freed_bytes: int  # of files deleted, less what was copied


class Checked(NamedTuple):
    """What one step of a check did; `lost` are chunks that were found rotten, as keys."""

    chunks: int
    size_bytes: int
    lost: list[bytes]
    next_key: bytes  # where the next step begins; empty at the end


class Collector:
    """Works on one store step by step: who drives it decides about pauses and the end. One thread."""

    def __init__(self, store: SegmentStore) -> None:
        self._store = store

    def candidates(self, live_share: float = LIVE_SHARE) -> list[SegmentRow]:
        """Return the segments worth collecting, the deadest first; not the one that is written."""
        store = self._store
        with store.lock:  # a row that is older than the number would lack what was just put
            rows, written = store.index.read(sql.load_segments), store.log.number
        found = [
            row
            for row in rows
            if row.number != written and row.live <= (row.end - FILE_HEADER_BYTES) * live_share
        ]
        return sorted(found, key=lambda row: (row.live, row.number))

    def close_written(self) -> None:
        """Begin a new segment with the next put, so that the one of now can be collected too."""
        with self._store.lock:
            self._store.log.abandon()

    def collect(self, row: SegmentRow) -> Iterator[Moved]:
        """Collect one segment; each step yields. Stopping between steps is fine. Raises: StorageFault."""
        copied = 0
        if row.live:
            for batch in self._live_batches(row):
                moved, size = self._move(batch)
                copied += size
                yield Moved(moved, size, -size)
        self._drop(row.number)
        yield Moved(0, 0, row.end)

    def check(self, after: bytes = b"", limit: int = STEP_CHUNKS) -> Checked:
        """Read and verify chunks in the order of their keys, after one; note what is rotten as lost.

        Raises: StorageFault.
        """
        store = self._store
        rows = store.index.read(
            lambda connection: connection.execute(
                "SELECT key, place, size FROM chunks WHERE key > ? ORDER BY key LIMIT ?", (after, limit)
            ).fetchall()
        )
        size_bytes, checked, bad, last = 0, 0, [], after
        for key, place, size in rows:
            last = key
            if place:
                checked += 1
                size_bytes += size
                if store.read_at(place, size, key) is None and self._is_still(key, place):
                    bad.append((key, place))
                if size_bytes >= STEP_BYTES:
                    break
        if bad:
            store.lose(bad)
        at_end = len(rows) < limit and (not rows or last == rows[-1][0])
        return Checked(checked, size_bytes, [key for key, _ in bad], b"" if at_end else last)

    def repair_counts(self) -> int:
        """Compare the index with itself: holds on nothing, wrong numbers of holds, wrong live bytes.

        Repairs all of it, returns how many rows were wrong. Reads both tables; writes wait only for a repair.
        Raises: StorageFault.
        """

        def find(connection: Connection) -> bool:
            wrong = connection.execute(f"SELECT EXISTS ({_WRONG_REFS}), EXISTS ({_NO_CHUNK})").fetchone()
            return bool(wrong[0] or wrong[1]) or bool(_find_wrong_live(connection))

        def repair(connection: Connection) -> int:
            gone: int = connection.execute(_DROP_NO_CHUNK).rowcount
            rows = connection.execute(_WRONG_REFS).fetchall()
            connection.executemany("UPDATE chunks SET refs = ?2 WHERE key = ?1", rows)
            connection.execute("DELETE FROM chunks WHERE refs <= 0")
            wrong = _find_wrong_live(connection)
            connection.executemany("UPDATE segments SET live = ?2 WHERE number = ?1", wrong)
            return gone + len(rows) + len(wrong)

        # what changes between the two is looked at again inside of the transaction
        return self._store.index.write(repair) if self._store.index.read(find) else 0

    def _live_batches(self, row: SegmentRow) -> Iterator[list[tuple[bytes, int, int]]]:
        """Yield (key, place, size) of what is still at its place in a segment, in steps."""
        store, name = self._store, segment_name(row.number)
        offset, size_bytes, looked = FILE_HEADER_BYTES, 0, 0
        batch: list[tuple[bytes, int, int]] = []
        while offset < row.end:
            try:
                parsed = parse_record_header(store.disk.read(name, offset, RECORD_HEADER_BYTES))
            except OSError:
                parsed = None
            if parsed is None:  # damaged: from here on the index alone knows where records begin
                yield batch
                yield from self._rest(row.number, offset)
                return
            key, size = parsed[0][:KEY_BYTES], parsed[1]
            place = make_place(row.number, offset)
            offset += RECORD_HEADER_BYTES + size
            looked += 1
            if self._is_still(key, place):
                batch.append((key, place, size))
                size_bytes += size
            if len(batch) >= STEP_CHUNKS or size_bytes >= STEP_BYTES or looked >= STEP_CHUNKS * 4:
                yield batch
                batch, size_bytes, looked = [], 0, 0
        yield batch

    def _rest(self, number: int, start: int) -> Iterator[list[tuple[bytes, int, int]]]:
        found = self._store.index.read(lambda connection: sql.find_between(connection, number, start))
        for key, place in found:
            chunk = self._find(key)
            if chunk is not None and chunk[0] == place:
                yield [(key, place, chunk[1])]

    def _is_still(self, key: bytes, place: int) -> bool:
        found = self._find(key)
        return found is not None and found[0] == place

    def _find(self, key: bytes) -> tuple[int, int] | None:
        return self._store.index.read(lambda connection: sql.find_chunk(connection, key))

    def _move(self, batch: list[tuple[bytes, int, int]]) -> tuple[int, int]:
        """Copy chunks to the log's end; those that do not verify are lost. Returns (chunks, bytes)."""
        store = self._store
        records: list[tuple[bytes, bytes]] = []
        whole: list[tuple[bytes, int, int]] = []
        bad: list[tuple[bytes, int]] = []
        for key, place, size in batch:
            found = store.read_record(place, size, key)
            if found is None:
                bad.append((key, place))
            else:
                records.append(found)
                whole.append((key, place, size))
        if bad:
            store.lose(bad)
        if records:
            with store.lock:
                places = store.append(records)
                moves = [(key, old, new, size) for (key, old, size), new in zip(whole, places, strict=True)]
                number, end = store.log.number, store.log.end
                store.index.write(lambda connection: sql.note_moved(connection, moves, number, end))
        return len(records), sum(size + RECORD_HEADER_BYTES for _, _, size in whole)

    def _drop(self, number: int) -> None:
        store = self._store
        with store.lock:
            store.index.write(lambda connection: sql.drop_segment(connection, number))
        try:
            store.disk.unlink(segment_name(number))
        except FileNotFoundError:
            return
        except OSError as error:
            raise store.fault(error, "A collected segment was not deleted") from error


_WRONG_REFS = (
    "SELECT chunks.key, coalesce(counted.n, 0) FROM chunks LEFT JOIN "
    "(SELECT key, count(*) AS n FROM holds GROUP BY key) AS counted USING (key) "
    "WHERE refs != coalesce(counted.n, 0)"
)
_NO_CHUNK = (
    "SELECT holder, ordinal FROM holds WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE chunks.key = holds.key)"
)

_DROP_NO_CHUNK = f"DELETE FROM holds WHERE (holder, ordinal) IN ({_NO_CHUNK})"  # noqa: S608 - constant


def _find_wrong_live(connection: Connection) -> list[tuple[int, int]]:
    """Return (number, live bytes) of segments whose row says something else."""
    rows = connection.execute(
        "SELECT place >> 32, sum(size) + ? * count(*) FROM chunks WHERE place != 0 GROUP BY 1",
        (RECORD_HEADER_BYTES,),
    )
    live = {row[0]: row[1] for row in rows}
    return [
        (row.number, live.get(row.number, 0))
        for row in sql.load_segments(connection)
        if row.live != live.get(row.number, 0)
    ]
