"""Files: share, get, and all that goes on about them; brings everything back after a restart."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

from shoal.apps.files.checks import check_get, check_paths
from shoal.apps.files.context import FilesContext
from shoal.apps.files.courtesy import Courtesy
from shoal.apps.files.file_looks import FileLooks
from shoal.apps.files.follows import Follows
from shoal.apps.files.keeping import let_go_of_old
from shoal.apps.files.listing import LIST_LIMIT, Lister, Listing
from shoal.apps.files.ports import FilesNetwork, FilesOverlay, FileStores
from shoal.apps.files.served import ServedShare
from shoal.apps.files.share import Look, VersionMaker, check_may_share, create_share
from shoal.apps.files.share_turn import ShareTurn
from shoal.apps.files.spool import Spool, sweep_notes
from shoal.apps.files.status import ShareStatus, TransferStatus
from shoal.apps.files.stream_get import ShareStream
from shoal.apps.files.transfers import Transfers
from shoal.apps.files.wanted import find_wanted
from shoal.apps.files.watch import Watches
from shoal.content.link import Link
from shoal.core.clock import Clock
from shoal.core.errors import LocalMisuse, ShoalError, StorageFault
from shoal.core.supervisor import Supervisor
from shoal.core.undo import async_undone_on_failure
from shoal.storage.local_chunks import LocalTree
from shoal.storage.shares import ShareState
from shoal.swarm.service import SwarmService

log = logging.getLogger("shoal.files")

BACKGROUND_HASHINGS = 1  # each uses two threads
CLOSE_TIMEOUT_S = 2.5  # SIGTERM has to end a node within 5 s


class Files:
    """File sharing of one node. Loop thread only; `start` after the transport, `close` before it."""

    def __init__(
        self,
        *,
        network: FilesNetwork,
        swarm: SwarmService,
        overlay: FilesOverlay,
        stores: FileStores,
        home: bytes,
        supervisor: Supervisor,
        clock: Clock,
    ) -> None:
        courtesy = Courtesy(swarm.activity.is_busy)
        self._context = FilesContext(network, swarm, overlay, stores, home, supervisor, clock, courtesy)
        self._shares: dict[bytes, ServedShare] = {}
        self._hashing: dict[bytes, asyncio.Task[None]] = {}
        self.gets = Transfers(self._context, self, self._refuse_if_followed)
        self.follows = Follows(
            self._context, self._shares, self.gets.run, self.gets.claim, self.cancel, self._check_get
        )
        self._background_hash_slots = asyncio.Semaphore(BACKGROUND_HASHINGS)
        self._watches = Watches(self._look)
        self._file_looks = FileLooks(self._context, self._shares)
        self._lister = Lister(self._context)
        self._spool = Spool(home)
        self._sharing = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Serve what was served before, go on hashing and getting. Raises: StorageFault."""
        self._context.listen_to_manifests()
        await self.gets.load()
        for share_row in await self._context.stores.shares.load():
            share = self._shares[share_row.share_id] = ServedShare(self._context, share_row)
            share.is_back = False
        self._context.supervisor.spawn("shares", self._bring_back())
        self._file_looks.start()
        self._context.supervisor.spawn("spool", self._sweep_spool())
        for record in list(self.gets.records.values()):
            if record.options.follow is not None:
                self.follows.start(record)
        self.gets.go_on()

    async def close(self) -> None:
        """Stop everything so that `start` brings it back; idempotent."""
        if self._closed:
            return
        self._closed = True
        tasks = [*self._hashing.values(), *self.gets.running.values(), *self._watches.cancel()]
        tasks += [*self.follows.cancel(), *self._file_looks.cancel()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
            if pending:  # a thread that renames or syncs: it may go on until the process ends
                log.warning("%s share or get did not stop within %s s", len(pending), CLOSE_TIMEOUT_S)
        await self._watches.close()
        for share in self._shares.values():
            await share.stop()
        self._context.close()

    # Shares

    async def share(
        self,
        paths: list[bytes],
        watch: bool | None = None,
        *,
        background: bool = False,
        accept_removals: bool = False,
    ) -> ShareStatus:
        """Share absolute paths and return at once; the same paths give the same share, with a new version if
        they changed. `watch`: make versions from now on whenever they change; None leaves that as it is;
        False for what is shared already only ends that, also where the files are gone. In the `background`
        hashing and serving give way to others. `accept_removals`: the next version of a share that is watched
        may lack nearly all files of the one before.

        Raises: LocalMisuse, Refused, StorageFault, Unavailable.
        """
        roots = sorted({os.path.normpath(path) for path in paths})
        if watch is False and not accept_removals:
            share = await self._end_watch(roots, background)
            if share is not None:
                return share.status()
        check_paths(self._context, roots)
        async with self._sharing:
            row = await self._context.stores.shares.find_own(roots)
            share = self._shares.get(row.share_id) if row is not None else None
            if share is not None:
                await self.come_back(share)
            if watch:
                self._watches.check_room(share.share_id if share is not None else None)
            if share is None:
                share = await create_share(self._context, roots)
                self._shares[share.share_id] = share
            elif share.share_id not in self._hashing:
                share.row = share.row._replace(state=ShareState.HASHING)
            share.accepts_removals = accept_removals
            await share.set_background(background)
            await share.offer()
            self._start_hashing(share)
            if watch is not None:
                await share.set_watch(watch)
                await (self._watches.stop(share.share_id) if not watch else self._watches.start(share))
        return share.status()

    async def _end_watch(self, roots: list[bytes], background: bool) -> ServedShare | None:
        """End the watching of what is shared, and make no version: what is held back stays so. Returns None
        if it is not shared. Raises: StorageFault.
        """
        async with self._sharing:
            row = await self._context.stores.shares.find_own(roots)
            share = self._shares.get(row.share_id) if row is not None else None
            if share is None:
                return None
            await self.come_back(share)
            await share.set_watch(False)
            await self._watches.stop(share.share_id)
            if background:
                await share.set_background(True)
            if share.kept is not None and share.row.state is ShareState.CHANGED:
                await share.update(ShareState.CHANGED)  # why no version was made; file looks say what is gone
        return share

    async def share_stream(
        self, name: bytes, pieces: AsyncIterator[bytes], *, background: bool = False
    ) -> ShareStatus:
        """Keep what comes as a file called `name` in the home, and share it; returns when all of it came.

        Raises: as `share`, and as `Spool.receive`.
        """
        check_may_share(self._context)
        path = await self._spool.receive(name, pieces)
        async with self._sharing:
            async with async_undone_on_failure(partial(self._spool.remove, path)):
                share = await create_share(self._context, [path])
            self._shares[share.share_id] = share
            await share.set_background(background)
            await share.offer()
            self._start_hashing(share)
        return share.status()

    def shares(self) -> list[ShareStatus]:
        """Return everything that this node serves or prepares, oldest first."""
        return [share.status() for share in self._shares.values()]

    async def look_at_files(self) -> None:
        """Compare the files of own shares with what was hashed, for at most half a second; what is found is
        their state then. Safe to cancel.
        """
        await self._file_looks.look_now()

    def find_share(self, share_id: bytes) -> ShareStatus | None:
        """Return a share, or None."""
        share = self._shares.get(share_id)
        return share.status() if share is not None else None

    async def wait_share(self, share_id: bytes, done_bytes: int | None, wait_s: float) -> ShareStatus:
        """Return a share's state once it is settled or differs from `done_bytes`, or after `wait_s`.

        Raises: LocalMisuse for an unknown share. Safe to cancel.
        """
        share = self._get_share(share_id)
        deadline = self._context.clock.monotonic() + wait_s
        while share.row.state is ShareState.HASHING and share.done_bytes == done_bytes:
            left = deadline - self._context.clock.monotonic()
            if left <= 0 or not await share.signal.wait(left):
                break
        return share.status()

    async def unshare(self, share_id: bytes) -> ShareStatus:
        """Stop serving a share and forget it; files are left alone. Raises: LocalMisuse, StorageFault."""
        await self.gets.settle(share_id)
        async with self._sharing:  # not while the same path is shared again
            share = self._get_share(share_id)
            self.follows.refuse_if_followed(share_id)
            await self.come_back(share)
            task = self._hashing.get(share_id)
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
            await self._watches.stop(share_id)
            status = share.status()
            # a get of it goes on, and is served at its end
            await share.forget(described=self.gets.is_running(share_id))
            self._shares.pop(share_id, None)
            for path in share.row.roots:
                await self._spool.remove(path)
        return status

    # Transfers

    async def settle(self) -> None:
        """Wait until what was just fetched is served."""
        await self.gets.settle()

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
        """Fetch what a link names into a folder: as `Transfers.get`."""
        return await self.gets.get(link, dest, overwrite, wait_s, only, background=background)

    def transfers(self) -> list[TransferStatus]:
        """Return all transfers, oldest first."""
        return self.gets.statuses()

    def find_transfer(self, transfer_id: bytes) -> TransferStatus | None:
        """Return a transfer, or None."""
        return self.gets.find(transfer_id)

    async def wait_transfer(self, transfer_id: bytes, revision: int | None, wait_s: float) -> TransferStatus:
        """Return a transfer's state once it is another: as `Transfers.wait`."""
        return await self.gets.wait(transfer_id, revision, wait_s)

    async def pause(self, transfer_id: bytes) -> TransferStatus:
        """Stop a transfer for now: as `Transfers.pause`."""
        return await self.gets.pause(transfer_id)

    async def resume(self, transfer_id: bytes) -> TransferStatus:
        """Go on with a transfer: as `Transfers.resume`."""
        return await self.gets.resume(transfer_id)

    async def cancel(self, transfer_id: bytes) -> TransferStatus:
        """End and forget a transfer: as `Transfers.cancel`."""
        return await self.gets.cancel(transfer_id)

    def share_turn(self, share_id: bytes) -> ShareTurn:
        """Return what whoever fetches a share has to have: one at a time."""
        return self.gets.share_turn(share_id)

    # Looking into shares

    async def ls(self, link: Link, path: bytes = b"", limit: int = LIST_LIMIT) -> Listing:
        """Return what lies at a path of what a link names. Raises: as `Lister.ls`."""
        share = self._shares.get(link.share_id)
        if share is not None:
            await self.come_back(share)
        return await self._lister.ls(link, share, self.share_turn(link.share_id), path, limit)

    def get_stream(
        self,
        link: Link,
        only: Sequence[bytes] = (),
        wait_s: float | None = 0.0,
        *,
        background: bool = False,
    ) -> ShareStream:
        """Return the one file that a link names, to be read from its beginning to its end.

        Raises: LocalMisuse (code "bad_pattern"); what else can go wrong is raised by `ShareStream.read`.
        """
        share, turn = self._shares.get(link.share_id), self.share_turn(link.share_id)
        return ShareStream(
            self._context,
            self._lister,
            link,
            only=only,
            wait_s=wait_s,
            background=background,
            share=share,
            turn=turn,
        )

    # Inside

    async def _bring_back(self) -> None:
        """Load and serve the shares of before."""
        for share in list(self._shares.values()):
            await self.come_back(share)

    async def _sweep_spool(self) -> None:
        """Delete what pipes left behind that broke when the node ended, and notes of forgotten transfers."""
        try:
            await self._spool.sweep(path for share in self._shares.values() for path in share.row.roots)
            await sweep_notes(self.gets.journal_dir, self.gets.records)
        except StorageFault as fault:
            log.warning("what is left of pipes and transfers was not swept: %s", fault)

    async def come_back(self, share: ServedShare) -> None:
        """Load and serve a share of before, once; an unreadable one is marked and does not stop others."""
        async with share.coming_back:
            if share.is_back or self._shares.get(share.share_id) is not share:
                return
            share.is_back = True
            try:
                await self._bring_back_one(share)
                if share.kept is not None and share.row.state is not ShareState.HASHING:
                    await self.let_go_of_old(share)  # what a crash left
                if share.is_own and share.details.watch:
                    await self._watches.start(share)
            except ShoalError as error:
                log.warning("share %s is not served: %s", share.row.name, error)
                state = ShareState.FAILED if share.row.version == 0 else ShareState.CHANGED
                try:
                    await share.update(state, error)
                except StorageFault as fault:
                    log.warning("the state of share %s is not recorded: %s", share.row.name, fault)

    async def _bring_back_one(self, share: ServedShare) -> None:
        await share.load_feed()
        if not share.is_own and self._context.swarm.find_offer(share.share_id) is not None:
            return  # a transfer of another version took it over
        if not share.row.version and share.row.state is not ShareState.HASHING:
            return  # it never was complete, and nobody should wait for it
        await share.offer()
        # without a version of before the feed may have one whose places were not recorded: hashed again below
        closing = share.reader.find_version(share.row.version)
        if closing is not None:
            await share.check_stored(closing)
            only, have = share.details.only, None
            if only:
                manifest = await share.load_version(closing)
                have = (await find_wanted(self._context, manifest, only)).servable
            if self._shares.get(share.share_id) is not share:
                return  # a transfer was faster
            share.done_bytes = closing.stream_bytes
            share.serve(closing, share.describe(closing), share.details.roots, have)
        if share.is_own and share.row.state is ShareState.HASHING:
            self._start_hashing(share)

    def _start_hashing(self, share: ServedShare) -> None:
        if share.share_id in self._hashing or self._closed:
            return
        task = self._context.supervisor.spawn("hash", self._hash(share, VersionMaker(share)))
        self._hashing[share.share_id] = task
        task.add_done_callback(lambda _: self._hashing.pop(share.share_id, None))

    async def _hash(self, share: ServedShare, maker: VersionMaker) -> None:
        async with self._background_hash_slots if share.details.background else nullcontext():
            await maker.run()
        # by itself: who shares the same again now wants it hashed again
        self._context.supervisor.spawn("old versions", self.let_go_of_old(share))

    async def _look(self, share: ServedShare) -> Look:
        found = await VersionMaker(share).look()
        if found is Look.PUBLISHED:
            await self.let_go_of_old(share)
        return found

    async def let_go_of_old(self, share: ServedShare) -> None:
        """Drop the descriptions of versions that nobody can get any more."""
        try:
            await let_go_of_old(self._context, share, self.gets.find_begun(share.share_id))
        except StorageFault as fault:
            log.warning("old versions of %s are not let go of: %s", share.row.name, fault)

    def find_trees(self) -> list[tuple[bytes, LocalTree]]:
        """Return what this node serves and where it lies: a get takes from there what it can."""
        return [
            (share.share_id, LocalTree(share.kept, share.details.roots, share.details.only))
            for share in self._shares.values()
            if share.kept is not None and share.details.roots
        ]

    async def adopt(self, share: ServedShare) -> None:
        previous = self._shares.get(share.share_id)
        self._shares[share.share_id] = share
        if previous is not None:
            share.take_over(previous)
            previous.signal.touch()
        await share.offer()

    @property
    def context(self) -> FilesContext:
        """What pins work with too."""
        return self._context

    def _get_share(self, share_id: bytes) -> ServedShare:
        share = self._shares.get(share_id)
        if share is None:
            raise LocalMisuse("There is no such share", next_step="see `shoal shares`", code="unknown_share")
        return share

    @property
    def served(self) -> Mapping[bytes, ServedShare]:
        """All shares by id."""
        return self._shares

    def _refuse_if_followed(self, share_id: bytes) -> None:
        self.follows.refuse_if_followed(share_id)

    def _check_get(self, link: Link, dest: bytes) -> None:
        check_get(self._context, self._shares, link, dest)
