"""Patience: how long a get waits for somebody who can help."""

from __future__ import annotations

FIND_MIN_S = 5.0  # sessions may still be coming up; shorter than an answer of nobody
FIND_S = 15.0  # longest wait for answers without --wait
CHANGED_S = 15.0  # how long for a new version of files that changed at the sharer, who may be watching them
STUCK_S = 30.0  # how long a transfer that was under way waits for a provider to come back


class Patience:
    """The wait for providers, over after `wait_s` (None: never; 0: as soon as a search had its time).

    What was asked for may change while it lasts: who asks again, with or without --wait, is who waits.
    """

    def __init__(self, now: float) -> None:
        self._since = now
        self._had_help = False

    def restart(self, now: float) -> None:
        """Somebody helps: the wait begins anew when that ends."""
        self._since = now
        self._had_help = True

    def is_over(
        self,
        now: float,
        wait_s: float | None,
        asked_at: float,
        searching: bool,
        stuck_s: float | None = None,
    ) -> bool:
        """Whether to give up, for who asked at `asked_at`. `searching`: some peer has not answered yet;
        `stuck_s`: how long to wait after somebody helped, STUCK_S if nothing is said.
        """
        if wait_s is None:
            return False
        waited_s = now - max(self._since, asked_at)
        if self._had_help:
            return waited_s >= max(wait_s, STUCK_S if stuck_s is None else stuck_s)
        return waited_s >= (wait_s or (FIND_S if searching else FIND_MIN_S))
