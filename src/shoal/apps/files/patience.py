"""Patience: how long a get waits for somebody who can help."""

from __future__ import annotations

FIND_MIN_S = 5.0  # sessions may still be coming up; shorter than an answer of nobody
FIND_S = 15.0  # longest wait for answers without --wait
STUCK_S = 30.0  # how long a transfer that was under way waits for a provider to come back


class Patience:
    """The wait for providers, over after `wait_s` (None: never) but not before a search had its time."""

    def __init__(self, wait_s: float | None, now: float) -> None:
        self._wait_s = wait_s
        self._since = now
        self._had_help = False

    def restart(self, now: float) -> None:
        """Somebody helps: the wait begins anew when that ends."""
        self._since = now
        self._had_help = True

    def is_over(self, now: float, searching: bool) -> bool:
        """Whether to give up. `searching`: some peer has not answered yet."""
        if self._wait_s is None:
            return False
        waited_s = now - self._since
        if self._had_help:
            return waited_s >= max(self._wait_s, STUCK_S)
        return waited_s >= max(self._wait_s, FIND_S if searching else FIND_MIN_S)
