"""Finding: who has a share, which version is meant, and what it holds; everything before the first chunk.

Used by whoever wants a share: a get, a listing, a stream. Where the description is kept is up to them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from shoal.apps.files.context import FilesContext
from shoal.apps.files.lack import Lack, find_lack
from shoal.apps.files.patience import Patience
from shoal.content.feed import Closing
from shoal.content.feed_log import FeedReader
from shoal.content.keys import location_key
from shoal.content.link import Link
from shoal.content.manifest import Manifest
from shoal.content.manifest_loader import load_manifest, missing_segments
from shoal.core.errors import Refused, ShoalError, StorageFault, Unavailable
from shoal.identity.operations import Role
from shoal.swarm.fetch import ShareFetch

log = logging.getLogger("shoal.files")

LOCATE_S = 3.0  # between two searches while nothing flows
LOCATE_LATER_S = 15.0
LOCATE_BUDGET_S = 2.0
ASIDE_S = 3.0  # what stands still this long lets others have its place
NEIGHBOURS = 32  # up to so many connected peers are simply all asked
WATCH_S = 0.2
OBJECTS_IN_MEMORY = 64  # sealed objects fetched before they are stored
ADVICE = (
    "start a device that has it and run the same get again, or wait with --wait: what was received is kept"
)


class Seeker(Protocol):
    """Who wants the share, and how long they wait for it."""

    @property
    def wait_s(self) -> float | None:
        """How long to wait for absent providers; None for ever. May change."""
        ...

    @property
    def asked_at(self) -> float:
        """When somebody asked for it last, in monotonic seconds."""
        ...

    @property
    def is_aside(self) -> bool:
        """Whether it let others have its place."""
        ...

    def say(self, note: str) -> None:
        """Tell people what it waits for; empty for nothing."""
        ...

    def stand_aside(self) -> None:
        """Let others have its place while nobody can help."""
        ...


class Shelf(Protocol):
    """Where the sealed objects of a description are kept; storage.objects behind a share id is one."""

    async def put(self, objects: Iterable[tuple[bytes, bytes]], *, is_root: bool) -> None:
        """Keep verified objects. Raises: StorageFault, Refused if they are too many."""
        ...

    def find_blocking(self, object_id: bytes) -> bytes | None:
        """Return an object, or None; called by threads."""
        ...

    def find_missing_blocking(self, object_ids: Sequence[bytes]) -> list[bytes]:
        """Return those ids that are not kept, without loading the others; called by threads."""
        ...


class Finder:
    """Finds one share for a seeker, by means of a fetch that was started. Loop thread only."""

    def __init__(
        self,
        context: FilesContext,
        link: Link,
        reader: FeedReader,
        fetch: ShareFetch,
        seeker: Seeker,
        advice: str = ADVICE,
    ) -> None:
        """`advice`: what to do when nobody can deliver."""
        self._advice = advice
        self._context = context
        self._link = link
        self._reader = reader
        self._fetch = fetch
        self._seeker = seeker
        self._version = 0  # that is being fetched
        self._manifest: Manifest | None = None  # of it

    async def search(self) -> None:
        """Name peers to the fetch for as long as it runs: who announced the share, and who is connected."""
        context, fetch = self._context, self._fetch
        while True:
            neighbours = context.overlay.neighbours()
            if len(neighbours) <= NEIGHBOURS:
                fetch.add_peers(neighbours)
            try:
                located = await context.overlay.locate(find_location(context, self._link), LOCATE_BUDGET_S)
                fetch.add_peers(located.hits)
            except ShoalError as error:
                log.info("a search failed: %s", error)
            is_urgent = fetch.is_stuck() and not self._seeker.is_aside
            await asyncio.sleep(LOCATE_S if is_urgent else LOCATE_LATER_S)

    async def find_version(self, find_closing: Callable[[], Closing | None], begun: int = 0) -> Closing:
        """Wait until the closing entry of the wanted version is known.

        `begun`: a version that was begun already, for which nobody has to say whether there is a newer one.
        Raises: Unavailable (code "no_provider") that says who was asked, Refused. Safe to cancel.
        """
        closing = await self.find_start(find_closing, begun, lambda: False)
        assert closing is not None
        return closing

    async def find_start(
        self, find_closing: Callable[[], Closing | None], begun: int, may_start: Callable[[], bool]
    ) -> Closing | None:
        """`find_version` that also ends, with None, once `may_start` says that something can be fetched."""
        fetch, seeker, clock = self._fetch, self._seeker, self._context.clock
        patience = self.make_patience()
        began_at = clock.monotonic()
        while (closing := find_closing()) is None or (
            closing.version != begun and (fetch.is_stuck() or fetch.is_reading)
        ):
            self.check_member()
            if closing is None and not fetch.is_reading and may_start():
                return None
            if closing is not None and fetch.is_reading:  # there may be a newer one in it
                await fetch.wait_change(WATCH_S)
                continue
            hashing = not fetch.is_stuck() and self._link.content_id is None
            if hashing:
                patience.restart(clock.monotonic())
                seeker.say("waiting until the sharer has finished reading the files")
            else:
                seeker.say("looking for somebody who has it")
                self.give_up_if(patience)
            if clock.monotonic() - began_at > ASIDE_S:
                seeker.stand_aside()
            await fetch.wait_change(WATCH_S)
        seeker.say("")
        return closing

    async def describe(self, closing: Closing, shelf: Shelf) -> Manifest:
        """Return the manifest of a version; what is not on the shelf is fetched and put there.

        Raises: Unavailable (code "no_provider"; code "version_gone" at once if nobody keeps that version any
        more and the link means the newest), RemoteFault if it is not well formed, StorageFault.
        """
        run = self._context.run
        self._version = closing.version
        sealed = await run(lambda _: shelf.find_blocking(closing.content_id))
        if sealed is None:
            sealed = (await self._get_objects([closing.content_id]))[closing.content_id]
            await shelf.put([(closing.content_id, sealed)], is_root=True)
        root: bytes = sealed

        def find_missing() -> list[bytes]:
            return missing_segments(root, closing.root_key, shelf.find_blocking, shelf.find_missing_blocking)

        while missing := await run(lambda _: find_missing()):
            for start in range(0, len(missing), OBJECTS_IN_MEMORY):
                found = await self._get_objects(missing[start : start + OBJECTS_IN_MEMORY])
                await shelf.put(found.items(), is_root=False)

        def get(object_id: bytes) -> bytes:
            data = shelf.find_blocking(object_id)
            if data is None:
                raise StorageFault("A part of the description vanished from the database", code="corrupt")
            return data

        self._manifest = await run(lambda _: load_manifest(root, closing.root_key, get))
        return self._manifest

    async def _get_objects(self, ids: list[bytes]) -> dict[bytes, bytes]:
        fetch, patience = self._fetch, self.make_patience()
        while True:
            self.check_member()
            try:
                return await fetch.get_objects(ids)
            except Unavailable as error:
                is_settled = not fetch.is_searching and not fetch.is_reading
                if self._newer() and is_settled and not self._link.is_permanent:
                    raise self._make_gone() from error
                self.give_up_if(patience, error)
                self._seeker.stand_aside()
                await fetch.wait_change(WATCH_S * 5)

    def make_patience(self) -> Patience:
        """Return a patience that begins now."""
        return Patience(self._context.clock.monotonic())

    def check_member(self) -> None:
        """Raises: Refused (code "removed") if this device is no member any more."""
        if self._context.network.is_out:
            raise Refused(
                "The transfer ended",
                cause="this device is no member of the network any more",
                next_step="ask to be invited again, with a new home",
                code="removed",
            )

    def give_up_if(self, patience: Patience, error: ShoalError | None = None) -> None:
        """Raises: Unavailable (code "no_provider") that says who was asked, once the patience is over; code
        "version_gone" if the link names a version that has a newer one, and nobody has it; codes "unshared"
        and "source_changed" if that is what the providers said.
        """
        fetch, context, seeker = self._fetch, self._context, self._seeker
        now = context.clock.monotonic()
        lack = self._find_lack()
        stuck_s = lack.patience_s if lack is not None else None
        if not patience.is_over(now, seeker.wait_s, seeker.asked_at, fetch.is_searching, stuck_s):
            return
        asked = fetch.describe_providers()
        if self._newer() and self._link.is_permanent:
            raise self._make_gone()
        if lack is not None:
            raise lack.error
        lines = [f"{context.name_peer(peer)} {what}" for peer, what in sorted(asked.items())][:16]
        more = f", and {len(asked) - 16} more" if len(asked) > 16 else ""
        cause = "asked: " + "; ".join(lines) + more if asked else "no other device is connected"
        raise Unavailable(
            "Nobody who is connected can deliver this share now",
            cause=f"{error.cause or error.message}; {cause}" if error is not None else cause,
            next_step=self._advice,
            code="no_provider",
        )

    def explain_stuck(self) -> str:
        """Return what is waited for, for people, while nobody has the rest."""
        lack = self._find_lack()
        return lack.note if lack is not None else "waiting for somebody who has the rest"

    def _find_lack(self) -> Lack | None:
        if self._fetch.is_searching:
            return None
        return find_lack(self._context, self._fetch, self._reader, self._manifest)

    def _newer(self) -> int:
        """Return by how many versions the one that is being fetched is behind the newest one known."""
        latest = self._reader.latest
        return latest.version - self._version if latest is not None and self._version else 0

    def _make_gone(self) -> Unavailable:
        newest = self._version + self._newer()
        return Unavailable(
            "This version of the share is gone",
            cause=f"it is version {self._version}, the newest is {newest}, and nobody connected keeps it",
            next_step="get the newest by the share's link without a version, or start a device that has this",
            code="version_gone",
        )


def find_location(context: FilesContext, link: Link) -> bytes:
    """Return the key under which a share is announced. Raises: Unavailable without the secret."""
    return location_key(context.network.content_secret(link.generation), link.share_id)


def check_may_fetch(context: FilesContext, link: Link) -> None:
    """Raises: Refused for a link of another network (code "foreign_network"), or if this device's role may
    not read content (code "role").
    """
    if link.network_id != context.network.network_id:
        raise Refused(
            "This link is for another network",
            cause="a link works only for members of the network it was made in",
            next_step="use the home that belongs to that network (--home)",
            code="foreign_network",
        )
    if context.network.role_of(context.network.own_id) is Role.STORAGE:
        raise Refused(
            "Nothing was fetched",
            cause="this device is storage-only: it cannot read the network's content",
            next_step="ask an owner or admin for another role",
            code="role",
        )
