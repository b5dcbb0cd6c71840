"""Network: sessions, latency, lines, partitions, clogs, restarts and clocks of the simulator."""

from __future__ import annotations

import statistics

import pytest

from shoal.core.chance import Chance
from shoal.overlay.substrate.messages import Join, Part
from shoal.overlay.substrate.steps import (
    Connect,
    Effect,
    Input,
    Received,
    Send,
    SessionDown,
    SetTimer,
    Started,
    Timer,
)
from shoal.sim.cost import HANDSHAKE_BYTES, size_bytes
from shoal.sim.kernel import SECOND_US, Kernel
from shoal.sim.latency import LossyLatency, SteadyLatency
from shoal.sim.lines import Lines
from shoal.sim.network import HEARTBEAT_US, SILENCE_US, Network
from shoal.sim.sites import CITIES, SiteLatency
from shoal.transport.config import SessionTiming

WAY_US = 10_000


class Recorder:
    """A machine that notes what comes and does what it was told to do next."""

    def __init__(self, own: bytes, chance: Chance) -> None:
        self.seen: list[tuple[float, Input]] = []
        self.next: list[Effect] = []

    def step(self, now: float, event: Input) -> list[Effect]:
        self.seen.append((now, event))
        effects, self.next = self.next, []
        return effects


def make(count: int = 2) -> Network[Recorder]:
    network = Network(1, count, Recorder, SteadyLatency(WAY_US))
    for index in range(count):
        network.start(index, ())
    return network


def tell(network: Network[Recorder], index: int, *effects: Effect) -> None:
    """Let a node do something now."""
    node = network.nodes[index]
    node.machine.next = list(effects)
    network.step(node, Timer(("now",)))


def got(network: Network[Recorder], index: int, kind: type) -> list[tuple[float, Input]]:
    return [item for item in network.nodes[index].machine.seen if isinstance(item[1], kind)]


def run_s(network: Network[Recorder], seconds: float) -> None:
    network.kernel.run(network.kernel.now_us + int(seconds * SECOND_US))


def peer(index: int) -> bytes:
    return index.to_bytes(32, "big")


def link(network: Network[Recorder]) -> None:
    """Make nodes 0 and 1 neighbours with a session."""
    tell(network, 0, Connect(peer(1)), Send(peer(1), Join()))
    tell(network, 1, Connect(peer(0)))
    run_s(network, 1)


def test_events_of_one_time_happen_in_the_order_of_planning() -> None:
    kernel, seen = Kernel(), []
    for number in range(2000):
        kernel.plan(5000, lambda first, _: seen.append(first), number)
    kernel.plan(10, lambda first, _: seen.append(first), "early")
    kernel.run(10_000)
    assert seen == ["early", *range(2000)]
    assert kernel.now_us == 10_000


def test_the_first_message_pays_for_two_round_trips_and_a_handshake() -> None:
    network = make()
    tell(network, 0, Send(peer(1), Join()), Send(peer(1), Part(False)))
    run_s(network, 1)
    times = [now for now, _ in got(network, 1, Received)]
    assert times[0] == pytest.approx(5 * WAY_US / SECOND_US)
    assert times[1] > times[0]
    assert network.sent_bytes[0] == HANDSHAKE_BYTES // 2 + size_bytes(Join()) + size_bytes(Part(False))
    tell(network, 1, Send(peer(0), Join()))
    run_s(network, 1)
    assert got(network, 0, Received)[0][0] == pytest.approx(1 + WAY_US / SECOND_US)


def test_who_is_gone_cannot_be_dialled_and_neighbours_notice_by_silence() -> None:
    network = make(3)
    link(network)
    network.crash(1)
    run_s(network, 20)
    ((when, down),) = got(network, 0, SessionDown)
    assert down == SessionDown(peer(1), "idle")
    assert 5 <= when - 1 <= 10
    tell(network, 2, Send(peer(1), Join()))
    run_s(network, 10)
    assert got(network, 2, SessionDown)[0][1] == SessionDown(peer(1), "unreachable")


def test_silence_lasts_as_long_as_in_a_node() -> None:
    timing = SessionTiming()
    assert timing.silence_s + timing.probe_s + timing.tick_s == SILENCE_US / SECOND_US
    assert timing.heartbeat_s <= HEARTBEAT_US / SECOND_US <= timing.heartbeat_s + timing.tick_s


def test_a_killed_process_is_noticed_at_once_and_comes_back_as_a_new_machine() -> None:
    network = make()
    link(network)
    before = network.nodes[1].machine
    network.crash(1, "reset")
    run_s(network, 1)
    assert got(network, 0, SessionDown)[0][1] == SessionDown(peer(1), "reset")
    network.start(1, (0,))
    assert network.nodes[1].machine is not before
    assert network.nodes[1].machine.seen == [(2.0, Started((peer(0),)))]


