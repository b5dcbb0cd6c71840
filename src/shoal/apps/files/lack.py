"""Lack: why nobody can deliver the rest of a share, where the providers themselves said it.

A share that ended at the other end, and files that changed there, are not waited for as an absent device is.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from shoal.apps.files.context import FilesContext
from shoal.apps.files.patience import CHANGED_S
from shoal.content.feed_log import FeedReader
from shoal.content.manifest import Manifest
from shoal.content.paths import display_path
from shoal.core.errors import Unavailable
from shoal.swarm.fetch import ShareFetch
from shoal.swarm.provider import Standing

CHUNKS_NAMED = 256  # looked at for the names of what changed
PEERS_NAMED = 3


@dataclass(frozen=True, slots=True)
class Lack:
    """What keeps a fetch from going on: a `note` while it waits `patience_s` (None: as for anybody who is not
    there), and the error after that.
    """

    note: str
    error: Unavailable
    patience_s: float | None


def find_lack(
    context: FilesContext, fetch: ShareFetch, reader: FeedReader, manifest: Manifest | None
) -> Lack | None:
    """Return what providers said of why they do not deliver; None if they said nothing, or are not there."""
    providers = fetch.providers
    missing = sorted(o for o in set().union(*(p.lacks for p in providers)) if not fetch.has_chunk(o))
    if manifest is not None and missing:
        where = _name_peers(context, [p.peer for p in providers if not p.lacks.isdisjoint(missing)])
        what, is_one = _name_changed(manifest, missing)
        changed = f"{what} changed at {where} while {'it was' if is_one else 'they were'} fetched"
        error = Unavailable(
            changed,
            cause=f"{'it is' if is_one else 'they are'} not what was shared any more, or gone, and nobody "
            "else who is connected has the rest",
            next_step="once it is shared again there, run the same get again: it fetches the new version, "
            "and nothing twice of what came",
            code="source_changed",
        )
        return Lack(f"{changed}; waiting for its new version", error, CHANGED_S)
    gone = [p.peer for p in providers if p.standing is Standing.GONE]
    if gone:
        may_return = any(p.had_share and not p.barred and p.standing is not Standing.GONE for p in providers)
        name = display_path(reader.opening.name) if reader.opening is not None else "The share"
        ended = f"no longer shared by {_name_peers(context, gone)}"
        error = Unavailable(
            f"{name} is {ended}",
            cause="it was unshared there, and nobody else who is connected has all of it",
            next_step="ask for a new link; or start another device that has it and run the same get again: "
            "what was received is kept",
            code="unshared",
        )
        return Lack(f"{ended}; waiting", error, None if may_return else 0.0)
    return None


def _name_peers(context: FilesContext, peers: list[bytes]) -> str:
    names = [context.name_peer(peer) for peer in peers[:PEERS_NAMED]]
    more = f" and {len(peers) - PEERS_NAMED} more" if len(peers) > PEERS_NAMED else ""
    return ", ".join(names) + more


def _name_changed(manifest: Manifest, missing: list[int]) -> tuple[str, bool]:
    """Return what changed, as far as it can be told by missing chunks, and whether that is one file."""
    sure: set[int] = set()
    unsure: list[int] = []
    for ordinal in missing[:CHUNKS_NAMED]:
        files = {piece.file_index for piece in manifest.pieces(ordinal)}
        if len(files) == 1:
            sure |= files
        else:
            unsure.extend(files)
    if sure:
        more = len(sure) - 1
        name = display_path(manifest.path(min(sure)))
        return (f"{name} and {more} more" if more else name), not more
    folder = posixpath.commonpath([posixpath.dirname(manifest.path(index)) for index in unsure] or [b""])
    return (f"Files in {display_path(folder)}" if folder else "Files"), False
