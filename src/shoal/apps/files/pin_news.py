"""Pin news: finds out whether a pinned share has a newer version than the one that is kept.

What the author tells the network, a provider's notice, a session that comes up, or CHECK_S since the last
look is the reason for one; a look reads the feed from here and from who is connected, in the background, and
fetches nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from shoal.apps.files.context import FilesContext
from shoal.apps.files.glance import Glance
from shoal.apps.files.heads import end_listening, listen_to_head
from shoal.apps.files.pin_run import PinRun
from shoal.apps.files.share_turn import Claim, ShareTurn
from shoal.content.link import Link
from shoal.core.errors import ShoalError

log = logging.getLogger("shoal.files")

CHECK_S = 60.0
LOOKS_AT_ONCE = 2
LISTENER = "pin"
LOOK = "its pin looks for a newer version"


class PinNews:
    """Looks after the feeds of pins. Loop thread only. `listen` says which, `take` what is new."""

    def __init__(self, context: FilesContext, turn_of: Callable[[bytes], ShareTurn]) -> None:
        self._context = context
        self._turn_of = turn_of
        self._look_at: dict[bytes, float] = {}  # when the next look is due
        self._entries: dict[bytes, int] = {}  # how much of each feed was looked at
        self._links: dict[bytes, Link] = {}  # of the shares that are listened for
        self._looks: dict[bytes, asyncio.Task[None]] = {}
        self._found: set[bytes] = set()
        self._slots = asyncio.Semaphore(LOOKS_AT_ONCE)

    def listen(self, pins: Iterable[PinRun]) -> None:
        """Look after these pins from now on, one a share, after no others; begin the looks that are due."""
        now = self._context.clock.monotonic()
        wanted = {pin.link.share_id: pin for pin in pins}
        for share_id in [*self._look_at]:
            if share_id not in wanted:
                self._end_listening(share_id)
                del self._look_at[share_id], self._entries[share_id]
                self._found.discard(share_id)
        for share_id, pin in wanted.items():
            if share_id not in self._look_at:
                on_news = self._make_listener(share_id)
                self._context.swarm.listen(share_id, on_news, LISTENER)
                self._links[share_id] = pin.link
                listen_to_head(self._context, pin.link, partial(_find_author, pin), on_news, LISTENER)
                self._look_at[share_id] = now  # something may have been said before we listened
                self._entries[share_id] = pin.reader.next_seq
            offer = self._context.swarm.find_offer(share_id)
            is_told = offer is not None and offer.entries > self._entries[share_id]  # by what is shared here
            if (is_told or now >= self._look_at[share_id]) and share_id not in self._looks:
                self._look_at[share_id] = now + CHECK_S
                self._looks[share_id] = self._context.supervisor.spawn("pin news", self._look(pin))

    def take(self) -> set[bytes]:
        """Return which shares have a newer version, once."""
        found, self._found = self._found, set()
        return found

    def cancel(self) -> list[asyncio.Task[None]]:
        """Stop: the node ends. Returns what is to be waited for."""
        for share_id in self._look_at:
            self._end_listening(share_id)
        tasks = list(self._looks.values())
        for task in tasks:
            task.cancel()
        return tasks

    def _end_listening(self, share_id: bytes) -> None:
        self._context.swarm.listen(share_id, None, LISTENER)
        end_listening(self._context, self._links.pop(share_id), LISTENER)

    def _make_listener(self, share_id: bytes) -> Callable[[int], None]:
        def on_news(entries: int) -> None:
            if share_id in self._look_at and (entries == 0 or entries > self._entries[share_id]):
                self._look_at[share_id] = 0.0

        return on_news

    async def _look(self, pin: PinRun) -> None:
        """Read the feed, and note if it closes a newer version."""
        share_id = pin.link.share_id
        try:
            async with self._slots, self._turn_of(share_id).hold(Claim(LOOK, background=True)):
                glance = Glance(self._context, pin.link, background=True)
                try:
                    await glance.load()
                    if pin.reader.author != self._context.network.own_id:
                        await glance.open()
                        await glance.find_version()
                finally:
                    await glance.close()
            latest = glance.reader.latest
            if share_id in self._entries:
                self._entries[share_id] = glance.reader.next_seq
                if latest is not None and latest.version > pin.row.version:
                    self._found.add(share_id)
        except ShoalError as error:
            log.info("pin %s: no news: %s", pin.row.name, error)
        finally:
            self._looks.pop(share_id, None)


def _find_author(pin: PinRun) -> bytes | None:
    return pin.reader.author
