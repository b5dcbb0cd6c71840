"""Playbook of a fetch whose target grows: nothing is asked for before it is described, and nothing twice."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from shoal.content.feed import DRAFTS
from shoal.core.clock import SystemClock
from shoal.core.supervisor import Supervisor
from shoal.core.units import KIB
from shoal.swarm.chunk_set import to_set
from shoal.swarm.fetch import ShareFetch
from shoal.swarm.fetch_owner import FetchOwner
from shoal.swarm.messages import Have
from shoal.swarm.offer import make_runs
from shoal.swarm.provider import Provider
from shoal.swarm.receive import LaneReceiver
from shoal.swarm.scheduler_events import ChunksDone, ProviderUp
from shoal.swarm.throttle import Throttle

PEER, SHARE, LIMIT = b"p" * 32, b"s" * 32, 100


class Asked(Provider):
    """A provider with a lane that goes nowhere; keeps what it was asked for."""

    wanted: list[int]

    def want(self, version: int, ordinals: tuple[int, ...]) -> bool:
        assert version == DRAFTS + 1
        self.wanted += ordinals
        return True


class Lane:
    expected = received = 0


class Target:
    version = DRAFTS + 1
    total = 10


class Owner:
    entry_count = 3
    finished = False

    def on_finished(self) -> None:
        self.finished = True


class Play:
    """One fetch of a draft of which 10 chunks are described, and one provider that has 0 to 29."""

    def __init__(self) -> None:
        self.owner, self.target = Owner(), Target()
        self.fetch = ShareFetch(
            own_id=b"o" * 32,
            network_id=b"n" * 32,
            share_id=SHARE,
            read_key=bytes(32),
            owner=cast(FetchOwner, self.owner),
            find_session=lambda _: None,
            may_serve=lambda _: True,
            downloads=cast(Throttle, None),
            background=False,
            supervisor=Supervisor(),
            clock=SystemClock(),
            observe=lambda _: None,
            rng=random.Random(1),
        )
        self.fetch.set_target(cast(Any, self.target), lambda _: 512 * KIB, 0, limit=LIMIT)
        self.provider = Asked(PEER, SHARE, busy=True, active=True, receiver=cast(LaneReceiver, Lane()))
        self.provider.wanted = []
        self.fetch._providers[PEER] = self.provider
        self.fetch._step(ProviderUp(PEER, 0))
        self.tell(range(30))

    def tell(self, ordinals: range) -> None:
        self.fetch.on_have(PEER, Have(SHARE, DRAFTS + 1, make_runs(to_set(ordinals, LIMIT))))

    def asked(self) -> list[int]:
        """Return what was asked for since the last call; all of it comes at once."""
        asked: list[int] = []
        while self.provider.wanted:
            now, self.provider.wanted = self.provider.wanted, []
            asked += now
            self.fetch._step(ChunksDone(PEER, tuple(now)))
        return sorted(asked)


@pytest.fixture
async def play() -> Play:
    return Play()


async def test_only_what_is_described_is_asked_for(play: Play) -> None:
    assert play.asked() == list(range(10))
    play.tell(range(30, 40))
    assert play.asked() == []
    assert play.fetch.is_stuck()


async def test_what_is_described_later_is_asked_for_but_for_what_is_there(play: Play) -> None:
    play.asked()
    play.target.total = 25
    play.fetch.grow([12, 13, 24])
    assert play.asked() == [10, 11, *range(14, 24)]
    play.fetch.grow()
    assert play.asked() == []


async def test_what_is_described_before_anybody_has_it_is_asked_for_once_told(play: Play) -> None:
    play.asked()
    play.target.total = 50
    play.fetch.grow()
    assert play.asked() == list(range(10, 30))
    play.tell(range(30, 60))
    assert play.asked() == list(range(30, 50))


async def test_a_draft_is_never_finished(play: Play) -> None:
    play.tell(range(LIMIT))
    for total in (40, LIMIT - 1):
        play.target.total = total
        play.fetch.grow()
        play.asked()
    assert not play.owner.finished
    assert play.fetch.is_stuck()
