"""Pacer events: what the pacer of a direction is told (inputs) and what it answers (effects)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Peer: TypeAlias = bytes
LaneNumber: TypeAlias = int  # given by the driver, never used again


# Inputs


@dataclass(frozen=True, slots=True)
class AddLane:
    """A lane is open. `background`: it moves what the others leave."""

    lane: LaneNumber
    peer: Peer
    background: bool = False


@dataclass(frozen=True, slots=True)
class DropLane:
    """A lane ended; what it asked for is forgotten."""

    lane: LaneNumber


@dataclass(frozen=True, slots=True)
class Ask:
    """A lane wants to move bytes, and waits. A second one before the grant replaces the first."""

    lane: LaneNumber
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SetLimits:
    """From now on these limits hold, in bytes a second; None, or no entry, means no limit."""

    total: float | None = None
    peers: Mapping[Peer, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moved:
    """Foreground lanes have moved bytes without asking, because no limit is on them."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; the driver sends one when a Wake says so."""


Input: TypeAlias = AddLane | DropLane | Ask | SetLimits | Moved | Tick


# Effects


@dataclass(frozen=True, slots=True)
class Grant:
    """A lane may move so many bytes now: at most what it asked for. It has to ask again for the rest."""

    lane: LaneNumber
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Send a Tick at this time; the last effect of a step while a lane waits. Replaces the one before."""

    at: float


Effect: TypeAlias = Grant | Wake
