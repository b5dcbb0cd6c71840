"""Part files: what one get has on this disk of the version it fetches, and what is recorded of it.

The writer of the part files, the ledger of chunks, the journal of receipts, and the plan: what is there
already, be it recorded, received and not recorded, at DEST, in another share's files, or fetched of a draft.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import TypeAlias

from shoal.apps.files.context import FilesContext
from shoal.apps.files.journal import ReceiptJournal
from shoal.apps.files.target import MovingSource, VersionTarget
from shoal.apps.files.transfer_state import TransferRecord
from shoal.apps.files.wanted import Wanted, find_wanted
from shoal.content.draft import DraftReader, carry_over
from shoal.content.feed import DRAFTS
from shoal.content.feed_log import FeedReader
from shoal.content.keys import ChunkKeys
from shoal.content.manifest import Manifest, ManifestHeader
from shoal.content.paths import PART_PREFIX, display_path
from shoal.core.errors import RemoteFault, ShoalError, StorageFault
from shoal.core.units import format_size
from shoal.identity.secrets import DEFAULT_SPACE
from shoal.storage.chunk_ledger import ChunkLedger
from shoal.storage.local_chunks import LocalTree, copy_local_chunks
from shoal.storage.selected_chunks import SelectedChunks
from shoal.storage.transfers import TransferState
from shoal.storage.tree_writer import TreeWriter

log = logging.getLogger("shoal.files")

WRITE_DELAY_NS = 1_000_000_000  # a chunk is on its way to its file so long after it was noted, at most

ID_SHOWN = 12  # characters of a transfer's id that people get to see

EARLIER_DRAFTS = 4  # of which it is known what was fetched; who restarts more often costs what came before

FindTrees: TypeAlias = Callable[[], list[tuple[bytes, LocalTree]]]  # share id, what lies on this disk
_Fetched: TypeAlias = tuple[Manifest, set[int]]  # of a draft what is described, and what of it was fetched


class PartFiles:
    """The part files of one transfer. `plan` opens them for a version, `close` leaves them to be resumed.
    Loop thread only.
    """

    def __init__(
        self, context: FilesContext, record: TransferRecord, journal_dir: bytes, find_trees: FindTrees
    ) -> None:
        self.journal = ReceiptJournal(os.path.join(journal_dir, record.id.hex().encode() + b".journal"))
        self.writer: TreeWriter | None = None
        self.ledger: ChunkLedger | None = None
        self.source: MovingSource | None = None
        self.manifest: Manifest | None = None
        self.wanted = Wanted(Manifest(ManifestHeader(DEFAULT_SPACE, 0)))
        self.target: VersionTarget
        self._context = context
        self._record = record
        self._find_trees = find_trees
        self._notes_path = os.path.join(journal_dir, record.id.hex().encode() + b".pieces")
        self._part_name = PART_PREFIX + record.id.hex().encode()
        self._keys: dict[int, ChunkKeys] = {}
        self._disk_id = b""  # of where the part files lie
        self._lost: set[int] = set()  # received before a crash, and gone
        self._earlier: dict[int, _Fetched] = {}  # drafts of before, by number

    @property
    def mirrors(self) -> bool:
        """Whether DEST is made what the share is: a follow that has begun, or was allowed to replace."""
        follow = self._record.options.follow
        return follow is not None and (follow.version > 0 or self._record.options.overwrite)

    async def plan(
        self,
        version: int,
        manifest: Manifest,
        wanted: Wanted,
        reader: FeedReader,
        limit: int | None = None,
    ) -> bool:
        """Prepare the part files; see what is there already.

        Part files of another version may hold chunks that are also this one's. For a draft, of which at most
        `limit` chunks come, False if something lies at DEST already: then the version itself has to be known.
        Raises: Refused, StorageFault. Cancelling leaves all to be resumed.
        """
        context, record = self._context, self._record
        planned = record.version
        if limit is not None and await context.run(lambda _: self._lies_there(manifest)):
            return False
        generations = manifest.generations() or {manifest.header.generation}
        keys = self._keys = {g: ChunkKeys(context.network.content_secret(g)) for g in generations}
        await context.run(lambda _: self._check_dest())
        writer = await self._make_writer(manifest, wanted)
        self.wanted = wanted
        if limit is not None or planned < DRAFTS:
            record.version = version  # else only once what the draft's records say is said of this version
        await record.enter(TransferState.VERIFYING)
        await context.run(lambda _: writer.prepare(overwrite=record.options.overwrite or self.mirrors))
        disk_id = self._disk_id = await context.run(lambda _: writer.read_disk_id())
        is_after_draft = planned >= DRAFTS and planned != version
        keep = await self._load_earlier(reader, version) if is_after_draft or version >= DRAFTS else []
        before = self._earlier.pop(planned, None) if is_after_draft else None
        open_ledger = context.stores.transfers.open_ledger
        chunks = limit or manifest.chunk_count
        ledger = self.ledger = await open_ledger(record.id, version, chunks, disk_id, keep)
        count = manifest.chunk_count  # of a draft less may be described than was recorded before a crash
        recorded = {ordinal for ordinal in ledger.ordinals() if ordinal < count}
        counted = recorded.union(ordinal for ordinal in ledger.doubtful if ordinal < count)
        noted, lost = await context.run(lambda _: self.journal.read(0 if is_after_draft else count))
        record.fetched_bytes += sum(manifest.chunk_length(o) for o in noted - counted)
        record.refetched_bytes += sum(manifest.chunk_length(o) for o in (noted - counted) & lost)
        received = counted | noted | lost
        record.resumed = record.resumed or bool(received)
        reused = await context.run(lambda cancelled: writer.reuse_existing(keys, cancelled))
        since_ns = await context.run(lambda _: self.journal.touched_ns()) + WRITE_DELAY_NS
        here = reused | await context.run(lambda _: writer.find_trusted(recorded, since_ns))
        unsure = received - here
        unsure |= await context.run(lambda _: self._find_earlier(manifest, 0)) - here
        if before is not None:
            self._earlier[planned] = before
            carried = await context.run(lambda _: carry_over(*before, manifest))
            here |= await context.run(lambda _: writer.find_trusted(carried.same, since_ns))
            unsure |= (carried.same | carried.maybe) - here
        elif planned not in (0, version):
            unsure = set(wanted.ordinals) - here
        if unsure:
            here |= await context.run(lambda cancelled: writer.verify(sorted(unsure), keys, cancelled))
        missing = set(wanted.ordinals) - here
        await context.run(lambda _: writer.check_space(missing))
        local = await self.copy_local(manifest, sorted(missing))
        here |= local
        self._lost = received - here
        record.reused_bytes += sum(manifest.chunk_length(o) for o in (reused | local) - received)
        ledger.unmark(recorded - here)
        ledger.mark(
            here,
            fetched_bytes=record.fetched_bytes,
            refetched_bytes=record.refetched_bytes,
            reused_bytes=record.reused_bytes,
        )
        await ledger.flush()  # before what it replaces is forgotten
        record.version = version
        await context.stores.transfers.forget_doubtful(record.id, disk_id)
        record.done_bytes = sum(manifest.chunk_length(o) for o in here)
        self.journal.start(self._lost)
        self.manifest = manifest
        self.target = VersionTarget(version, manifest, keys, writer, self.journal, limit)
        self.source = MovingSource(writer)
        return True

    async def find_carried(self, manifest: Manifest, first: int) -> set[int]:
        """Return which chunks from `first` on, that a draft got meanwhile, are there of drafts before it."""
        writer, run = self.writer, self._context.run
        assert writer is not None
        unsure = await run(lambda _: self._find_earlier(manifest, first))
        if not unsure:
            return unsure
        return await run(lambda cancelled: writer.verify(sorted(unsure), self._keys, cancelled))

    def _find_earlier(self, manifest: Manifest, first: int) -> set[int]:
        """Return which chunks from `first` on drafts of before may have brought."""
        found: set[int] = set()
        for before, done in self._earlier.values():
            carried = carry_over(before, done, manifest, first)
            found |= carried.same | carried.maybe
        return found

    def _lies_there(self, manifest: Manifest) -> bool:
        """Whether something lies where a top name of the share will be."""
        dest = self._record.row.dest
        return any(os.path.lexists(os.path.join(dest, name)) for name in manifest.top_names())

    async def copy_local(self, manifest: Manifest, missing: list[int]) -> set[int]:
        """Take what other shares on this disk hold of the chunks `missing`; return which those were."""
        writer = self.writer
        assert writer is not None
        share_id = self._record.row.share_id
        own = [tree for share, tree in self._find_trees() if share == share_id]
        trees = own + [tree for share, tree in self._find_trees() if share != share_id]
        return await self._context.run(
            lambda cancelled: copy_local_chunks(manifest, missing, trees, self._keys, writer, cancelled)
        )

    def note_chunks(self, peer: bytes, ordinals: list[int], size_bytes: int, options: bytes) -> None:
        """Record chunks that came from a peer, with what is counted; `options` as they are kept."""
        record, manifest, ledger = self._record, self.manifest, self.ledger
        assert manifest is not None
        assert ledger is not None
        # in the end game two lanes may bring one chunk: fetched twice, done once
        again = {ordinal for ordinal in ordinals if ledger.has(ordinal)}
        record.done_bytes += sum(manifest.chunk_length(o) for o in ordinals if o not in again)
        record.fetched_bytes += size_bytes
        record.providers[peer] = record.providers.get(peer, 0) + size_bytes
        if self._lost:
            again |= self._lost.intersection(ordinals)
            self._lost -= again
        record.refetched_bytes += sum(map(manifest.chunk_length, again))
        ledger.mark(
            ordinals,
            size_bytes,
            done_bytes=record.done_bytes,
            fetched_bytes=record.fetched_bytes,
            refetched_bytes=record.refetched_bytes,
            providers=record.providers,
            options=options,
        )

    def note_found(self, ordinals: set[int], *, reused: bool) -> None:
        """Record chunks that were there already when a draft told of them; `reused`: from elsewhere."""
        record, manifest, ledger = self._record, self.manifest, self.ledger
        assert manifest is not None
        assert ledger is not None
        size = sum(manifest.chunk_length(o) for o in ordinals)
        record.done_bytes += size
        record.reused_bytes += size if reused else 0
        ledger.mark(ordinals, reused_bytes=record.reused_bytes, done_bytes=record.done_bytes)

    async def start_over(self) -> None:
        """Trust nothing of what was received: the disk did not save it."""
        writer = self.writer
        assert writer is not None
        self.journal.start(self.wanted.ordinals)  # all of it counts as fetched again
        await self._context.stores.transfers.forget_chunks(self._record.id)
        await self._context.run(lambda _: writer.discard())
        self._record.done_bytes = 0

    async def discard_empty(self) -> None:
        """Delete the part files of a transfer that ended before anything came; its journal may say what was
        received before that and lost. Raises: StorageFault.
        """
        writer = self.writer
        if writer is not None and not self._record.done_bytes:
            self._remove_notes()
            await self._context.run(lambda _: writer.discard())

    def _remove_notes(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._notes_path)

    async def discard(self) -> None:
        """Delete part files and journals of a transfer that is not running; it cannot resume then."""
        self.journal.remove()
        self._remove_notes()
        nothing = Manifest(ManifestHeader(DEFAULT_SPACE, 0))
        writer = TreeWriter(self._record.row.dest, self._part_name, nothing)
        await self._context.run(lambda _: writer.discard())

    def describe_kept(self) -> str:
        """Return what is kept to go on with, and how to get rid of it; empty if nothing is. Blocks."""
        record = self._record
        path = os.path.join(record.row.dest, self._part_name)
        if not record.done_bytes or record.options.follow is not None or not os.path.lexists(path):
            return ""
        return (
            f"what came ({format_size(record.done_bytes)}) is kept in {display_path(path)}: "
            f"`shoal transfers --cancel {record.id.hex()[:ID_SHOWN]}` deletes it"
        )

    async def close(self) -> None:
        """Close all of it so that the transfer can go on later."""
        self.journal.close()
        if self.ledger is not None:
            try:
                await self.ledger.close()
            except ShoalError as error:
                log.warning("what was received last is not recorded: %s", error)
        if self.writer is not None:
            writer = self.writer
            await self._context.run(lambda _: writer.close())
        self.writer = self.ledger = self.source = None

    def _check_dest(self) -> None:
        """Raises: StorageFault if DEST is gone that we have written to: the folder it was in may be where its
        disk belongs, and is no place for it.
        """
        dest = self._record.row.dest
        if self._record.done_bytes and not os.path.lexists(dest):
            raise StorageFault(
                f"Nothing was written to {display_path(dest)}",
                cause="it is not there any more, and what was received before lies in it",
                next_step="if it lies on a disk that was unplugged, plug that in; else make the folder; "
                "then run the same command again",
                code="not_found",
            )

    async def _make_writer(self, manifest: Manifest, wanted: Wanted) -> TreeWriter:
        context, record = self._context, self._record
        trees = [tree for share, tree in self._find_trees() if share == record.row.share_id]
        here_before = next((tree for tree in trees if _lies_in(tree, record.row.dest)), None)
        if here_before is not None and here_before.only and self.mirrors:
            here_before = None  # what a mirror removes has to be all of ours
        owned = part = None
        if here_before is not None:
            owned = await self._load_owned(here_before)
        if here_before is not None and owned is not None:
            part = (await find_wanted(context, owned, here_before.only)).selection
        chunks = SelectedChunks(manifest, wanted.selection, self._notes_path)
        at = context.clock.wall() if self.mirrors else None
        self.writer = TreeWriter(record.row.dest, self._part_name, manifest, chunks, owned, at, part)
        return self.writer

    async def _load_owned(self, tree: LocalTree) -> Manifest | None:
        """Return what an earlier get put here; None if that is not known any more."""
        try:
            return await self._context.run(lambda _: tree.manifest.get())
        except StorageFault as fault:
            log.warning("what lies at the place of a transfer is looked at as a stranger's: %s", fault)
            return None

    async def _load_earlier(self, reader: FeedReader, version: int) -> list[int]:
        """Know what was fetched of drafts before `version`; return their numbers, whose records are to stay
        until there is a version: a draft describes little at first, and the getter may be started again.
        """
        recorded = await self._context.stores.transfers.recorded_versions(self._record.id)
        numbers = [n for n in recorded if n >= DRAFTS and n != version][-EARLIER_DRAFTS:]
        for number in numbers:
            if number not in self._earlier:
                fetched = await self._load_before(number, reader, [*numbers, version])
                if fetched is not None:
                    self._earlier[number] = fetched
        self._earlier = {n: fetched for n, fetched in self._earlier.items() if n in numbers}
        return numbers

    async def _load_before(self, number: int, reader: FeedReader, keep: list[int]) -> _Fetched | None:
        """Return a draft that was fetched before, as far as it is stored, and which of its chunks are
        recorded; None if that is not known any more.
        """
        context, announced, opening = self._context, reader.find_draft(number), reader.opening
        if announced is None or opening is None:
            return None
        draft = DraftReader(announced, ManifestHeader(opening.space, opening.generation))
        try:
            await context.run(lambda _: draft.read(context.stores.objects.find_blocking))
        except RemoteFault as error:
            log.info("a draft that was begun cannot be read: %s", error)
        if not draft.is_described:
            return None
        open_ledger = context.stores.transfers.open_ledger
        ledger = await open_ledger(self._record.id, number, draft.limit, self._disk_id, keep)
        done = {ordinal for ordinal in ledger.ordinals() if ordinal < draft.manifest.chunk_count}
        await ledger.close()
        return (draft.manifest, done) if done else None


def _lies_in(tree: LocalTree, dest: bytes) -> bool:
    """Whether a get put this tree, or the part of it that is here, into `dest`."""
    real = os.path.realpath(dest)
    return bool(tree.roots) and all(path == os.path.join(real, name) for name, path in tree.roots.items())
