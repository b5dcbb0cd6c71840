"""Kept relays: whose sessions a relay does not let go, and how many of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from tests.support.substrate_world import ME, peer

from shoal.overlay.kept_relays import CLIENTS, KeptRelays
from shoal.overlay.mesh import MeshMachine
from shoal.testing.clock import ManualClock
from shoal.transport.session import Session


@dataclass
class FakeSession:
    peer_id: bytes
    established_at: float
    relay: bytes | None = None


class World:
    """Sessions of more clients than a relay keeps; all of them name it but the first."""

    def __init__(self) -> None:
        numbers = range(CLIENTS + 20)
        self.open = [FakeSession(peer(number), 1000.0 - number) for number in numbers]

    def find_session(self, peer_id: bytes) -> Session | None:
        return None

    def sessions(self) -> list[Session]:
        return cast(list[Session], self.open)

    def names_as_relay(self, peer_id: bytes, relay: bytes) -> bool:
        return relay == ME and peer_id != peer(0)


def make_kept(world: World, relays: bool) -> KeptRelays:
    machine = cast(MeshMachine, world)
    return KeptRelays(
        ME, world, machine, ManualClock(), relays=relays, is_mesh=lambda: False, want=lambda peer_id: None
    )


def test_a_relay_keeps_the_longest_sessions_of_so_many_that_name_it() -> None:
    world = World()
    assert make_kept(world, relays=True).find_kept() == {peer(n) for n in range(20, CLIENTS + 20)}
    assert make_kept(world, relays=False).find_kept() == set()


def test_a_session_that_carries_another_one_is_kept() -> None:
    world = World()
    world.open[1].relay = peer(0)
    assert make_kept(world, relays=False).find_kept() == {peer(0)}
