"""Entry table: gives back what was put in, entry by entry and in runs, and takes little memory."""

from __future__ import annotations

import tracemalloc

import pytest

from shoal.content.manifest import TIME_LIMIT, EntryKind
from shoal.storage.entry_table import EntryTable, ScannedEntry, is_time_in_range

ENTRIES = [
    ScannedEntry(b"tree", EntryKind.DIR, 0o755, -TIME_LIMIT),
    ScannedEntry(b"tree/a", EntryKind.FILE, 0o644, TIME_LIMIT - 1, 2**63 - 1),
    ScannedEntry(b"tree/empty", EntryKind.FILE, 0o600, 0),
    ScannedEntry(b"tree/holes", EntryKind.FILE, 0o777, 5, 100, extents=[(10, 20), (50, 1)]),
    ScannedEntry(b"tree/only a hole", EntryKind.FILE, 0, 6, 100, extents=[]),
    ScannedEntry(b"tree/to", EntryKind.SYMLINK, 0o777, 7, target=b"a"),
]


def make_table() -> EntryTable:
    table = EntryTable()
    for entry in ENTRIES:
        table.append(entry)
    return table


def test_entries_come_back_as_they_were() -> None:
    table = make_table()
    assert list(table) == ENTRIES
    assert [table[number] for number in range(-len(ENTRIES), 0)] == ENTRIES
    assert list(table.iter_data_bytes()) == [0, 2**63 - 1, 0, 21, 0, 0]
    assert [entry.data_bytes for entry in table] == list(table.iter_data_bytes())
    with pytest.raises(IndexError):
        table[len(ENTRIES)]


def test_runs_are_entries_of_the_table() -> None:
    run = make_table()[1:5]
    assert list(run) == ENTRIES[1:5]
    assert (len(run), run[-1], list(run[:-1])) == (4, ENTRIES[4], ENTRIES[1:4])
    assert list(run[2:][1:]) == ENTRIES[4:5]
    assert not make_table()[3:3]


def test_times_of_64_bits_are_in_range() -> None:
    assert [is_time_in_range(t) for t in (-(2**63) - 1, -(2**63), 2**63 - 1, 2**63)] == [
        False,
        True,
        True,
        False,
    ]


def test_an_entry_takes_its_path_and_little_more() -> None:
    table, count = EntryTable(), 20_000
    tracemalloc.start()
    try:
        for number in range(count):
            table.append(
                ScannedEntry(b"tree/file %06d" % number, EntryKind.FILE, 0o644, 10**18 + number, 2000)
            )
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < count * (len(b"tree/file 000000") + 27) * 1.3  # what columns have in reserve
