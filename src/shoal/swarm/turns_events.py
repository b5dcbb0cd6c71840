"""Turns events: what the machine of upload turns is told (inputs) and what it answers (effects)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

LaneNumber: TypeAlias = int
Getter: TypeAlias = bytes


@dataclass(frozen=True, slots=True)
class LaneUp:
    """A lane was opened for a getter; it may have several."""

    lane: LaneNumber
    getter: Getter


@dataclass(frozen=True, slots=True)
class LaneDown:
    """A lane ended; a turn it has or waits for ends too."""

    lane: LaneNumber


@dataclass(frozen=True, slots=True)
class Ask:
    """A lane has a chunk to send and waits for its turn."""

    lane: LaneNumber


@dataclass(frozen=True, slots=True)
class Sent:
    """A lane has sent what it had a turn for. `asks`: it waits for the next one, in the same moment, so that
    no other one is taken for the only one that waits.
    """

    lane: LaneNumber
    size_bytes: int
    asks: bool = False


@dataclass(frozen=True, slots=True)
class Rest:
    """A lane has nothing to send any more: it waits for no turn, and gives one that it has back unused."""

    lane: LaneNumber


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Input: TypeAlias = LaneUp | LaneDown | Ask | Sent | Rest | Tick


@dataclass(frozen=True, slots=True)
class Turn:
    """A lane may send one chunk now."""

    lane: LaneNumber


@dataclass(frozen=True, slots=True)
class Wake:
    """Somebody waits: send a Tick at this time."""

    at: float


Effect: TypeAlias = Turn | Wake
