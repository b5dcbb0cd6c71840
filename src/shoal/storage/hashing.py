"""Hashing: turns a scanned tree into a manifest: read, cut, hash, in threads.

Sections of the stream do not depend on each other, so each thread takes the next one; slices of a large file
go before (storage/large_file.py). What a previous version holds with the same size and time is not read
again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from shoal.content.keys import ChunkKeys
from shoal.content.manifest import EntryKind, Manifest, ManifestHeader
from shoal.content.manifest_builder import BuiltManifest, ManifestBuilder
from shoal.content.stream import iter_sections
from shoal.core.errors import StorageFault, Unavailable
from shoal.core.thread_priority import lower_thread_priority, yield_cpu
from shoal.storage.draft_rows import DraftRows
from shoal.storage.entry_table import EntryTable, ScannedEntry, add_entries
from shoal.storage.large_file import SPLIT_BYTES, LargeFile
from shoal.storage.scan import SKIPPED_LIMIT, ScanResult, Skipped
from shoal.storage.section import FileEnded, Section
from shoal.storage.section_hasher import SectionHasher, Turns
from shoal.storage.section_parts import is_known, split_at_changes
from shoal.storage.tree_handles import TreeHandles

HASH_THREADS: Final = 2
LOOK_S: Final = 0.1  # until a thread without work sees that it is all cancelled

Progress = Callable[[int, int], None]  # bytes and files done so far; called from hashing threads


@dataclass(frozen=True)
class HashedShare:
    """A share that is ready to be announced. `read_bytes` is what was really read, not taken over."""

    built: BuiltManifest
    roots: dict[bytes, bytes]
    skipped: list[Skipped]
    skipped_count: int
    ignored_count: int
    read_bytes: int


def hash_share(
    scanned: ScanResult,
    *,
    read_key: bytes,
    content_secret: bytes,
    generation: int,
    space: bytes,
    cut_seed: int,
    previous: Manifest | None = None,
    progress: Progress | None = None,
    cancelled: threading.Event | None = None,
    threads: int = HASH_THREADS,
    turns: Turns | None = None,
    background: bool = False,
    rows: DraftRows | None = None,
) -> HashedShare:
    """Read everything that `scan` found and return the manifest with its sealed segments. Use a thread.

    `previous` is the manifest of the version before, whose rows are taken over for files with the same size
    and time. The threads stand back for CPU, in the `background` for the disk too; `turns` says which of
    several hashings goes on, before each buffer of 8 MiB. `rows` sees the rows as they come. A file that
    vanished, may not be read or changes all the time is skipped and listed. Raises: StorageFault if nothing
    is left, Unavailable (code "cancelled") soon after `cancelled` is set.
    """
    work = _Work(scanned, progress, cancelled or threading.Event(), rows)
    keys = ChunkKeys(content_secret)
    handles = TreeHandles(roots=scanned.roots)

    def run() -> None:
        if background:
            lower_thread_priority()
        else:
            yield_cpu()
        hasher = SectionHasher(handles, cut_seed, keys, generation, work.report, work.cancelled, turns)
        try:
            hash_items(hasher)
        finally:
            hasher.rest()

    def hash_items(hasher: SectionHasher) -> None:
        reuse = _Reuse(previous) if previous is not None else None
        while (item := work.take()) is not None:
            if isinstance(item, _Slice):
                if item.file.hash_slice(item.slice_number, hasher):
                    item.file.finish(hasher)
                    work.put(item.number, item.file.section)
            else:
                hash_section(*item, hasher, reuse)
            hasher.rest()

    def hash_section(
        number: int, entries: Sequence[ScannedEntry], hasher: SectionHasher, reuse: _Reuse | None
    ) -> None:
        section = reuse.find(entries) if reuse is not None else None
        if section is not None:
            work.report(sum(section.lengths), len(entries), reused=True)
            work.put(number, section)
            return
        section = Section()
        work.begin(number, entries, section)
        if threads > 1 and entries[-1].data_bytes >= SPLIT_BYTES:
            hasher.hash_section(entries[:-1], section)
            entries = entries[-1:]
            with suppress(OSError, FileEnded):  # then it is read by one thread, which says why
                work.split(number, LargeFile(handles, entries[0], section))
                return
        for part in split_at_changes(entries, previous):
            hasher.hash_section(part, section)
        work.put(number, section)

    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="shoal-hash") as pool:
            futures = [pool.submit(work.guard, run) for _ in range(threads)]
        for future in futures:
            future.result()
    finally:
        work.close()
        handles.close()
    builder = ManifestBuilder(ManifestHeader(space, generation), read_key)
    skipped, count = list(scanned.skipped), scanned.skipped_count
    for section in work.sections():
        add_entries(builder, section.entries)
        for row, length in enumerate(section.lengths):
            builder.add_chunk(
                length, bytes(section.keys[32 * row : 32 * (row + 1)]), section.generations[row]
            )
        count += len(section.skipped)
        room = max(0, SKIPPED_LIMIT - len(skipped))
        skipped += (Skipped(*pair) for pair in section.skipped[:room])
    if not len(builder.manifest):
        raise StorageFault(
            "Nothing is left to share",
            cause=skipped[0].reason if skipped else "it is empty",
            next_step="check that the files are still there and may be read, then share them again",
            code="changed",
        )
    ignored = scanned.ignored_count
    return HashedShare(builder.build(), dict(scanned.roots), skipped, count, ignored, work.read_bytes)


class _Slice(NamedTuple):
    """A part of the file that section `number` is."""

    number: int
    file: LargeFile
    slice_number: int


class _Work:
    """Hands out sections and slices, takes results, counts. For several threads."""

    def __init__(
        self,
        scanned: ScanResult,
        progress: Progress | None,
        cancelled: threading.Event,
        rows: DraftRows | None,
    ) -> None:
        self.cancelled = cancelled
        self._rows = rows
        self.read_bytes = 0
        self._items = enumerate(_split(scanned.entries))
        self._progress = progress
        self._state = threading.Condition()
        self._failed = False
        self._done_bytes = 0
        self._done_files = 0
        self._undecided = 0  # sections handed out that may turn out to be a large file
        self._files: dict[int, LargeFile] = {}  # by section
        self._sections: dict[int, Section] = {}

    def take(self) -> tuple[int, Sequence[ScannedEntry]] | _Slice | None:
        """Return what to do next; None at the end. Raises: Unavailable (code "cancelled")."""
        with self._state:
            while not self._failed:
                if self.cancelled.is_set():
                    raise Unavailable("Hashing was stopped", code="cancelled")
                for number, file in self._files.items():
                    if (slice_number := file.take()) is not None:
                        return _Slice(number, file, slice_number)
                if (item := next(self._items, None)) is not None:
                    self._undecided += 1
                    return item
                if not self._undecided:
                    return None
                self._state.wait(LOOK_S)
        return None

    def split(self, number: int, file: LargeFile) -> None:
        """Let all threads hash a section that is one file."""
        with self._state:
            self._files[number] = file
            self._undecided -= 1
            self._state.notify_all()

    def begin(self, number: int, entries: Sequence[ScannedEntry], section: Section) -> None:
        """Show a section that is about to be hashed to who wants rows early."""
        if self._rows is not None:
            self._rows.begin(number, entries, section)

    def put(self, number: int, section: Section) -> None:
        with self._state:
            self._sections[number] = section
            if self._files.pop(number, None) is None:
                self._undecided -= 1
            self._state.notify_all()
        if self._rows is not None:
            self._rows.end(number)

    def report(self, size_bytes: int, files: int, *, reused: bool = False) -> None:
        with self._state:
            self._done_bytes += size_bytes
            self._done_files += files
            self.read_bytes += 0 if reused else size_bytes
            if self._progress is not None:
                self._progress(self._done_bytes, self._done_files)

    def guard(self, run: Callable[[], None]) -> None:
        """Run a thread; if it fails the others take no more work."""
        done = False
        try:
            run()
            done = True
        finally:
            if not done:
                with self._state:
                    self._failed = True
                    self._state.notify_all()

    def close(self) -> None:
        """Close what was not finished; no thread is at work any more."""
        for file in self._files.values():
            file.close()

    def sections(self) -> Iterator[Section]:
        for number in range(len(self._sections)):
            yield self._sections.pop(number)


def _split(entries: EntryTable) -> Iterator[Sequence[ScannedEntry]]:
    """Yield runs of entries whose data is one section each; what has no data goes with what follows it."""
    first = 0
    for section in iter_sections(entries.iter_data_bytes()):
        yield entries[first : section.end]
        first = section.end
    if first < len(entries):
        yield entries[first:]


class _Reuse:
    """Finds what can be taken over from the version before without reading it."""

    def __init__(self, previous: Manifest) -> None:
        self._previous = previous

    def find(self, entries: Sequence[ScannedEntry]) -> Section | None:
        """Return the rows of a run of entries if its data is exactly a run of whole chunks there,
        unchanged.
        """
        previous = self._previous
        section = Section()
        start = end = -1
        for entry in entries:
            if entry.kind is not EntryKind.FILE:
                section.entries.append(entry)
                continue
            index = previous.find_file(entry.path)
            if index is None:
                return None
            if not is_known(entry, previous, index):
                return None
            known = previous.entry(index)
            extents = [(offset, length) for offset, length, _ in known.extents]
            section.entries.append(
                ScannedEntry(
                    entry.path,
                    entry.kind,
                    entry.mode,
                    entry.mtime_ns,
                    entry.size,
                    extents=None if extents == [(0, entry.size)] or not entry.size else extents,
                )
            )
            if known.extents:
                if start < 0:
                    start = end = known.extents[0][2]
                if known.extents[0][2] != end:
                    return None  # something lay between them
                end += previous.data_bytes(index)
        if start < 0:
            return section
        chunks = previous.chunks_between(start, end)
        if previous.chunk(chunks[0])[0] != start or previous.chunk_stop(chunks[-1]) != end:
            return None
        for ordinal in chunks:
            section.lengths.append(previous.chunk_length(ordinal))
            section.keys += previous.chunk_key(ordinal)
            section.generations.append(previous.chunk_generation(ordinal))
        return section
