"""Relay settings: the table [relay_limits] of config.toml: what this device gives as a relay."""

from __future__ import annotations

from shoal.core.errors import ConfigFault, LocalMisuse
from shoal.core.units import NO_LIMIT, format_rate, format_size, parse_duration, parse_rate, parse_size
from shoal.transport.reach.relay_machine import RelayLimits

STREAMS_LIMIT = 1024
IDLE_MIN_S = 20.0  # a session that nobody uses says something every 15 s (spec/session.md)
GUESTS_LIMIT = 64
_KEYS = ("streams", "streams_a_peer", "rate", "day", "idle", "guests")
_ALLOWED = (
    f"streams and streams_a_peer: 1 to {STREAMS_LIMIT}; rate: 10 MB/s or unlimited; "
    f"day: 20 GB or unlimited; idle: {IDLE_MIN_S:g}s or more; guests: 0 to {GUESTS_LIMIT}"
)


def check_relay(value: object, where: str) -> RelayLimits:
    """Read the table. Raises: ConfigFault that names the key and what is allowed."""
    if not isinstance(value, dict):
        raise _fault("relay_limits", value, where)
    default = RelayLimits()
    for key in value:
        if key not in _KEYS:
            raise ConfigFault(
                f"There is no setting {key!r} in [relay_limits]",
                cause=f"it stands {where}",
                next_step=f"settings are: {', '.join(_KEYS)}",
                code="unknown_setting",
            )
    rate = _read_rate(value, where)
    return RelayLimits(
        streams=_read_count("streams", value, default.streams, where),
        streams_a_peer=_read_count("streams_a_peer", value, default.streams_a_peer, where),
        rate_bytes_s=default.rate_bytes_s if "rate" not in value else rate,
        day_bytes=_read_day(value, default.day_bytes, where),
        idle_s=_read_idle(value, default.idle_s, where),
        guests=_read_count("guests", value, default.guests, where, 0, GUESTS_LIMIT),
    )


def describe_relay(limits: RelayLimits) -> list[str]:
    """Return the limits in words."""
    rate = "unlimited" if limits.rate_bytes_s is None else format_rate(limits.rate_bytes_s)
    day = "unlimited" if limits.day_bytes is None else format_size(limits.day_bytes)
    return [
        f"streams {limits.streams}",
        f"streams_a_peer {limits.streams_a_peer}",
        f"rate {rate}",
        f"day {day}",
        f"idle {limits.idle_s:g}s",
        f"guests {limits.guests}",
    ]


def _read_count(
    key: str, table: dict[str, object], default: int, where: str, least: int = 1, most: int = STREAMS_LIMIT
) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _fault(key, value, where)
    return value


def _read_rate(table: dict[str, object], where: str) -> int | None:
    value = table.get("rate", "unlimited")
    try:
        if not isinstance(value, str):
            raise _fault("rate", value, where)
        rate = parse_rate(value)
    except LocalMisuse as error:
        raise _fault("rate", value, where) from error
    return None if rate == NO_LIMIT else rate


def _read_day(table: dict[str, object], default: int | None, where: str) -> int | None:
    if "day" not in table:
        return default
    value = table["day"]
    if value == "unlimited":
        return None
    try:
        if not isinstance(value, str):
            raise _fault("day", value, where)
        size = parse_size(value)
    except LocalMisuse as error:
        raise _fault("day", value, where) from error
    if size <= 0:
        raise _fault("day", value, where)
    return size


def _read_idle(table: dict[str, object], default: float, where: str) -> float:
    if "idle" not in table:
        return default
    value = table["idle"]
    try:
        if not isinstance(value, str):
            raise _fault("idle", value, where)
        idle_s = parse_duration(value)
    except LocalMisuse as error:
        raise _fault("idle", value, where) from error
    if idle_s < IDLE_MIN_S:
        raise _fault("idle", value, where)
    return idle_s


def _fault(key: str, value: object, where: str) -> ConfigFault:
    return ConfigFault(
        f"The setting {key!r} of [relay_limits] cannot be used",
        cause=f"{where} it is {value!r}",
        next_step=f"allowed is {_ALLOWED}",
        code="bad_setting",
    )
