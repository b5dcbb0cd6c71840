"""Units: what people read and type."""

import pytest

from shoal.core.errors import LocalMisuse
from shoal.core.units import (
    NO_LIMIT,
    format_duration,
    format_rate,
    format_size,
    format_time,
    parse_duration,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (512 << 20, "512.0 MiB"),
        (5 << 50, "5.0 PiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("10m", 600),
        ("24h", 86400),
        ("7d", 604800),
        ("1h30m", 5400),
        ("90", 90),
        ("250ms", 0.25),
        (" 2 h ", 7200),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "5 parsecs", "-3s", "10m!", "1h x", "nan", "99999999d"])
def test_other_durations_are_refused_with_a_reason(text: str) -> None:
    with pytest.raises(LocalMisuse) as caught:
        parse_duration(text)
    assert caught.value.cause
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.4 s"), (59, "59 s"), (125, "2 m 05 s"), (12000, "3 h 20 m"), (352800, "4 d 2 h")],
)
def test_durations_are_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_times_are_rfc_3339_utc_even_when_absurd() -> None:
    assert format_time(0) == "1970-01-01T00:00:00Z"
    assert format_time(1e18).startswith("9999-12-31T")


@pytest.mark.parametrize(
    ("text", "rate", "written"),
    [
        ("10 MB/s", 10_000_000, "10 MB/s"),
        ("1MiB/s", 1 << 20, "1 MiB/s"),
        ("1.5 MB", 1_500_000, "1500 kB/s"),
        ("8 Mbit/s", 1_000_000, "1 MB/s"),
        ("12345", 12345, "12.3 kB/s"),
        ("unlimited", NO_LIMIT, "unlimited"),
        (" None ", NO_LIMIT, "unlimited"),
    ],
)
def test_rates_are_read_and_written(text: str, rate: int, written: str) -> None:
    assert parse_rate(text) == rate
    assert format_rate(rate) == written
    assert parse_rate(written) == pytest.approx(rate, rel=0.01)


@pytest.mark.parametrize(
    "text", ["", "fast", "0", "0 MB/s", "10 Mb/s", "-1 MB/s", "1e9", "1 MB/h", "inf", "9" * 50, "2 TB/s"]
)
def test_other_rates_are_refused_with_a_reason(text: str) -> None:
    with pytest.raises(LocalMisuse) as caught:
        parse_rate(text)
    assert caught.value.cause
    assert caught.value.next_step


def test_sizes_are_read() -> None:
    assert (parse_size("256 MiB"), parse_size("1.5kB"), parse_size("7")) == (256 << 20, 1500, 7)
    with pytest.raises(LocalMisuse):
        parse_size("10 MB/s")
