"""Hashing: turns a scanned tree into a manifest: read, cut, hash, in threads.

Sections of the stream do not depend on each other, so each thread takes the next one. What a previous version
holds with the same size and time is not read again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from shoal.content.keys import ChunkKeys
from shoal.content.manifest import EntryKind, Manifest, ManifestHeader
from shoal.content.manifest_builder import BuiltManifest, ManifestBuilder
from shoal.content.stream import iter_sections
from shoal.core.errors import StorageFault, Unavailable
from shoal.core.thread_priority import lower_thread_priority
from shoal.storage.draft_rows import DraftRows
from shoal.storage.scan import SKIPPED_LIMIT, ScannedEntry, ScanResult, Skipped
from shoal.storage.section_hasher import HashedEntry, Section, SectionHasher, WaitTurn
from shoal.storage.section_parts import is_known, split_at_changes
from shoal.storage.tree_handles import TreeHandles

HASH_THREADS: Final = 2

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
    wait_turn: WaitTurn | None = None,
    rows: DraftRows | None = None,
) -> HashedShare:
    """Read everything that `scan` found and return the manifest with its sealed segments. Use a thread.

    `previous` is the manifest of the version before, whose rows are taken over for files with the same size
    and time. With `wait_turn` this is work in the background: it is called before each buffer of 8 MiB, and
    the threads have low priority. `rows` sees the rows as they come. A file that vanished, may not be read or
    changes all the time is skipped and listed. Raises: StorageFault if nothing is left, Unavailable (code
    "cancelled") soon after `cancelled` is set.
    """
    work = _Work(scanned, progress, cancelled or threading.Event(), rows)
    keys = ChunkKeys(content_secret)
    handles = TreeHandles(roots=scanned.roots)

    def run() -> None:
        if wait_turn is not None:
            lower_thread_priority()
        hasher = SectionHasher(handles, cut_seed, keys, generation, work.report, work.cancelled, wait_turn)
        reuse = _Reuse(previous) if previous is not None else None
        while (item := work.take()) is not None:
            number, entries = item
            section = reuse.find(entries) if reuse is not None else None
            if section is None:
                section = Section()
                work.begin(number, entries, section)
                for part in split_at_changes(entries, previous):
                    hasher.hash_section(part, section)
            else:
                work.report(sum(section.lengths), len(entries), reused=True)
            work.put(number, section)

    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="shoal-hash") as pool:
            futures = [pool.submit(work.guard, run) for _ in range(threads)]
        for future in futures:
            future.result()
    finally:
        handles.close()
    builder = ManifestBuilder(ManifestHeader(space, generation), read_key)
    skipped, count = list(scanned.skipped), scanned.skipped_count
    for section in work.sections():
        for entry in section.entries:
            builder.add_entry(*entry)
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


class _Work:
    """Hands out sections, takes results, counts. For several threads."""

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
        self._lock = threading.Lock()
        self._failed = False
        self._done_bytes = 0
        self._done_files = 0
        self._sections: dict[int, Section] = {}

    def take(self) -> tuple[int, Sequence[ScannedEntry]] | None:
        if self.cancelled.is_set():
            raise Unavailable("Hashing was stopped", code="cancelled")
        with self._lock:
            return None if self._failed else next(self._items, None)

    def begin(self, number: int, entries: Sequence[ScannedEntry], section: Section) -> None:
        """Show a section that is about to be hashed to who wants rows early."""
        if self._rows is not None:
            self._rows.begin(number, entries, section)

    def put(self, number: int, section: Section) -> None:
        with self._lock:
            self._sections[number] = section
        if self._rows is not None:
            self._rows.end(number)

    def report(self, size_bytes: int, files: int, *, reused: bool = False) -> None:
        with self._lock:
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
                with self._lock:
                    self._failed = True

    def sections(self) -> Iterator[Section]:
        for number in range(len(self._sections)):
            yield self._sections.pop(number)


def _split(entries: Sequence[ScannedEntry]) -> Iterator[Sequence[ScannedEntry]]:
    """Yield runs of entries whose data is one section each; what has no data goes with what follows it."""
    first = 0
    for section in iter_sections(entry.data_bytes for entry in entries):
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
                section.entries.append(
                    HashedEntry(entry.path, entry.kind, entry.mode, entry.mtime_ns, 0, None, entry.target)
                )
                continue
            index = previous.find_file(entry.path)
            if index is None:
                return None
            if not is_known(entry, previous, index):
                return None
            known = previous.entry(index)
            extents = [(offset, length) for offset, length, _ in known.extents]
            section.entries.append(
                HashedEntry(
                    entry.path,
                    entry.kind,
                    entry.mode,
                    entry.mtime_ns,
                    entry.size,
                    None if extents == [(0, entry.size)] or not entry.size else extents,
                    b"",
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
