"""Throttle: drives the pacer of one direction for the lanes' threads, which wait in it for their turn.

One lock around the machine. Of the threads that wait, one *leads*: it sleeps until the machine wants a tick,
the others until they are granted something. So a hundred waiting lanes cost no more wake-ups than one.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping

from shoal.swarm.pacer import YIELD_S, Pacer
from shoal.swarm.pacer_events import AddLane, Ask, DropLane, Grant, Input, Moved, SetLimits, Tick, Wake
from shoal.transport.lane import Lane

LOOK_S = 0.05  # how often is looked whether foreground lanes move that need not ask
SLOW_BYTES_S = 4_000_000  # from here on what waits in the kernel is little beside 10 s of the rate


class LanePace:
    """One lane's place in a throttle; the `transport.lane.Pace` of its lane."""

    def __init__(self, throttle: Throttle, number: int, lane: Lane, peer: bytes, background: bool) -> None:
        self.is_open = False
        self.slow_bytes_s = 0.0
        self.number = number
        self.lane = lane
        self.peer = peer
        self.background = background
        self.granted = 0
        self.closed = False
        self.wake = throttle.make_condition()
        self._throttle = throttle

    def take(self, wanted_bytes: int) -> int:
        """Wait until some of `wanted_bytes` may move; return how many, 0 once closed."""
        return self._throttle.take(self, wanted_bytes)

    def close(self) -> None:
        """Give the place up, from any thread; idempotent."""
        self._throttle.drop(self)


class Throttle:
    """Limits of one direction over all its lanes. Every method may be called from any thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._pacer = Pacer()
        self._numbers = itertools.count(1)
        self._places: dict[int, LanePace] = {}  # bounded by the broker's lanes
        self._waiting: dict[LanePace, None] = {}
        self._leader: LanePace | None = None
        self._wake_at = float("inf")  # when the machine wants a tick
        self._sleeps_until = float("inf")  # the leader
        self._ended_bytes = 0
        self._ended_foreground_bytes = 0
        self._backgrounds = 0
        self._looked_at = float("-inf")
        self._seen_bytes = 0

    def make_condition(self) -> threading.Condition:
        """Return a condition over the throttle's lock."""
        return threading.Condition(self._lock)

    # For the loop

    def join(self, lane: Lane, peer: bytes, *, background: bool = False) -> LanePace:
        """Put a new lane under the limits, before its first record; it leaves when it is closed."""
        with self._lock:
            place = LanePace(self, next(self._numbers), lane, peer, background)
            self._places[place.number] = place
            self._backgrounds += background
            self._step(AddLane(place.number, peer, background))
            self._show(place)
        lane.pace = place
        if lane.is_closed:  # before it had the place, which nobody would give up then
            place.close()
        return place

    def set_limits(self, total: float | None, peers: Mapping[bytes, float]) -> None:
        """Let other limits hold from now on, in bytes a second, for lanes that are open too."""
        with self._lock:
            self._step(SetLimits(total, dict(peers)))
            for place in self._places.values():
                self._show(place)

    def has_room(self, peer: bytes) -> bool:
        """Whether one lane more would leave enough of the limits to each."""
        with self._lock:
            return self._pacer.has_room(peer)

    def share_bytes_s(self, peer: bytes, *, background: bool = False) -> float | None:
        """Return what one lane of a peer can expect, None where nothing holds it back."""
        with self._lock:
            self._look()
            return self._pacer.share_bytes_s(self._monotonic(), peer, background=background)

    @property
    def moved_bytes(self) -> int:
        """Bytes of records that all lanes moved so far, ended ones included."""
        with self._lock:
            return self._ended_bytes + sum(place.lane.moved_bytes for place in self._places.values())

    @property
    def foreground_bytes(self) -> int:
        """Likewise, without those of background lanes."""
        with self._lock:
            return self._foreground_bytes()

    # For the lanes' threads

    def take(self, place: LanePace, wanted_bytes: int) -> int:
        """See LanePace.take."""
        with self._lock:
            if place.closed:
                return 0
            place.granted = 0
            self._waiting[place] = None
            self._look()
            self._step(Ask(place.number, wanted_bytes))
            while not place.granted and not place.closed:
                self._wait(place)
            self._waiting.pop(place, None)
            self._show_share(place)
            if self._leader is None and self._waiting:
                next(iter(self._waiting)).wake.notify()
            return place.granted

    def drop(self, place: LanePace) -> None:
        """See LanePace.close."""
        with self._lock:
            if place.closed:
                return
            place.closed = True
            del self._places[place.number]
            self._ended_bytes += place.lane.moved_bytes
            if not place.background:
                self._ended_foreground_bytes += place.lane.moved_bytes
            self._backgrounds -= place.background
            self._step(DropLane(place.number))
            place.wake.notify()

    # Under the lock

    def _wait(self, place: LanePace) -> None:
        if self._leader is not None:
            place.wake.wait()
            return
        now = self._monotonic()
        self._leader = place
        self._sleeps_until = min(self._wake_at, now + YIELD_S)
        place.wake.wait(max(0.0, self._sleeps_until - now))
        self._leader = None
        self._look()
        self._step(Tick())

    def _step(self, event: Input) -> None:
        self._wake_at = float("inf")
        for effect in self._pacer.step(self._monotonic(), event):
            match effect:
                case Grant(number, size_bytes):
                    place = self._places[number]
                    place.granted = size_bytes
                    self._waiting.pop(place, None)
                    place.wake.notify()
                case Wake(at):
                    self._wake_at = at
        if self._leader is not None and self._wake_at < self._sleeps_until:
            self._leader.wake.notify()

    def _look(self) -> None:
        """Tell the machine that foreground lanes moved bytes without asking, if somebody yields to them."""
        now = self._monotonic()
        if not self._backgrounds or now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        seen = self._foreground_bytes()
        if seen != self._seen_bytes:
            self._seen_bytes = seen
            self._step(Moved())

    def _foreground_bytes(self) -> int:
        return self._ended_foreground_bytes + sum(
            place.lane.moved_bytes for place in self._places.values() if not place.background
        )

    def _show(self, place: LanePace) -> None:
        place.is_open = self._pacer.is_open(place.number)
        self._show_share(place)

    def _show_share(self, place: LanePace) -> None:
        share = self._pacer.share_bytes_s(self._monotonic(), place.peer, background=place.background)
        place.slow_bytes_s = share if share is not None and share < SLOW_BYTES_S else 0.0
