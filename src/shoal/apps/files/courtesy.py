"""Courtesy: lets hashing in the background wait while this node has other things to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.1
PATIENCE_S = 5.0  # a thread waits no longer before its next 8 MiB: it gives way, but it comes to an end


class Courtesy:
    """Who is before whom in one node. `is_moving`: lanes in the foreground are busy; any thread may ask."""

    def __init__(self, is_moving: Callable[[], bool]) -> None:
        self._is_moving = is_moving
        self._before = 0

    @contextmanager
    def foreground(self) -> Iterator[None]:
        """Let work in the background wait meanwhile. Loop thread only."""
        self._before += 1
        try:
            yield
        finally:
            self._before -= 1

    def is_busy(self) -> bool:
        """Whether work in the background should wait."""
        return self._before > 0 or self._is_moving()

    def wait_turn(self, cancelled: threading.Event) -> None:
        """Wait until nobody else is busy, at most PATIENCE_S or until `cancelled`. In a thread of work."""
        looks = int(PATIENCE_S / LOOK_S)
        while looks and self.is_busy() and not cancelled.wait(LOOK_S):
            looks -= 1
