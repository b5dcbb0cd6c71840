"""Liar: makes a node serve wrong, short, foreign or no chunks, while its protocol stays correct.

The lie sits where a bad disk or a changed program would: in what is read for a chunk. Everything above it
(proof, have-map, lane) is honest, so a getter learns of it only by verifying.
"""

from __future__ import annotations

import threading
from enum import Enum

from shoal.core.errors import LocalMisuse, StorageFault
from shoal.swarm.serve import ChunkSource
from shoal.swarm.service import SwarmService


class Lie(Enum):
    """What a lying source does with a chunk."""

    FLIPPED = "one wrong bit, right length"
    SHORT = "the last byte is missing"
    LONG = "one byte too many"
    FOREIGN = "another chunk of the same share"
    MISSING = "it is announced, and then not there"
    SILENT = "nothing is sent until `release`"
    SLOW = "a tenth of a second late"
    TWICE = "right; who patches the sender sends it once more, unasked"


class LyingSource:
    """A chunk source that lies about what an honest one says. Any thread."""

    def __init__(self, honest: ChunkSource, total: int, lie: Lie, truthful_chunks: int = 0) -> None:
        """The first `truthful_chunks` are honest: a liar that is found out later."""
        self.told = 0
        self.lie = lie
        self._honest = honest
        self._total = total
        self._truthful = truthful_chunks
        self._released = threading.Event()

    def read_into(self, ordinal: int, buffer: memoryview) -> int:
        """Read a chunk and lie about it. Raises: StorageFault where the lie is that it is missing."""
        if self._truthful > 0:
            self._truthful -= 1
            return self._honest.read_into(ordinal, buffer)
        self.told += 1
        match self.lie:
            case Lie.FLIPPED:
                length = self._honest.read_into(ordinal, buffer)
                buffer[length // 2] ^= 1
                return length
            case Lie.SHORT:
                return self._honest.read_into(ordinal, buffer) - 1
            case Lie.LONG:
                return self._honest.read_into(ordinal, buffer) + 1
            case Lie.FOREIGN:
                return self._honest.read_into((ordinal + 1) % self._total, buffer)
            case Lie.MISSING:
                raise StorageFault("The chunk is not there", code="changed")
            case Lie.SILENT:
                self._released.wait()
            case Lie.SLOW:
                self._released.wait(0.1)
        return self._honest.read_into(ordinal, buffer)

    def rest(self) -> None:
        """Let go of what the honest source keeps open."""
        self._honest.rest()

    def release(self) -> None:
        """Let what waits in silence go on, honestly."""
        self._released.set()


def make_liar(swarm: SwarmService, share_id: bytes, lie: Lie, truthful_chunks: int = 0) -> list[LyingSource]:
    """Let a node lie in every version it offers of a share; returns the lying sources.

    Raises: LocalMisuse if it offers none.
    """
    offer = swarm.find_offer(share_id)
    if offer is None or not offer.versions:
        raise LocalMisuse("a node that does not offer a share cannot lie about it")
    sources: list[LyingSource] = []
    for version in offer.versions.values():
        source = LyingSource(version.source, version.total, lie, truthful_chunks)
        version.source = source
        sources.append(source)
    return sources
