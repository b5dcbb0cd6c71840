"""Places: how many transfers move bytes at once; those that only wait do not keep the others from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

ACTIVE_TRANSFERS = 3  # others are queued: a lane a provider each, and a peer may have eight
BACKGROUND_TRANSFERS = 2  # besides those; they move what the others leave
STANDING_TRANSFERS = 64  # that wait for somebody without a place; each of them searches. Wild guess
NOTE = "waits until one of the transfers that run has ended"


class Places:
    """The places of one node. Loop thread only."""

    def __init__(self) -> None:
        self.free = asyncio.Semaphore(ACTIVE_TRANSFERS)
        self.free_behind = asyncio.Semaphore(BACKGROUND_TRANSFERS)
        self.standing = 0


class Place:
    """One transfer's place: `take` it to work, `stand_aside` while nobody can help, `leave` at the end."""

    def __init__(
        self,
        places: Places,
        *,
        background: bool = False,
        say: Callable[[str], None] | None = None,
        on_aside: Callable[[], None] | None = None,
    ) -> None:
        """`say` hears that a place is waited for, `on_aside` that this transfer let others have it."""
        self._places = places
        self._say = say
        self._on_aside = on_aside
        self._free = places.free_behind if background else places.free
        self._taken = False
        self.is_aside = False

    async def take(self) -> None:
        """Wait for a place, unless it has one. Safe to cancel."""
        if not self._taken:
            waits = self._free.locked()
            if waits and self._say is not None:
                self._say(NOTE)
            await self._free.acquire()
            if waits and self._say is not None:
                self._say("")
            self._taken = True
        self._come_back()

    def stand_aside(self) -> None:
        """Give the place to others while this transfer waits, unless too many do already."""
        if self._taken and self._places.standing < STANDING_TRANSFERS:
            self._taken = False
            self._free.release()
            self._places.standing += 1
            self.is_aside = True
            if self._on_aside is not None:
                self._on_aside()

    def leave(self) -> None:
        """The transfer ends; idempotent."""
        if self._taken:
            self._taken = False
            self._free.release()
        self._come_back()

    def _come_back(self) -> None:
        if self.is_aside:
            self.is_aside = False
            self._places.standing -= 1
