"""Upload turns: drives the machine of turns for the lanes' threads, which wait in it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from shoal.swarm.turns import Turns
from shoal.swarm.turns_events import Ask, Input, LaneDown, LaneUp, Rest, Sent, Tick, Turn, Wake

LOOK_S = 1.0  # longest wait without a look


class LaneTurn:
    """One lane's place among the others. `take`, `sent` and `rest` are for the lane's thread."""

    def __init__(self, turns: UploadTurns, number: int, wake: threading.Condition) -> None:
        self.number = number
        self.wake = wake
        self.asked = False
        self.granted = False
        self.closed = False
        self._turns = turns
        self._taken = False

    @property
    def is_alone(self) -> bool:
        """Whether there is no other lane: then nothing has to be waited for or counted."""
        return self._turns.lanes == 1

    def take(self) -> None:
        """Wait for the turn to send one chunk; returns at once if this is the only lane, or closed."""
        self._taken = not self.is_alone
        if self._taken:
            self._turns.take(self)

    def sent(self, size_bytes: int, more: bool) -> None:
        """End the turn; with `more` wait for the next one, which `take` is called for."""
        if self._taken:
            self._taken = False
            self._turns.sent(self, size_bytes, more)

    def rest(self) -> None:
        """Take back what was asked for by `sent` with `more`: there is nothing to send now."""
        if self.asked:
            self._turns.rest(self)

    def close(self) -> None:
        """Leave, from any thread; idempotent. A waiting `take` returns."""
        self._turns.leave(self)


class UploadTurns:
    """The turns of a node's lanes. Every method may be called from any thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.lanes = 0
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._machine = Turns()
        self._numbers = itertools.count(1)
        self._places: dict[int, LaneTurn] = {}  # bounded by the lanes the service opens
        self._wake_at = float("inf")

    def join(self, getter: bytes) -> LaneTurn:
        """Return the place of a new lane to a getter; it has to be closed."""
        with self._lock:
            place = LaneTurn(self, next(self._numbers), threading.Condition(self._lock))
            self._places[place.number] = place
            self.lanes += 1
            self._step(LaneUp(place.number, getter))
            return place

    def find_spare(self) -> int | None:
        """Return the number of the lane that can best be ended for a newcomer, if one can."""
        with self._lock:
            return self._machine.find_spare(self._monotonic())

    def take(self, place: LaneTurn) -> None:
        """See LaneTurn.take."""
        with self._lock:
            if not place.asked:
                self._step(Ask(place.number))
            while not place.granted and not place.closed:
                place.wake.wait(max(0.0, min(LOOK_S, self._wake_at - self._monotonic())))
                self._step(Tick())
            place.asked = place.granted = False

    def sent(self, place: LaneTurn, size_bytes: int, more: bool) -> None:
        """See LaneTurn.sent."""
        with self._lock:
            place.asked = more
            self._step(Sent(place.number, size_bytes, more))

    def rest(self, place: LaneTurn) -> None:
        """See LaneTurn.rest."""
        with self._lock:
            place.asked = place.granted = False
            self._step(Rest(place.number))

    def leave(self, place: LaneTurn) -> None:
        """See LaneTurn.close."""
        with self._lock:
            if place.closed:
                return
            place.closed = True
            del self._places[place.number]
            self.lanes -= 1
            self._step(LaneDown(place.number))
            place.wake.notify()

    def _step(self, event: Input) -> None:
        self._wake_at = float("inf")
        for effect in self._machine.step(self._monotonic(), event):
            match effect:
                case Turn(number):
                    self._places[number].granted = True
                    self._places[number].wake.notify()
                case Wake(at):
                    self._wake_at = at
