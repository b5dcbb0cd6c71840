"""Reach: nodes that cannot be dialled, and what becomes of who wants one.

What decides is the node's own: the relay keeper, the dial plan, the order of ways, the memory of relays that
failed, and the relay with its limits (sim/streams.py). Records are modelled: what a node names is known to
everybody RECORD_US later. Nobody punches: what is relayed stays relayed, as between two symmetric NATs.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from shoal.core.chance import Chance
from shoal.overlay.dial_plan import DialPlan
from shoal.overlay.kept_relays import CLIENTS
from shoal.overlay.mesh import RELAYS_WANTED
from shoal.overlay.relay_failures import RelayFailures
from shoal.overlay.relay_keeper import Check, Failed, Look, Passed, RelayKeeper, Want
from shoal.overlay.service import INNER_TIMEOUT_S
from shoal.overlay.steps import Cancel, Connect, SetTimer
from shoal.overlay.steps import Effect as PlanEffect
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.overlay.substrate.service import EXTRA_SESSIONS, WAITING_MESSAGES
from shoal.overlay.substrate.steps import Send, SessionDown
from shoal.overlay.ways import is_elsewhere, order_ways
from shoal.sim.kernel import SECOND_US
from shoal.sim.network import DIAL_TIMEOUT_US, STREAM, UNUSED, Network, SimNode
from shoal.sim.streams import Streams
from shoal.transport.address import Address

LOOK_US = 5 * SECOND_US  # between two looks at the relays of a node; the real one looks every 2 s
RECORD_US = SECOND_US  # until a record that says something else is everywhere
INNER_TIMEOUT_US = int(INNER_TIMEOUT_S * SECOND_US)
HOMES = 4  # inner networks that nodes behind NATs are in: many homes have the same one
NAMES, DIALS = 15, 17  # streams of chance


class Caller:
    """What one node that runs knows of others that cannot be dialled, and whom it waits for."""

    __slots__ = ("failures", "keeper", "plan", "since_us", "timers", "waiting")

    def __init__(self, plan: DialPlan, keeper: RelayKeeper | None) -> None:
        self.plan = plan
        self.keeper = keeper  # of a node that cannot be dialled
        self.failures = RelayFailures()
        self.waiting: dict[int, list[Send]] = {}  # at most EXTRA_SESSIONS
        self.since_us: dict[int, int] = {}  # of the same
        self.timers: dict[bytes, int] = {}


class Reach:
    """Implements `network.Ways`. `hidden`: who cannot be dialled."""

    def __init__(
        self,
        network: Network[SubstrateMachine],
        hidden: frozenset[int],
        relays: Sequence[int],
        streams: Streams,
    ) -> None:
        self._network = network
        self._kernel = network.kernel
        self.hidden = hidden
        self.streams = streams
        self._relay_ids = tuple(network.nodes[relay].identifier for relay in sorted(relays))
        self._open = [node.index for node in network.nodes if node.index not in hidden]
        self._names = Chance(network.seed, 2**32, NAMES)
        self._callers: dict[int, Caller] = {}
        self._named: dict[int, tuple[int, ...]] = {}  # hidden node -> relays, as everybody knows
        self._clients: dict[int, set[int]] = {relay: set() for relay in relays}  # who names it
        self._timer_count = 0
        self.wished = 0  # wishes for a hidden node that runs
        self.unreached = 0  # of them, in vain
        self.delays_us: list[int] = []  # from a wish to its session, of the others

    def count_anew(self) -> None:
        """Begin to count wishes."""
        self.wished = self.unreached = 0
        self.delays_us.clear()

    # -- network.Ways ----------------------------------------------------------------------------------

    def find_contacts(self, contacts: tuple[int, ...]) -> tuple[int, ...]:
        """See `Ways`: who joins needs somebody who can be dialled, or is named already."""
        here = [index for index in self._open if self._network.nodes[index].alive]
        return tuple(
            contact
            if contact not in self.hidden or self._named.get(contact) or not here
            else self._names.pick(here)
            for contact in contacts
        )

    def on_start(self, index: int) -> None:
        """See `Ways`."""
        node = self._network.nodes[index]
        rng = Random(Chance(self._network.seed, index, DIALS + node.starts).draw())  # noqa: S311 - jitter
        plan = DialPlan(node.identifier, lambda peer: self._find_ways(index, peer), rng)
        keeper = RelayKeeper(node.identifier) if index in self.hidden else None
        self._callers[index] = caller = Caller(plan, keeper)
        if keeper is not None:
            wait_us = int(self._names.fraction() * LOOK_US / 5)
            self._kernel.plan(self._kernel.now_us + wait_us, self._look, node, caller)

    def on_crash(self, index: int, reason: str) -> None:
        """See `Ways`."""
        del self._callers[index]
        self.streams.end_all(index, reason)

    def on_session(self, index: int, there: int) -> None:
        """See `Ways`: who waited for the dialling node has it."""
        self._on_up(there, index)

    def on_end(self, session: list[int]) -> None:
        """See `Ways`."""
        if len(session) > STREAM:
            self.streams.end(session)

    def on_down(self, index: int, there: int, reason: str, session: list[int]) -> None:
        """See `Ways`: a stream that broke counts against its relay."""
        caller = self._callers.get(index)
        if caller is not None and len(session) > STREAM:
            relay, began = self._id(session[STREAM + 1]), session[0] / SECOND_US
            caller.failures.on_ended(self._now_s(), relay, began, broke=reason != UNUSED)

    def take(self, index: int, effect: Send) -> bool:
        """See `Ways`: the first message is a wish, the others wait with it."""
        there = self._network.number[effect.peer]
        if there not in self.hidden:
            return False
        caller = self._callers[index]
        waiting = caller.waiting.get(there)
        if waiting is not None:
            if len(waiting) < WAITING_MESSAGES:
                waiting.append(effect)
            return True
        if len(caller.waiting) >= EXTRA_SESSIONS:
            return True
        caller.waiting[there] = [effect]
        caller.since_us[there] = self._kernel.now_us
        self._want(index, caller, there)
        return True

    def send(self, index: int, there: int, session: list[int], begins_us: int, what: Any) -> None:
        """See `Ways`."""
        self.streams.send(index, there, session, begins_us, what)

    def is_kept(self, index: int, there: int) -> bool:
        """See `Ways`: with the relays that a node names, and those that carry a stream of it."""
        for one, other in ((index, there), (there, index)):
            if self.streams.is_carrying(one, other):
                return True
            caller = self._callers.get(one)
            if caller is not None and caller.keeper is not None and self._id(other) in caller.keeper.kept:
                return True
        return False

    def find_relay(self, session: list[int]) -> int | None:
        """See `Ways`."""
        return self.streams.find_relay(session)

    # -- dials -----------------------------------------------------------------------------------------

    def _want(self, index: int, caller: Caller, there: int) -> None:
        """Dial a node that is wanted, and relays to it: mesh.py, `_on_wanted`."""
        now, own = self._now_s(), self._find_address(index)
        ids = [self._id(relay) for relay in self._named.get(there, ()) if relay != index]
        named = caller.failures.order(now, ids)[:RELAYS_WANTED]
        absent = [
            relay for relay in named if not self._network.has_session(index, self._network.number[relay])
        ]
        ways = self._find_ways(index, self._id(there))
        awaits = bool(absent) and is_elsewhere(ways[0], [own])
        effects = caller.plan.add(now, self._id(there), at_once=True, awaits_way=awaits)
        for relay in absent:
            effects += caller.plan.add(now, relay, at_once=True)
        self._carry_out(index, caller, effects)

    def _find_ways(self, index: int, peer: bytes) -> list[str]:
        """Return what a node may dial of another one: mesh.py, `addresses`."""
        there = self._network.number[peer]
        if there not in self.hidden:
            return [self._find_address(there)]
        relays = [self._id(relay) for relay in self._find_relays(index, there)]
        ways = [
            str(Address.via(relay)) for relay in self._callers[index].failures.order(self._now_s(), relays)
        ]
        return order_ways([self._find_address(there)], ways, [self._find_address(index)])

    def _find_relays(self, index: int, there: int) -> list[int]:
        """Return the relays that a node names, as far as another one has a session with them."""
        named = self._named.get(there, ())
        return [relay for relay in named if relay != index and self._network.has_session(index, relay)]

    def _find_address(self, index: int) -> str:
        """Return what a node's record says: behind a NAT an inner address."""
        if index in self.hidden:
            return f"192.168.{index % HOMES}.2:7000"
        return f"198.18.{index // 250 % 250}.{index % 250 + 1}:7000"

    def _carry_out(self, index: int, caller: Caller, effects: Sequence[PlanEffect]) -> None:
        for effect in effects:
            match effect:
                case SetTimer(at, (_, bytes(peer))):
                    self._timer_count = caller.timers[peer] = self._timer_count + 1
                    at_us = max(self._kernel.now_us, int(at * SECOND_US))
                    self._kernel.plan(at_us, self._fire, (index, caller), (peer, self._timer_count))
                case Cancel((_, bytes(peer))):
                    caller.timers.pop(peer, None)
                case Connect(peer, address):
                    self._connect(index, caller, peer, address)

    def _fire(self, who: tuple[int, Caller], what: tuple[bytes, int]) -> None:
        (index, caller), (peer, number) = who, what
        if self._callers.get(index) is caller and caller.timers.get(peer) == number:
            del caller.timers[peer]
            self._carry_out(index, caller, caller.plan.on_timer(self._now_s(), peer))

    def _connect(self, index: int, caller: Caller, peer: bytes, address: str) -> None:
        network, now_us = self._network, self._kernel.now_us
        there, relay = network.number[peer], Address(address, 0).relay
        wait_us, blamed = DIAL_TIMEOUT_US, relay
        if there in network.nodes[index].sessions:
            self._on_up(index, there)
            return
        if relay is not None:
            failed = self.streams.call(index, there, network.number[relay])
            if failed is None:
                self._on_up(there, index)
                self._on_up(index, there)
                return
            wait_us, blamed = failed[0], relay if failed[1] else None
        elif there in self.hidden:
            wait_us = INNER_TIMEOUT_US if self._find_relays(index, there) else DIAL_TIMEOUT_US
        else:
            session = network.dial(network.nodes[index], there)
            if session is not None:
                self._kernel.plan(session[0], self._begin, (index, caller), there)
                return
        self._kernel.plan(now_us + wait_us, self._fail, (index, caller), (peer, address, blamed))

    def _begin(self, who: tuple[int, Caller], there: int) -> None:
        index, caller = who
        if self._callers.get(index) is caller:
            self._on_up(index, there)

    def _fail(self, who: tuple[int, Caller], what: tuple[bytes, str, bytes | None]) -> None:
        """A dial failed; after the last of a round nobody waits any longer: mesh.py, `_give_up`."""
        (index, caller), (peer, address, blamed) = who, what
        if self._callers.get(index) is not caller:
            return
        if blamed is not None:
            caller.failures.note(self._now_s(), blamed)
        effects, is_over = caller.plan.on_failed(self._now_s(), peer, address, "no answer")
        named = [self._id(relay) for relay in self._named.get(self._network.number[peer], ())]
        plan = caller.plan
        if is_over and not any(relay in plan and plan.rounds_of(relay) == 0 for relay in named):
            effects += caller.plan.drop(peer)
            self._give_up(index, caller, self._network.number[peer])
        self._carry_out(index, caller, effects)

    def _give_up(self, index: int, caller: Caller, there: int) -> None:
        if caller.keeper is not None:
            caller.keeper.step(self._now_s(), Failed(self._id(there)))
        if caller.waiting.pop(there, None) is None:
            return
        del caller.since_us[there]
        if self._network.nodes[there].alive:
            self.wished += 1
            self.unreached += 1
        node = self._network.nodes[index]
        self._network.step(node, SessionDown(self._id(there), "unreachable"))

    def _on_up(self, index: int, there: int) -> None:
        """There is a session between two nodes: whoever waited for it, or for that relay, goes on."""
        caller = self._callers.get(index)
        if caller is None:
            return
        effects = caller.plan.drop(self._id(there))
        for absent in caller.plan.peers():
            if there in self._named.get(self._network.number[absent], ()):
                way = str(Address.via(self._id(there)))
                effects += caller.plan.offer_way(self._now_s(), absent, way)
        self._carry_out(index, caller, effects)
        messages = caller.waiting.pop(there, None)
        if messages is not None:
            self.wished += 1
            ready_us = self._network.nodes[index].sessions[there][0]
            self.delays_us.append(ready_us - caller.since_us.pop(there))
            for message in messages:
                self._network.send(self._network.nodes[index], message)

    # -- kept relays -----------------------------------------------------------------------------------

    def _look(self, node: SimNode[SubstrateMachine], caller: Caller) -> None:
        """Keep a session with some relays, and say so: kept_relays.py, `look`."""
        if self._callers.get(node.index) is not caller or caller.keeper is None:
            return
        now, index = self._now_s(), node.index
        number = self._network.number
        direct = frozenset(
            relay for relay in self._relay_ids if self._network.has_session(index, number[relay])
        )
        effects: list[PlanEffect] = []
        for effect in caller.keeper.step(now, Look(True, self._relay_ids, direct)):
            match effect:
                case Want(relay):
                    effects += caller.plan.add(now, relay, at_once=True)
                case Check(relay):
                    if self.streams.call_itself(index, number[relay], self._on_useless):
                        caller.keeper.step(now, Passed(relay))
        self._carry_out(index, caller, effects)
        named = []
        for relay in caller.keeper.kept:
            clients = self._clients[number[relay]]
            if index in clients or len(clients) < CLIENTS:
                named.append(number[relay])
            else:  # it has no place, and ends the session
                caller.keeper.step(now, Failed(relay))
        if tuple(named) != self._named.get(index, ()):
            self._kernel.plan(self._kernel.now_us + RECORD_US, self._tell, index, tuple(named))
        self._kernel.plan(self._kernel.now_us + LOOK_US, self._look, node, caller)

    def _on_useless(self, index: int, relay: int) -> None:
        caller = self._callers.get(index)
        if caller is not None and caller.keeper is not None:
            caller.keeper.step(self._now_s(), Failed(self._id(relay)))

    def _tell(self, index: int, named: tuple[int, ...]) -> None:
        """Everybody has the record of a node that names other relays."""
        for relay in self._named.get(index, ()):
            self._clients[relay].discard(index)
        self._named[index] = named
        for relay in named:
            self._clients[relay].add(index)

    # -- words -----------------------------------------------------------------------------------------

    def _id(self, index: int) -> bytes:
        return self._network.nodes[index].identifier

    def _now_s(self) -> float:
        return self._kernel.now_us / SECOND_US
