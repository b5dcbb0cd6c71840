"""Wanted: what of a version somebody wants or has here: all of it, or what patterns select."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shoal.apps.files.context import FilesContext
from shoal.content.manifest import Manifest
from shoal.content.selection import Selection, select
from shoal.swarm.chunk_set import to_set


class Wanted:
    """The wanted part of one manifest. Sets of chunks are integers (swarm/chunk_set.py)."""

    def __init__(self, manifest: Manifest, selection: Selection | None = None) -> None:
        self.manifest = manifest
        self.selection = selection
        total = manifest.chunk_count
        if selection is None:
            self.ordinals: Sequence[int] = range(total)
            self.chunks = self.servable = (1 << total) - 1
            self.files = manifest.file_count
            self.total_bytes = manifest.total_bytes
            self.stream_bytes = manifest.stream_bytes
            return
        self.ordinals = selection.wanted()
        self.chunks = to_set(self.ordinals, total)
        self.servable = to_set(selection.whole(), total)  # of other chunks only a part is written
        self.files = selection.files
        self.total_bytes = selection.total_bytes
        self.stream_bytes = sum(manifest.chunk_length(ordinal) for ordinal in self.ordinals)

    @property
    def left_out(self) -> int:
        """The chunks that are not wanted."""
        return (1 << self.manifest.chunk_count) - 1 & ~self.chunks

    def pick_servable(self, ordinals: Iterable[int]) -> list[int]:
        """Return those chunks of which all is written."""
        selection = self.selection
        return [o for o in ordinals if selection is None or selection.is_whole(o)]


async def find_wanted(context: FilesContext, manifest: Manifest, only: Sequence[bytes]) -> Wanted:
    """Return what the patterns `only` select, or all of it without patterns.

    Raises: LocalMisuse (code "bad_pattern"). Cancelling is safe.
    """
    if not only:
        return Wanted(manifest)
    return await context.run(lambda cancelled: Wanted(manifest, select(manifest, only, cancelled)))
