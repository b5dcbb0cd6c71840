"""Reach in the simulator: who cannot be dialled is reached over relays that it names, and what those do."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.sim.test_determinism import run

from shoal.core.errors import ConfigFault
from shoal.overlay.substrate.config import LIVE
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.overlay.substrate.messages import Join
from shoal.overlay.substrate.steps import Send
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import SteadyLatency
from shoal.sim.network import STREAM, Network
from shoal.sim.reach import Reach
from shoal.sim.scenario import Bound, Scenario, read_scenario, write_scenario
from shoal.sim.streams import STALL_AFTER_US, Streams
from shoal.transport.reach.relay_machine import RelayLimits

HIDDEN, CALLER, RELAYS = 1, 2, (3, 4)
WAY_US = 10_000
SMALL = Scenario(
    nodes=40,
    minutes=2.0,
    settle_minutes=1.0,
    behind_nat=0.6,
    relays=0.2,
    liars=0.4,
    liar_kind="relay",
    broadcasts_per_minute=6.0,
    bounds=(Bound("delivered", 0.5, None), Bound("bytes_s", None, 1e6), Bound("circuit_s_p99", None, 60.0)),
)


class Quiet(SubstrateMachine):
    """Says nothing of itself: a test does."""

    def step(self, now: float, event: object) -> list[object]:  # type: ignore[override]
        return []


class World:
    """Nodes 3 and 4 relay; nobody can dial node 1, and all who keep relays have had the time to."""

    def __init__(self, lies: dict[int, str] | None = None, limits: RelayLimits | None = None) -> None:
        self.network = Network[SubstrateMachine](
            1, 5, lambda own, chance: Quiet(own, LIVE, chance), SteadyLatency(WAY_US)
        )
        liars = frozenset(lies or ())
        self.streams = Streams(self.network, list(RELAYS), liars, limits or RelayLimits())
        self.streams._lies = lies or {}
        self.reach = Reach(self.network, frozenset({HIDDEN}), RELAYS, self.streams)
        self.network.ways = self.reach
        for index in range(5):
            self.network.start(index, ())
        self.run_s(10)

    def run_s(self, seconds: float) -> None:
        self.network.kernel.run(self.network.kernel.now_us + int(seconds * SECOND_US))

    def wish(self, index: int = CALLER) -> None:
        node = self.network.nodes[index]
        self.network.send(node, Send(self.network.nodes[HIDDEN].identifier, Join()))

    def relay_of(self, index: int = CALLER) -> int | None:
        """Return the relay of a node's session with the hidden one."""
        session = self.network.nodes[index].sessions.get(HIDDEN)
        return session[STREAM + 1] if session is not None and len(session) > STREAM else None


def test_a_node_behind_a_nat_names_two_relays_and_is_reached_over_them_alone() -> None:
    world = World()
    assert world.reach._named[HIDDEN] == (3, 4) or world.reach._named[HIDDEN] == (4, 3)
    got = world.network.received[HIDDEN]
    world.wish()
    world.run_s(3)
    assert world.relay_of() in RELAYS
    assert world.network.received[HIDDEN] == got + 1
    assert world.reach.delays_us
    # asking and connecting, and the handshake over both ways; the session with the relay comes on top
    assert 8 * WAY_US < world.reach.delays_us[0] < SECOND_US


def test_a_relay_pays_for_every_byte_twice_and_adds_a_way() -> None:
    world = World()
    world.wish()
    world.run_s(3)
    relay = world.relay_of()
    assert relay is not None
    before = (world.network.received_bytes[relay], world.network.sent_bytes[relay])
    sent = world.network.sent_bytes[CALLER]
    began_us = world.network.kernel.now_us
    world.wish()
    size = world.network.sent_bytes[CALLER] - sent
    world.network.kernel.run(began_us + 2 * WAY_US - 1)
    assert world.network.nodes[HIDDEN].sessions[CALLER][2] == 0
    world.network.kernel.run(began_us + 2 * WAY_US)
    assert world.network.received_bytes[relay] - before[0] == size
    assert world.network.sent_bytes[relay] - before[1] == size


@pytest.mark.parametrize("lie", ["mute", "dead"])
def test_who_names_a_relay_that_brings_no_call_takes_another_and_is_reached(lie: str) -> None:
    world = World({3: lie})
    world.run_s(30)
    assert world.reach._named[HIDDEN] == (4,)
    world.wish()
    world.run_s(10)
    assert world.relay_of() == 4
    assert world.reach.unreached == 0


def test_a_relay_that_stops_passing_bytes_is_noticed_by_silence_and_tried_last() -> None:
    world = World(dict.fromkeys(RELAYS, "stalls"))
    world.wish()
    world.run_s(3)
    relay = world.relay_of()
    assert relay is not None
    world.run_s(STALL_AFTER_US / SECOND_US + 15)
    assert world.relay_of() is None
    world.wish()
    world.run_s(10)
    assert world.relay_of() == (set(RELAYS) - {relay}).pop()


def test_a_relay_without_a_place_refuses_and_the_other_one_is_asked() -> None:
    world = World(limits=RelayLimits(streams=1))
    for index in (0, CALLER):
        world.wish(index)
        world.run_s(5)
    assert {world.relay_of(0), world.relay_of(CALLER)} == set(RELAYS)


def test_with_its_relay_a_session_goes_and_comes_back_over_the_other() -> None:
    world = World()
    world.wish()
    world.run_s(3)
    relay = world.relay_of()
    assert relay is not None
    world.network.crash(relay)
    world.run_s(15)
    assert world.relay_of() is None
    world.wish()
    world.run_s(15)
    assert world.relay_of() == (set(RELAYS) - {relay}).pop()


def test_a_seed_prints_the_same_bytes_with_relays_and_liars(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(write_scenario(SMALL))
    assert read_scenario(str(path)) == SMALL
    first = run(["run", str(path)], "1")
    assert first == run(["run", str(path)], "2")
    assert first != run(["run", str(path)], "1", seed="8")


def test_relays_that_lie_need_relays(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('nodes = 10\nminutes = 2\n\n[liars]\nkind = "relay"\n\n[bounds]\nparts = { max = 1 }\n')
    with pytest.raises(ConfigFault, match=r"wrong\.toml, line 5: liars\.kind: there are no relays") as caught:
        read_scenario(str(path))
    assert "network.relays" in caught.value.next_step
