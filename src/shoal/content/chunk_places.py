"""Chunk places: which chunks of one manifest lie in others too, and where in them.

Only keys are compared, nothing is read: whoever reads a found chunk verifies it like a received one. The
answer takes 8 bytes a chunk; looking for it holds at most WANTED_CHUNKS keys and SOURCE_CHUNKS of a source at
a time, so that a share of terabytes is searched in the memory of a small one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from shoal.content.manifest import CHUNK_LIMIT, Manifest
from shoal.core.errors import LocalMisuse

WANTED_CHUNKS: Final = 131_072  # looked for at once: about 15 MiB while it lasts
SOURCE_CHUNKS: Final = 65_536
SOURCE_LIMIT: Final = 4096
_ORDINAL_BITS: Final = 24

assert 1 << _ORDINAL_BITS >= CHUNK_LIMIT


class ChunkPlace(NamedTuple):
    """Where a chunk lies: in which source, as which of its chunks."""

    source: int
    ordinal: int


class ChunkPlaces:
    """The places that were found, by ordinal of the manifest that was asked for."""

    def __init__(self, chunk_count: int) -> None:
        self._places = array("Q", bytes(8 * chunk_count))
        self.count = 0

    def put(self, ordinal: int, place: int) -> None:
        """Note a packed place."""
        self.count += not self._places[ordinal]
        self._places[ordinal] = place + 1

    def find(self, ordinal: int) -> ChunkPlace | None:
        """Return where a chunk lies, or None."""
        packed = self._places[ordinal]
        if not packed:
            return None
        return ChunkPlace((packed - 1) >> _ORDINAL_BITS, (packed - 1) & (1 << _ORDINAL_BITS) - 1)

    def in_reading_order(self) -> list[int]:
        """Return the ordinals that have a place, sorted by place: each source is read once, forwards."""
        places = self._places
        return sorted((i for i in range(len(places)) if places[i]), key=places.__getitem__)


def find_places(manifest: Manifest, wanted: Iterable[int], sources: Sequence[Manifest]) -> ChunkPlaces:
    """Look for the chunks `wanted` of a complete manifest; a place in an earlier source is preferred.

    About 0.1 s for a million chunks of sources, more for those that are found: use a thread. Raises:
    LocalMisuse beyond SOURCE_LIMIT.
    """
    if len(sources) > SOURCE_LIMIT:
        raise LocalMisuse(f"chunks are looked for in at most {SOURCE_LIMIT} sources")
    places = ChunkPlaces(manifest.chunk_count)
    rest = iter(wanted)
    while batch := list(islice(rest, WANTED_CHUNKS)):
        _find_batch(manifest, batch, sources, places)
    return places


def _find_batch(
    manifest: Manifest, wanted: list[int], sources: Sequence[Manifest], places: ChunkPlaces
) -> None:
    words = manifest.key_words()
    missing = {words[ordinal] for ordinal in wanted}
    found: dict[int, int] = {}
    for number, source in enumerate(sources):
        if not missing:
            break
        for word, ordinal in _matches(source, missing):
            found[word] = number << _ORDINAL_BITS | ordinal
    for ordinal in wanted:
        packed = found.get(words[ordinal])
        if packed is None:
            continue
        source, there = sources[packed >> _ORDINAL_BITS], packed & (1 << _ORDINAL_BITS) - 1
        if (
            manifest.chunk_key(ordinal) == source.chunk_key(there)
            and manifest.chunk_length(ordinal) == source.chunk_length(there)
            and manifest.chunk_generation(ordinal) == source.chunk_generation(there)
        ):
            places.put(ordinal, packed)


def _matches(source: Manifest, missing: set[int]) -> Iterator[tuple[int, int]]:
    """Yield (word, ordinal) of the chunks whose word is missing, and take it out of `missing`."""
    words = source.key_words()
    for first in range(0, source.chunk_count, SOURCE_CHUNKS):
        block = words[first : first + SOURCE_CHUNKS].tolist()
        hits = missing.intersection(block)
        if not hits:
            continue
        missing -= hits
        for ordinal, word in enumerate(block, first):
            if word in hits:
                hits.discard(word)
                yield word, ordinal
