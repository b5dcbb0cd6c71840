"""Follows: the copies of a node that follow their shares: begun, shown, ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from shoal.apps.files.context import FilesContext
from shoal.apps.files.follow import Follower, renew_follow
from shoal.apps.files.get import Get
from shoal.apps.files.served import ServedShare
from shoal.apps.files.status import FollowStatus, TransferStatus
from shoal.apps.files.transfer_state import FollowOptions, TransferRecord
from shoal.content.link import Link
from shoal.content.paths import display_path
from shoal.core.errors import LocalMisuse, Refused
from shoal.storage.rows import pack
from shoal.storage.transfers import TransferState

FOLLOW_LIMIT = 64  # of one node; wild guess


class Follows:
    """All follows of a node. Loop thread only. What it asks of the service of files is given as calls."""

    def __init__(
        self,
        context: FilesContext,
        shares: dict[bytes, ServedShare],
        run_get: Callable[[TransferRecord], Awaitable[Get]],
        claim_transfer: Callable[[Link, bytes], Awaitable[TransferRecord]],
        cancel_transfer: Callable[[bytes], Awaitable[TransferStatus]],
        check_get: Callable[[Link, bytes], None],
    ) -> None:
        self._context = context
        self._shares = shares
        self._run_get = run_get
        self._claim_transfer = claim_transfer
        self._cancel_transfer = cancel_transfer
        self._check_get = check_get
        self._followers: dict[bytes, Follower] = {}  # by share
        self._changing = asyncio.Lock()
        self._doubts: dict[bytes, int] = {}  # runs in a row in which an author had fewer entries than we

    def start(self, record: TransferRecord) -> Follower:
        """Go on with a follow that is kept."""
        share_id = record.row.share_id

        def count_entries() -> int:
            share = self._shares.get(share_id)
            return share.reader.next_seq if share is not None else 0

        def find_author() -> bytes | None:
            share = self._shares.get(share_id)
            return share.reader.author if share is not None else None

        follower = Follower(self._context, record, self._run, count_entries, find_author)
        self._followers[share_id] = follower
        follower.start()
        return follower

    def cancel(self) -> list[asyncio.Task[None]]:
        """Stop all: the node ends. Returns what is to be waited for."""
        tasks = [follower.cancel() for follower in self._followers.values()]
        return [task for task in tasks if task is not None]

    def refuse_if_followed(self, share_id: bytes) -> None:
        """Raises: Refused (code "followed") if a copy here follows the share."""
        follower = self._followers.get(share_id)
        if follower is not None:
            raise Refused(
                "Nothing was changed",
                cause=f"a copy in {display_path(follower.record.row.dest)} follows this share by itself",
                next_step="see `shoal follows`; end it with `shoal unfollow`",
                code="followed",
            )

    async def follow(
        self, link: Link, dest: bytes, *, overwrite: bool, keep_s: float, keep_count: int
    ) -> FollowStatus:
        """Keep a copy of a share in the absolute folder `dest` at its newest version, until `unfollow`.

        What the copy replaces or removes is kept for `keep_s` and at most `keep_count` times. Asked again it
        changes these bounds, and tries again what failed. Raises: Refused, LocalMisuse, StorageFault.
        """
        dest = os.path.normpath(dest)
        if link.is_permanent:
            raise Refused(
                "The link is not followed",
                cause="it names one version for ever",
                next_step="get it, or follow the link without a version",
                code="permanent_link",
            )
        self._check_get(link, dest)
        async with self._changing:
            follower = self._followers.get(link.share_id)
            if follower is not None and follower.record.row.dest != dest:
                self.refuse_if_followed(link.share_id)
            if follower is None and len(self._followers) >= FOLLOW_LIMIT:
                raise Refused(
                    "The link is not followed",
                    cause=f"{FOLLOW_LIMIT} are followed already",
                    next_step="end one with `shoal unfollow`",
                    code="too_many_follows",
                )
            record = follower.record if follower is not None else await self._claim_transfer(link, dest)
            options = record.options
            version = options.follow.version if options.follow is not None else 0
            if follower is None:
                options.follow = FollowOptions(keep_s, keep_count, version)
                options.overwrite = overwrite
                options.wait_s = 0.0
            elif options.follow is not None:
                options.follow.keep_s, options.follow.keep_count = keep_s, keep_count
            await self._context.stores.transfers.update(record.id, options=pack(options))
            if follower is None:
                follower = self.start(record)
            elif record.state is TransferState.FAILED:  # what kept it from going on may be mended
                renew_follow(record)
                follower.look_again()
        return follower.status()

    def statuses(self) -> list[FollowStatus]:
        """Return all follows, oldest first."""
        return [follower.status() for follower in self._followers.values()]

    async def unfollow(self, share_id: bytes) -> FollowStatus:
        """End a follow; the copy stays, and is served. Raises: LocalMisuse, StorageFault."""
        async with self._changing:
            follower = self._followers.get(share_id)
            if follower is None:
                raise LocalMisuse(
                    "There is no such follow", next_step="see `shoal follows`", code="unknown_follow"
                )
            status = follower.status()
            task = follower.cancel()
            if task is not None:
                await asyncio.wait([task])
            self._followers.pop(share_id)
            follower.record.options.follow = None
            await self._cancel_transfer(follower.record.id)
        return status

    async def _run(self, record: TransferRecord) -> str:
        """Bring a follow to the newest version; return why its feed is not believed any more, or nothing."""
        renew_follow(record)
        record.asked_at = self._context.clock.monotonic()
        get = await self._run_get(record)
        if get.went_back:
            follower = self._followers.get(record.row.share_id)
            if follower is not None:
                follower.look_again()
        if get.fork is not None:
            return "the share has two histories: its author signed two entries with one number"
        doubts = self._doubts[record.id] = self._doubts.get(record.id, 0) + 1 if get.went_back else 0
        if doubts > 1:  # once may be an answer that a newer version overtook
            return "its author has lost versions that it had published, as from an old backup"
        return ""
