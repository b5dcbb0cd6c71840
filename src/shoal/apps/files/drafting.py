"""Drafting: tells of a share's chunks while they are hashed, so that getters need not wait for the end.

Only the first version has drafts: later ones are told of when they are whole. What is told is durable
first: segments, then the feed entries that announce them, then the chunks are offered. What turns out to be
otherwise is not served any more (the reader compares each file with what was scanned), and the version that
is closed in the end says what is right.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Final

from shoal.apps.files.context import FilesContext, make_row
from shoal.apps.files.served import ServedShare
from shoal.content.draft import GAP_KEY, DraftChunk, refer, seal_chunks
from shoal.content.feed import draft_number
from shoal.content.feed_log import FeedWriter
from shoal.content.manifest import ManifestHeader
from shoal.content.manifest_builder import ManifestBuilder
from shoal.content.manifest_segments import KIND_CHUNKS, KIND_ENTRIES
from shoal.content.seal import SealedObject
from shoal.core.errors import LocalMisuse, ShoalError
from shoal.storage.draft_rows import DraftRows
from shoal.storage.entry_table import add_entries
from shoal.storage.scan import ScanResult
from shoal.storage.tree_reader import TreeReader
from shoal.swarm.offer import OfferedVersion

log = logging.getLogger("shoal.files")

TELL_S: Final = 0.25  # between two tellings; what is hashed within the first one needs no draft
TELL_PART: Final = 32  # later one every so many parts of the time that it takes: 100 of them for 100 GB
FEED_ENTRIES: Final = 16_384  # a quarter of a feed; who restarts for ever gets no more drafts


class DraftPublisher:
    """Tells of one share's first version while it is hashed. `start` it, give `rows` to the hashing, `stop`
    it before the version is published, `close` it afterwards. Loop thread only.
    """

    def __init__(self, context: FilesContext, share: ServedShare, scanned: ScanResult) -> None:
        self._context = context
        self._share = share
        self._scanned = scanned
        opening = share.reader.opening
        assert opening is not None
        self.rows = DraftRows(opening.generation)
        self._builder = ManifestBuilder(
            ManifestHeader(opening.space, opening.generation), share.link.read_key
        )
        self._source: TreeReader | None = None
        self._number = 0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell. Raises: Unavailable while the node stops."""
        self._task = self._context.supervisor.spawn("draft", self._run())

    async def stop(self) -> None:
        """Tell nothing more: returns once what is being told is durable. Idempotent."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    def close(self) -> None:
        """Serve the draft no longer. Idempotent."""
        offer = self._context.swarm.find_offer(self._share.share_id)
        if offer is not None:
            offer.versions.pop(self._number, None)
        if self._source is not None:
            self._source.close()
            self._source = None

    async def _run(self) -> None:
        clock = self._context.clock
        began_at = clock.monotonic()
        try:
            while not await self._is_stopped(max(TELL_S, (clock.monotonic() - began_at) / TELL_PART)):
                if rows := self.rows.take():
                    await self._tell(rows)
        except ShoalError as error:
            log.warning("what is hashed of %s is not told early: %s", self._share.row.name, error)
            await self._share.load_feed()  # what was not stored was not said

    async def _is_stopped(self, after_s: float) -> bool:
        try:
            async with asyncio.timeout(after_s):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _tell(self, rows: list[DraftChunk]) -> None:
        """Store and announce some rows. Raises: StorageFault, Unavailable, LocalMisuse for a full feed."""
        share, stores = self._share, self._context.stores
        if share.reader.next_seq >= FEED_ENTRIES:
            raise LocalMisuse("The feed has too many entries for a draft")
        time = int(self._context.clock.wall())
        entries: list[SealedObject] = []
        if not self._number:
            entries = await self._context.run(self._seal_entries)
        chunks = await self._context.run(lambda _: seal_chunks(share.link.read_key, rows))
        if self._stopping.is_set() and not self._number:
            return  # all of it can be told at once
        pairs = [(o.object_id, o.sealed) for o in (*entries, *chunks)]
        await stores.objects.put(share.share_id, pairs)
        manifest = self._builder.manifest
        writer = FeedWriter(self._context.network.keys, share.reader)
        said = []
        number = self._number
        if not number:
            number = draft_number(share.reader.next_seq)
            said.append(
                writer.begin_draft(
                    entries=len(manifest),
                    files=manifest.file_count,
                    total_bytes=manifest.total_bytes,
                    stream_bytes=manifest.stream_bytes,
                    time=time,
                )
            )
        said += writer.announce(refer(entries, KIND_ENTRIES), time)
        said += writer.announce(refer(chunks, KIND_CHUNKS), time)
        await stores.entries.append([make_row(entry) for entry in said], own=True)
        self._number = number
        self._offer(rows)

    def _seal_entries(self, cancelled: threading.Event) -> list[SealedObject]:
        add_entries(self._builder, self._scanned.entries)
        return self._builder.seal_entries()

    def _offer(self, rows: list[DraftChunk]) -> None:
        swarm, manifest, share_id = self._context.swarm, self._builder.manifest, self._share.share_id
        offer = swarm.find_offer(share_id)
        if offer is None:
            return
        if self._source is None:
            self._source = TreeReader(self._scanned.roots, manifest)
            offer.put_version(OfferedVersion(self._number, 0, self._source, 0))
        there: list[int] = []
        for row in rows:
            if row.key != GAP_KEY:
                there.append(manifest.chunk_count)
            self._builder.add_chunk(*row)
        swarm.add_chunks(share_id, self._number, there, manifest.chunk_count)
        offer.entries = self._share.reader.next_seq
        swarm.announce(offer)
