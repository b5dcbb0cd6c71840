"""Scheduler events: what the scheduler of a transfer is told (inputs) and what it answers (effects)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Peer: TypeAlias = bytes


# Inputs


@dataclass(frozen=True, slots=True)
class ProviderUp:
    """A peer can be asked. `have` is the set of chunks it has; None means all of them. `pace_bytes_s`: as in
    Paced.
    """

    peer: Peer
    have: int | None
    pace_bytes_s: float | None = None


@dataclass(frozen=True, slots=True)
class Have:
    """A provider has more chunks now."""

    peer: Peer
    more: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A provider gives these chunks to other getters, from whom they can be had soon."""

    peer: Peer
    ordinals: int


@dataclass(frozen=True, slots=True)
class ChunksDone:
    """Chunks from a peer were verified and written, whether they were asked from it or not."""

    peer: Peer
    ordinals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChunkBad:
    """A peer sent bytes that are not that chunk."""

    peer: Peer
    ordinal: int


@dataclass(frozen=True, slots=True)
class ChunkMissing:
    """A peer says that it does not have a chunk (any more)."""

    peer: Peer
    ordinal: int


@dataclass(frozen=True, slots=True)
class ProviderDown:
    """A peer cannot be asked any more; what it owes is asked elsewhere."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Arriving:
    """Bytes came from a peer since the last time, if only of a chunk that is not complete yet."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Paced:
    """From now on this end takes so many bytes a second from a peer; None: all that comes."""

    peer: Peer
    rate_bytes_s: float | None


@dataclass(frozen=True, slots=True)
class Reached:
    """Somebody who reads in order has taken all chunks before `ordinal`. Only where the order counts."""

    ordinal: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; the driver sends one about every 100 ms."""


Input: TypeAlias = (
    ProviderUp
    | Have
    | Taken
    | ChunksDone
    | ChunkBad
    | ChunkMissing
    | ProviderDown
    | Arriving
    | Paced
    | Reached
    | Tick
)


# Effects


@dataclass(frozen=True, slots=True)
class Want:
    """Ask a peer for chunks, in this order."""

    peer: Peer
    ordinals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell a peer that chunks are not wanted any more; what is already on its way is still good."""

    peer: Peer
    ordinals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DropProvider:
    """Stop with a peer. `blamed`: it sent wrong bytes and must not come back in this transfer."""

    peer: Peer
    why: str
    blamed: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """Every chunk is done. Comes once."""


Effect: TypeAlias = Want | Cancel | DropProvider | Finished
