"""World: one scenario as it happens: a network, its load, its faults, and checks while it runs."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence

from shoal.core.chance import Chance
from shoal.core.units import GIB, MIB
from shoal.overlay.substrate.config import LIVE
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.overlay.substrate.messages import Gossip
from shoal.overlay.substrate.steps import Broadcast, Deliver, Send
from shoal.sim.checks import find_broken
from shoal.sim.faults import FaultPlan
from shoal.sim.graph import count_components, find_links
from shoal.sim.growth import grow, make_picker
from shoal.sim.kernel import SECOND_US
from shoal.sim.latency import Latency, LossyLatency, SteadyLatency
from shoal.sim.liars import KINDS, MIXED, RELAY, Liar, judge
from shoal.sim.lines import Lines
from shoal.sim.network import LATENCY, Network, SimNode
from shoal.sim.reach import Reach
from shoal.sim.scenario import Scenario
from shoal.sim.sites import SiteLatency
from shoal.sim.streams import Streams
from shoal.transport.reach.relay_machine import RelayLimits

CONFIG = LIVE
TOPIC = 1
HERE_S = 30.0  # who is here that long before a broadcast, and WINDOW_S after it, has to get it
WINDOW_S = 60.0  # twice as long as a broadcast is kept
CHECK_S = 60.0
QUIET_S = 180.0  # after a fault: three periods of looking for other parts
DAY_S = 86_400.0
SPARE = 0.2  # newcomers there are at most, a share of the nodes
KEPT_CONTACTS = 32  # a node that starts again has from its last views
LOAD, CHURN, LIARS, REACH = 11, 12, 13, 18  # streams of chance


class Sent:
    """One broadcast: who has to get it, and when each got it."""

    __slots__ = ("arrived_us", "at_us", "expected", "payloads")

    def __init__(self, at_us: int, count: int, expected: list[int]) -> None:
        self.at_us = at_us
        self.arrived_us = array("q", [-1]) * count
        self.expected = expected
        self.payloads = 0


class World:
    """One run. `run` returns when the scenario's time is over; then everything can be looked at."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self.count = scenario.nodes + int(SPARE * scenario.nodes if scenario.median_h else 0)
        chance = Chance(seed, 2**32, LIARS)
        self.hidden, self.relays = self._choose_reach()
        among: Sequence[int] = range(1, scenario.nodes) if scenario.liar_kind != RELAY else self.relays
        count = scenario.nodes if scenario.liar_kind != RELAY else len(self.relays)
        chosen = chance.sample(among, int(scenario.liars * count))
        self.liars = frozenset(chosen)
        self._gang = [index.to_bytes(32, "big") for index in sorted(chosen)]
        self.network = Network(seed, self.count, self._make_machine, self._make_latency())
        self.reach = self._make_reach()
        self.network.ways = self.reach
        if scenario.up_mbit_s or scenario.down_mbit_s:
            up, down = (rate * 125_000 or 1e12 for rate in (scenario.up_mbit_s, scenario.down_mbit_s))
            self.network.lines = Lines(self.count, up, down)
        self._load = Chance(seed, 2**32, LOAD)
        self._churn = Chance(seed, 2**32, CHURN)
        self.since_us = array("q", [-1]) * self.count  # of each node's life; -1: not here
        self.sent: list[Sent] = []
        self.faults = FaultPlan(self)
        self.parts: list[int] = []  # in each check of a quiet minute
        self.broken: list[str] = []
        self.begin_us = self.end_us = 0
        self.bytes_before: list[int] = []
        self.contacts: dict[int, tuple[int, ...]] = {}  # of those who are away, from their last views
        self.gone_us: dict[int, list[int]] = {}  # when each node left
        self._spare = list(range(scenario.nodes, self.count))

    def _choose_reach(self) -> tuple[frozenset[int], list[int]]:
        """Return who cannot be dialled, newcomers too, and who relays. Node 0 can be: others join by it."""
        scenario = self.scenario
        chance = Chance(self.seed, 2**32, REACH)
        share, nodes = scenario.behind_nat, scenario.nodes
        hidden = chance.sample(range(1, nodes), int(share * nodes))
        hidden += chance.sample(range(nodes, self.count), int(share * (self.count - nodes)))
        seen = frozenset(hidden)
        could = [index for index in range(1, nodes) if index not in seen]
        return seen, sorted(chance.sample(could, int(scenario.relays * nodes)))

    def _make_reach(self) -> Reach | None:
        scenario = self.scenario
        if not self.hidden and not self.relays:
            return None
        limits = RelayLimits(
            streams=scenario.relay_streams,
            rate_bytes_s=int(scenario.relay_mib_s * MIB) or None,
            day_bytes=int(scenario.relay_day_gib * GIB) or None,
        )
        liars = self.liars if scenario.liar_kind == RELAY else frozenset()
        streams = Streams(self.network, self.relays, liars, limits)
        return Reach(self.network, self.hidden, self.relays, streams)

    def _make_latency(self) -> Latency:
        scenario, seed = self.scenario, self.seed
        if scenario.latency == "sites":
            return SiteLatency(self.count, seed, LATENCY, scenario.loss)
        if scenario.loss:
            return LossyLatency(SteadyLatency(), scenario.loss, Chance(seed, 2**32, LATENCY))
        return SteadyLatency()

    def _make_machine(self, own: bytes, chance: Chance) -> SubstrateMachine:
        index = int.from_bytes(own, "big")
        machine: SubstrateMachine
        if index in self.liars:
            machine = self._find_kind(index)(own, CONFIG, chance, self._gang)
        else:
            machine = SubstrateMachine(own, CONFIG, chance, judge)
        machine.tell_members(self.scenario.nodes, make_picker(self.seed, index, self.scenario.nodes))
        return machine

    def _find_kind(self, index: int) -> type[Liar]:
        if self.scenario.liar_kind != "mixed":
            return KINDS[self.scenario.liar_kind]
        return KINDS[MIXED[index % len(MIXED)]]

    # -- the run ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Let the network grow and settle, then let the scenario happen."""
        scenario, network = self.scenario, self.network
        kernel = network.kernel
        grow(network, scenario.nodes)
        kernel.run(kernel.now_us + int(scenario.settle_minutes * 60 * SECOND_US))
        self.begin_us = kernel.now_us
        self.end_us = self.begin_us + int(scenario.minutes * 60 * SECOND_US)
        for index in range(scenario.nodes):
            self.since_us[index] = 0
        self.bytes_before = self.count_bytes()
        if self.reach is not None:
            self.reach.count_anew()
        network.on_deliver, network.on_send = self._on_deliver, self._on_send
        self._plan_broadcast()
        self.faults.plan()
        if scenario.median_h:
            for index in range(scenario.nodes):
                self._plan_end(index)
        kernel.plan(self.begin_us + int(CHECK_S * SECOND_US), self._check)
        kernel.run(self.end_us)

    def count_bytes(self) -> list[int]:
        """Return what each node has sent and received so far."""
        network = self.network
        return [out + back for out, back in zip(network.sent_bytes, network.received_bytes, strict=True)]

    def find_honest(self) -> list[int]:
        """Return the nodes that are here and do not lie."""
        return [node.index for node in self.network.nodes if node.alive and node.index not in self.liars]

    def was_here(self, index: int, from_us: int, until_us: int) -> bool:
        """Whether a node that was here at a time did not leave until another."""
        return not any(from_us <= at_us <= until_us for at_us in self.gone_us.get(index, ()))

    # -- load ------------------------------------------------------------------------------------------

    def _plan_broadcast(self) -> None:
        rate_s = self.scenario.broadcasts_per_minute / 60
        if rate_s <= 0:
            return
        now_us = self.network.kernel.now_us
        rate_s *= self._find_swing(self.scenario.diurnal)
        at_us = now_us + int(self._load.exponential(1 / max(rate_s, 1e-6)) * SECOND_US)
        if at_us + WINDOW_S * SECOND_US < self.end_us:
            self.network.kernel.plan(at_us, self._broadcast)

    def _find_swing(self, share: float) -> float:
        """Return 1, moved by as much as the time of day moves it."""
        phase = 2 * math.pi * (self.network.kernel.now_us - self.begin_us) / SECOND_US / DAY_S
        return 1 + share * math.sin(phase)

    def _broadcast(self, first: None, second: None) -> None:
        self._plan_broadcast()
        network = self.network
        now_us = network.kernel.now_us
        honest = [index for index in self.find_honest() if not self.faults.is_sick(index)]
        if not honest:
            return
        source = self._load.pick(honest)
        limit_us = now_us - int(HERE_S * SECOND_US)
        expected = [
            index
            for index in honest
            if index != source and self.since_us[index] <= limit_us and self.faults.is_beside(source, index)
        ]
        number = len(self.sent)
        self.sent.append(Sent(now_us, self.count, expected))
        payload = b"x" * self.scenario.payload_bytes
        network.step(network.nodes[source], Broadcast(number.to_bytes(16, "big"), TOPIC, payload))

    def _on_deliver(self, node: SimNode[SubstrateMachine], event: Deliver) -> None:
        number = int.from_bytes(event.identifier, "big")
        if event.topic == TOPIC and number < len(self.sent):
            arrived_us = self.sent[number].arrived_us
            if arrived_us[node.index] < 0:
                arrived_us[node.index] = self.network.kernel.now_us

    def _on_send(self, node: SimNode[SubstrateMachine], effect: Send) -> None:
        if type(effect.message) is Gossip:
            number = int.from_bytes(effect.message.identifier, "big")
            if number < len(self.sent):
                self.sent[number].payloads += 1

    # -- coming and going ------------------------------------------------------------------------------

    def leave(self, index: int, reason: str) -> None:
        """Let a node end without a word; it keeps contacts for its return."""
        node = self.network.nodes[index]
        if not node.alive:
            return
        views = node.machine.views
        number = self.network.number
        self.contacts[index] = tuple(number[peer] for peer in (views.active + views.passive)[:KEPT_CONTACTS])
        self.since_us[index] = -1
        self.gone_us.setdefault(index, []).append(self.network.kernel.now_us)
        self.network.crash(index, reason)

    def come(self, index: int) -> None:
        """Let a node start, with what it knew or by somebody who is here."""
        if self.network.nodes[index].alive:
            return
        known = self.contacts.pop(index, ())
        if not known:
            here = self.find_honest()
            known = (self._churn.pick(here),) if here else ()
        self.since_us[index] = self.network.kernel.now_us
        self.network.start(index, known)

    def _plan_end(self, index: int) -> None:
        scenario, chance = self.scenario, self._churn
        sigma = math.log(max(1.001, scenario.p80_h / scenario.median_h)) / 0.8416  # normal quantile of 80 %
        session_s = 3600 * scenario.median_h * math.exp(sigma * chance.normal())
        session_s /= self._find_swing(scenario.churn_diurnal)
        self._plan_at(session_s, self._end_session, index)

    def _plan_at(self, wait_s: float, action: Callable[[int, None], None], index: int) -> None:
        at_us = self.network.kernel.now_us + int(wait_s * SECOND_US)
        if at_us < self.end_us:
            self.network.kernel.plan(at_us, action, index)

    def _end_session(self, index: int, second: None) -> None:
        chance = self._churn
        self.leave(index, "reset" if chance.fraction() < 0.5 else "idle")
        away_s = chance.exponential(60 * self.scenario.away_minutes)
        away_s *= self._find_swing(self.scenario.churn_diurnal)
        who = index
        if chance.fraction() < self.scenario.permanent and self._spare:
            who = self._spare.pop()
        self._plan_at(away_s, self._begin_session, who)

    def _begin_session(self, index: int, second: None) -> None:
        self.come(index)
        self._plan_end(index)

    # -- checks ----------------------------------------------------------------------------------------

    def _check(self, first: None, second: None) -> None:
        kernel = self.network.kernel
        for index in self.find_honest():
            node = self.network.nodes[index]
            for what in find_broken(node.identifier, CONFIG, node.machine):
                self.broken.append(f"{kernel.now_s:.0f} s, node {index}: {what}")
        if self.faults.is_quiet(QUIET_S):
            self.parts.append(self.count_parts())
        if kernel.now_us + CHECK_S * SECOND_US <= self.end_us:
            kernel.plan(kernel.now_us + int(CHECK_S * SECOND_US), self._check)

    def count_parts(self) -> int:
        """Return into how many parts the honest nodes have fallen that are here for a while.

        Links over liars do not count; a part of newcomers alone neither.
        """
        links = find_links(self.network)
        limit_us = self.network.kernel.now_us - int(CHECK_S * SECOND_US)
        settled = [index for index in self.find_honest() if self.since_us[index] <= limit_us]
        return count_components(links, settled)
