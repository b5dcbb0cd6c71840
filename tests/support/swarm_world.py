"""Swarm world: a provider and getters behind limited uplinks, on a virtual clock; the product's own machines.

Each node has one uplink that the lanes which have a turn share equally, as TCP does. Messages take DELAY_S,
news wait NEWS_S. Nothing here does I/O: a swarm of nine nodes and 200 MB takes a second.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from shoal.core.units import KIB
from shoal.swarm.chunk_set import to_set
from shoal.swarm.claims import Claims
from shoal.swarm.scheduler import Scheduler
from shoal.swarm.scheduler_events import (
    Cancel,
    ChunksDone,
    Finished,
    Have,
    Input,
    ProviderUp,
    Taken,
    Tick,
    Want,
)
from shoal.swarm.turns import Turns
from shoal.swarm.turns_events import Ask, LaneUp, Sent, Turn
from shoal.swarm.turns_events import Input as TurnInput
from shoal.swarm.turns_events import Tick as TurnTick

STEP_S = 0.005
TICK_S = 0.1
DELAY_S = 0.05  # of a message: what waits in an uplink goes before it
NEWS_S = 0.05  # as in swarm/service.py
SOURCE = b"source"


@dataclass
class Lane:
    """What one getter wants of one node. `left_bytes`: of the chunk that it has its turn for."""

    number: int
    getter: Getter
    queue: list[int] = field(default_factory=list)
    left_bytes: float = 0.0
    asked: bool = False


class Node:
    """One node that serves: its uplink, its chunks, whose turn it is, who claimed what."""

    def __init__(self, world: World, name: bytes, have: int) -> None:
        self.world = world
        self.name = name
        self.have = have
        self.fresh = 0
        self.sent_bytes = 0.0
        self.lanes: dict[bytes, Lane] = {}
        self.turns = Turns()
        self.claims: Claims[bytes] = Claims()
        self.has_news = False

    def on_want(self, getter: Getter, ordinals: tuple[int, ...]) -> None:
        lane = self.lanes.get(getter.name)
        if lane is None:
            lane = self.lanes[getter.name] = Lane(len(self.lanes), getter)
            self.tell_turns(LaneUp(lane.number, getter.name))
        lane.queue += [o for o in ordinals if o not in lane.queue]
        if self.world.claims and self.name == SOURCE:
            self.claims.claim(getter.name, to_set(ordinals, self.world.total))
            self.plan_news()

    def on_cancel(self, getter: Getter, ordinals: tuple[int, ...]) -> None:
        lane = self.lanes[getter.name]
        first = 1 if lane.left_bytes else 0
        lane.queue[first:] = [o for o in lane.queue[first:] if o not in ordinals]

    def tell_turns(self, event: TurnInput) -> None:
        by_number = {lane.number: lane for lane in self.lanes.values()}
        for effect in self.turns.step(self.world.now, event):
            if isinstance(effect, Turn):
                lane = by_number[effect.lane]
                if lane.queue:
                    lane.left_bytes = self.world.lengths[lane.queue[0]]
                else:  # taken back meanwhile
                    lane.asked = False
                    self.tell_turns(Sent(lane.number, 0))

    def send(self) -> None:
        """Let one step's worth of bytes leave."""
        for lane in list(self.lanes.values()):
            if lane.queue and not lane.asked:
                lane.asked = True
                self.tell_turns(Ask(lane.number))
        self.tell_turns(TurnTick())
        budget = self.world.rate_bytes_s * STEP_S
        while budget > 1 and (active := [lane for lane in self.lanes.values() if lane.left_bytes]):
            part = min(budget / len(active), *(lane.left_bytes for lane in active))
            budget -= part * len(active)
            self.sent_bytes += part * len(active)
            for lane in active:
                lane.left_bytes -= part
                if lane.left_bytes < 1:
                    self.end_chunk(lane)

    def end_chunk(self, lane: Lane) -> None:
        lane.left_bytes = 0.0
        ordinal = lane.queue.pop(0)
        self.world.later(DELAY_S, lambda: lane.getter.arrive(self, ordinal))
        lane.asked = bool(lane.queue)
        self.tell_turns(Sent(lane.number, self.world.lengths[ordinal], lane.asked))

    def plan_news(self) -> None:
        if not self.has_news:
            self.has_news = True
            self.world.later(NEWS_S, self.tell_news)

    def tell_news(self) -> None:
        self.has_news = False
        fresh, self.fresh = self.fresh, 0
        getters = {g.name: g for g in self.world.getters if g is not self}
        for getter in getters.values() if fresh else ():
            self.world.tell(getter, Have(self.name, fresh))
        for name, taken in self.claims.take_news(getters):
            self.world.tell(getters[name], Taken(self.name, taken))


