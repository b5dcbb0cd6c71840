"""Units: what people read and type."""

import pytest

from shoal.core.errors import LocalMisuse
from shoal.core.units import format_duration, format_size, format_time, parse_duration


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
