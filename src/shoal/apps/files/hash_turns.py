"""Hash turns: which of several shares is hashed next, a buffer of 8 MiB at a time.

As many threads go on as there are turns, two. Of those that wait, the one whose share has the least left goes
first, so that a small share need not wait for a large one; every fourth turn is that of who waits longest, so
that a large one comes to its end whatever else is shared meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from shoal.storage.hashing import HASH_THREADS

LONGEST_EVERY: Final = 4  # turns: who waits longest gets a quarter of them; wild guess
LOOK_S: Final = 0.1  # until a thread that waits sees that its work is cancelled


class HashJob:
    """The hashing of one share. `stand_back` is called without a turn before each one is taken: it may block.

    All its threads use the same one; `left_bytes` may be set by any of them.
    """

    def __init__(
        self,
        turns: HashTurns,
        left_bytes: int,
        stand_back: Callable[[threading.Event], None] | None = None,
    ) -> None:
        self.left_bytes = left_bytes
        self._turns = turns
        self._stand_back = stand_back

    def take(self, cancelled: threading.Event) -> None:
        """Wait for the calling thread's next turn, at most until `cancelled`: then it may go on without."""
        if self._stand_back is not None:
            self._turns.rest()
            self._stand_back(cancelled)
        self._turns.take(self, cancelled)

    def rest(self) -> None:
        """Give the calling thread's turn to others, if it has one."""
        self._turns.rest()


class _Waiter:
    """A thread without a turn; `granted` is set together with it."""

    def __init__(self, job: HashJob, thread: int) -> None:
        self.job = job
        self.thread = thread
        self.granted = threading.Event()


class HashTurns:
    """The turns of a node. For any thread; none has two."""

    def __init__(self, turns: int = HASH_THREADS) -> None:
        self._lock = threading.Lock()
        self._free = turns
        self._given = 0
        self._holding: set[int] = set()  # threads
        self._waiting: list[_Waiter] = []  # who waits longest is first

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._waiting)

    def take(self, job: HashJob, cancelled: threading.Event) -> None:
        """Give the calling thread's turn up, if it has one, and wait for the next, until `cancelled`."""
        waiter = _Waiter(job, threading.get_ident())
        with self._lock:
            has_turn = waiter.thread in self._holding
            if has_turn and not self._waiting:
                return
            self._waiting.append(waiter)
            if has_turn:
                self._holding.discard(waiter.thread)
                self._free += 1
            self._give()
        while not waiter.granted.wait(LOOK_S):
            if cancelled.is_set():
                with self._lock:
                    if not waiter.granted.is_set():
                        self._waiting.remove(waiter)
                return

    def rest(self) -> None:
        """Give the calling thread's turn up, if it has one."""
        with self._lock:
            if threading.get_ident() in self._holding:
                self._holding.discard(threading.get_ident())
                self._free += 1
                self._give()

    def _give(self) -> None:
        while self._free and self._waiting:
            self._given += 1
            chosen = self._waiting[0]
            if self._given % LONGEST_EVERY:
                chosen = min(self._waiting, key=lambda waiter: waiter.job.left_bytes)
            self._waiting.remove(chosen)
            self._free -= 1
            self._holding.add(chosen.thread)
            chosen.granted.set()
