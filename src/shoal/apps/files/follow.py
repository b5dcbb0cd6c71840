"""Follow: keeps a copy of a share at its newest version: a transfer that begins again with every version.

A follow runs its get when the author tells the network of another feed entry, or a provider does, when a
session comes up, and every CHECK_S in any case; then what lies at DEST is compared with the version too, and
what a person changed there moves to the versions folder. All of it is kept in the transfers table.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from shoal.apps.files.context import FilesContext
from shoal.apps.files.heads import end_listening, listen_to_head
from shoal.apps.files.status import FollowState, FollowStatus
from shoal.apps.files.transfer_state import TransferOptions, TransferRecord
from shoal.core.errors import RemoteFault, ShoalError, StorageFault, Unavailable
from shoal.storage.transfers import TransferState
from shoal.storage.versions_folder import prune_versions

log = logging.getLogger("shoal.files")

CHECK_S = 60.0
PAUSE_S = 0.1  # between two runs
PAUSE_LAST_S = 2.0  # where what woke it was nothing, again and again: anybody may say that there is news
RETRY_S = 5.0  # after one that failed

RunGet = Callable[[TransferRecord], Awaitable[str]]  # returns why the feed is refused, or ""


class Follower:
    """Runs one follow. `known_entries` says how much of the feed is known, `find_author` whose it is.

    Loop thread only.
    """

    def __init__(
        self,
        context: FilesContext,
        record: TransferRecord,
        run_get: RunGet,
        known_entries: Callable[[], int],
        find_author: Callable[[], bytes | None],
    ) -> None:
        self.record = record
        self._context = context
        self._run_get = run_get
        self._known_entries = known_entries
        self._find_author = find_author
        self._wake = asyncio.Event()
        self._behind_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow. Raises: Unavailable while the node stops."""
        self._context.swarm.listen(self.record.row.share_id, self._on_news)
        listen_to_head(self._context, self.record.link, self._find_author, self._on_news)
        self._task = self._context.supervisor.spawn("follow", self._run())

    def cancel(self) -> asyncio.Task[None] | None:
        """Stop; returns what is to be waited for."""
        self._context.swarm.listen(self.record.row.share_id, None)
        end_listening(self._context, self.record.link)
        if self._task is not None:
            self._task.cancel()
        return self._task

    def look_again(self) -> None:
        """Run once more soon: what was heard has to be confirmed."""
        self._wake.set()

    def status(self) -> FollowStatus:
        """Return a snapshot."""
        record, follow = self.record, self.record.options.follow
        assert follow is not None
        behind = self._behind_since
        state: FollowState
        if follow.refused:
            state = "refused"
        elif record.state is TransferState.FAILED:
            state = "waiting" if isinstance(record.error, Unavailable) else "failed"
        elif follow.version and follow.version >= record.newest:
            state = "current"
        else:
            state = "fetching"
        return FollowStatus(
            id=record.id,
            share_id=record.row.share_id,
            name=record.options.name,
            dest=record.row.dest,
            state=state,
            version=follow.version,
            newest=max(record.newest, follow.version),
            lag_s=0.0 if behind is None or state == "current" else self._context.clock.monotonic() - behind,
            why=follow.refused or (str(record.error) if record.error is not None else ""),
            error=_refusal(record) if state == "refused" else record.error,
        )

    def _on_news(self, entries: int) -> None:
        if entries == 0 or entries > self._known_entries():
            if entries and self._behind_since is None:
                self._behind_since = self._context.clock.monotonic()
            self._wake.set()

    async def _run(self) -> None:
        record, follow = self.record, self.record.options.follow
        assert follow is not None
        clock = self._context.clock
        checked_at = -CHECK_S
        pause_s = PAUSE_S
        while not follow.refused:
            self._wake.clear()
            record.looks_at_all = clock.monotonic() - checked_at >= CHECK_S or not follow.version
            if record.looks_at_all:
                checked_at = clock.monotonic()
            before = follow.version
            why = await self._run_get(record)
            if why:
                follow.refused = why
                log.warning("the share %s is not followed any more: %s", record.options.name, why)
                await self._save()
                return
            if follow.version >= record.newest and record.state is TransferState.DONE:
                self._behind_since = None
            if before != follow.version or record.looks_at_all:
                await self._prune()
            failed = record.state is TransferState.FAILED
            pause_s = PAUSE_S if before != follow.version else min(PAUSE_LAST_S, pause_s * 2)
            await asyncio.sleep(pause_s)
            try:
                async with asyncio.timeout(RETRY_S if failed else CHECK_S):
                    await self._wake.wait()
            except TimeoutError:
                pause_s = PAUSE_S

    async def _prune(self) -> None:
        """Remove what is beyond the bounds in the versions folder."""
        follow = self.record.options.follow
        assert follow is not None
        dest, keep_s, keep_count = self.record.row.dest, follow.keep_s, follow.keep_count
        wall = self._context.clock.wall()

        def prune() -> None:
            base = os.open(dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                prune_versions(base, wall, keep_s, keep_count)
            finally:
                os.close(base)

        try:
            await self._context.run(lambda _: prune())
        except (OSError, StorageFault) as error:
            log.info("old versions were not removed: %s", error)

    async def _save(self) -> None:
        try:
            await self.record.enter(TransferState.DONE)
        except ShoalError as error:
            log.warning("the end of a follow is not recorded: %s", error)


def renew_follow(record: TransferRecord) -> None:
    """Let a follow's transfer begin again with the newest version."""
    options = record.options
    if record.state is TransferState.DONE:
        record.done_bytes = record.fetched_bytes = record.refetched_bytes = record.reused_bytes = 0
        record.version = 0
        record.resumed = False
        record.providers = {}
        record.options = TransferOptions(
            overwrite=options.overwrite, name=options.name, collected=True, follow=options.follow
        )
    record.error = None
    record.state = TransferState.QUEUED


def _refusal(record: TransferRecord) -> RemoteFault:
    """Return why a feed is not believed any more, as an error."""
    assert record.options.follow is not None
    return RemoteFault(
        f"{record.options.name} is not followed any more",
        cause=record.options.follow.refused,
        next_step="ask who shares it for a new link",
        code="feed_refused",
    )
