"""Listing: what a share holds, shown page by page; content is neither fetched nor needed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from shoal.apps.files.context import FilesContext
from shoal.apps.files.finding import check_may_fetch
from shoal.apps.files.glance import Glance
from shoal.apps.files.served import ServedShare
from shoal.apps.files.share_turn import Claim, ShareTurn
from shoal.content.feed import Closing
from shoal.content.feed_log import FeedReader
from shoal.content.link import Link
from shoal.content.manifest import EntryKind, FileEntry, Manifest
from shoal.content.paths import display_path
from shoal.core.errors import LocalMisuse, Unavailable
from shoal.core.units import MIB

PAGE_BYTES = 4 * MIB  # of paths and targets in one page, beside the limit of the caller
KEPT_MANIFESTS = 2  # that were looked at last, for who looks into one folder after the other
KEPT_S = 60.0
KEPT_ENTRIES = 200_000  # larger ones are not kept; about 30 MiB
READY_S = 30.0  # longest answer: a search takes 15
TURN_S = 10.0  # to wait for whoever fetches the share
SHOWN_LIMIT = 5
LIST_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Listing:
    """One page. `total` entries lie at the path, `entries` are the first of them; `files` and `bytes` are
    those of the whole share.
    """

    name: str
    share_id: bytes
    version: int
    content_id: bytes
    files: int
    bytes: int
    entries: list[FileEntry]
    total: int


Look: TypeAlias = tuple[FeedReader, Closing, Manifest]


class Lister:
    """Looks into shares. Remembers a few for a minute. Loop thread only."""

    def __init__(self, context: FilesContext) -> None:
        self._context = context
        self._kept: OrderedDict[bytes, Manifest] = OrderedDict()  # by content id, the oldest first
        self._forgetting: asyncio.TimerHandle | None = None

    async def ls(
        self, link: Link, share: ServedShare | None, turn: ShareTurn, path: bytes, limit: int
    ) -> Listing:
        """Return what lies at a path of a share. `share` is what is served of it here; `turn` the share's.

        Own shares and what others cannot tell more about are listed from here. Raises: Unavailable (code
        "no_provider") that says who was asked, (code "not_ready") while the first version is not there,
        Refused, RemoteFault, StorageFault, LocalMisuse as `make_page`.
        """
        try:
            async with asyncio.timeout(READY_S):
                reader, closing, manifest = await self.look(link, share, turn)
        except TimeoutError:
            raise _not_ready("the sharer is still reading the files, or answers very slowly") from None
        entries, total = await self._context.run(lambda _: make_page(manifest, path, limit))
        return Listing(
            name=display_path(reader.opening.name) if reader.opening is not None else "",
            share_id=link.share_id,
            version=closing.version,
            content_id=closing.content_id,
            files=manifest.file_count,
            bytes=manifest.total_bytes,
            entries=entries,
            total=total,
        )

    async def look(
        self,
        link: Link,
        share: ServedShare | None,
        turn: ShareTurn,
        wait_s: float | None = 0.0,
        say: Callable[[str], None] = lambda note: None,
    ) -> Look:
        """Return feed, version and manifest of what a link names; `ls` says from where, and what it raises.

        `wait_s`: how long to wait for absent providers, None for ever; `say` is told what is waited for.
        """
        check_may_fetch(self._context, link)
        if share is not None and share.is_own:
            here = await self._look_at_served(link, share)
            if here is None:
                raise _not_ready(
                    "the files are still being read" if share.error is None else str(share.error)
                )
            return here
        if turn.locked():  # somebody gets it, or looks at it: what it holds may be stored
            inside = await self._look_inside(link)
            if inside is not None:
                return inside
        claim = Claim("somebody looks what is in it")
        try:
            async with asyncio.timeout(TURN_S):
                await turn.take(claim)
        except TimeoutError:
            raise _not_ready("it is just being fetched, and its description is not here yet") from None
        try:
            return await self._look_around(link, wait_s, say)
        except Unavailable:
            here = await self._look_at_served(link, share) if share is not None else None
            if here is None:
                raise
            return here
        finally:
            turn.leave(claim)

    async def _look_at_served(self, link: Link, share: ServedShare) -> Look | None:
        closing = share.reader.find_closing(link.content_id)
        if not link.is_permanent:
            closing = share.reader.find_version(share.row.version)
        if closing is None:
            return None
        return share.reader, closing, await share.load_version(closing)

    async def _look_inside(self, link: Link) -> Look | None:
        """Return what is stored here alone."""
        glance = Glance(self._context, link)
        await glance.load()
        closing = glance.find_known()
        manifest = await glance.find_stored(closing) if closing is not None else None
        if closing is None or manifest is None:
            return None
        return glance.reader, closing, manifest

    async def _look_around(self, link: Link, wait_s: float | None, say: Callable[[str], None]) -> Look:
        """Return what connected peers tell, or else what is stored here."""
        glance = Glance(self._context, link, wait_s=wait_s, say=say)
        try:
            await glance.load()
            await glance.open()
            closing = await glance.find_version()
            manifest = self._kept.get(closing.content_id)
            if manifest is None:
                manifest = await glance.describe(closing)
                self._keep(closing.content_id, manifest)
        finally:
            await glance.close()
        return glance.reader, closing, manifest

    def _keep(self, content_id: bytes, manifest: Manifest) -> None:
        if len(manifest) > KEPT_ENTRIES:
            return
        self._kept[content_id] = manifest
        while len(self._kept) > KEPT_MANIFESTS:
            self._kept.popitem(last=False)
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(KEPT_S, self._kept.clear)


def _not_ready(cause: str) -> Unavailable:
    return Unavailable(
        "The share cannot be listed yet",
        cause=cause,
        next_step="try again in a moment",
        code="not_ready",
    )


def make_page(manifest: Manifest, path: bytes, limit: int) -> tuple[list[FileEntry], int]:
    """Return the first `limit` entries at `path`, and how many there are in all.

    A path that is an entry means that entry and what is below it; any other one all paths that begin with it.
    Where a share has one top folder, its name may be left out. Raises: LocalMisuse (code "no_such_path").
    """
    first, end = _find_range(manifest, path)
    entries: list[FileEntry] = []
    size = 0
    for index in range(first, min(end, first + limit)):
        entry = manifest.entry(index)
        size += len(entry.path) + len(entry.target)
        if size > PAGE_BYTES:
            break
        entries.append(entry._replace(extents=()))
    return entries, end - first


def _find_range(manifest: Manifest, path: bytes) -> tuple[int, int]:
    wanted = path.strip(b"/")
    if not wanted:
        return 0, len(manifest)
    tops = manifest.top_names()
    tries = [wanted]
    if len(tops) == 1:
        tries.append(tops[0] + b"/" + wanted)
    for candidate in tries:
        index = manifest.find_file(candidate)
        if index is not None:
            if manifest.kind(index) is not EntryKind.DIR:
                return index, index + 1
            return index, manifest.find_end(candidate + b"/", index + 1)
        first = manifest.find_first(candidate)
        end = manifest.find_end(candidate, first)
        if end > first:
            return first, end
    shown = ", ".join(display_path(manifest.path(i)) for i in range(min(SHOWN_LIMIT, len(manifest))))
    raise LocalMisuse(
        "Nothing was listed",
        cause=f"no path in this share begins with {display_path(path)}; it holds {shown}",
        next_step="leave the path out to see all of it",
        code="no_such_path",
    )
