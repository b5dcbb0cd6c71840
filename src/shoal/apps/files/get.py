"""Get: one transfer from link to final names. Find, describe, plan, fetch, finish; resumes where it was.

Owns the fetch of the swarm, the writer of the part files, the ledger and the journal. From its first chunk on
it offers what it has. Every way out leaves a state from which the same get goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from shoal.apps.files.context import FilesContext, make_row
from shoal.apps.files.early import EarlyFetch
from shoal.apps.files.finding import ASIDE_S, WATCH_S, Finder, check_may_fetch, find_location
from shoal.apps.files.part_files import FindTrees, PartFiles
from shoal.apps.files.places import Place
from shoal.apps.files.served import ServedShare, ShareDetails, join_parts, make_offer
from shoal.apps.files.target import MovingSource
from shoal.apps.files.transfer_state import TransferRecord
from shoal.apps.files.wanted import find_wanted
from shoal.content.feed import DRAFTS, Closing
from shoal.content.feed_log import AnnouncedDraft, FeedReader
from shoal.content.manifest import Manifest
from shoal.content.paths import display_path
from shoal.content.selection import refuse_empty
from shoal.core.errors import RemoteFault, ShoalError, StorageFault, Unavailable
from shoal.core.undo import undone_on_failure
from shoal.identity.entry import parse_entry
from shoal.storage.rows import pack, unpack
from shoal.storage.shares import Origin, ShareRow, ShareState
from shoal.storage.transfers import TransferState
from shoal.swarm.chunk_set import bits, to_set
from shoal.swarm.fetch import ShareFetch
from shoal.swarm.offer import OfferedVersion

log = logging.getLogger("shoal.files")

LACK_S = 1.0  # so long nobody has the rest before it is said: lanes are opened meanwhile
COMPARE_S = 2.0  # a follow hears out all who are asked, at most this long
WRITE_DELAY_NS = 1_000_000_000  # a chunk is on its way to its file so long after it was noted, at most


class Get:
    """Runs one transfer. `run` returns when it is done, and raises what made it stop; it may be cancelled at
    any time. `adopt` is called with the share that is served from final names, before it is said to be done.
    """

    def __init__(
        self,
        context: FilesContext,
        record: TransferRecord,
        journal_dir: bytes,
        place: Place,
        find_trees: FindTrees = list,
        adopt: Callable[[ServedShare], Awaitable[None]] | None = None,
    ) -> None:
        self.record = record
        self.fault: StorageFault | None = None
        self.parts = PartFiles(context, record, journal_dir, find_trees)
        self._place = place
        self._adopt = adopt
        self.served: ServedShare | None = None
        self._context = context
        self._link = record.link
        self._reader = FeedReader(self._link.network_id, self._link.share_id, self._link.read_key)
        self._entries: list[bytes] = []  # verified, not stored yet
        self._storing = asyncio.Lock()
        self._fetch: ShareFetch | None = None
        self._finder: Finder | None = None
        self._outdated = 0  # a version that nobody has whole any more
        self._useless = 0  # a draft that is not fetched
        self._wanted = self.parts.wanted
        self.fork: RemoteFault | None = None  # proof that the share has two histories
        self.went_back = False  # its author has fewer entries than we
        self._offered = False  # the version that is served is ours
        self._failed = False
        self._finished = asyncio.Event()
        self._started_at = context.clock.monotonic()

    # The way

    async def run(self) -> None:
        """Go from wherever the transfer is to the end.

        Raises: Refused, Unavailable, StorageFault, RemoteFault; all of them leave a state to resume from.
        Cancelling is safe: what was received is recorded.
        """
        check_may_fetch(self._context, self._link)
        while not await self._attempt():
            if self.record.version < DRAFTS:  # else the next plan has to know when it was touched last
                self.parts.journal.remove()  # its ordinals meant chunks of the version before

    async def _attempt(self) -> bool:
        """Get one version; False if that is not to be had any more, but a newer one is known, and after a
        draft.
        """
        record, context = self.record, self._context
        search: asyncio.Task[None] | None = None
        behind = record.options.background
        fetch = context.swarm.make_fetch(self._link.share_id, self._link.read_key, self, background=behind)
        self._fetch = fetch
        finder = self._finder = Finder(context, self._link, self._reader, fetch, self)
        try:
            await record.enter(TransferState.FINDING)
            if self._reader.next_seq == 0:
                for data in await context.stores.entries.load(self._link.share_id):
                    self._reader.add(data)
            fetch.start()
            search = context.supervisor.spawn("search", finder.search())
            closing = await finder.find_start(
                self._find_closing, record.version, lambda: self._find_draft() is not None
            )
            if self._reader.opening is not None:
                record.options.name = display_path(self._reader.opening.name)
            if closing is None:
                await self._fetch_early(fetch, finder)
                return False
            follow = record.options.follow
            asked_until = context.clock.monotonic() + COMPARE_S
            while follow is not None and follow.version == closing.version and fetch.is_searching:
                if context.clock.monotonic() > asked_until:
                    break
                await fetch.wait_change(WATCH_S)  # feeds are on their way, and compared
                closing = self._find_closing() or closing
            record.newest = closing.version
            if follow is not None and follow.version == closing.version and not record.looks_at_all:
                await record.enter(TransferState.DONE)
                return True
            await self._place.take()
            try:
                manifest = await self._describe(closing)
            except Unavailable as error:
                if error.code != "version_gone" or self._link.is_permanent:
                    raise
                self._outdated = closing.version
                return False
            await self._place.take()
            await self.parts.plan(closing.version, manifest, self._wanted, self._reader)
            await self.offer_parts(closing.version, manifest)
            if not await self._fetch_chunks(manifest):
                self._outdated = record.version
                return False
            search.cancel()
            await context.swarm.close_fetch(fetch)
            await self._finish(closing, manifest)
            return True
        except ShoalError:
            self._failed = True
            raise
        finally:
            if search is not None:
                search.cancel()
            await self._close(fetch)

    async def discard(self) -> None:
        """Delete part files and journals of a transfer that is not running; it cannot resume then."""
        await self.parts.discard()

    # Finding

    def _find_closing(self) -> Closing | None:
        """Return the version that was begun, or that the link means."""
        begun = self.record.version not in (0, self._outdated) and self.record.version < DRAFTS
        if begun and not self._link.is_permanent:
            return self._reader.find_version(self.record.version)
        return self._reader.find_closing(self._link.content_id)

    def _find_draft(self) -> AnnouncedDraft | None:
        """Return the draft that is fetched while the first version is still hashed, if there is one."""
        options, draft = self.record.options, self._reader.draft
        waits = options.follow is not None or options.only or self._link.is_permanent
        if draft is None or not draft.chunks or waits or self._reader.latest is not None:
            return None
        return draft if draft.number != self._useless else None

    async def _fetch_early(self, fetch: ShareFetch, finder: Finder) -> None:
        """Fetch the chunks of a draft until its version is closed, or another draft begun."""
        announced = self._find_draft()
        if announced is None:
            return
        await self.store_entries()
        await self._place.take()
        early = EarlyFetch(
            self._context,
            self.record,
            self,
            self.parts,
            self._reader,
            announced,
            fetch=fetch,
            finder=finder,
            place=self._place,
        )
        if not await early.run():
            self._useless = announced.number

    async def _describe(self, closing: Closing) -> Manifest:
        """Fetch what is missing of the manifest and load it."""
        assert self._finder is not None
        await self.store_entries()
        manifest = await self._finder.describe(closing, self)
        options = self.record.options
        wanted = self._wanted = await find_wanted(self._context, manifest, options.only)
        if wanted.selection is not None:
            refuse_empty(wanted.selection, options.only)
            options.unmatched = wanted.selection.unmatched
        self.record.total_bytes = wanted.stream_bytes
        options.files = wanted.files
        options.total_bytes = wanted.total_bytes
        return manifest

    # What a finder asks of us (Seeker, Shelf)

    @property
    def wait_s(self) -> float | None:
        return self.record.options.wait_s

    @property
    def asked_at(self) -> float:
        return self.record.asked_at

    @property
    def is_aside(self) -> bool:
        return self._place.is_aside

    def say(self, note: str) -> None:
        self.record.say(note)

    def stand_aside(self) -> None:
        self._place.stand_aside()

    async def put(self, objects: Iterable[tuple[bytes, bytes]], *, is_root: bool) -> None:
        fetched = list(objects)
        self.record.options.manifest_bytes += sum(len(data) for _, data in fetched)
        await self._context.stores.objects.put(self._link.share_id, fetched, durable=is_root)

    def find_blocking(self, object_id: bytes) -> bytes | None:
        return self._context.stores.objects.find_blocking(object_id)

    def find_missing_blocking(self, object_ids: Sequence[bytes]) -> list[bytes]:
        return self._context.stores.objects.find_missing_blocking(object_ids)

    async def offer_parts(self, version: int, manifest: Manifest) -> None:
        """Serve what is there from now on, and say so."""
        swarm, ledger, source = self._context.swarm, self.parts.ledger, self.parts.source
        assert ledger is not None
        assert source is not None
        offer = swarm.find_offer(self._link.share_id)
        if offer is None:
            offer = make_offer(self._context, self._link, self._reader, self._on_read_fault)
            swarm.offer(offer)
        have = int.from_bytes(ledger.bits(), "little") & self._wanted.servable
        offer.entries = self._reader.next_seq
        served = offer.versions.get(version)
        if served is None or not served.is_complete:  # else it lies whole at an earlier DEST
            offer.put_version(OfferedVersion(version, manifest.chunk_count, source, have))
            self._offered = True
        swarm.announce(offer)
        await self._context.overlay.publish(find_location(self._context, self._link))

    # Fetching

    async def _fetch_chunks(self, manifest: Manifest) -> bool:
        """Fetch what is missing; False to go on with a newer version. Raises: Unavailable, StorageFault."""
        fetch, finder, ledger, record = self._fetch, self._finder, self.parts.ledger, self.record
        target = self.parts.target
        assert fetch is not None
        assert finder is not None
        assert ledger is not None
        await record.enter(TransferState.FETCHING)
        done = to_set(ledger.ordinals(), manifest.chunk_count) | self._wanted.left_out
        for ordinal in bits(done):
            target.written[ordinal] = 1
        fetch.set_target(target, manifest.chunk_length, done)
        record.count_arriving = lambda: fetch.arriving_bytes
        patience = finder.make_patience()
        clock = self._context.clock
        moved_at = clock.monotonic()
        record.say("")
        while not self._finished.is_set():
            finder.check_member()
            if self.fault is not None:
                raise self.fault
            if ledger.fault is not None and ledger.fault.code == "disk_full":
                raise ledger.fault
            record.measure(clock.monotonic())
            if fetch.is_stuck():
                if clock.monotonic() - moved_at > LACK_S:
                    record.say(finder.explain_stuck())
                    record.rate.rest()
                if self._is_outdated() and not fetch.is_searching:
                    return False
                finder.give_up_if(patience)
                if clock.monotonic() - moved_at > ASIDE_S:
                    self._place.stand_aside()
            else:
                record.say("")
                moved_at = clock.monotonic()
                patience.restart(moved_at)
            try:
                async with asyncio.timeout(WATCH_S):
                    await self._finished.wait()
            except TimeoutError:
                continue
        record.measure(clock.monotonic())
        return True

    def _is_outdated(self) -> bool:
        latest = self._reader.latest
        return (
            latest is not None and latest.version > self.parts.target.version and not self._link.is_permanent
        )

    async def _finish(self, closing: Closing, manifest: Manifest) -> None:
        """Give the files their final names and serve them from there."""
        context, record, parts = self._context, self.record, self.parts
        writer, source = parts.writer, parts.source
        assert writer is not None
        assert source is not None
        assert parts.ledger is not None
        await parts.ledger.close()
        await record.enter(TransferState.FINISHING)
        overwrite = record.options.overwrite or parts.mirrors

        def finish() -> tuple[dict[bytes, bytes], list[tuple[bytes, str]]]:
            source.hold()
            with undone_on_failure(lambda: source.switch(None)):
                written = writer.finish(overwrite=overwrite)
            return dict(written.roots), [(s.path, s.reason) for s in written.skipped]

        try:
            roots, skipped = await context.run(lambda _: finish())
        except StorageFault as fault:
            if fault.code == "sync":
                await parts.start_over()
            raise
        record.options.skipped = skipped
        if record.options.follow is not None:
            record.options.follow.version = closing.version
        self._note_elapsed()
        served = await self._keep_share(closing, manifest, roots, skipped)
        if served is not None:
            here = await find_wanted(context, manifest, served.details.only)
            source.switch(served.serve(closing, manifest, served.details.roots, here.servable))
            parts.source = None
            self.served = served
            if self._adopt is not None:
                await self._adopt(served)
        record.done_bytes = self._wanted.stream_bytes
        parts.journal.remove()
        await context.stores.transfers.forget_chunks(record.id)
        await record.enter(TransferState.DONE)

    async def _keep_share(
        self,
        closing: Closing,
        manifest: Manifest,
        roots: dict[bytes, bytes],
        skipped: list[tuple[bytes, str]],
    ) -> ServedShare | None:
        """Note, durably, that this node serves the share from its final place; None if it goes on serving
        all of it from an earlier one, of which this is a part.
        """
        context = self._context
        details = ShareDetails(roots, skipped, only=self.record.options.only)
        known = await context.stores.shares.find(self._link.share_id)
        if known is not None and known.version == closing.version and known.details:
            joined = join_parts(details, unpack(ShareDetails, known.details, "shares.details"))
            if joined is None:
                return None
            details = joined
        await self.store_entries()
        now = context.clock.wall()
        row = ShareRow(
            share_id=self._link.share_id,
            origin=Origin.FETCHED,
            link=self._link.pinned(None).to_text(),
            roots=tuple(details.roots.values()),
            name=self.record.options.name,
            state=ShareState.COMPLETE,
            created_at=now,
            updated_at=now,
        )
        await context.stores.shares.replace(row)
        served = ServedShare(context, row)
        served.reader = self._reader
        here = await find_wanted(context, manifest, details.only)
        part = (here.files, here.total_bytes) if details.only else None
        await served.complete(closing, details, part)
        return served

    # What the fetch tells (FetchOwner)

    @property
    def entry_count(self) -> int:
        return self._reader.next_seq

    def on_entries(self, peer: bytes, entries: list[bytes]) -> None:
        known = self._reader.next_seq
        for data in entries:
            self.record.options.manifest_bytes += len(data)
            try:
                is_new = self._reader.add(data)
            except RemoteFault as fault:
                if fault.code == "equivocation":
                    self.fork = fault
                raise
            if is_new:
                self._entries.append(data)
        if entries and peer == self._reader.author and parse_entry(entries[-1]).seq + 1 < known:
            log.warning("%s has lost entries of its own feed", self._context.name_peer(peer))
            self.went_back = True
        offer = self._context.swarm.find_offer(self._link.share_id)
        if offer is not None and self.parts.manifest is not None:
            self._context.supervisor.spawn("feed", self.store_entries())

    def on_chunks(self, peer: bytes, ordinals: list[int], size_bytes: int) -> None:
        self.parts.note_chunks(peer, ordinals, size_bytes, self._note_elapsed())
        self.add_servable(self._wanted.pick_servable(ordinals))

    def add_servable(self, ordinals: list[int]) -> None:
        target = self.parts.target
        self._context.swarm.add_chunks(self._link.share_id, target.version, ordinals, target.total)

    def on_blamed(self, peer: bytes) -> None:
        if peer not in self.record.options.blamed:
            self.record.options.blamed.append(peer)
        log.warning("%s sent wrong data and is not asked any more", self._context.name_peer(peer))

    def on_fault(self, error: StorageFault) -> None:
        self.fault = error

    def on_finished(self) -> None:
        self._finished.set()

    # Helpers

    async def _withdraw(self, source: MovingSource) -> None:
        """Serve our parts no longer; what lies whole at an earlier DEST goes on being served."""
        source.switch(None)  # who waited for the final names waits in vain
        if not self._offered:
            return
        self._offered = False
        swarm, share_id = self._context.swarm, self._link.share_id
        swarm.withdraw_version(share_id, self.parts.target.version)
        if swarm.find_offer(share_id) is None:
            await self._context.overlay.withdraw(find_location(self._context, self._link))

    def _on_read_fault(self, version: int, ordinal: int, error: StorageFault) -> None:
        log.info("chunk %s of a transfer was not served: %s", ordinal, error)

    async def store_entries(self) -> None:
        """Keep what was read of the feed, and offer it. What could not be stored stays for the next call:
        stored entries without one of before could not be read again.
        """
        async with self._storing:
            entries = list(self._entries)
            await self._context.stores.entries.append([make_row(parse_entry(data)) for data in entries])
            del self._entries[: len(entries)]
        offer = self._context.swarm.find_offer(self._link.share_id)
        if offer is not None and entries:
            offer.entries = max(offer.entries, self._reader.next_seq)
            self._context.swarm.announce(offer)

    def _note_elapsed(self) -> bytes:
        """Count the time until now; return the options to keep, so that a crash does not lose it."""
        now = self._context.clock.monotonic()
        self.record.options.elapsed_s += now - self._started_at
        self._started_at = now
        return pack(self.record.options)

    async def _close(self, fetch: ShareFetch) -> None:
        """Leave everything so that the transfer can go on later."""
        self.record.count_arriving = None
        await self._context.swarm.close_fetch(fetch)
        self._note_elapsed()
        if self.served is None and self.parts.source is not None:
            await self._withdraw(self.parts.source)
        if self._failed:
            try:
                await self.parts.discard_empty()
            except StorageFault as fault:  # why it failed is what counts
                log.warning("what a transfer began was not removed: %s", fault)
        await self.parts.close()
