"""Clock: a clock that stands still until a test moves it."""

from __future__ import annotations

WALL_START_S = 1_800_000_000.0  # 2027-01-15T08:00:00Z: any date, the same in every test


class ManualClock:
    """A core.clock.Clock for tests. `monotonic` starts at 1000: nobody takes it for the time of day."""

    def __init__(self, monotonic_s: float = 1000.0, wall_s: float = WALL_START_S) -> None:
        self._monotonic = monotonic_s
        self._wall = wall_s

    def monotonic(self) -> float:
        """Return the seconds that tests have let pass, from 1000 on."""
        return self._monotonic

    def wall(self) -> float:
        """Return the time of day as tests have set it."""
        return self._wall

    def advance(self, seconds: float) -> float:
        """Let time pass on both clocks; returns the new monotonic time. It never goes back."""
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back; use jump_wall")
        self._monotonic += seconds
        self._wall += seconds
        return self._monotonic

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as a user or NTP would; monotonic time does not notice."""
        self._wall += seconds
