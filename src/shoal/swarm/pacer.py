"""Pacer: which lane may move how many bytes now, so that limits hold over all lanes together. A machine.

Records are large beside a slow limit (1 MiB against 1 MB/s), so a lane asks before each *slice* of a record,
and a limit is kept as the time at which it is free again (GCRA: each grant moves that time on by bytes /
rate). A grant may run into debt by one slice, which the next one waits for: the rate is exact in the long
run. A lane that asks late is granted what was missed, at most BURST_S of it. Among waiting lanes the one that
was served least is next; who comes back from a pause is not owed anything.

Background lanes wait while a foreground one waits, or has moved bytes in the last YIELD_S. A trickle is left
to them, so that neither end takes a lane for dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shoal.core.units import KIB, MIB
from shoal.swarm.pacer_events import (
    AddLane,
    Ask,
    DropLane,
    Effect,
    Grant,
    Input,
    LaneNumber,
    Moved,
    Peer,
    SetLimits,
    Tick,
    Wake,
)

BURST_S = 0.2  # what may be caught up after nobody asked in time: 2 % of a window of 10 s
SLICE_S = 0.02  # of the limit in one grant, and what is to be caught up: at most 50 grants a second
SLICE_MIN_BYTES = 4 * KIB
SLICE_MAX_BYTES = MIB
YIELD_S = 0.5  # the pause after which foreground lanes count as quiet; wild guess
LANE_MIN_BYTES_S = 4 * KIB  # below it lanes are given up (transport/lane.py wants 1.1 KiB/s): four times that
RECENT_S = 2.0  # a lane that asked this long ago shares the limit


class _Limit:
    """One rate. `free_at`: from when on something may be granted."""

    __slots__ = ("free_at", "rate_bytes_s")

    def __init__(self, rate_bytes_s: float, now: float) -> None:
        self.rate_bytes_s = rate_bytes_s
        self.free_at = now

    def saved_s(self, now: float) -> float:
        """Return how long nobody took anything although it was free, at most BURST_S."""
        return max(0.0, min(BURST_S, now - self.free_at))

    def charge(self, now: float, size_bytes: int) -> None:
        """Take bytes."""
        self.free_at = max(self.free_at, now - BURST_S) + size_bytes / self.rate_bytes_s


@dataclass(slots=True)
class _Lane:
    """What is kept of one lane. `wanted` is 0 while it does not wait."""

    peer: Peer
    background: bool
    wanted: int = 0
    served: float = 0.0
    asked_at: float = float("-inf")
    trickle_at: float = float("-inf")


class Pacer:
    """The limits of one direction. Expects every lane that is limited, or in the background, to ask.

    Bounded by the lanes that the driver adds.
    """

    def __init__(self) -> None:
        self._total: _Limit | None = None
        self._peers: dict[Peer, _Limit] = {}
        self._lanes: dict[LaneNumber, _Lane] = {}
        self._waiting: dict[LaneNumber, _Lane] = {}  # in the order of asking
        self._served = 0.0  # of the lane that was served last
        self._foreground_at = float("-inf")

    def step(self, now: float, event: Input) -> list[Effect]:
        """Take one input, return grants and, while somebody waits, when to send a Tick."""
        match event:
            case AddLane(number, peer, background):
                self._lanes[number] = _Lane(peer, background, served=self._served)
            case DropLane(number):
                self._lanes.pop(number, None)
                self._waiting.pop(number, None)
            case Ask():
                self._on_ask(now, event)
            case SetLimits(total, peers):
                self._set_limits(now, total, peers)
            case Moved():
                self._foreground_at = now
            case Tick():
                pass
        return self._grant(now)

    # What a driver wants to know

    def is_open(self, number: LaneNumber) -> bool:
        """Whether a lane need not ask: no limit is on it and it yields to nobody."""
        lane = self._lanes.get(number)
        return (
            lane is not None and self._total is None and not lane.background and lane.peer not in self._peers
        )

    def share_bytes_s(self, now: float, peer: Peer, *, background: bool = False) -> float | None:
        """Return what one lane of a peer can expect, None where nothing holds it back."""
        if background and self._must_yield(now):
            return LANE_MIN_BYTES_S
        shares = []
        recent = [lane for lane in self._lanes.values() if lane.wanted or now - lane.asked_at < RECENT_S]
        if self._total is not None:
            shares.append(self._total.rate_bytes_s / max(1, len(recent)))
        if (limit := self._peers.get(peer)) is not None:
            shares.append(limit.rate_bytes_s / max(1, sum(lane.peer == peer for lane in recent)))
        return min(shares, default=None)

    def has_room(self, peer: Peer) -> bool:
        """Whether one lane more, to this peer, would leave LANE_MIN_BYTES_S for each of them."""
        count = len(self._lanes) + 1
        if self._total is not None and self._total.rate_bytes_s < count * LANE_MIN_BYTES_S:
            return False
        limit = self._peers.get(peer)
        count = sum(lane.peer == peer for lane in self._lanes.values()) + 1
        return limit is None or limit.rate_bytes_s >= count * LANE_MIN_BYTES_S

    # Inputs

    def _on_ask(self, now: float, event: Ask) -> None:
        lane = self._lanes.get(event.lane)
        if lane is None or event.size_bytes <= 0:
            return
        lane.wanted = event.size_bytes
        lane.asked_at = now
        lane.served = max(lane.served, self._served - SLICE_MAX_BYTES)
        self._waiting[event.lane] = lane

    def _set_limits(self, now: float, total: float | None, peers: Mapping[Peer, float]) -> None:
        self._total = _changed(self._total, total, now)
        self._peers = {
            peer: limit
            for peer, rate in peers.items()
            if (limit := _changed(self._peers.get(peer), rate, now)) is not None
        }

    # Granting

    def _grant(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while self._waiting:
            yielding = self._must_yield(now)
            ready_at, _, number = min(
                (max(now, self._ready_at(lane, yielding)), self._rank(lane, yielding), number)
                for number, lane in self._waiting.items()
            )
            if ready_at > now:
                effects.append(Wake(ready_at))
                break
            effects.append(Grant(number, self._charge(now, number, yielding)))
        return effects

    def _must_yield(self, now: float) -> bool:
        """Whether background lanes have to stand back."""
        if now - self._foreground_at < YIELD_S:
            return True
        return any(not lane.background for lane in self._waiting.values())

    def _rank(self, lane: _Lane, yielding: bool) -> float:
        """Among lanes that may go now the lowest goes first; a trickle, which is small, before all."""
        return float("-inf") if lane.background and yielding else lane.served

    def _ready_at(self, lane: _Lane, yielding: bool) -> float:
        """When a lane may go, as far as is known now."""
        ready = float("-inf")
        if self._total is not None:
            ready = self._total.free_at
        if (limit := self._peers.get(lane.peer)) is not None:
            ready = max(ready, limit.free_at)
        if lane.background and yielding:
            quiet_at = self._foreground_at + YIELD_S
            if any(not other.background for other in self._waiting.values()):
                quiet_at = float("inf")  # a grant to that one looks again
            ready = max(ready, min(lane.trickle_at, quiet_at))
        return ready

    def _charge(self, now: float, number: LaneNumber, yielding: bool) -> int:
        lane = self._waiting.pop(number)
        limits = [limit for limit in (self._total, self._peers.get(lane.peer)) if limit is not None]
        slices = [limit.rate_bytes_s * (SLICE_S + limit.saved_s(now)) for limit in limits]
        size = min(SLICE_MAX_BYTES, max(SLICE_MIN_BYTES, min(slices, default=SLICE_MAX_BYTES)))
        if lane.background:
            size = min(size, SLICE_MIN_BYTES) if yielding else size
            lane.trickle_at = now + SLICE_MIN_BYTES / LANE_MIN_BYTES_S
        else:
            self._foreground_at = now
        size_bytes = min(lane.wanted, int(size))
        for limit in limits:
            limit.charge(now, size_bytes)
        self._served = max(self._served, lane.served)
        lane.served += size_bytes
        lane.wanted = 0
        return size_bytes


def _changed(limit: _Limit | None, rate_bytes_s: float | None, now: float) -> _Limit | None:
    """Return a limit with another rate; what was granted before counts as it did."""
    if rate_bytes_s is None:
        return None
    if limit is None:
        return _Limit(rate_bytes_s, now)
    limit.rate_bytes_s = rate_bytes_s
    return limit
