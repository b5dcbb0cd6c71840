"""File looks: notices that files of a share were deleted or changed, before somebody asks for them.

Shares that are watched are looked at by their watch. Here only sizes and times are compared, every minute, of
large shares more rarely, and when a person asks for the list of shares. Nothing new is published.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from shoal.apps.files.context import FilesContext
from shoal.apps.files.served import ServedShare
from shoal.content.paths import display_path
from shoal.core.errors import ShoalError, StorageFault
from shoal.storage.shares import ShareState
from shoal.storage.tree_look import TreeLook, look_at_tree

log = logging.getLogger("shoal.files")

TURN_S: Final = 60.0
LARGE_FILES: Final = 20_000  # of larger shares the description is loaded: not while somebody waits
LARGE_TURN_S: Final = 600.0
LOAD: Final = 50.0  # a look that took long is followed by a pause: at most 2 % of the time goes into looking
FRESH_S: Final = 2.0  # who asks again within it is told what was found
ASKED_S: Final = 0.5  # who asks waits no longer
CODE: Final = "files_changed"


class FileLooks:
    """Looks at all shares of a node in turn; fetched ones must be here whole. Loop thread only."""

    def __init__(self, context: FilesContext, shares: Mapping[bytes, ServedShare]) -> None:
        self._context = context
        self._shares = shares
        self._looked_at: dict[bytes, float] = {}
        self._looking = asyncio.Lock()  # one thread, should a disk not answer
        self._asked: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on. Raises: Unavailable while the node stops."""
        self._running = self._context.supervisor.spawn("file looks", self._run())

    def cancel(self) -> list[asyncio.Task[None]]:
        """Look no more; returns what is to be waited for."""
        tasks = [task for task in (self._running, self._asked) if task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    async def _run(self) -> None:
        clock = self._context.clock
        while True:
            began = clock.monotonic()
            await self._look_at_all(TURN_S, LARGE_TURN_S)
            await asyncio.sleep(max(TURN_S, LOAD * (clock.monotonic() - began)))

    async def look_now(self) -> None:
        """Look at what was not looked at just now, small shares first; at most ASKED_S, the rest goes on."""
        if self._asked is None or self._asked.done():
            self._asked = self._context.supervisor.spawn("looks", self._look_at_all(FRESH_S, None))
        await asyncio.wait([self._asked], timeout=ASKED_S)

    async def _look_at_all(self, fresh_s: float, large_fresh_s: float | None) -> None:
        for share_id in self._looked_at.keys() - self._shares.keys():
            del self._looked_at[share_id]
        for share in sorted(self._shares.values(), key=lambda share: share.row.files or 0):
            is_large = (share.row.files or 0) > LARGE_FILES
            after_s = large_fresh_s if is_large else fresh_s
            now = self._context.clock.monotonic()
            if after_s is None or now - self._looked_at.get(share.share_id, -after_s) < after_s:
                continue
            async with self._looking:
                self._looked_at[share.share_id] = now
                try:
                    await self._look(share)
                except ShoalError as error:  # what is damaged is said by who needs it
                    log.info("the files of %s were not looked at: %s", share.row.name, error)

    async def _look(self, share: ServedShare) -> None:
        kept, state = share.kept, share.row.state
        if share.details.watch or share.making.locked() or kept is None:
            return
        if not share.is_own and (share.details.only or share.details.skipped):
            return  # not all that the manifest names was ever here
        if state is not ShareState.COMPLETE and not (
            state is ShareState.CHANGED and (share.error is None or share.error.code == CODE)
        ):
            return
        roots = dict(share.details.roots)
        found = await self._context.run(lambda cancelled: look_at_tree(roots, kept.get(), cancelled))
        if share.kept is not kept or share.row.state is not state or share.making.locked():
            return  # a new version is being made
        if self._shares.get(share.share_id) is not share:
            return
        if not found.gone and not found.changed:
            if state is ShareState.CHANGED:
                await share.update(ShareState.COMPLETE)
            return
        fault = _describe(share, found)
        if share.error is None or str(share.error) != str(fault):
            log.info("share %s: %s", share.row.name, fault)
            await share.update(ShareState.CHANGED, fault)


def _describe(share: ServedShare, found: TreeLook) -> StorageFault:
    counts = [f"{found.gone} gone"] * (found.gone > 0) + [f"{found.changed} changed"] * (found.changed > 0)
    were, again = ("shared", "share it again as it is now") if share.is_own else ("fetched", "get it again")
    return StorageFault(
        f"Files of {share.row.name} are not as they were {were}: {', '.join(counts)} of {share.row.files}",
        cause=f"{display_path(found.path)}: {found.fault}",
        next_step=f"{again}, or bring them back, or end it: shoal unshare",
        code=CODE,
    )
