"""Limit settings: the tables [limits] and [[schedule]] of config.toml, checked key by key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from shoal.core.errors import ConfigFault, LocalMisuse
from shoal.core.units import NO_LIMIT, format_rate, format_size, parse_rate, parse_size
from shoal.transport.lane_broker import MEMORY_BYTES, MEMORY_MIN_BYTES
from shoal.wire.limits import NAME_BYTES

T = TypeVar("T")

RATE_MIN_BYTES_S = 10_000  # two lanes at their least (swarm/pacer.py); below it a transfer has no end
PEERS_LIMIT = 256
ENTRIES_LIMIT = 64
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
WEEK_MINUTES = 7 * DAY_MINUTES

_RATE_ALLOWED = '"unlimited" or at least 10 kB/s, e.g. "10 MB/s" or "1 MiB/s", or a number of bytes a second'
_DAYS_ALLOWED = 'a list of days out of mon, tue, wed, thu, fri, sat, sun, or runs of them like "mon-fri"'
_TIME_ALLOWED = 'a local time from "00:00" to "24:00"'
_TIME = re.compile(r"([01]\d|2[0-4]):([0-5]\d)")


@dataclass(frozen=True)
class Rates:
    """Limits in bytes a second; NO_LIMIT is said too, None is not said."""

    upload: int | None = None
    download: int | None = None

    def describe(self) -> list[str]:
        """Say what is said."""
        found = (("upload", self.upload), ("download", self.download))
        return [f"{name} {format_rate(rate)}" for name, rate in found if rate is not None]


@dataclass(frozen=True)
class LimitSettings:
    """The table [limits]. Peers by name, peer id or the beginning of one."""

    rates: Rates = Rates()
    peers: Mapping[str, Rates] = field(default_factory=dict)
    memory_bytes: int = MEMORY_BYTES

    def describe(self) -> list[str]:
        """Say everything, defaults included."""
        rates = Rates(self.rates.upload or NO_LIMIT, self.rates.download or NO_LIMIT)
        peers = [f"{name}: {', '.join(found.describe())}" for name, found in self.peers.items()]
        return [*rates.describe(), f"memory {format_size(self.memory_bytes)}", *peers]


@dataclass(frozen=True)
class ScheduleEntry:
    """One [[schedule]]: other limits on some days between two minutes of local time.

    `end` at or before `start` means the next day; `days` are those on which it begins.
    """

    days: frozenset[int]
    start: int
    end: int
    rates: Rates

    @property
    def minutes(self) -> int:
        """How long it lasts."""
        return self.end - self.start if self.end > self.start else self.end - self.start + DAY_MINUTES

    def holds(self, minute: int) -> bool:
        """Whether it holds in this minute of the week, which begins on Monday."""
        return any(
            (minute - day * DAY_MINUTES - self.start) % WEEK_MINUTES < self.minutes for day in self.days
        )

    def describe(self) -> str:
        """Return days and times: `mon-fri 08:00-18:00`."""
        return f"{_format_days(self.days)} {format_minute(self.start)}-{format_minute(self.end)}"


def format_minute(minute: int) -> str:
    """Write a minute of a day or week as a time of day."""
    return "24:00" if minute == DAY_MINUTES else f"{minute % DAY_MINUTES // 60:02d}:{minute % 60:02d}"


def check_rate(rate_bytes_s: int) -> int:
    """Return a rate that may be set. Raises: LocalMisuse below RATE_MIN_BYTES_S."""
    if rate_bytes_s != NO_LIMIT and rate_bytes_s < RATE_MIN_BYTES_S:
        raise LocalMisuse(
            f"{format_rate(rate_bytes_s)} is too little",
            cause="transfers would not end",
            next_step=f"allowed is {_RATE_ALLOWED}",
            code="bad_rate",
        )
    return rate_bytes_s


def check_limits(value: object, where: str) -> LimitSettings:
    """Read the table [limits]. Raises: ConfigFault that names the key and what is allowed."""
    table = _Table("limits", value, where, ("upload", "download", "memory", "peers"))
    peers = _Table("limits.peers", table.value.get("peers", {}), where, None)
    if len(peers.value) > PEERS_LIMIT:
        raise table.fault("peers", f"{len(peers.value)} of them", f"at most {PEERS_LIMIT}")
    found = {}
    for name, one in peers.value.items():
        if not 0 < len(name.encode()) <= NAME_BYTES or not name.isprintable():
            raise peers.fault(name, name, f"a name or peer id of 1 to {NAME_BYTES} bytes")
        found[name] = _read_rates(_Table(f"limits.peers.{name}", one, where, ("upload", "download")))
    memory = table.read(
        "memory", _read_memory, f'a size of at least {format_size(MEMORY_MIN_BYTES)}, "256 MiB"'
    )
    return LimitSettings(_read_rates(table), found, MEMORY_BYTES if memory is None else memory)


def check_schedule(value: object, where: str) -> tuple[ScheduleEntry, ...]:
    """Read the tables [[schedule]]. Raises: ConfigFault that names the key and what is allowed."""
    if not isinstance(value, list) or len(value) > ENTRIES_LIMIT:
        raise _fault("schedule", value, where, f"up to {ENTRIES_LIMIT} tables, each headed [[schedule]]")
    return tuple(_read_entry(f"schedule {number}", one, where) for number, one in enumerate(value, 1))


def _read_entry(key: str, value: object, where: str) -> ScheduleEntry:
    table = _Table(key, value, where, ("days", "from", "to", "upload", "download"))
    days = table.read("days", _read_days, _DAYS_ALLOWED)
    start = table.read("from", _read_time, _TIME_ALLOWED)
    end = table.read("to", _read_time, _TIME_ALLOWED)
    if start is None or end is None:
        missing = "from" if start is None else "to"
        raise table.fault(missing, "not there", _TIME_ALLOWED)
    if start == DAY_MINUTES:
        raise table.fault("from", "24:00", 'a local time from "00:00" to "23:59"')
    rates = _read_rates(table)
    if rates == Rates():
        raise table.fault("upload", "not there", f"upload, download or both: {_RATE_ALLOWED}")
    return ScheduleEntry(frozenset(range(7)) if days is None else days, start, end, rates)


class _Table:
    """A table of the file, with its name for what is said about it. `keys` None allows any."""

    def __init__(self, name: str, value: object, where: str, keys: tuple[str, ...] | None) -> None:
        self._name = name
        self._where = where
        if not isinstance(value, dict):
            raise _fault(name, value, where, "a table" + (f" with {', '.join(keys)}" if keys else ""))
        self.value: dict[str, object] = value
        for key in value:
            if keys is not None and key not in keys:
                raise ConfigFault(
                    f"There is no setting {f'{name}.{key}'!r}",
                    cause=f"it stands {where}",
                    next_step=f"settings of {name} are: {', '.join(keys)}",
                    code="unknown_setting",
                )

    def read(self, key: str, reader: Callable[[object], T], allowed: str) -> T | None:
        """Return a value, None if it is not there. Raises: ConfigFault."""
        if key not in self.value:
            return None
        try:
            return reader(self.value[key])
        except (LocalMisuse, ValueError) as error:
            raise self.fault(key, self.value[key], allowed) from error

    def fault(self, key: str, value: object, allowed: str) -> ConfigFault:
        """Return what is to be said about a key."""
        return _fault(f"{self._name}.{key}", value, self._where, allowed)


def _fault(key: str, value: object, where: str, allowed: str) -> ConfigFault:
    return ConfigFault(
        f"The setting {key!r} cannot be used",
        cause=f"{where} it is {value!r}"[:400],
        next_step=f"allowed is {allowed}",
        code="bad_setting",
    )


def _read_rates(table: _Table) -> Rates:
    upload, download = (table.read(key, _read_rate, _RATE_ALLOWED) for key in ("upload", "download"))
    return Rates(upload, download)


def _read_rate(value: object) -> int:
    return check_rate(parse_rate(_to_text(value)))


def _read_memory(value: object) -> int:
    size = parse_size(_to_text(value))
    if size < MEMORY_MIN_BYTES:
        raise ValueError(value)
    return size


def _to_text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(value)  # noqa: TRY004 - it becomes a ConfigFault
    return str(value)


def _read_days(value: object) -> frozenset[int]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise ValueError(value)
    found: set[int] = set()
    for text in texts:
        first, _, last = str(text).strip().lower().partition("-")
        start, end = DAYS.index(first), DAYS.index(last or first)
        found.update(day % 7 for day in range(start, (end if end >= start else end + 7) + 1))
    return frozenset(found)


def _read_time(value: object) -> int:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(value)
    minute = int(match.group(1)) * 60 + int(match.group(2))
    if minute > DAY_MINUTES:
        raise ValueError(value)
    return minute


def _format_days(days: Iterable[int]) -> str:
    """Write days as runs: `mon-fri`, `sat, sun`."""
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ", ".join(
        f"{DAYS[run[0]]}-{DAYS[run[-1]]}" if len(run) > 2 else ", ".join(DAYS[day] for day in run)
        for run in runs
    )
