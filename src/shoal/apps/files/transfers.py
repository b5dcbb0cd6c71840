"""Transfers: the gets of a node: begun, attached to, run, paused, forgotten.

A follow is a transfer too; follow.py begins it again and again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from weakref import WeakValueDictionary

from shoal.apps.files.checks import check_get
from shoal.apps.files.context import FilesContext
from shoal.apps.files.get import Get
from shoal.apps.files.keeping import find_forgettable
from shoal.apps.files.places import Place, Places
from shoal.apps.files.served import ServedShare
from shoal.apps.files.share_turn import Claim, ShareTurn
from shoal.apps.files.status import TransferStatus
from shoal.apps.files.transfer_state import TransferOptions, TransferRecord
from shoal.content.link import Link
from shoal.content.paths import display_path
from shoal.content.selection import check_patterns
from shoal.core.errors import LocalMisuse, ShoalError, StorageFault
from shoal.storage.local_chunks import LocalTree
from shoal.storage.rows import pack
from shoal.storage.transfers import TransferRow, TransferState, make_transfer_id

log = logging.getLogger("shoal.files")

JOURNAL_DIR = b"transfers"


class ShareKeeper(Protocol):
    """What transfers ask of who keeps the shares."""

    @property
    def served(self) -> Mapping[bytes, ServedShare]:
        """All shares by id."""
        ...

    async def come_back(self, share: ServedShare) -> None:
        """Load and serve a share of before, once."""
        ...

    async def adopt(self, share: ServedShare) -> None:
        """Serve what was just fetched, in place of what was served of it before."""
        ...

    async def let_go_of_old(self, share: ServedShare) -> None:
        """Drop the descriptions of versions that nobody can get any more."""
        ...

    def find_trees(self) -> list[tuple[bytes, LocalTree]]:
        """Return what this node serves and where it lies: a get takes from there what it can."""
        ...


class Transfers:
    """All transfers of one node. Loop thread only."""

    def __init__(
        self,
        context: FilesContext,
        keeper: ShareKeeper,
        refuse_if_followed: Callable[[bytes], None],
    ) -> None:
        """`refuse_if_followed(share_id)` raises Refused if a copy here follows that share."""
        self.records: dict[bytes, TransferRecord] = {}
        self.running: dict[bytes, asyncio.Task[None]] = {}
        self.places = Places()
        self.journal_dir = os.path.join(context.home, JOURNAL_DIR)
        self._context = context
        self._keeper = keeper
        self._refuse_if_followed = refuse_if_followed
        self._turns = WeakValueDictionary[bytes, ShareTurn]()  # those that somebody has or waits for
        self._getting = asyncio.Lock()

    async def load(self) -> None:
        """Read what is kept of transfers. Raises: StorageFault."""
        for row in await self._context.stores.transfers.load():
            self.records[row.id] = TransferRecord(self._context, row)

    def go_on(self) -> None:
        """Begin again what ran when the node ended."""
        for record in list(self.records.values()):
            goes = not record.state.is_end and record.state is not TransferState.PAUSED
            if goes and record.options.follow is None:
                record.resumed = True
                record.options.wait_s = None  # nobody stands there waiting; it goes on when it can
                self._start(record)

    async def get(
        self,
        link: Link,
        dest: bytes,
        overwrite: bool = False,
        wait_s: float | None = 0.0,
        only: Sequence[bytes] = (),
        *,
        background: bool = False,
    ) -> TransferStatus:
        """Fetch what a link names into the absolute folder `dest`, or attach to the transfer that does.

        `only` are patterns (content/selection.py) for a part of it; other patterns are another transfer.
        A transfer that went on by itself after a restart, and was done before anybody asked, is handed over
        once; asking again after that looks for a newer version and checks what is there. In the `background`
        it moves what other transfers leave; asking again without brings it to the others.

        Raises: Refused, LocalMisuse, StorageFault. What fails later is in the transfer's status.
        """
        dest = os.path.normpath(dest)
        only = check_patterns(only)
        check_get(self._context, self._keeper.served, link, dest)
        async with self._getting:
            self._refuse_if_followed(link.share_id)
            row = await self._context.stores.transfers.find_target(link.to_text(), dest, only)
            record = self.records.get(row.id) if row is not None else None
            if record is not None and record.state.is_end:
                await self.settle(record.row.share_id)
            if record is None:
                record = await self._add(link, dest, TransferOptions(overwrite, wait_s, only=only))
            elif record.state is TransferState.DONE and not record.options.collected:
                return await record.collect()
            elif record.id not in self.running:
                self._renew(record)
            elif record.options.background != background:
                await self._stop(record)  # its lanes and threads are of the other kind
            record.options.background = background
            record.options.overwrite = overwrite
            record.options.wait_s = wait_s
            record.asked_at = self._context.clock.monotonic()
            if record.id not in self.running:
                self._start(record)
        return record.status()

    def statuses(self) -> list[TransferStatus]:
        """Return all transfers, oldest first."""
        return [record.status() for record in self.records.values()]

    def find(self, transfer_id: bytes) -> TransferStatus | None:
        """Return a transfer, or None."""
        record = self.records.get(transfer_id)
        return record.status() if record is not None else None

    async def wait(self, transfer_id: bytes, revision: int | None, wait_s: float) -> TransferStatus:
        """Return a transfer's state once its revision differs, at the latest after `wait_s`.

        Raises: LocalMisuse for an unknown transfer. Safe to cancel.
        """
        record = self._get(transfer_id)
        if record.signal.revision == revision and not record.state.is_end:
            await record.signal.wait(wait_s)
        return await record.collect()

    async def pause(self, transfer_id: bytes) -> TransferStatus:
        """Stop a transfer until `resume`, also across restarts. Raises: LocalMisuse, StorageFault."""
        record = self._get(transfer_id)
        self._refuse_if_followed(record.row.share_id)
        await self._stop(record)
        if not record.state.is_end:
            await record.enter(TransferState.PAUSED)
        return record.status()

    async def resume(self, transfer_id: bytes) -> TransferStatus:
        """Go on with a transfer that is paused or failed. Raises: LocalMisuse."""
        record = self._get(transfer_id)
        self._refuse_if_followed(record.row.share_id)
        if record.id not in self.running and record.state is not TransferState.DONE:
            self._start(record)
        return record.status()

    async def cancel(self, transfer_id: bytes) -> TransferStatus:
        """End a transfer and delete its part files; what is at its final place stays.

        Raises: LocalMisuse, StorageFault.
        """
        record = self._get(transfer_id)
        self._refuse_if_followed(record.row.share_id)
        await self._stop(record)
        status = record.status()
        if record.state is not TransferState.DONE:
            await Get(self._context, record, self.journal_dir, Place(self.places)).discard()
        await self._context.stores.transfers.drop(record.id)
        self.records.pop(record.id, None)
        await self.forget_description(record.row.share_id)
        record.signal.touch()
        return status

    async def settle(self, share_id: bytes | None = None) -> None:
        """Wait for gets (of one share, or all) that are done and about to be served from their final place.

        Until then no share has that place, and a share forgotten now would come back.
        """
        ending = [
            self.running[record.id]
            for record in self.records.values()
            if record.state.is_end and record.id in self.running and share_id in (None, record.row.share_id)
        ]
        if ending:
            await asyncio.wait(ending)
            await asyncio.sleep(0)  # what they leave behind is done in the next turn

    def share_turn(self, share_id: bytes) -> ShareTurn:
        """Return what whoever fetches a share has to have: one at a time."""
        return self._turns.setdefault(share_id, ShareTurn())

    def is_running(self, share_id: bytes) -> bool:
        """Whether something of a share is just being fetched."""
        return any(self.records[one].row.share_id == share_id for one in self.running)

    def find_begun(self, share_id: bytes) -> list[int]:
        """Return the versions of a share that are not fetched whole yet."""
        mine = [record for record in self.records.values() if record.row.share_id == share_id]
        return [record.version for record in mine if record.state is not TransferState.DONE]

    async def claim(self, link: Link, dest: bytes) -> TransferRecord:
        """Return the transfer of a link to a place for a follow to use, stopped."""
        async with self._getting:
            row = await self._context.stores.transfers.find_target(link.to_text(), dest, [])
            record = self.records.get(row.id) if row is not None else None
            if record is None:
                return await self._add(link, dest, TransferOptions())
            await self._stop(record)
            return record

    async def _add(self, link: Link, dest: bytes, options: TransferOptions) -> TransferRecord:
        now = self._context.clock.wall()
        row = TransferRow(
            id=make_transfer_id(),
            share_id=link.share_id,
            link=link.to_text(),
            dest=dest,
            created_at=now,
            updated_at=now,
            options=pack(options),
        )
        await self._context.stores.transfers.add(row, options.only)
        record = TransferRecord(self._context, row)
        self.records[record.id] = record
        return record

    def _renew(self, record: TransferRecord) -> None:
        """Let an ended transfer begin again; what it counted stays only if it was not done."""
        if record.state is TransferState.DONE:
            record.done_bytes = record.fetched_bytes = record.refetched_bytes = record.reused_bytes = 0
            record.version = 0
            record.resumed = False
            record.providers = {}
            record.options = TransferOptions(name=record.options.name, only=record.options.only)
        record.error = None
        record.state = TransferState.QUEUED

    def _start(self, record: TransferRecord) -> None:
        record.state = TransferState.QUEUED
        record.error = None
        record.note = ""
        record.signal.touch()
        task = self._context.supervisor.spawn("get", self.run(record))
        self.running[record.id] = task
        task.add_done_callback(lambda _: self.running.pop(record.id, None))

    async def run(self, record: TransferRecord) -> Get:
        background = record.options.background
        turn = self.share_turn(record.row.share_id)
        place = Place(
            self.places, background=background, say=record.say, on_aside=lambda: turn.look_again(claim)
        )

        def may_give_way() -> bool:
            return (background or place.is_aside) and record.state is not TransferState.FINISHING

        what = f"the {record.kind} into {display_path(record.row.dest)}"
        claim = Claim(what, background, record.say, may_give_way)
        get = await turn.run(claim, lambda: self._run_in_turn(record, place))
        await self._forget_done()
        return get

    async def _run_in_turn(self, record: TransferRecord, place: Place) -> Get:
        context = self._context.choose(background=record.options.background)
        get = Get(context, record, self.journal_dir, place, self._keeper.find_trees, self._keeper.adopt)
        earlier = self._keeper.served.get(record.row.share_id)
        try:
            if earlier is not None:
                await self._keeper.come_back(earlier)  # what it put there is known then
            await place.take()
            await get.run()
        except ShoalError as error:
            log.warning("a transfer stopped: %s", error)
            kept = await context.run(lambda _: get.parts.describe_kept())
            error.next_step = "; ".join(filter(None, (error.next_step, kept)))
            await self._enter_failed(record, error)
        finally:
            place.leave()
            self._context.tidy_soon()  # a get refers to itself, so that its manifest has to be collected
            record.queue()  # unless it ended: another one may come first now
        if get.served is not None:
            await self._keeper.let_go_of_old(get.served)
        return get

    async def _forget_done(self) -> None:
        """Bound the list of transfers that are done; those whose task is not over yet stay for now."""
        for record in find_forgettable(self.records.values()):
            if record.id not in self.running:
                try:
                    await self._context.stores.transfers.drop(record.id)
                except StorageFault as fault:
                    log.warning("an old transfer is not forgotten: %s", fault)
                    return
                self.records.pop(record.id, None)
                await self.forget_description(record.row.share_id)

    async def _enter_failed(self, record: TransferRecord, error: ShoalError) -> None:
        try:
            await record.enter(TransferState.FAILED, error)
        except (
            StorageFault
        ) as fault:  # the database's disk is full too: the state in memory is enough for now
            log.warning("the end of a transfer is not recorded: %s", fault)

    async def forget_description(self, share_id: bytes) -> None:
        """Drop feed and segments of a share that is neither served nor got here any more."""
        if share_id in self._keeper.served or any(r.row.share_id == share_id for r in self.records.values()):
            return
        await self._context.stores.objects.drop_share(share_id)
        await self._context.stores.entries.drop_log(share_id)

    async def _stop(self, record: TransferRecord) -> None:
        task = self.running.get(record.id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def _get(self, transfer_id: bytes) -> TransferRecord:
        record = self.records.get(transfer_id)
        if record is None:
            raise LocalMisuse(
                "There is no such transfer", next_step="see `shoal transfers`", code="unknown_transfer"
            )
        return record
