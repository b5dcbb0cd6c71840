"""Keeping: what of old versions and old transfers stays in the database, and what is let go of.

A description is of use as long as chunks of its version can be had: here those of the newest version and of
the one before it are served (swarm.offer), and a transfer that was begun goes on with its own. Pins hold
their versions themselves. Everything else of a share goes, in one transaction; a crash before it leaves more
than is needed until the next version, or start.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal.apps.files.context import FilesContext
from shoal.apps.files.served import ServedShare
from shoal.apps.files.transfer_state import TransferRecord
from shoal.content.feed import Closing
from shoal.content.feed_log import FeedReader
from shoal.content.manifest_loader import list_segments
from shoal.core.errors import RemoteFault
from shoal.storage.transfers import TransferState
from shoal.swarm.offer import VERSIONS

DONE_KEPT = 100  # done transfers that are listed
DONE_LIMIT = 1000  # with those whose result nobody has asked for


async def let_go_of_old(context: FilesContext, share: ServedShare, begun: Iterable[int]) -> int:
    """Drop the sealed objects of versions of a share that nobody can ask for any more; returns how many.

    `begun` are the versions that transfers of this node are at. Not while somebody fetches the share.
    Raises: StorageFault.
    """
    async with share.making:  # what is being published is stored before it is said
        reader = share.reader
        latest = reader.latest
        if latest is None:
            return 0
        wanted = {share.row.version, *begun, *range(latest.version - VERSIONS + 1, latest.version + 1)}
        offer = context.swarm.find_offer(share.share_id)
        if offer is not None:
            wanted.update(offer.versions)
        closings = [closing for version in wanted if (closing := reader.find_version(version)) is not None]
        keep = await find_objects(context, closings)
        keep |= _announced(reader, wanted)
        return await context.stores.objects.drop_share(share.share_id, keep, durable=False)


def find_forgettable(records: Iterable[TransferRecord]) -> list[TransferRecord]:
    """Return the done transfers beyond the newest DONE_KEPT, or DONE_LIMIT where nobody was told yet that
    they are done. Those that follow or may go on stay.
    """
    done = [r for r in records if r.state is TransferState.DONE and r.options.follow is None]
    done.sort(key=lambda record: record.row.created_at, reverse=True)
    told = [record for record in done[DONE_KEPT:DONE_LIMIT] if record.options.collected]
    return told + done[DONE_LIMIT:]


async def find_objects(context: FilesContext, closings: Iterable[Closing]) -> set[bytes]:
    """Return the ids of all sealed objects of some versions, as far as they are stored.

    Raises: StorageFault.
    """
    find = context.stores.objects.find_blocking
    versions = list(closings)

    def work() -> set[bytes]:
        found: set[bytes] = set()
        for closing in versions:
            root = find(closing.content_id)
            if root is None:
                continue
            found.add(closing.content_id)
            try:
                found.update(list_segments(root, closing.root_key, find))
            except RemoteFault:  # it is not well formed, so that nobody can use it
                continue
        return found

    return await context.run(lambda _: work())


def _announced(reader: FeedReader, numbers: Iterable[int]) -> set[bytes]:
    """Return what the feed announces of the version to come, and of drafts that are served."""
    drafts = [draft for number in numbers if (draft := reader.find_draft(number)) is not None]
    references = [*reader.announced, *(r for draft in drafts for r in (*draft.entries, *draft.chunks))]
    return {reference.object_id for reference in references}