def test_what_a_short_cut_holds_back_comes_when_it_heals() -> None:
    network = make()
    link(network)
    network.cut(bytearray([0, 1]))
    tell(network, 0, Send(peer(1), Part(False)))
    run_s(network, 5)
    assert len(got(network, 1, Received)) == 1
    network.heal()
    run_s(network, 20)
    assert len(got(network, 1, Received)) == 2
    assert got(network, 0, SessionDown) == []


def test_a_long_cut_ends_sessions_on_both_sides() -> None:
    network = make()
    link(network)
    network.cut(bytearray([0, 1]))
    run_s(network, 20)
    tell(network, 0, Send(peer(1), Join()))
    run_s(network, 10)
    network.heal()
    run_s(network, 10)
    reasons = [event.reason for _, event in got(network, 0, SessionDown) if isinstance(event, SessionDown)]
    assert reasons == ["idle", "unreachable"]
    assert len(got(network, 1, Received)) == 1


def test_one_way_lets_the_other_way_through() -> None:
    network = make()
    link(network)
    network.cut(bytearray([0, 1]), one_way=True)
    tell(network, 0, Send(peer(1), Part(False)))
    tell(network, 1, Send(peer(0), Part(False)))
    run_s(network, 2)
    assert len(got(network, 1, Received)) == 2
    assert got(network, 0, Received) == []


def test_a_clog_delays_and_a_long_one_ends_the_session() -> None:
    network = make()
    link(network)
    network.clog(0, 1, network.kernel.now_us + 5 * SECOND_US)
    tell(network, 0, Send(peer(1), Part(False)))
    run_s(network, 20)
    assert got(network, 1, Received)[-1][0] == pytest.approx(6.01, abs=0.01)
    assert got(network, 0, SessionDown) == []
    network.clog(0, 1, network.kernel.now_us + 60 * SECOND_US)
    run_s(network, 20)
    assert got(network, 0, SessionDown)[0][1] == SessionDown(peer(1), "idle")


def test_a_clock_that_jumps_makes_timers_due_and_never_goes_back() -> None:
    network = make()
    tell(network, 0, SetTimer(100.0, ("far",)), SetTimer(5000.0, ("farther",)))
    network.jump(0, 1000 * SECOND_US)
    run_s(network, 1)
    assert got(network, 0, Timer)[1:] == [(1000.0, Timer(("far",)))]
    tell(network, 0, SetTimer(1003.0, ("next",)))
    run_s(network, 5)
    times = [now for now, _ in network.nodes[0].machine.seen]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(1003.0)


def test_a_node_that_stalls_gets_everything_later() -> None:
    network = make()
    link(network)
    network.stall(1, network.kernel.now_us + 3 * SECOND_US)
    tell(network, 0, Send(peer(1), Part(False)))
    run_s(network, 5)
    assert got(network, 1, Received)[-1][0] == pytest.approx(4.0, abs=0.01)


def test_lines_pass_so_many_bytes_a_second() -> None:
    lines = Lines(2, up_bytes_s=1000, down_bytes_s=10_000)
    assert [lines.leave(0, 0, 500) for _ in range(3)] == [500_000, 1_000_000, 1_500_000]
    assert lines.leave(1, 0, 500) == 500_000
    assert lines.leave(0, 9_000_000, 500) == 9_500_000
    assert lines.enter(0, 0, 500) == 50_000


def test_sites_have_the_latency_that_is_said() -> None:
    latency = SiteLatency(4000, seed=1, stream=1, loss=0.0)
    chance = Chance(5)
    ways = [latency.one_way_us(chance.below(4000), chance.below(4000)) / 1000 for _ in range(20_000)]
    near = [
        latency.one_way_us(here, there) / 1000
        for here in range(200)
        for there in range(200)
        if latency._sites[here] == latency._sites[there] and here != there
    ]
    assert 11 < statistics.median(near) < 16  # half of 4 ms and two heights of about 8 to 12 ms
    assert 40 < statistics.median(ways) < 80
    heights = sorted(latency._heights)
    assert heights[2000] == pytest.approx(8000, rel=0.1)
    assert heights[int(0.8413 * 4000)] == pytest.approx(8000 * 2.4596, rel=0.1)  # e^0.9
    assert len(set(latency._sites)) == len(CITIES)


def test_loss_is_a_delay_that_doubles() -> None:
    latency = LossyLatency(SteadyLatency(WAY_US), 0.02, Chance(1))
    ways = [latency.one_way_us(0, 1) for _ in range(50_000)]
    assert set(ways) >= {WAY_US, WAY_US + 220_000, WAY_US + 660_000}
    assert sum(way > WAY_US for way in ways) / len(ways) == pytest.approx(0.02, rel=0.1)
