"""Section parts: where a section of small files is cut in a later version, whatever its bytes say.

What is new is cut apart from what is as it was. So a getter that has the files of the version before fetches
the new ones and nothing around them: chunks that hold only known files are made of those, wherever their cuts
lie now (docs/decisions/0006-small-files-in-versions.md). Any cut is valid for a reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from shoal.content.manifest import EntryKind, Manifest
from shoal.core.units import MIB
from shoal.storage.entry_table import ScannedEntry

FEW_PARTS: Final = 9  # of any section: four files that are new or other ones, each by itself
PART_BYTES: Final = MIB  # beyond that a part for each: at most about three times as many chunks as without


def split_at_changes(
    entries: Sequence[ScannedEntry], previous: Manifest | None
) -> Iterator[Sequence[ScannedEntry]]:
    """Yield the entries of a section in parts, each to be cut for itself: known files, others, known ones...

    A file is known if `previous` has it with the same size and time. With more parts than the section's size
    allows it stays whole, and is cut as a first version is.
    """
    starts = _find_starts(entries, previous) if previous is not None else [0]
    data = sum(entry.data_bytes for entry in entries) if len(starts) > FEW_PARTS else 0
    if len(starts) > max(FEW_PARTS, data // PART_BYTES):
        starts = [0]
    for start, end in zip(starts, [*starts[1:], len(entries)], strict=True):
        yield entries[start:end]


def _find_starts(entries: Sequence[ScannedEntry], previous: Manifest) -> list[int]:
    starts = [0]
    before: bool | None = None
    for index, entry in enumerate(entries):
        if entry.kind is not EntryKind.FILE or not entry.data_bytes:
            continue
        there = previous.find_file(entry.path)
        known = there is not None and is_known(entry, previous, there)
        if before is not None and known != before:
            starts.append(index)
        before = known
    return starts


def is_known(entry: ScannedEntry, previous: Manifest, index: int) -> bool:
    """Whether a scanned file is what entry `index` of an earlier version was, by its size and time."""
    known = previous.entry(index)
    return known.kind is EntryKind.FILE and (known.size, known.mtime_ns) == (entry.size, entry.mtime_ns)
