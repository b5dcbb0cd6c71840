"""Pin quota: how much of the store's quota is free, without what running pins were promised of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shoal.core.errors import Refused
from shoal.core.units import format_size
from shoal.storage.store import Store


class PinQuota:
    """What all pins of a node may put into the store together. Loop thread only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._promised: dict[int, Callable[[], int]] = {}  # by pin: what it has still to put
        self._checking = asyncio.Lock()

    async def promise(self, number: int, count_left: Callable[[], int]) -> None:
        """Promise a pin what `count_left` says that it has still to put, in bytes, until `release`.

        Raises: Refused (code quota) if that is not free: nothing is promised then; StorageFault.
        """
        self.release(number)
        if self._store.quota_bytes is None:
            return
        async with self._checking:
            # counted before the store is: what is put meanwhile counts twice for a moment, never not at all
            promised = sum(count() for count in self._promised.values())
            used = (await self._store.use()).live_bytes
            quota, needed = self._store.quota_bytes, count_left()
            if quota is not None and needed and used + promised + needed > quota:
                free = format_size(max(0, quota - used - promised))
                held = f" ({format_size(promised)} are promised to pins that are just fetched)"
                raise Refused(
                    "Nothing was kept",
                    cause=f"it takes {format_size(needed)}, and of the store's quota of "
                    f"{format_size(quota)} {free} are free{held if promised else ''}",
                    next_step="end pins with `shoal unpin`, or raise the setting store_quota",
                    code="quota",
                )
            self._promised[number] = count_left

    def release(self, number: int) -> None:
        """End a promise: the pin has put everything, or stopped."""
        self._promised.pop(number, None)
