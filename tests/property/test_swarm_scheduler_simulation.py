"""Seeded simulations of whole transfers: whatever providers do, each chunk arrives and no state leaks."""

from __future__ import annotations

import random
from collections import deque

import pytest

from shoal.core.units import KIB
from shoal.swarm.chunk_set import to_set
from shoal.swarm.scheduler import (
    WINDOW_MAX_CHUNKS,
    Scheduler,
)
from shoal.swarm.scheduler_events import (
    Cancel,
    ChunkBad,
    ChunkMissing,
    ChunksDone,
    DropProvider,
    Effect,
    Finished,
    Have,
    ProviderDown,
    ProviderUp,
    Tick,
    Want,
)

TICK_S = 0.1


class _Peer:
    def __init__(self, name: bytes, rate: float, have: set[int], kind: str) -> None:
        self.name = name
        self.rate = rate
        self.have = have
        self.kind = kind
        self.queue: deque[int] = deque()
        self.credit = 0.0
        self.up = False


class _World:
    """Providers of several characters around one scheduler, on a virtual clock."""

    def __init__(self, seed: int, kinds: list[str]) -> None:
        self.random = random.Random(seed)
        self.total = self.random.randrange(1, 400)
        self.lengths = [self.random.randrange(1, 1024 * KIB) for _ in range(self.total)]
        self.scheduler = Scheduler(self.total, self.lengths.__getitem__, random.Random(seed + 1))
        self.peers = {}
        for index, kind in enumerate(kinds):
            name = bytes([index]) * 32
            everything = kind != "partial"
            have = {o for o in range(self.total) if everything or self.random.random() < 0.5}
            self.peers[name] = _Peer(name, self.random.uniform(1, 60) * 1024 * KIB, have, kind)
        self.outstanding: dict[int, set[bytes]] = {}
        self.done: set[int] = set()
        self.finished = False
        self.now = 0.0

    def step(self, event: object) -> None:
        self.apply(self.scheduler.step(self.now, event))  # type: ignore[arg-type]

    def apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Want(name, ordinals):
                    peer = self.peers[name]
                    assert peer.up
                    for ordinal in ordinals:
                        assert ordinal in peer.have
                        assert ordinal not in self.done
                        askers = self.outstanding.setdefault(ordinal, set())
                        assert name not in askers
                        askers.add(name)
                        assert len(askers) <= 2
                        peer.queue.append(ordinal)
                    assert self.scheduler.owed(name) <= WINDOW_MAX_CHUNKS
                case Cancel(name, ordinals):
                    for ordinal in ordinals:
                        self.outstanding.get(ordinal, set()).discard(name)
                        if ordinal in self.peers[name].queue and self.random.random() < 0.7:
                            self.peers[name].queue.remove(ordinal)
                case DropProvider(name):
                    self.down(name, tell=False)
                case Finished():
                    assert not self.finished
                    self.finished = True

    def down(self, name: bytes, tell: bool = True) -> None:
        peer = self.peers[name]
        peer.up = False
        peer.queue.clear()
        for askers in self.outstanding.values():
            askers.discard(name)
        if tell:
            self.step(ProviderDown(name))

    def up(self, name: bytes) -> None:
        peer = self.peers[name]
        peer.up = True
        self.step(ProviderUp(name, to_set(peer.have, self.total)))

    def deliver(self, peer: _Peer) -> None:
        if peer.kind == "silent":
            return
        if peer.kind == "stalls" and 2 < self.now < 30:
            return
        peer.credit += peer.rate * TICK_S
        batch: list[int] = []
        while peer.queue and peer.credit >= self.lengths[peer.queue[0]]:
            ordinal = peer.queue.popleft()
            peer.credit -= self.lengths[ordinal]
            if peer.kind == "liar" and self.random.random() < 0.5:
                self.outstanding.get(ordinal, set()).discard(peer.name)
                self.step(ChunkBad(peer.name, ordinal))
                if not peer.up:
                    return
            elif peer.kind == "loses" and self.random.random() < 0.2:
                peer.have.discard(ordinal)
                self.outstanding.get(ordinal, set()).discard(peer.name)
                self.step(ChunkMissing(peer.name, ordinal))
            else:
                batch.append(ordinal)
        if batch:
            self.done |= set(batch)
            for ordinal in batch:
                self.outstanding.pop(ordinal, None)
            self.step(ChunksDone(peer.name, tuple(batch)))

    def run(self, limit_s: float) -> None:
        names = list(self.peers)
        for name in names:
            self.up(name)
        while not self.finished and self.now < limit_s:
            self.now += TICK_S
            for name in names:
                peer = self.peers[name]
                if peer.up:
                    self.deliver(peer)
                if peer.kind == "flaps" and self.random.random() < 0.05:
                    self.down(name) if peer.up else self.up(name)
                if peer.kind == "partial" and peer.up and self.random.random() < 0.3:
                    more = set(self.random.sample(range(self.total), min(self.total, 5))) | self.done
                    peer.have |= more
                    self.step(Have(name, to_set(more, self.total)))
                if not peer.up and peer.kind == "honest":
                    self.up(name)
            self.step(Tick())


KINDS = ["honest", "silent", "stalls", "liar", "loses", "flaps", "partial"]


@pytest.mark.parametrize("seed", range(40))
def test_every_transfer_with_one_honest_provider_ends(seed: int) -> None:
    rng = random.Random(seed)
    kinds = ["honest", *rng.choices(KINDS, k=rng.randrange(0, 6))]
    print(f"seed {seed}: {kinds}")
    world = _World(seed, kinds)
    world.run(limit_s=900)
    assert world.finished
    assert world.done == set(range(world.total))
    assert world.scheduler.left == 0
    assert not any(world.scheduler.owed(name) for name in world.peers)


@pytest.mark.parametrize("seed", range(5))
def test_equal_providers_share_the_work(seed: int) -> None:
    world = _World(seed, ["honest"] * 3)
    served = dict.fromkeys(world.peers, 0)
    for peer in world.peers.values():
        peer.rate = 8 * 1024 * KIB
    original = world.step

    def count(event: object) -> None:
        if isinstance(event, ChunksDone):
            served[event.peer] += len(event.ordinals)
        original(event)

    world.step = count  # type: ignore[method-assign]
    world.run(limit_s=600)
    assert world.finished
    if world.total >= 100:
        assert min(served.values()) >= world.total // 6
