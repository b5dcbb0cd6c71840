"""Pin run: brings one version of a share into the store: find, describe, what this device has, the rest.

Resumes by itself: what the store has of it is known chunk by chunk. Every chunk is durable before it counts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from blake3 import blake3

from shoal.apps.files.context import ChangeSignal, FilesContext
from shoal.apps.files.finding import Finder, check_may_fetch
from shoal.apps.files.pin_quota import PinQuota
from shoal.apps.files.pin_source import STORED_OVERHEAD_BYTES, PinTarget
from shoal.content.chunk_places import ChunkPlaces, find_places
from shoal.content.feed import Closing
from shoal.content.feed_log import FeedReader
from shoal.content.keys import ChunkKeys
from shoal.content.link import Link
from shoal.content.manifest import Manifest
from shoal.content.manifest_loader import load_manifest
from shoal.content.paths import display_path
from shoal.content.seal import PLAINTEXT_BYTES
from shoal.core.errors import Refused, ShoalError, StorageFault, Unavailable
from shoal.storage.disk_space import check_free_space
from shoal.storage.pins import PinRow, Pins, PinState
from shoal.storage.store import Store
from shoal.swarm.chunk_set import to_set
from shoal.swarm.fetch import ShareFetch

log = logging.getLogger("shoal.files")

T = TypeVar("T")

WATCH_S = 0.2
ADVICE = "start a device that has it and pin it again, or wait with --wait: what was received is kept"


def description_holder(share_id: bytes) -> bytes:
    """Return under which name a pin holds the sealed objects of its manifest: the share may go."""
    return blake3(share_id, derive_key_context="shoal v1 local pin").digest()


class PinRun:
    """One pin and what it needs to become complete. Loop thread only; `run` may be cancelled at any time."""

    def __init__(self, context: FilesContext, store: Store, pins: Pins, row: PinRow, quota: PinQuota) -> None:
        self.row = row
        self.link = Link.parse(row.link)
        self.reader = FeedReader(self.link.network_id, self.link.share_id, self.link.read_key)
        self.entries: list[bytes] = []
        self.manifest: Manifest | None = None
        self.closing: Closing | None = None
        self.error: ShoalError | None = None
        self.note = ""
        self.wait_s: float | None = 0.0  # of one run
        self.patience_s: float | None = None  # runs are begun again for so long after `wanted_at`
        self.wanted_at = context.clock.monotonic()
        self.asked_at = context.clock.monotonic()
        self.is_aside = False
        self.older: PinRun | None = (
            None  # a complete pin of an earlier version: what both hold is not fetched
        )
        self.background = False  # what it moves gives way to others
        self.done: set[int] = set()
        self.done_bytes = 0
        self.signal = ChangeSignal()
        self._context = context
        self._store = store
        self._pins = pins
        self._quota = quota
        self._fetch: ShareFetch | None = None
        self._used: set[bytes] = set()
        self._finished = asyncio.Event()
        self._fault: StorageFault | None = None

    @property
    def is_complete(self) -> bool:
        return self.row.state is PinState.COMPLETE

    async def load(self) -> None:
        """Read what is kept of the feed, and the manifest once it is known.

        Raises: StorageFault, RemoteFault.
        """
        for data in self.row.feed:
            self._add(data)
        closing = self.reader.find_version(self.row.version)
        if closing is not None and self.row.version:
            self.closing = closing
            self.manifest = await self._context.run(
                lambda _: load_manifest(self._get(closing.content_id), closing.root_key, self._get)
            )
            await self.look()

    async def look(self) -> None:
        """See which chunks the store has."""
        manifest = self.manifest
        assert manifest is not None
        found = await asyncio.to_thread(self._store.segments.ordinals, self.row.number)
        self.done = {ordinal for ordinal in found if ordinal < manifest.chunk_count}
        self.done_bytes = sum(map(manifest.chunk_length, self.done))

    async def run(self) -> None:
        """Go from wherever it is to a complete copy.

        Raises: Refused (code quota: nothing was begun), Unavailable, StorageFault, RemoteFault.
        """
        check_may_fetch(self._context, self.link)
        while not await self._attempt():
            await self._start_over()

    async def _attempt(self) -> bool:
        """Bring one version in; False if that is not to be had any more, but a newer one is known."""
        context = self._context
        self._finished.clear()
        self._fault = None
        fetch = context.swarm.make_fetch(
            self.link.share_id, self.link.read_key, self, background=self.background
        )
        self._fetch = fetch
        finder = Finder(context, self.link, self.reader, fetch, self, ADVICE)
        search: asyncio.Task[None] | None = None
        try:
            for data in await context.stores.entries.load(self.link.share_id):
                self._add(data)
            author = self.reader.author
            if author != context.network.own_id:
                fetch.start()
                search = context.supervisor.spawn("search", finder.search())
                closing = await finder.find_version(self._find_closing, self.row.version)
            else:
                found = self._find_closing()
                if found is None:
                    raise Refused(
                        "Nothing was kept",
                        cause="this device has not finished reading the files of its share",
                        next_step="wait for it with `shoal share --wait`, then pin it again",
                        code="hashing",
                    )
                closing = found
            if self.manifest is None or self.closing is None or self.closing.version != closing.version:
                try:
                    self.manifest = await finder.describe(closing, self)
                except Unavailable as error:
                    if error.code != "version_gone" or self.link.is_permanent:
                        raise
                    return False
                self.closing = closing
            places = await self._find_in_older(self.manifest)
            if not await self._begin(closing, self.manifest, places):
                return False
            await self._take_older(self.manifest, places)
            keys = {
                generation: ChunkKeys(context.network.content_secret(generation))
                for generation in self.manifest.generations() or {self.link.generation}
            }
            target = PinTarget(self._store, self.row.number, closing.version, self.manifest, keys)
            await self._take_own(target, self.manifest)
            if len(self.done) < self.manifest.chunk_count:
                if search is None:
                    fetch.start()
                    search = context.supervisor.spawn("search", finder.search())
                if not await self._fetch_rest(finder, fetch, target, self.manifest):
                    return False
            await self._change(PinState.COMPLETE)
            return True
        finally:
            self._quota.release(self.row.number)
            if search is not None:
                search.cancel()
            await context.swarm.close_fetch(fetch)
            self._fetch = None
            self.note = ""

    async def fail(self, error: ShoalError) -> None:
        """Note why it stopped. Raises: StorageFault."""
        self.error = error
        await self._change(PinState.FAILED, str(error))

    async def _find_in_older(self, manifest: Manifest) -> ChunkPlaces | None:
        """Return which chunks the pin of an earlier version holds too."""
        older = self.older.manifest if self.older is not None else None
        if older is None or older.header.space != manifest.header.space:
            return None
        return await self._run(lambda _: find_places(manifest, range(manifest.chunk_count), [older]))

    async def _take_older(self, manifest: Manifest, places: ChunkPlaces | None) -> None:
        """Hold what the pin of an earlier version holds; it may let go of it afterwards."""
        if places is None or self.older is None:
            return
        found = ((o, places.find(o)) for o in range(manifest.chunk_count) if o not in self.done)
        pairs = [(ordinal, place.ordinal) for ordinal, place in found if place is not None]
        other = self.older.row.number
        await asyncio.to_thread(self._store.segments.copy_holds, self.row.number, other, pairs)
        await self.look()

    async def _begin(self, closing: Closing, manifest: Manifest, places: ChunkPlaces | None) -> bool:
        """Note what is going to be kept; refuse what does not fit, before anything of it is fetched.

        False if the version's description was let go of meanwhile: there is a newer one.
        """
        await self.look()
        missing = {
            o
            for o in range(manifest.chunk_count)
            if o not in self.done and (places is None or places.find(o) is None)
        }

        def count_left() -> int:
            return sum(manifest.chunk_length(o) + STORED_OVERHEAD_BYTES for o in missing - self.done)

        await self._quota.promise(self.row.number, count_left)
        await asyncio.to_thread(_check_space, self._store.path, count_left())
        objects = self._context.stores.objects
        await objects.hold(description_holder(self.link.share_id), self._used)
        if await objects.find_missing(self._used):
            return False
        name = display_path(self.reader.opening.name) if self.reader.opening is not None else ""
        now = self._context.clock.wall()
        self.row = self.row._replace(
            version=closing.version,
            state=PinState.FETCHING,
            name=name,
            chunks=manifest.chunk_count,
            size_bytes=manifest.stream_bytes,
            updated_at=now,
            error="",
            feed=tuple(self.entries),
        )
        row = self.row
        await self._pins.update(
            row.number,
            version=row.version,
            state=row.state,
            name=row.name,
            chunks=row.chunks,
            size_bytes=row.size_bytes,
            updated_at=now,
            error="",
            feed=row.feed,
        )
        self.signal.touch()
        return True

    async def _run(self, work: Callable[[threading.Event], T]) -> T:
        return await self._context.choose(background=self.background).run(work)

    async def _take_own(self, target: PinTarget, manifest: Manifest) -> None:
        """Take over what this device serves of that version: from files, without the network."""
        offer = self._context.swarm.find_offer(self.link.share_id)
        offered = offer.versions.get(target.version) if offer is not None else None
        if offered is None:
            return
        source, have = offered.source, offered.have
        wanted = [o for o in range(manifest.chunk_count) if o not in self.done and have >> o & 1]
        loop = asyncio.get_running_loop()

        def work(cancelled: threading.Event) -> None:
            buffer = memoryview(bytearray(PLAINTEXT_BYTES))
            for ordinal in wanted:
                if cancelled.is_set():
                    return
                try:
                    length = source.read_into(ordinal, buffer)
                except StorageFault as error:
                    log.info("chunk %s is not taken from here: %s", ordinal, error)
                    continue
                if length and target.is_valid(ordinal, buffer[:length]):
                    target.write(ordinal, buffer[:length])
                    loop.call_soon_threadsafe(self._note_done, [ordinal])

        await self._run(work)
        await asyncio.sleep(0)
        source.rest()
        await self.look()

    async def _fetch_rest(
        self, finder: Finder, fetch: ShareFetch, target: PinTarget, manifest: Manifest
    ) -> bool:
        for ordinal in self.done:
            target.written[ordinal] = 1
        fetch.set_target(target, manifest.chunk_length, to_set(self.done, manifest.chunk_count))
        patience = finder.make_patience()
        while not self._finished.is_set():
            finder.check_member()
            if self._fault is not None:
                raise self._fault
            if fetch.is_stuck():
                self.say(finder.explain_stuck())
                latest = self.reader.latest
                is_outdated = latest is not None and latest.version > target.version
                if is_outdated and not self.link.is_permanent and not fetch.is_searching:
                    return False
                finder.give_up_if(patience)
            else:
                self.say("")
                patience.restart(self._context.clock.monotonic())
            try:
                async with asyncio.timeout(WATCH_S):
                    await self._finished.wait()
            except TimeoutError:
                continue
        await self.look()
        return True

    async def _start_over(self) -> None:
        """Go for the newest version: nobody has the rest of this one, and its ordinals mean other chunks."""
        await asyncio.to_thread(self._store.release_blocking, self.row.number)
        self.row = self.row._replace(version=0)
        self.manifest = self.closing = None
        self._used = set()
        self.done, self.done_bytes = set(), 0
        await self._pins.update(self.row.number, version=0)

    async def _change(self, state: PinState, error: str = "") -> None:
        now = self._context.clock.wall()
        self.row = self.row._replace(state=state, updated_at=now, error=error)
        if state is PinState.COMPLETE:
            self.error = None
        try:
            await self._pins.update(self.row.number, state=state, updated_at=now, error=error)
        finally:
            self.signal.touch()

    def _find_closing(self) -> Closing | None:
        """Return the version that was begun, or that the link means."""
        if self.row.version:
            return self.reader.find_version(self.row.version)
        return self.reader.find_closing(self.link.content_id)

    def _add(self, data: bytes) -> None:
        if self.reader.add(data):
            self.entries.append(data)

    def _get(self, object_id: bytes) -> bytes:
        data = self._context.stores.objects.find_blocking(object_id)
        if data is None:
            raise StorageFault(
                "A pin's description is not complete", cause="a part is missing", code="corrupt"
            )
        return data

    def _note_done(self, ordinals: list[int]) -> None:
        manifest = self.manifest
        assert manifest is not None
        new = set(ordinals) - self.done
        self.done |= new
        self.done_bytes += sum(map(manifest.chunk_length, new))
        self.signal.touch()

    # What a finder asks of us (Seeker, Shelf)

    def say(self, note: str) -> None:
        if note != self.note:
            self.note = note
            self.signal.touch()

    def stand_aside(self) -> None:
        """It has no place that others wait for."""

    async def put(self, objects: Iterable[tuple[bytes, bytes]], *, is_root: bool) -> None:
        holder = description_holder(self.link.share_id)
        await self._context.stores.objects.put(holder, objects, durable=is_root)

    def find_blocking(self, object_id: bytes) -> bytes | None:
        self._used.add(object_id)
        return self._context.stores.objects.find_blocking(object_id)

    def find_missing_blocking(self, object_ids: Sequence[bytes]) -> list[bytes]:
        self._used.update(object_ids)
        return self._context.stores.objects.find_missing_blocking(object_ids)

    # What the fetch tells (FetchOwner)

    @property
    def entry_count(self) -> int:
        return self.reader.next_seq

    def on_entries(self, peer: bytes, entries: list[bytes]) -> None:
        for data in entries:
            self._add(data)

    def on_chunks(self, peer: bytes, ordinals: list[int], size_bytes: int) -> None:
        self._note_done(ordinals)

    def on_blamed(self, peer: bytes) -> None:
        log.warning("%s sent wrong data and is not asked any more", self._context.name_peer(peer))

    def on_fault(self, error: StorageFault) -> None:
        self._fault = error

    def on_finished(self) -> None:
        self._finished.set()


def _check_space(path: str, needed: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check_free_space(fd, needed, path)
    finally:
        os.close(fd)
