"""Clock: the only two ways to ask for the time. Machines never do; they are told."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where drivers get their time from; tests give their own."""

    def monotonic(self) -> float:
        """Seconds since some start; never goes back."""
        ...

    def wall(self) -> float:
        """Seconds since 1970, for display and expiry only; it may jump."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()