class Getter(Node):
    """A node that gets the share too."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, b"getter%d" % number, 0)
        seed = world.random.randrange(1 << 30)
        self.scheduler = Scheduler(world.total, world.lengths.__getitem__, random.Random(seed))
        self.done_at: float | None = None
        self.received_bytes: dict[bytes, int] = {}

    def start(self) -> None:
        for node in self.world.nodes.values():
            if node is not self:
                self.step(ProviderUp(node.name, node.have))

    def arrive(self, node: Node, ordinal: int) -> None:
        length = self.world.lengths[ordinal]
        self.received_bytes[node.name] = self.received_bytes.get(node.name, 0) + length
        if not self.have >> ordinal & 1:
            self.have |= 1 << ordinal
            self.fresh |= 1 << ordinal
            self.plan_news()
        self.step(ChunksDone(node.name, (ordinal,)))

    def step(self, event: Input) -> None:
        for effect in self.scheduler.step(self.world.now, event):
            match effect:
                case Want(peer, ordinals):
                    self.send_want(self.world.nodes[peer], ordinals)
                case Cancel(peer, ordinals):
                    self.send_cancel(self.world.nodes[peer], ordinals)
                case Finished():
                    self.done_at = self.world.now

    def send_want(self, node: Node, ordinals: tuple[int, ...]) -> None:
        self.world.later(DELAY_S, lambda: node.on_want(self, ordinals))

    def send_cancel(self, node: Node, ordinals: tuple[int, ...]) -> None:
        self.world.later(DELAY_S, lambda: node.on_cancel(self, ordinals))


class World:
    """One share of `total` chunks; a provider with all of it, getters without any. `claims`: whether the
    provider tells what it gives to whom.
    """

    def __init__(
        self, seed: int, *, total: int, getters: int, rate_bytes_s: float, claims: bool = True
    ) -> None:
        self.random = random.Random(seed)
        self.total = total
        self.rate_bytes_s = rate_bytes_s
        self.claims = claims
        self.lengths = [self.random.randrange(256, 769) * KIB for _ in range(total)]
        self.size_bytes = sum(self.lengths)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.source = Node(self, SOURCE, (1 << total) - 1)
        self.getters = [Getter(self, number) for number in range(getters)]
        self.nodes: dict[bytes, Node] = {node.name: node for node in (self.source, *self.getters)}

    @property
    def bound_s(self) -> float:
        """What no method can beat."""
        count = len(self.getters)
        return max(1.0, count / (count + 1)) * self.size_bytes / self.rate_bytes_s

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay_s, self._count, action))

    def tell(self, getter: Getter, event: Input) -> None:
        self.later(DELAY_S, lambda: getter.step(event))

    def run(self, limit_s: float) -> float:
        """Let all get the share; return after how many seconds the last one had it, or `limit_s`."""
        for getter in self.getters:
            self.later(self.random.random() * 0.1, getter.start)
        ticked_at = 0.0
        while self.now < limit_s and any(getter.done_at is None for getter in self.getters):
            self.now += STEP_S
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            for node in self.nodes.values():
                node.send()
            if self.now - ticked_at >= TICK_S:
                ticked_at = self.now
                for getter in self.getters:
                    getter.step(Tick())
        return self.now
