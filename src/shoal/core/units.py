"""Units: sizes, durations and times as people and scripts read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from shoal.core.errors import LocalMisuse

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) *([A-Za-z]*)")
_SIZE_BYTES = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": 1024 * GIB,
}
_BIT_BYTES = {"kbit": 125, "Mbit": 125_000, "Gbit": 125_000_000}
NO_LIMIT = 0  # the rate that stands for none
MAX_RATE_BYTES_S = 1000**4

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
MAX_DURATION_S = 10 * 365 * 86400.0


def format_size(size_bytes: float) -> str:
    """Write a size with a binary unit: `0 B`, `1.5 KiB`, `512.0 MiB`."""
    if size_bytes < KIB:
        return f"{int(size_bytes)} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= KIB
        if value < KIB:
            return f"{value:.1f} {unit}"
    return f"{value / KIB:.1f} PiB"


def parse_size(text: str) -> int:
    """Read `256 MiB`, `1.5GB` or a plain number of bytes. Raises: LocalMisuse for anything else."""
    return _parse_amount(text, _SIZE_BYTES, "a size", "512 kB, 10 MB, 256 MiB or 1 GiB")


def parse_rate(text: str) -> int:
    """Read `10 MB/s`, `1 MiB/s`, `8 Mbit/s`, a plain number of bytes a second, or `unlimited`: NO_LIMIT.

    Raises: LocalMisuse for anything else; `Mb` is not guessed at.
    """
    cleaned = text.strip()
    if cleaned.lower() in ("unlimited", "none"):
        return NO_LIMIT
    allowed = "500 kB/s, 10 MB/s, 1 MiB/s, 8 Mbit/s or unlimited"
    rate = _parse_amount(cleaned.removesuffix("/s"), _SIZE_BYTES | _BIT_BYTES, "a rate", allowed)
    if not 0 < rate <= MAX_RATE_BYTES_S:
        raise LocalMisuse(
            f"{text[:80]!r} is not a rate", cause="it is zero, or more than 1 TB/s", next_step=allowed
        )
    return rate


def format_rate(rate_bytes_s: int) -> str:
    """Write a rate as it was typed, if it was round: `10 MB/s`, `1 MiB/s`; NO_LIMIT is `unlimited`."""
    if rate_bytes_s == NO_LIMIT:
        return "unlimited"
    for unit in ("GB", "GiB", "MB", "MiB", "kB", "KiB"):
        if rate_bytes_s % _SIZE_BYTES[unit] == 0:
            return f"{rate_bytes_s // _SIZE_BYTES[unit]} {unit}/s"
    return f"{rate_bytes_s / 1000:.1f} kB/s" if rate_bytes_s >= 1000 else f"{rate_bytes_s} B/s"


def _parse_amount(text: str, units: dict[str, int], what: str, allowed: str) -> int:
    match = _AMOUNT.fullmatch(text.strip())
    unit = units.get(match.group(2) or "B") if match is not None else None
    if match is None or unit is None or len(text) > 40:
        raise LocalMisuse(
            f"{text[:80]!r} is not {what}",
            cause=f"a number with one of these units is expected: {', '.join(units)}",
            next_step=f"write it like {allowed}",
        )
    return round(float(match.group(1)) * unit)


def format_duration(seconds: float) -> str:
    """Write a duration in at most two units: `0.4 s`, `59 s`, `2 m 05 s`, `3 h 20 m`, `4 d 2 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def parse_duration(text: str) -> float:
    """Read `30s`, `10m`, `24h`, `7d`, `1h30m` or a plain number of seconds; at most ten years.

    Raises: LocalMisuse for anything else.
    """
    cleaned = text.strip().lower().replace(" ", "")
    total = 0.0
    if re.fullmatch(r"\d+(\.\d+)?", cleaned):
        total = float(cleaned)
    else:
        end = 0
        for part in _DURATION.finditer(cleaned):
            if part.start() != end:
                break
            total += float(part.group(1)) * _DURATION_S[part.group(2)]
            end = part.end()
        if not cleaned or end != len(cleaned):
            raise LocalMisuse(
                f"{text!r} is not a duration",
                cause="a number with a unit is expected: ms, s, m, h, d, w",
                next_step="write it like 30s, 10m, 24h, 7d or 1h30m",
            )
    if total > MAX_DURATION_S:
        raise LocalMisuse(
            f"{text!r} is too long", cause="a duration is at most ten years", next_step="use less"
        )
    return total


def count_of(count: int, noun: str) -> str:
    """Return `1 chunk`, `2 chunks`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_time(wall_s: float) -> str:
    """Write a time as RFC 3339 in UTC, whole seconds: `2026-11-22T10:58:00Z`.

    A value out of range (it may come from another device) is written as the nearest representable time.
    """
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    try:
        moment = epoch + timedelta(seconds=int(wall_s))
    except OverflowError:
        moment = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
