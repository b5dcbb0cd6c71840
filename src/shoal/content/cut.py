"""Cut: where a section of the stream is divided into chunks, FastCDC with a secret seed.

The cut points are part of the format: an unchanged file must give the same chunks in every release. They are
pinned by spec/vectors/content.json; see docs/decisions/0002-cut-seed.md for the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyfastcdc import FastCDC

from shoal.core.errors import LocalMisuse
from shoal.core.units import KIB, MIB

CHUNK_MIN_BYTES: Final = 128 * KIB
CHUNK_AVERAGE_BYTES: Final = 512 * KIB
CHUNK_MAX_BYTES: Final = MIB
NORMALISATION: Final = 1
SEED_LIMIT: Final = 2**63  # the library shifts the seed left by one in 64 bits


class Cutter:
    """Cuts one section after the other. Not for two threads at once; make one for each."""

    def __init__(self, seed: int) -> None:
        """Raises: LocalMisuse for a seed outside 1 .. 2**63 - 1."""
        if not 0 < seed < SEED_LIMIT:
            raise LocalMisuse("A cut seed is out of range", cause="it has 63 bits and is not zero")
        self._fastcdc = FastCDC(
            avg_size=CHUNK_AVERAGE_BYTES,
            min_size=CHUNK_MIN_BYTES,
            max_size=CHUNK_MAX_BYTES,
            normalized_chunking=NORMALISATION,
            seed=seed,
        )

    def cut(self, data: memoryview, *, final: bool) -> Iterator[int]:
        """Yield the lengths of the chunks at the beginning of `data` that later bytes cannot change.

        `data` begins at a cut. A cut is certain only if CHUNK_MAX_BYTES follow its chunk's first byte, or if
        `data` ends where the section ends (`final`). What is not yielded has to be given again with more
        bytes. Releases the interpreter lock while it looks for a cut.
        """
        left = len(data)
        if not left:
            return
        chunks = self._fastcdc.cut_buf(data)
        while left >= CHUNK_MAX_BYTES or (final and left):
            length: int = next(chunks).length
            left -= length
            yield length

    def cut_whole(self, data: bytes) -> list[int]:
        """Return the lengths of all chunks of a section that is in memory."""
        return list(self.cut(memoryview(data), final=True))
