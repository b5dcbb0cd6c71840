"""Journal: makes membership entries durable, in the order in which they were applied.

What came from others is in the log at once and here soon after; removals are acknowledged then. When the disk
fails, it is tried again every few seconds: the node goes on with what it knows, and writes nothing new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shoal.core.errors import StorageFault
from shoal.core.observation import Observation, Observer
from shoal.identity.entry import Entry
from shoal.membership.sync_events import Save
from shoal.storage.entries import Entries, EntryRow

RETRY_S = 5.0  # after a disk fault
FLUSH_TIMEOUT_S = 10.0


class Journal:
    """The durable side of one membership log. Holds no more than the log itself may."""

    def __init__(self, entries: Entries, network_id: bytes, observe: Observer) -> None:
        self._entries = entries
        self._network_id = network_id
        self._observe = observe
        self._unsaved: list[Save] = []
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._error: StorageFault | None = None
        self.retry_s = RETRY_S

    async def load(self) -> list[bytes]:
        """Return what is kept, parents first. Raises: StorageFault."""
        return await self._entries.load(self._network_id)

    async def append_own(self, entry: Entry) -> None:
        """Make an entry of this device durable. Raises: StorageFault, LocalMisuse for a number used twice."""
        await self._entries.append([self._row(entry)], own=True)

    async def append(self, entries: list[Entry]) -> None:
        """Make entries durable now, in one piece. Raises: StorageFault."""
        await self._entries.append([self._row(entry) for entry in entries])

    def put(self, save: Save) -> None:
        """Take entries to be made durable soon."""
        self._unsaved.append(save)
        self._idle.clear()
        self._wanted.set()

    def unsaved_ids(self) -> set[bytes]:
        """Return the ids of entries that are applied and not durable yet."""
        return {entry.id for save in self._unsaved for entry in save.entries}

    async def flush(self) -> None:
        """Wait until all that was put is durable. Cancelling is safe. Raises: StorageFault."""
        if self._idle.is_set():
            return
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S if self._error is None else self.retry_s * 2):
                await self._idle.wait()
        except TimeoutError:
            raise self._error or StorageFault(
                "Membership operations were not stored",
                cause=f"the disk took longer than {FLUSH_TIMEOUT_S:.0f} s",
                next_step="run `shoal doctor`",
            ) from None

    async def run(self, on_saved: Callable[[Save], None]) -> None:
        """Save what is put, for ever. Cancelling loses nothing that was told to anybody."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            batch = list(self._unsaved)
            try:
                await self.append([entry for save in batch for entry in save.entries])
            except StorageFault as error:
                self._error = error
                self._observe(Observation("membership_not_saved", "storage", str(error)))
                await asyncio.sleep(self.retry_s)
                self._wanted.set()
                continue
            self._error = None
            del self._unsaved[: len(batch)]
            if not self._unsaved:
                self._idle.set()
            for save in batch:
                on_saved(save)

    def _row(self, entry: Entry) -> EntryRow:
        # a genesis names no log, because its own id is that log's: kept under it all the same
        return EntryRow(entry.id, self._network_id, entry.author, entry.seq, entry.data)
