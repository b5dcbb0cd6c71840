"""Share: makes versions of an own share: scan, hash, seal, append to the feed.

The link exists at once; the rest happens in the background, and again from the start after a crash. A version
becomes visible with one transaction: its segments are stored, then its closing entry. The chunks of the first
one are told of before that, as a draft (drafting.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import AsyncExitStack, nullcontext
from enum import Enum
from functools import partial

from msgspec import structs

from shoal.apps.files.context import FilesContext, make_row
from shoal.apps.files.drafting import DraftPublisher
from shoal.apps.files.hash_room import is_small
from shoal.apps.files.hash_turns import HashJob
from shoal.apps.files.removals import check_removals
from shoal.apps.files.served import ServedShare
from shoal.content.feed_log import FeedWriter
from shoal.content.keys import cut_seed
from shoal.content.link import Link
from shoal.content.manifest import Manifest
from shoal.content.paths import display_path
from shoal.core.errors import Refused, ShoalError
from shoal.identity.operations import Role
from shoal.identity.secrets import DEFAULT_SPACE
from shoal.storage.hashing import HASH_THREADS, HashedShare, hash_share
from shoal.storage.scan import ScanResult, scan
from shoal.storage.section_hasher import CHANGED
from shoal.storage.shares import Origin, ShareRow, ShareState

log = logging.getLogger("shoal.files")

READ_KEY_BYTES = 32
NAME_BYTES = 255
PROGRESS_S = 0.2  # how often waiting people hear of progress
UNSETTLED_LIMIT = 5  # looks in a row that wait for a file that is being written; then it is left out


async def create_share(context: FilesContext, paths: list[bytes]) -> ServedShare:
    """Begin a share of absolute `paths`: feed and link, durable; nothing is hashed yet.

    Raises: Refused for a storage-only or removed device, Unavailable while the content secret is not there,
    StorageFault.
    """
    check_may_share(context)
    network = context.network
    generation = network.content_generation()
    read_key = os.urandom(READ_KEY_BYTES)
    names = sorted({os.path.basename(os.path.normpath(path)) or b"root" for path in paths})
    name = names[0] if len(names) == 1 else names[0] + b" and %d more" % (len(names) - 1)
    writer, opening = FeedWriter.create(
        network.keys,
        network.network_id,
        read_key,
        cut_seed=cut_seed(network.content_secret(generation)),
        space=DEFAULT_SPACE,
        generation=generation,
        name=name[:NAME_BYTES],
        time=int(context.clock.wall()),
    )
    link = Link(network.network_id, writer.share_id, read_key, generation)
    now = context.clock.wall()
    row = ShareRow(
        share_id=writer.share_id,
        origin=Origin.OWN,
        link=link.to_text(),
        roots=tuple(paths),
        name=display_path(name),
        state=ShareState.HASHING,
        created_at=now,
        updated_at=now,
    )
    await context.stores.entries.append([make_row(opening)], own=True)
    await context.stores.shares.add(row)
    share = ServedShare(context, row)
    share.reader = writer.reader
    return share


def check_may_share(context: FilesContext) -> None:
    """Raises: Refused (code "role") for a storage-only or removed device."""
    network = context.network
    if network.is_out or network.role_of(network.own_id) in (None, Role.STORAGE):
        raise Refused(
            "Nothing was shared",
            cause="this device is storage-only or no member any more: it cannot read the network's content",
            next_step="ask an owner or admin for another role",
            code="role",
        )


class Look(Enum):
    """What a look at a watched share came to. UNSETTLED: files were being written, look again soon."""

    SAME = "same"
    PUBLISHED = "published"
    UNSETTLED = "unsettled"


class VersionMaker:
    """Makes the next version of one own share. `run` may be cancelled; then nothing was published."""

    def __init__(self, share: ServedShare) -> None:
        self._share = share
        self._context = share.context
        self._hashed_bytes = 0
        self._previous: Manifest | None = None  # what the files are compared with
        self._draft: DraftPublisher | None = None
        self._is_watched = share.details.watch  # when it began: ending the watch lets nothing pass
        self._is_undescribed = False  # there is a version, whose description cannot be loaded

    async def run(self) -> None:
        """Hash the tree and publish what it is now, if it is not what the latest version says.

        What fails is the share's state afterwards, not an exception.
        """
        share = self._share
        async with share.making:
            had_version = share.reader.latest is not None
            try:
                await share.update(ShareState.HASHING)
                hashed = await self._hash()
                await self._check_removals(hashed)
                await self._publish(hashed)
            except ShoalError as error:
                await share.load_feed()  # what was not stored was not said
                if not had_version:
                    await share.withdraw()  # nobody should wait for it
                await share.update(ShareState.CHANGED if had_version else ShareState.FAILED, error)
            finally:
                if self._draft is not None:
                    self._draft.close()

    async def look(self) -> Look:
        """`run` for a share that is watched: in silence, and a version only if the files are not what the
        latest one says.
        """
        share = self._share
        self._is_watched = True
        async with share.making:
            before = share.kept
            if before is None and share.row.state is ShareState.HASHING:
                return Look.SAME  # the first version is waiting to be made
            try:
                hashed = await self._hash(in_silence=True)
                if any(s.reason == CHANGED for s in hashed.skipped) and share.unsettled < UNSETTLED_LIMIT:
                    share.unsettled += 1
                    return Look.UNSETTLED
                share.unsettled = 0
                await self._check_removals(hashed)
                if hashed.built.root.object_id != share.row.content_id:
                    if before is None:
                        await share.offer()  # it failed before, and was taken back
                    await self._publish(hashed)
                    return Look.PUBLISHED
                if share.row.state is not ShareState.COMPLETE:  # what had changed is as it was
                    await share.update(ShareState.COMPLETE)
            except ShoalError as error:
                await share.load_feed()
                if share.error is None or str(error) != share.row.error:
                    log.warning("share %s: %s", share.row.name, error)
                    await share.update(ShareState.CHANGED if before else ShareState.FAILED, error)
        return Look.SAME

    async def _hash(self, *, in_silence: bool = False) -> HashedShare:
        share, context = self._share, self._context
        await share.settle_feed()
        opening = share.reader.opening
        if opening is None:
            raise Refused("The share has no feed", code="corrupt")
        secret = context.network.content_secret(opening.generation)
        previous = self._previous = await share.load_served()
        self._is_undescribed = previous is None and share.reader.latest is not None
        background = share.details.background
        here = context.for_hashing(background=background)

        async def look() -> ScanResult:
            return await here.run(
                lambda cancelled: scan(share.row.roots, avoid=[context.home], cancelled=cancelled)
            )

        async def work(scanned: ScanResult) -> HashedShare:
            job = HashJob(context.hash_turns, scanned.data_bytes, self._stand_back if background else None)

            def note(size_bytes: int, files: int) -> None:  # from hashing threads; shown by the ticker
                job.left_bytes = scanned.data_bytes - size_bytes
                self._hashed_bytes = size_bytes

            return await here.run(
                lambda cancelled: hash_share(
                    scanned,
                    read_key=share.link.read_key,
                    content_secret=secret,
                    generation=opening.generation,
                    space=opening.space,
                    cut_seed=opening.cut_seed,
                    previous=previous,
                    progress=note,
                    cancelled=cancelled,
                    threads=1 if is_small(scanned) else HASH_THREADS,
                    turns=job,
                    background=background,
                    rows=None if self._draft is None else self._draft.rows,
                )
            )

        if in_silence:  # the watches are as many at once as there is room for
            with nullcontext() if background else context.courtesy.foreground():
                return await work(await look())
        async with AsyncExitStack() as held:
            if background:  # one at a time
                scanned = await look()
            else:
                held.enter_context(context.courtesy.foreground())
                scanned = await held.enter_async_context(context.hash_room.enter(look))
            ticker = context.supervisor.spawn("hash progress", self._show_progress())
            try:
                if share.reader.latest is None:
                    self._draft = DraftPublisher(context, share, scanned)
                    self._draft.start()
                return await work(scanned)
            finally:
                ticker.cancel()
                if self._draft is not None:
                    await self._draft.stop()

    async def _check_removals(self, hashed: HashedShare) -> None:
        """Raises: Refused (code "emptied") for what is not published by itself."""
        share, previous = self._share, self._previous
        is_watched = self._is_watched or share.details.watch
        if is_watched and not share.accepts_removals and previous is not None:
            check = partial(check_removals, previous, hashed.built.manifest)
            here = self._context.for_hashing(background=share.details.background)
            await here.run(lambda _: check())  # it may count millions of names

    def _stand_back(self, cancelled: threading.Event) -> None:
        """Stand back, in a hashing thread, unless the share was brought to the foreground meanwhile."""
        if self._share.details.background:
            self._context.courtesy.wait_turn(cancelled)

    async def _show_progress(self) -> None:
        while True:
            if self._share.done_bytes != self._hashed_bytes:
                self._share.done_bytes = self._hashed_bytes
                self._share.signal.touch()
            await asyncio.sleep(PROGRESS_S)

    async def _publish(self, hashed: HashedShare) -> None:
        share, stores = self._share, self._context.stores
        built = hashed.built
        manifest = built.manifest
        await share.settle_feed()
        latest = share.reader.latest
        is_new = latest is None or latest.content_id != built.root.object_id
        writer = FeedWriter(self._context.network.keys, share.reader)
        if is_new:
            writer.check_room()  # of a watched share the segments of each look would stay otherwise
        if self._is_undescribed:
            await stores.objects.drop_share(share.share_id)  # what is damaged would stay as it is
        if is_new or self._is_undescribed:
            pairs = [(o.object_id, o.sealed) for o in (*built.segments, built.root)]
            await stores.objects.put(share.share_id, pairs)
        if is_new:
            time = int(self._context.clock.wall())
            entry = writer.close_version(
                content_id=built.root.object_id,
                root_key=built.root.key,
                root_bytes=len(built.root.sealed),
                files=manifest.file_count,
                total_bytes=manifest.total_bytes,
                stream_bytes=manifest.stream_bytes,
                chunks=manifest.chunk_count,
                time=time,
            )
            await stores.entries.append([make_row(entry)], own=True)
        closing = share.reader.latest
        assert closing is not None
        details = structs.replace(
            share.details,
            roots=dict(hashed.roots),
            skipped=[(s.path, s.reason) for s in hashed.skipped],
            ignored=hashed.ignored_count,
        )
        await share.complete(closing, details)
        share.serve(closing, manifest, hashed.roots)
        share.accepts_removals = False
