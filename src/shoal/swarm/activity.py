"""Activity: whether lanes in the foreground are busy, for work that gives way to them."""

from __future__ import annotations

import threading
from collections.abc import Callable

BUSY_BYTES_S = 1_000_000  # less does not mind that something else is done meanwhile; wild guess
SAMPLE_S = 0.1
QUIET_S = 0.5  # how long nothing much has to move


class Activity:
    """Looks at a growing count of bytes whenever it is asked. For any thread."""

    def __init__(self, count: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self._count = count
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._sampled = (monotonic(), count())
        self._busy_at = float("-inf")

    def is_busy(self) -> bool:
        """Return whether BUSY_BYTES_S moved within the last QUIET_S, as far as was looked."""
        with self._lock:
            now = self._monotonic()
            at, before = self._sampled
            if now - at >= SAMPLE_S:
                count = self._count()
                self._sampled = (now, count)
                if count - before >= BUSY_BYTES_S * (now - at):
                    self._busy_at = now
            return now - self._busy_at < QUIET_S
