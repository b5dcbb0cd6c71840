"""Served share: one share that this node has, own or fetched, and offers to the swarm."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec
from msgspec import structs

from shoal.apps.files.comeback import Comeback
from shoal.apps.files.context import ChangeSignal, FilesContext
from shoal.apps.files.status import ShareStatus
from shoal.content.feed import Closing
from shoal.content.feed_log import FeedReader
from shoal.content.kept_manifest import KeptManifest
from shoal.content.keys import location_key
from shoal.content.link import Link
from shoal.content.manifest import Manifest
from shoal.content.manifest_loader import missing_segments
from shoal.content.selection import PATTERN_LIMIT
from shoal.core.errors import ShoalError, StorageFault
from shoal.storage.rows import pack, unpack
from shoal.storage.shares import Origin, ShareRow, ShareState
from shoal.storage.tree_reader import TreeReader
from shoal.swarm.offer import Offer, OfferedVersion
from shoal.swarm.serve import ChunkSource

log = logging.getLogger("shoal.files")

OnFault: TypeAlias = Callable[[int, int, StorageFault], None]  # version, ordinal


class ShareDetails(msgspec.Struct, array_like=True):
    """What the shares table keeps for us: where the top names lie, what is not in the share."""

    roots: dict[bytes, bytes] = {}
    skipped: list[tuple[bytes, str]] = []
    watch: bool = False  # an own share: make a version whenever the files change
    only: list[bytes] = []  # a fetched one: the patterns that say which part of it is here; else all of it is
    ignored: int = 0  # what .shoalignore files left out; a folder counts once
    background: bool = False  # hashing and serving it give way to others


class ServedShare:
    """A share with its feed; loop thread only. `load` brings it back after a restart."""

    def __init__(self, context: FilesContext, row: ShareRow) -> None:
        self.context = context
        self.row = row
        self.link = Link.parse(row.link)
        self.reader = FeedReader(self.link.network_id, self.link.share_id, self.link.read_key)
        self.details = unpack(ShareDetails, row.details, "shares.details") if row.details else ShareDetails()
        self._is_feed_unsettled = False
        self.kept: KeptManifest | None = None  # what is served of it now
        self._compared: Manifest | None = None  # of a watched share: it is looked at with every change
        self.done_bytes = 0
        self.error: ShoalError | None = None
        self.signal = ChangeSignal()
        self.making = asyncio.Lock()  # one version of it at a time
        self.unsettled = 0  # looks in a row that came while files were written
        self.accepts_removals = False  # the next version may lack nearly all files of the one before
        self.watch_note = ""  # why changes are not noticed at once
        self.coming_back = asyncio.Lock()
        self._comeback = Comeback(context, row.share_id, self._on_back)
        self.is_back = True  # False from a start of the node on until feed and version are loaded
        self._files: TreeReader | None = None
        self._earlier: TreeReader | None = None

    @property
    def share_id(self) -> bytes:
        return self.link.share_id

    @property
    def is_own(self) -> bool:
        """Whether this device authors its feed."""
        return self.row.origin is Origin.OWN

    def status(self) -> ShareStatus:
        """Return a snapshot."""
        row = self.row
        return ShareStatus(
            link=self.link,
            share_id=row.share_id,
            state=row.state.value,
            complete=row.state in (ShareState.COMPLETE, ShareState.CHANGED),
            content_id=row.content_id,
            files=row.files,
            bytes=row.total_bytes,
            name=row.name,
            paths=list(row.roots),
            version=row.version,
            own=self.is_own,
            done_bytes=self.done_bytes,
            skipped=list(self.details.skipped),
            error=self.error,
            watching=self.details.watch,
            note=self.watch_note,
            only=list(self.details.only),
            ignored=self.details.ignored,
            background=self.details.background,
        )

    async def load_feed(self) -> None:
        """Read the feed from the store.

        Raises: StorageFault, RemoteFault if it does not verify; then `reader` stays as it was, and
        `settle_feed` reads it before anything is written.
        """
        self._is_feed_unsettled = True
        reader = FeedReader(self.link.network_id, self.link.share_id, self.link.read_key)
        for data in await self.context.stores.entries.load(self.share_id):
            reader.add(data)
        self.reader = reader
        self._is_feed_unsettled = False

    async def settle_feed(self) -> None:
        """Read the feed again if that failed the last time: `reader` may know of entries that were never
        stored, and what is written after them could not be read again. Raises: as `load_feed`.
        """
        if self._is_feed_unsettled:
            await self.load_feed()

    def describe(self, closing: Closing, manifest: Manifest | None = None) -> KeptManifest:
        """Return what stands for the manifest of a version, which is in the store; loads nothing."""
        opening = self.reader.opening
        assert opening is not None  # a feed begins with it
        context = self.context
        find = context.stores.objects.find_blocking
        return KeptManifest(closing, opening.space, find, context.manifests, manifest)

    async def load_version(self, closing: Closing) -> Manifest:
        """Return the manifest of a version, from memory or the store. Raises: StorageFault."""
        kept = self.kept
        if kept is None or kept.content_id != closing.content_id:
            kept = self.describe(closing)
        return await self._get(kept)

    async def load_served(self) -> Manifest | None:
        """Return what the next version is compared with: the manifest of what is served; None where there is
        none, or it is damaged.
        """
        kept = self.kept
        if kept is None:
            return None
        try:
            manifest = await self._get(kept)
        except StorageFault as fault:
            log.warning("share %s is hashed from the start: %s", self.row.name, fault)
            return None
        self._compared = manifest if self.details.watch else None
        return manifest

    async def _get(self, kept: KeptManifest) -> Manifest:
        manifest = kept.find()
        return manifest if manifest is not None else await self.context.run(lambda _: kept.get())

    async def check_stored(self, closing: Closing) -> None:
        """Check that the description of a version can be loaded, without loading it.

        Raises: StorageFault (code "corrupt"), RemoteFault if it is not well formed.
        """
        objects = self.context.stores.objects

        def is_there() -> bool:
            root = objects.find_blocking(closing.content_id)
            return root is not None and not missing_segments(
                root, closing.root_key, objects.find_blocking, objects.find_missing_blocking
            )

        if not await self.context.run(lambda _: is_there()):
            raise StorageFault(
                "A share's description is not complete",
                cause="a part of it is not in the database",
                next_step="share it again, or get it again",
                code="corrupt",
            )

    async def offer(self) -> None:
        """Serve the feed, and what versions are there; announce the share to the network."""
        swarm = self.context.swarm
        if swarm.find_offer(self.share_id) is None:
            swarm.offer(self._make_offer())
        await self.context.overlay.publish(self.location())

    def location(self) -> bytes:
        """Return the key under which the share is announced. Raises: Unavailable without the secret."""
        return location_key(self.context.network.content_secret(self.link.generation), self.share_id)

    def serve(
        self,
        closing: Closing,
        manifest: Manifest | KeptManifest,
        roots: Mapping[bytes, bytes],
        have: int | None = None,
    ) -> ChunkSource:
        """Serve a version from final places, all of it or the chunks `have`; returns where it is read.

        The version before goes on being served, as far as its files did not change, for those who are just
        getting it.
        """
        kept = manifest if isinstance(manifest, KeptManifest) else self.describe(closing, manifest)
        self.kept = kept
        self._compared = manifest if self.details.watch and isinstance(manifest, Manifest) else None
        previous, self._files = self._files, TreeReader(roots, kept)
        earlier = self.context.swarm.find_offer(self.share_id)
        if earlier is not None:
            # an offer of our own: the one that is there may be a get's, which ends now
            offer = self._make_offer()
            offer.versions.update(earlier.versions)
            total = kept.chunk_count
            there = (1 << total) - 1 if have is None else have
            offer.put_version(OfferedVersion(closing.version, total, self._files, there))
            self.context.swarm.offer(offer)
            if self.reader.author == self.context.network.own_id:
                self.context.overlay.tell_head(self.location(), self.reader.next_seq)
        if self._earlier is not None:
            self._earlier.close()
        self._earlier = previous
        return self._files

    def take_over(self, previous: ServedShare) -> None:
        """Take the open files of this share's earlier place: what is queued from there is still sent."""
        if previous is self:
            return
        for files in (self._earlier, previous._earlier):
            if files is not None:
                files.close()
        self._earlier, previous._files, previous._earlier = previous._files, None, None
        if self._earlier is not None:
            self._earlier.rest()

    async def update(self, state: ShareState, error: ShoalError | None = None) -> None:
        """Change the state, durably."""
        self.error = error
        text = "" if error is None else str(error)
        now = self.context.clock.wall()
        self.row = self.row._replace(state=state, error=text, updated_at=now)
        self.signal.touch()
        await self.context.stores.shares.update(self.share_id, state=state, error=text, updated_at=now)

    async def complete(
        self, closing: Closing, details: ShareDetails, part: tuple[int, int] | None = None
    ) -> None:
        """Note a complete version, durably; of a part of it `part` are its files and their bytes."""
        self.error = None
        self.details = details
        self.done_bytes = closing.stream_bytes
        self.row = self.row._replace(
            state=ShareState.COMPLETE,
            updated_at=self.context.clock.wall(),
            version=closing.version,
            content_id=closing.content_id,
            files=closing.files if part is None else part[0],
            total_bytes=closing.total_bytes if part is None else part[1],
            error="",
            details=pack(details),
        )
        row = self.row
        await self.context.stores.shares.update(
            self.share_id,
            state=row.state,
            updated_at=row.updated_at,
            version=row.version,
            content_id=row.content_id,
            files=row.files,
            total_bytes=row.total_bytes,
            error="",
            details=row.details,
        )
        self.signal.touch()

    async def set_watch(self, watch: bool) -> None:
        """Note whether the share is watched, durably."""
        if watch == self.details.watch:
            return
        self.details = structs.replace(self.details, watch=watch)
        if not watch:
            self._compared = None
        await self.context.stores.shares.update(self.share_id, details=pack(self.details))
        self.signal.touch()

    async def set_background(self, background: bool) -> None:
        """Note whether hashing and serving give way to others, durably; open lanes stay as they are."""
        if background == self.details.background:
            return
        self.details = structs.replace(self.details, background=background)
        if (offer := self.context.swarm.find_offer(self.share_id)) is not None:
            offer.background = background
        await self.context.stores.shares.update(self.share_id, details=pack(self.details))
        self.signal.touch()

    def _make_offer(self) -> Offer:
        offer = make_offer(self.context, self.link, self.reader, self.on_fault)
        offer.background = self.details.background
        return offer

    def on_fault(self, version: int, ordinal: int, error: StorageFault) -> None:
        """A chunk could not be read: mark the share, once, and look whether it can be read again."""
        self._comeback.note(version, ordinal)
        if self.row.state is not ShareState.COMPLETE or version != self.row.version:
            return
        log.warning("share %s: %s", self.row.name, error)
        self.row = self.row._replace(state=ShareState.CHANGED)
        self.error = error  # at once: who asks for the state asks for the reason, too
        self.context.supervisor.spawn("share changed", self.update(ShareState.CHANGED, error))

    def _on_back(self, source: ChunkSource) -> None:
        """What was missing can be read at `source`; a copy in the store says nothing of the files."""
        if source is self._files and self.row.state is ShareState.CHANGED:
            log.info("share %s is there again", self.row.name)
            self.row = self.row._replace(state=ShareState.COMPLETE)
            self.context.supervisor.spawn("share is back", self.update(ShareState.COMPLETE))

    async def stop(self) -> None:
        """Serve it no longer; what is stored stays."""
        self._comeback.stop()
        self.context.swarm.withdraw(self.share_id)
        for files in (self._files, self._earlier):
            if files is not None:
                files.close()
        self._files = self._earlier = self._compared = None
        if self.kept is not None:
            self.kept.close()

    async def withdraw(self) -> None:
        """Offer and announce it no longer."""
        self.context.swarm.withdraw(self.share_id)
        await self.context.overlay.withdraw(self.location())

    async def forget(self, *, described: bool = False) -> None:
        """Stop serving and remove all that is stored of it; the person's files are left alone. What is
        `described` (feed and manifest) stays where somebody just needs it.
        """
        await self.stop()
        await self.withdraw()
        stores = self.context.stores
        await stores.shares.drop(self.share_id)
        if not described:
            await stores.objects.drop_share(self.share_id)
            await stores.entries.drop_log(self.share_id)
        self.signal.touch()


