"""Limit rules: which limit is in force in a minute of the week, and why. Pure.

What people told the running node comes before the schedule, that before [limits], that before no limit; for
each direction on its own. Where two entries of the schedule hold, the later one in the file counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import msgspec

from shoal.core.units import NO_LIMIT
from shoal.node.limit_settings import (
    DAY_MINUTES,
    DAYS,
    WEEK_MINUTES,
    LimitSettings,
    Rates,
    ScheduleEntry,
    format_minute,
)

BY_HAND = "set by hand, until it is set to default"
Direction = Literal["upload", "download"]
DIRECTIONS: tuple[Direction, Direction] = ("upload", "download")


class Source(Enum):
    """Where a limit comes from."""

    DEFAULT = "default"
    CONFIG = "config"
    SCHEDULE = "schedule"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class InForce:
    """A limit in bytes a second, or NO_LIMIT, and why it is that."""

    rate_bytes_s: int
    source: Source
    why: str


class Order(msgspec.Struct, array_like=True, frozen=True):
    """What people told the running node; None is nothing."""

    upload: int | None = None
    download: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return self.upload is None and self.download is None


class Orders(msgspec.Struct, array_like=True, frozen=True):
    """All orders, as they are kept: for all peers together, and by peer id."""

    total: Order = Order()
    peers: dict[bytes, Order] = {}


@dataclass(frozen=True)
class LimitRules:
    """The settings of one node; answers are for a minute of the week, which begins on Monday, local time."""

    settings: LimitSettings
    schedule: Sequence[ScheduleEntry]

    def find_total(self, direction: Direction, order: Order, minute: int) -> InForce:
        """Return the limit over all peers."""
        told: int | None = getattr(order, direction)
        entry = self._find_entry(direction, minute)
        if told is not None:
            return InForce(told, Source.COMMAND, BY_HAND)
        if entry is not None:
            rate: int = getattr(entry.rates, direction)
            return InForce(rate, Source.SCHEDULE, entry.describe())
        return _from_config(self.settings.rates, direction, f"limits.{direction}")

    def find_peer(self, direction: Direction, order: Order, names: Sequence[str]) -> InForce:
        """Return the limit of one peer, named in the settings by `names` (the later one counts)."""
        told: int | None = getattr(order, direction)
        if told is not None:
            return InForce(told, Source.COMMAND, BY_HAND)
        found = InForce(NO_LIMIT, Source.DEFAULT, "nothing is set")
        for name in names:
            one = _from_config(self.settings.peers[name], direction, f"limits.peers.{name}.{direction}")
            found = one if one.source is Source.CONFIG else found
        return found

    def find_change(self, minute: int) -> int | None:
        """Return in how many minutes the schedule says something else, None for never."""
        now = self._scheduled(minute)
        edges = {
            (day * DAY_MINUTES + entry.start + shift - minute - 1) % WEEK_MINUTES + 1
            for entry in self.schedule
            for day in entry.days
            for shift in (0, entry.minutes)
        }
        return next((ahead for ahead in sorted(edges) if self._scheduled(minute + ahead) != now), None)

    def _scheduled(self, minute: int) -> tuple[int | None, ...]:
        entries = [self._find_entry(direction, minute) for direction in DIRECTIONS]
        return tuple(
            None if entry is None else getattr(entry.rates, direction)
            for direction, entry in zip(DIRECTIONS, entries, strict=True)
        )

    def _find_entry(self, direction: Direction, minute: int) -> ScheduleEntry | None:
        holding = [e for e in self.schedule if getattr(e.rates, direction) is not None and e.holds(minute)]
        return holding[-1] if holding else None


def describe_minute(minute: int) -> str:
    """Write a minute of the week as day and time of day."""
    return f"{DAYS[minute % WEEK_MINUTES // DAY_MINUTES]} {format_minute(minute % DAY_MINUTES)}"


def _from_config(rates: Rates, direction: Direction, key: str) -> InForce:
    rate: int | None = getattr(rates, direction)
    if rate is None:
        return InForce(NO_LIMIT, Source.DEFAULT, "nothing is set")
    return InForce(rate, Source.CONFIG, f"{key} in config.toml")
