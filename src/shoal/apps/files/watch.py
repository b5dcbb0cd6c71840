"""Watch: keeps own shares at what their files are now. One watch a share, for as long as the share says so.

The system's notices and the machine of watch_pace.py say when to look; a look that finds something else than
the latest version says appends a version to the feed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from shoal.apps.files.served import ServedShare
from shoal.apps.files.share import Look
from shoal.apps.files.watch_pace import Input, Looked, Noticed, Sight, Tick, WatchPace
from shoal.core.errors import Refused, ShoalError
from shoal.storage.tree_watch import TreeWatch

log = logging.getLogger("shoal.files")

WATCH_LIMIT = 64  # shares of a node that are watched, one or two threads each; wild guess
LOOKS_AT_ONCE = 2  # each hashes with two threads

LookAt = Callable[[ServedShare], Awaitable[Look]]


class ShareWatch:
    """Watches one own share. `look` makes a version if there is something new.

    Loop thread only; `start`, then `close`, which lets a look that has begun come to its end.
    """

    def __init__(self, share: ServedShare, look: LookAt) -> None:
        self._share = share
        self._look = look
        self._clock = share.context.clock
        self._pace = WatchPace()
        self._due = False
        self._wake = asyncio.Event()
        self._closed = False
        self._tree: TreeWatch | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch. Raises: Unavailable while the node stops."""
        loop = asyncio.get_running_loop()

        def tell(event: Input, note: str | None = None) -> None:
            try:
                loop.call_soon_threadsafe(self._on_event, event, note)
            except RuntimeError:
                log.debug("the loop was closed before a watch ended")

        self._tree = TreeWatch(
            self._share.row.roots, lambda: tell(Noticed()), lambda why: tell(Sight(bool(why)), why)
        )
        self._share.watch_note = "the watch is being set up"
        self._task = self._share.context.supervisor.spawn("watch", self._run())
        self._tree.start()

    async def close(self) -> None:
        """Stop watching; idempotent. Cancelling it leaves a thread that ends soon."""
        self._closed = True
        self._wake.set()
        tree, self._tree = self._tree, None
        if tree is not None:
            await asyncio.to_thread(tree.close)
        if self._task is not None:
            await asyncio.wait([self._task])
        self._share.watch_note = ""

    def cancel(self) -> asyncio.Task[None] | None:
        """Stop without waiting for a look: the node ends. Returns what is to be waited for."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        return self._task

    async def _run(self) -> None:
        while not self._closed:
            self._step(Tick())
            if self._due:
                self._due = False
                found = Look.SAME
                try:
                    found = await self._look(self._share)
                except ShoalError as error:  # not even the state could be recorded
                    log.warning("share %s was not looked at: %s", self._share.row.name, error)
                self._step(Looked(found is Look.PUBLISHED))
                if found is Look.UNSETTLED:
                    self._step(Noticed())
                continue
            delay = self._pace.next_at - self._clock.monotonic()
            try:
                async with asyncio.timeout(max(0.0, delay)):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()

    def _on_event(self, event: Input, note: str | None) -> None:
        if self._closed:
            return
        if note is not None and note != self._share.watch_note:
            self._share.watch_note = note
            self._share.signal.touch()
        self._step(event)
        self._wake.set()

    def _step(self, event: Input) -> None:
        if self._pace.step(self._clock.monotonic(), event):
            self._due = True


class Watches:
    """All watches of a node. Loop thread only."""

    def __init__(self, look: LookAt) -> None:
        self._make_version = look
        self._watches: dict[bytes, ShareWatch] = {}
        self._slots = asyncio.Semaphore(LOOKS_AT_ONCE)

    def check_room(self, share_id: bytes | None) -> None:
        """Raises: Refused (code "too_many_watches") if one more cannot be watched."""
        if share_id not in self._watches and len(self._watches) >= WATCH_LIMIT:
            raise Refused(
                "The share is not watched",
                cause=f"{WATCH_LIMIT} shares are watched already",
                next_step="end one with `shoal share --no-watch PATH`, or share a folder above them",
                code="too_many_watches",
            )

    async def start(self, share: ServedShare) -> None:
        """Watch a share from now on; nothing happens if it is watched. Raises: Unavailable at the end."""
        if share.share_id not in self._watches and len(self._watches) < WATCH_LIMIT:
            watch = self._watches[share.share_id] = ShareWatch(share, self._look)
            watch.start()

    async def stop(self, share_id: bytes) -> None:
        """Stop watching a share; idempotent. A look that has begun comes to its end."""
        watch = self._watches.pop(share_id, None)
        if watch is not None:
            await watch.close()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Stop all at once: the node ends."""
        tasks = [watch.cancel() for watch in self._watches.values()]
        return [task for task in tasks if task is not None]

    async def close(self) -> None:
        """Wait for the threads of all; after `cancel`."""
        watches, self._watches = list(self._watches.values()), {}
        await asyncio.gather(*(watch.close() for watch in watches))

    async def _look(self, share: ServedShare) -> Look:
        async with self._slots:
            return await self._make_version(share)