def join_parts(new: ShareDetails, known: ShareDetails) -> ShareDetails | None:
    """Return what is here of a version once something of it was got again: all, or two parts in one place.

    None if all of it lies somewhere else and the new part adds nothing. What lies in another place is given
    up for the new one.
    """
    if not new.only:
        return new
    if not known.only:
        return known if new.roots.items() <= known.roots.items() else None
    roots = {**known.roots, **new.roots}
    only = sorted({*known.only, *new.only})
    if len({os.path.dirname(path) for path in roots.values()}) > 1 or len(only) > PATTERN_LIMIT:
        return new
    return structs.replace(new, roots=roots, only=only, skipped=sorted({*known.skipped, *new.skipped}))


def make_offer(context: FilesContext, link: Link, reader: FeedReader, on_fault: OnFault) -> Offer:
    """Return an offer of a share's stored feed and objects, without any chunks yet."""
    entries = context.stores.entries

    async def read_feed(first: int) -> list[bytes]:
        return [] if reader.author is None else await entries.load_page(link.share_id, reader.author, first)

    return Offer(
        share_id=link.share_id,
        read_key=link.read_key,
        read_feed=read_feed,
        find_object=context.stores.objects.find_blocking,
        on_fault=on_fault,
        entries=reader.next_seq,
    )
