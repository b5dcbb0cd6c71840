"""Turns: which lane may send its next chunk, so that getters share the line evenly. A machine.

An uplink that eight getters wait for is best used one chunk after the other: a getter can give a chunk to
others once it is whole. So few lanes send at once (FEW) where the line is what is waited for, and many where
chunks leave quickly. Of the lanes that wait the one whose *getter* was served least is next, by bytes: who
has several lanes, or asks for much, gets no more. Nobody is owed anything for the time before it asked, so a
newcomer has its turn soon and no more than its share.

A turn that lasts LATE_S counts no longer: its getter, or the way to it, is slow, and others need not wait for
that. So where the whole line is slow all lanes send at once. A lane with two late turns in a row is *slow*:
slow lanes have places of their own, as many as prompt ones, and wait only for each other. Else a few slow
getters, who are always served least, would hold all places for LATE_S each. But if prompt lanes' turns are
nearly late too, it is the line itself, and the places are the same for all: else more would send at once,
each turn would last longer for that, and all would stay slow when the line has recovered.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.units import MIB
from shoal.swarm.turns_events import (
    Ask,
    Effect,
    Getter,
    Input,
    LaneDown,
    LaneNumber,
    LaneUp,
    Rest,
    Sent,
    Tick,
    Turn,
    Wake,
)

FEW = 2  # one is being sent while the other one is read and protected
MANY = 16  # where a turn takes less than QUICK_S: what is waited for are cores
QUICK_S = 0.02  # 512 KiB at 25 MiB/s
LATE_S = 0.25  # 512 KiB at 2 MiB/s; wild guess
APART_S = 0.2  # while prompt lanes' turns take less on the mean, it is not the line that makes others slow
SLOW_LATE_S = LATE_S / 2  # of a slow lane's turn, of which less can be expected; wild guess
WEIGHT = 0.1  # of the last turn in the mean
CREDIT_BYTES = 2 * MIB  # how far behind the others somebody counts at most: what is caught up at once
IDLE_S = 2.0  # a lane on which nothing was sent this long may be ended for a newcomer
LONG_S = 30.0  # and so may one that has been open this long, if none is idle


@dataclass(slots=True)
class _Lane:
    """What is kept of one lane. `began_at`: its turn; `since`: when it was opened; `was_late`: its last turn;
    `is_slow`: its last two, so that one pause does not cost it its place.
    """

    getter: Getter
    since: float
    active_at: float
    waits: bool = False
    was_late: bool = False
    is_slow: bool = False
    began_at: float | None = None


class Turns:
    """The turns of all lanes of one node. Bounded by the lanes that the driver adds."""

    def __init__(self) -> None:
        self._lanes: dict[LaneNumber, _Lane] = {}
        self._served: dict[Getter, int] = {}  # bytes, as if each had been there from the beginning
        self._level = 0  # what those who had turns so far were served
        self._mean_s = 0.0  # of the turns of prompt lanes

    def step(self, now: float, event: Input) -> list[Effect]:
        """Take one input, return turns and, while somebody waits, when to send a Tick."""
        match event:
            case LaneUp(number, getter):
                self._lanes[number] = _Lane(getter, now, now)
                self._served.setdefault(getter, self._level)
            case LaneDown(number):
                lane = self._lanes.pop(number, None)
                if lane is not None and all(other.getter != lane.getter for other in self._lanes.values()):
                    del self._served[lane.getter]
            case Ask(number):
                self._on_ask(now, number)
            case Sent(number, size_bytes, asks):
                self._on_sent(now, number, size_bytes)
                if asks:
                    self._on_ask(now, number)
            case Rest(number):
                if (lane := self._lanes.get(number)) is not None:
                    lane.waits = False
                    lane.began_at = None
            case Tick():
                pass
        return self._grant(now)

    def find_spare(self, now: float) -> LaneNumber | None:
        """Return the lane that can best be ended for a newcomer, if one can: the one idle longest, else the
        one open longest.
        """
        idle = [
            (lane.active_at, n) for n, lane in self._lanes.items() if lane.began_at is None and not lane.waits
        ]
        if idle and min(idle)[0] <= now - IDLE_S:
            return min(idle)[1]
        oldest = min(((lane.since, n) for n, lane in self._lanes.items()), default=None)
        return oldest[1] if oldest is not None and oldest[0] <= now - LONG_S else None

    def _on_ask(self, now: float, number: LaneNumber) -> None:
        lane = self._lanes.get(number)
        if lane is None:
            return
        lane.active_at = now
        lane.waits = True
        self._served[lane.getter] = max(self._served[lane.getter], self._level - CREDIT_BYTES)

    def _on_sent(self, now: float, number: LaneNumber, size_bytes: int) -> None:
        lane = self._lanes.get(number)
        if lane is None or lane.began_at is None:
            return
        if size_bytes:  # that a chunk is missing says nothing about the line
            took_s = now - lane.began_at
            if not lane.is_slow:
                self._mean_s += WEIGHT * (min(took_s, LATE_S) - self._mean_s)
            lane.is_slow = lane.was_late and took_s >= LATE_S
            lane.was_late = took_s >= LATE_S
        self._served[lane.getter] += size_bytes
        lane.began_at = None
        lane.active_at = now

    def _grant(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        wakes: list[float] = []
        limit = FEW if self._mean_s > QUICK_S else MANY
        apart = self._mean_s < APART_S
        for is_slow, late_s in ((False, LATE_S), (True, SLOW_LATE_S)):
            lanes = {n: lane for n, lane in self._lanes.items() if (lane.is_slow and apart) is is_slow}
            turns = [lane.began_at for lane in lanes.values() if lane.began_at is not None]
            counted = [began_at for began_at in turns if now < began_at + late_s]  # as `Wake` is reckoned
            waiting = [number for number, lane in lanes.items() if lane.waits]
            waiting.sort(key=lambda n: (self._served[lanes[n].getter], lanes[n].active_at))
            free = max(0, limit - len(counted))
            for number in waiting[:free]:
                lane = lanes[number]
                lane.waits = False
                lane.began_at = now
                self._level = max(self._level, self._served[lane.getter])
                effects.append(Turn(number))
                counted.append(now)
            if waiting[free:]:
                wakes.append(min(counted) + late_s)
        if wakes:
            effects.append(Wake(min(wakes)))
        return effects
