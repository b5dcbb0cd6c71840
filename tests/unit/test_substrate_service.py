"""Substrate service: what it lets in, what it lets go, and when it changes between mesh and views."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import pytest
from tests.support.substrate_world import peer

from shoal.core.chance import Chance
from shoal.core.observation import Observation
from shoal.overlay.substrate import service as module
from shoal.overlay.substrate.merge import BEACON_TOPIC
from shoal.overlay.substrate.messages import Gossip, Graft, Neighbour, NeighbourAnswer
from shoal.overlay.substrate.plumtree import Verdict
from shoal.overlay.substrate.service import SubstrateService, make_identifier
from shoal.overlay.substrate.steps import Input, Received
from shoal.testing.clock import ManualClock
from shoal.transport.session import Session
from shoal.wire.codec import Message

ME = peer(1)
TOPIC = 200
MESH = 10


@dataclass(eq=False)
class FakeSession:
    """As much of a session as the substrate looks at."""

    peer_id: bytes
    used_at: float = 0.0
    in_flight: int = 0
    is_dialler: bool = True
    may_rest: bool = False
    reason: str = ""
    sent: list[Message] = field(default_factory=list)

    def notify(self, service: int, message: Message) -> bool:
        self.sent.append(message)
        return True

    def close(self, reason: str) -> None:
        self.reason = reason


class World:
    """One service, its sessions, and what it wanted of the rest of the node."""

    def __init__(self) -> None:
        self.open: dict[bytes, FakeSession] = {}
        self.dialled: list[bytes] = []
        self.sparse: list[bool] = []
        self.observed: list[Observation] = []
        self.taken: list[bytes] = []
        self.clock = ManualClock()
        self.service = SubstrateService(
            ME,
            self,
            Chance(1),
            dial=self.dialled.append,
            set_sparse=self.sparse.append,
            is_busy=lambda peer_id: False,
            find_reachable=list,
            compare=lambda: None,
            clock=self.clock,
            observe=self.observed.append,
            mesh_members=MESH,
        )
        self.service.handle(TOPIC, self)

    def find_session(self, peer_id: bytes) -> Session | None:
        return cast(Session | None, self.open.get(peer_id))

    def sessions(self) -> list[Session]:
        return cast(list[Session], [session for session in self.open.values() if not session.reason])

    def connect(self, number: int, used_at: float = 0.0) -> FakeSession:
        self.open[peer(number)] = session = FakeSession(peer(number), used_at)
        self.service.on_session_up(peer(number))
        return session

    def judge(self, payload: bytes) -> Verdict:
        return Verdict.GOOD

    def find_author(self, payload: bytes) -> bytes | None:
        return None

    def deliver(self, payload: bytes, sender: bytes) -> None:
        self.taken.append(payload)


def members(count: int) -> frozenset[bytes]:
    return frozenset(peer(number) for number in range(1, count + 1))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    world.service.close()


async def test_mesh_and_views_change_at_two_limits_and_between_them_nothing_does(world: World) -> None:
    world.service.start(members(MESH))
    modes = []
    for count in (
        MESH,
        MESH + 1,
        MESH,
        MESH + 1,
        MESH,
        MESH - 1,
        MESH - 2,
        MESH - 3,
        MESH - 2,
        MESH,
        MESH + 1,
    ):
        world.service.on_members(members(count))
        modes.append((count, world.service.status().mode))
    assert modes == [
        (10, "mesh"),
        (11, "views"),
        *((count, "views") for count in (10, 11, 10, 9, 8)),
        (7, "mesh"),  # fewer than four fifths
        (8, "mesh"),
        (10, "mesh"),
        (11, "views"),
    ]
    assert world.sparse == [True, False, True]


async def test_a_broadcast_under_another_name_is_forged(world: World) -> None:
    world.service.start(members(5))
    world.connect(2)
    false = Gossip(make_identifier(TOPIC, b"other"), 1, TOPIC, b"good")
    world.service.on_message(peer(2), false)
    assert [seen.rule for seen in world.observed] == ["forged_broadcast"]
    world.service.on_message(peer(2), Gossip(make_identifier(TOPIC + 1, b"good"), 1, TOPIC, b"good"))
    assert world.taken == []  # the topic is part of the name
    world.service.on_message(peer(2), Gossip(make_identifier(TOPIC, b"good"), 1, TOPIC, b"good"))
    assert world.taken == [b"good"]


async def test_a_beacon_is_empty(world: World) -> None:
    world.service.start(members(5))
    world.connect(2)
    world.service.on_message(peer(2), Gossip(b"i" * 16, 1, BEACON_TOPIC, b""))
    assert world.observed == []
    world.service.on_message(peer(2), Gossip(b"j" * 16, 1, BEACON_TOPIC, b"x"))
    assert [seen.rule for seen in world.observed] == ["forged_broadcast"]


async def test_who_is_no_member_is_not_heard_before_the_start_either(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Input] = []
    step = world.service._machine.step
    monkeypatch.setattr(
        type(world.service._machine), "step", lambda _, now, event: (heard.append(event), step(now, event))[1]
    )
    for number in (3, 77):
        world.service.on_message(peer(number), Graft(b"", 0))
    world.service.start(members(5))
    for number in (2, 78):
        world.service.on_message(peer(number), Graft(b"", 0))
    assert [event.peer for event in heard if isinstance(event, Received)] == [peer(3), peer(2)]


async def test_who_is_no_member_gets_no_place_in_the_views(world: World) -> None:
    world.service.start(members(50))
    for number in (2, 3):
        world.connect(number)
        world.service.on_message(peer(number), Neighbour(True))
    world.service.on_members(members(50) - {peer(3)})
    views = world.service._machine.views
    assert peer(2) in views.active
    assert peer(3) not in views.active + views.passive
    world.service.on_message(peer(3), NeighbourAnswer(True))
    views.on_join(0.0, peer(3), [])
    assert peer(3) not in views.active + views.passive


async def test_sessions_beside_neighbours_have_a_limit_and_the_longest_unused_gives_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXTRA_SESSIONS", 3)
    world.service.start(members(50))
    world.connect(2)
    world.service.on_message(peer(2), Neighbour(True))
    extra = [world.connect(number, used_at=float(number)) for number in (12, 11, 13)]
    world.dialled.clear()
    assert world.service.want(peer(20))
    assert world.dialled == [peer(20)]
    assert [session.reason for session in extra] == ["", "idle", ""]
    assert world.open[peer(2)].reason == ""
    for session in extra:
        session.in_flight = 1
    del world.open[peer(11)]
    world.connect(14).in_flight = 1
    assert not world.service.want(peer(21)), "all are in use"
    assert world.dialled == [peer(20)]


async def test_who_waited_for_a_dial_that_a_change_of_mode_ended_keeps_no_place(world: World) -> None:
    world.service.start(members(MESH))
    world.service._send(peer(5), Graft(b"", 0))
    assert world.dialled == [peer(5)]
    world.service.on_members(members(MESH + 1))  # the plan of dials is dropped with the mesh
    assert peer(5) not in world.service._waiting
