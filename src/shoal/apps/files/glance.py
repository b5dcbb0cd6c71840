"""Glance: a look at what a share holds: feed and manifest in memory, for a listing or a stream.

What this node has stored already (of own, fetched, pinned shares, of transfers) is not fetched again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from shoal.apps.files.context import FilesContext
from shoal.apps.files.finding import Finder
from shoal.content.feed import Closing
from shoal.content.feed_log import FeedReader
from shoal.content.link import Link
from shoal.content.manifest import Manifest
from shoal.content.manifest_loader import load_manifest, missing_segments
from shoal.core.errors import Refused, StorageFault, Unavailable
from shoal.core.units import MIB, format_size
from shoal.swarm.fetch import ShareFetch

DESCRIPTION_BYTES = 128 * MIB  # sealed, in memory, while it is loaded; over a million entries
ANSWER_S = 2.0  # how long connected peers may take to say that they have a newer version than ours
ANSWER_WATCH_S = 0.05
ADVICE = "start a device that has it, and try again"


class Glance:
    """A look at one share. `open`, then `find_version` and `describe`; `close` always. Loop thread only.

    Expects that nobody else fetches the share meanwhile (Files.share_lock). Chunks, if a target is set, are
    told to `on_chunks`; `fault` and `finished` are what became of them.
    """

    is_aside = False  # a glance has no place to give up

    def __init__(
        self,
        context: FilesContext,
        link: Link,
        *,
        wait_s: float | None = 0.0,
        background: bool = False,
        say: Callable[[str], None] = lambda note: None,
        on_chunks: Callable[[bytes, list[int], int], None] = lambda peer, ordinals, size_bytes: None,
    ) -> None:
        self.link = link
        self.wait_s = wait_s
        self._background = background
        self.asked_at = context.clock.monotonic()
        self.reader = FeedReader(link.network_id, link.share_id, link.read_key)
        self.fault: StorageFault | None = None
        self.finished = asyncio.Event()
        self._context = context
        self._say = say
        self._on_chunks = on_chunks
        self._objects: dict[bytes, bytes] = {}
        self._bytes = 0
        self._fetch: ShareFetch | None = None
        self._search: asyncio.Task[None] | None = None

    @property
    def fetch(self) -> ShareFetch:
        """The fetch, once it is open."""
        assert self._fetch is not None
        return self._fetch

    def make_finder(self) -> Finder:
        """Return a finder for this look."""
        return Finder(self._context, self.link, self.reader, self.fetch, self, advice=ADVICE)

    async def load(self) -> None:
        """Read what is known here of the feed. Raises: StorageFault, RemoteFault if it does not verify."""
        for data in await self._context.stores.entries.load(self.link.share_id):
            self.reader.add(data)
        offer = self._context.swarm.find_offer(self.link.share_id)  # a pin keeps its feed elsewhere
        while offer is not None and (entries := await offer.read_feed(self.reader.next_seq)):
            for data in entries:
                self.reader.add(data)

    async def open(self) -> None:
        """Begin to ask peers. Raises: Refused (code "busy") while another fetch of the share runs."""
        self._fetch = self._context.swarm.make_fetch(
            self.link.share_id, self.link.read_key, self, background=self._background
        )
        self._fetch.start()
        self._search = self._context.supervisor.spawn("search", self.make_finder().search())

    async def find_version(self) -> Closing:
        """Return the version that the link means: the newest one that somebody tells, else the one we know.

        Raises: Unavailable (code "no_provider") that says who was asked, if none is known. Safe to cancel.
        """
        clock, fetch = self._context.clock, self.fetch
        until = clock.monotonic() + ANSWER_S
        await asyncio.sleep(0)  # the search names those who are connected
        while self.find_known() is not None and fetch.is_searching and clock.monotonic() < until:
            await fetch.wait_change(ANSWER_WATCH_S)
        known = self.find_known()
        if known is not None:
            return known
        return await self.make_finder().find_version(self.find_known)

    def find_known(self) -> Closing | None:
        """Return the version that the link means, as far as the feed is known."""
        return self.reader.find_closing(self.link.content_id)

    async def describe(self, closing: Closing) -> Manifest:
        """Return the manifest. Raises: Unavailable, RemoteFault, Refused if it is too large to keep here."""
        manifest = await self.make_finder().describe(closing, self)
        self._objects.clear()
        self._bytes = 0
        return manifest

    async def find_stored(self, closing: Closing) -> Manifest | None:
        """Return the manifest if all of it is stored here. Raises: StorageFault, RemoteFault."""
        return await self._context.run(lambda _: self._load_stored(closing))

    def _load_stored(self, closing: Closing) -> Manifest | None:
        root = self.find_blocking(closing.content_id)
        if root is None:
            return None
        if missing_segments(root, closing.root_key, self.find_blocking, self.find_missing_blocking):
            return None

        def get(object_id: bytes) -> bytes:
            data = self.find_blocking(object_id)
            if data is None:
                raise Unavailable("The description of the share was just removed", code="no_provider")
            return data

        return load_manifest(root, closing.root_key, get)

    async def close(self) -> None:
        """End everything; idempotent."""
        if self._search is not None:
            self._search.cancel()
        if self._fetch is not None:
            await self._context.swarm.close_fetch(self._fetch)
        self._objects.clear()

    # What a finder asks of us (Seeker, Shelf)

    def say(self, note: str) -> None:
        self._say(note)

    def stand_aside(self) -> None:
        pass

    async def put(self, objects: Iterable[tuple[bytes, bytes]], *, is_root: bool) -> None:
        for object_id, data in objects:
            self._objects[object_id] = data
            self._bytes += len(data)
        if self._bytes > DESCRIPTION_BYTES:
            raise Refused(
                "The share was not looked at",
                cause=f"its description alone has more than {format_size(DESCRIPTION_BYTES)}",
                next_step="get it: then its description is kept on the disk",
                code="too_large",
            )

    def find_blocking(self, object_id: bytes) -> bytes | None:
        found = self._objects.get(object_id)
        return found if found is not None else self._context.stores.objects.find_blocking(object_id)

    def find_missing_blocking(self, object_ids: Sequence[bytes]) -> list[bytes]:
        left = [object_id for object_id in object_ids if object_id not in self._objects]
        return self._context.stores.objects.find_missing_blocking(left)

    # What the fetch tells (FetchOwner)

    @property
    def entry_count(self) -> int:
        return self.reader.next_seq

    def on_entries(self, peer: bytes, entries: list[bytes]) -> None:
        for data in entries:
            self.reader.add(data)

    def on_chunks(self, peer: bytes, ordinals: list[int], size_bytes: int) -> None:
        self._on_chunks(peer, ordinals, size_bytes)

    def on_blamed(self, peer: bytes) -> None:
        pass  # its observation is made by the swarm, and others are asked

    def on_fault(self, error: StorageFault) -> None:
        self.fault = error

    def on_finished(self) -> None:
        self.finished.set()
