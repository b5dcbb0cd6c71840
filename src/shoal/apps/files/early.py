"""Early: fetches the chunks of a draft while the sharer is still hashing the rest.

What comes is verified by key and recorded as in any get, and offered to others. It ends when the version is
closed, or when the sharer has begun anew; the get goes on from there with what is in the part files.
"""

from __future__ import annotations

import logging
from typing import Protocol

from shoal.apps.files.context import FilesContext
from shoal.apps.files.finding import ASIDE_S, WATCH_S, Finder, Shelf
from shoal.apps.files.part_files import PartFiles
from shoal.apps.files.places import Place
from shoal.apps.files.transfer_state import TransferRecord
from shoal.apps.files.wanted import Wanted
from shoal.content.draft import DraftReader
from shoal.content.feed_log import AnnouncedDraft, FeedReader
from shoal.content.manifest import Manifest, ManifestHeader
from shoal.core.errors import RemoteFault, StorageFault, Unavailable
from shoal.storage.transfers import TransferState
from shoal.swarm.chunk_set import to_set
from shoal.swarm.fetch import OBJECTS_AT_ONCE, ShareFetch

log = logging.getLogger("shoal.files")

NOTE = "the sharer is still reading the files"


class EarlyOwner(Shelf, Protocol):
    """The get that this is a part of."""

    @property
    def fault(self) -> StorageFault | None:
        """Why the disk refused a chunk."""
        ...

    async def store_entries(self) -> None:
        """Keep what was read of the feed. Raises: StorageFault."""
        ...

    async def offer_parts(self, version: int, manifest: Manifest) -> None:
        """Serve what is in the part files, and say so."""
        ...

    def add_servable(self, ordinals: list[int]) -> None:
        """Say that more chunks can be served."""
        ...


class EarlyFetch:
    """One draft being fetched. `run` once; loop thread only."""

    def __init__(
        self,
        context: FilesContext,
        record: TransferRecord,
        owner: EarlyOwner,
        parts: PartFiles,
        reader: FeedReader,
        announced: AnnouncedDraft,
        *,
        fetch: ShareFetch,
        finder: Finder,
        place: Place,
    ) -> None:
        self._context = context
        self._record = record
        self._owner = owner
        self._parts = parts
        self._reader = reader
        self._announced = announced
        self._fetch = fetch
        self._finder = finder
        self._place = place
        opening = reader.opening
        assert opening is not None
        self._planned = 0  # chunks that the fetch knows of
        self._draft = DraftReader(announced, ManifestHeader(opening.space, opening.generation))

    async def run(self) -> bool:
        """Fetch until there is something better to fetch; False if this draft is of no use.

        Raises: Unavailable, Refused, StorageFault as a get. Cancelling leaves what came to be resumed.
        """
        record, said = self._record, self._announced.said
        record.total_bytes = said.stream_bytes
        record.options.files, record.options.total_bytes = said.files, said.total_bytes
        patience = self._finder.make_patience()
        moved = (self._context.clock.monotonic(), 0)
        is_planned = False
        record.say(NOTE)
        while self._reader.draft is self._announced:
            self._finder.check_member()
            if self._owner.fault is not None:
                raise self._owner.fault
            try:
                has_more = await self._read()
            except RemoteFault as error:
                log.warning("what the sharer tells while it reads is not usable: %s", error)
                return False
            if has_more and not is_planned:
                if not await self._plan():
                    return False
                is_planned = True
            elif has_more:
                await self._grow()
            now = self._context.clock.monotonic()
            record.measure(now)
            if record.shown_bytes != moved[1]:
                moved = (now, record.shown_bytes)
            if self._fetch.is_joined:
                patience.restart(now)
            else:
                self._finder.give_up_if(patience)
            if now - moved[0] > ASIDE_S:
                self._place.stand_aside()
            elif self._place.is_aside:
                await self._place.take()
            record.say(NOTE)
            await self._fetch.wait_change(WATCH_S)
        return True

    async def _read(self) -> bool:
        """Take what more was announced; whether there are more chunks now. Raises: RemoteFault."""
        draft, owner = self._draft, self._owner
        known = draft.manifest.chunk_count
        missing = await self._context.run(lambda _: draft.find_missing(owner.find_missing_blocking))
        if missing:
            await owner.store_entries()
            for start in range(0, len(missing), OBJECTS_AT_ONCE):  # in memory; a draft may name 65,536
                try:
                    found = await self._fetch.get_objects(missing[start : start + OBJECTS_AT_ONCE])
                except (
                    Unavailable
                ):  # the version was closed meanwhile, or its sharer is gone: seen by the caller
                    return False
                await owner.put(found.items(), is_root=False)
        await self._context.run(lambda _: draft.read(owner.find_blocking))
        return draft.manifest.chunk_count > known

    async def _plan(self) -> bool:
        draft, parts, record = self._draft, self._parts, self._record
        manifest = draft.manifest
        wanted = Wanted(manifest)
        if not await parts.plan(self._announced.number, manifest, wanted, self._reader, draft.limit):
            return False
        record.total_bytes = self._announced.said.stream_bytes
        await self._owner.offer_parts(self._announced.number, manifest)
        await record.enter(TransferState.FETCHING)
        ledger, fetch = parts.ledger, self._fetch
        assert ledger is not None
        done = to_set(ledger.ordinals(), draft.limit)
        for ordinal in ledger.ordinals():
            parts.target.written[ordinal] = 1
        self._planned = manifest.chunk_count
        fetch.set_target(parts.target, manifest.chunk_length, done, limit=draft.limit)
        record.count_arriving = lambda: fetch.arriving_bytes
        return True

    async def _grow(self) -> None:
        """Fetch what more is described by now, but for what lies on this disk or came of an earlier draft."""
        manifest, parts = self._draft.manifest, self._parts
        carried = await parts.find_carried(manifest, self._planned)
        new = [ordinal for ordinal in range(self._planned, manifest.chunk_count) if ordinal not in carried]
        self._planned = manifest.chunk_count
        local = await parts.copy_local(manifest, new)
        parts.note_found(carried, reused=False)
        parts.note_found(local, reused=True)
        here = carried | local
        for ordinal in here:
            parts.target.written[ordinal] = 1
        parts.target.grow()
        self._fetch.grow(here)
        self._owner.add_servable(sorted(here))
