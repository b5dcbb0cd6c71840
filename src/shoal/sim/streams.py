"""Streams: what relays pass on between two nodes, by the node's own relay machine, and relays that lie.

Every message goes to the relay and from there on: two ways, and bytes on both lines of the relay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.core.chance import Chance
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.sim.cost import HANDSHAKE_BYTES, HANDSHAKE_ROUND_TRIPS, OVERHEAD_BYTES
from shoal.sim.kernel import SECOND_US
from shoal.sim.network import DIAL_TIMEOUT_US, IDLE_US, STREAM, Network
from shoal.transport.reach.relay_machine import (
    Answered,
    Arrived,
    Ask,
    Drop,
    Ended,
    Grant,
    Hold,
    Moved,
    RelayLimits,
    RelayMachine,
)
from shoal.transport.reach.self_calls import CALL_S, NONCE_BYTES

ASK_BYTES = 4 * OVERHEAD_BYTES + 40 + 60 + 4 + 20  # ask, offer, taken, grant; spec/reach.md
CONNECT_BYTES = 3 * 60 + 24  # one end's connection to a relay, and its token
SELF_CALL_BYTES = ASK_BYTES + 2 * CONNECT_BYTES + 4 * (NONCE_BYTES + 60)
STALL_AFTER_US = 20 * SECOND_US  # a lying relay that splices passes bytes so long
LIES = ("mute", "dead", "stalls")  # never asks the other end; grants and never splices; stops after a while
LIE = 16  # stream of chance


class Circuit:
    """One relayed stream; a lying relay has closed it before anybody notices."""

    __slots__ = ("ends", "last_us", "number", "open", "relay")

    def __init__(self, number: int, relay: int, ends: tuple[int, int]) -> None:
        self.number = number
        self.relay = relay
        self.ends = ends
        self.open = True
        self.last_us = dict.fromkeys(ends, 0)  # last arrival at each


class Streams:
    """All relayed streams of a network, at most as many as its relays' limits allow."""

    def __init__(
        self,
        network: Network[SubstrateMachine],
        relays: list[int],
        liars: frozenset[int],
        limits: RelayLimits,
    ) -> None:
        """`liars`: those of the relays that lie, each in one way."""
        self._network = network
        self._kernel = network.kernel
        self._machines = {relay: RelayMachine(limits) for relay in relays if relay not in liars}
        chance = Chance(network.seed, 2**32, LIE)
        self._lies = {relay: chance.pick(LIES) for relay in sorted(liars)}
        self._circuits: dict[int, Circuit] = {}
        self._carried: dict[tuple[int, int], int] = {}  # node and relay -> streams that hold their session
        self._count = 0

    def find_relay(self, session: list[int]) -> int | None:
        """Return the relay of a stream that still passes bytes, or None."""
        circuit = self._circuits.get(session[STREAM])
        return None if circuit is None else circuit.relay

    def is_carrying(self, index: int, relay: int) -> bool:
        """Whether a node has a stream over a relay."""
        return (index, relay) in self._carried

    # -- asking for one --------------------------------------------------------------------------------

    def call(self, index: int, there: int, relay: int) -> tuple[int, bool] | None:
        """Ask a relay for a stream. Return after how long that failed and whether it counts, or None."""
        network = self._network
        nodes, latency = network.nodes, network.latency
        now_us = self._kernel.now_us
        if not network.can_reach(index, relay) or nodes[relay].stalled_until_us > now_us:
            return DIAL_TIMEOUT_US, True
        lie = self._lies.get(relay)
        near_us, far_us = latency.one_way_us(index, relay), latency.one_way_us(relay, there)
        if lie in ("mute", "dead"):
            self._charge(index, relay, OVERHEAD_BYTES if lie == "mute" else ASK_BYTES)
            return DIAL_TIMEOUT_US, True
        self._count = number = self._count + 1
        if lie is None:
            has_target = network.has_session(relay, there) and network.can_reach(relay, there)
            if not self._ask(relay, number, index, there, has_target):
                return 2 * near_us, has_target  # of who has no session there it says so
        ways_us = near_us + far_us
        ready_us = now_us + 2 * ways_us + 2 * near_us + HANDSHAKE_ROUND_TRIPS * 2 * ways_us
        self._circuits[number] = circuit = Circuit(number, relay, (index, there))
        self._carry(circuit, 1)
        if ready_us > now_us + DIAL_TIMEOUT_US:
            self._end(circuit)
            return DIAL_TIMEOUT_US, True
        network.handshakes += 1
        for one, other in ((index, there), (there, index)):
            self._charge(one, relay, HANDSHAKE_BYTES + CONNECT_BYTES + ASK_BYTES // 2)
            nodes[one].sessions[other] = [ready_us, ready_us, 0, number, relay]
        self._kernel.plan(ready_us + IDLE_US, self._sweep, circuit)
        if lie is not None:
            self._kernel.plan(ready_us + STALL_AFTER_US, self._stall, circuit)
        return None

    def call_itself(self, index: int, relay: int, on_failed: Callable[[int, int], None]) -> bool:
        """Let a node call itself over a relay: self_calls.py. Return whether that will come back.

        A relay that stops later is not found out. `on_failed` is told when the others are.
        """
        self._charge(index, relay, SELF_CALL_BYTES)
        if relay not in self._machines:
            brings, wait_us = self._lies[relay] == "stalls", int(CALL_S * SECOND_US)
        else:
            self._count = number = self._count + 1
            brings = self._ask(relay, number, index, index, self._network.can_reach(index, relay))
            self._machines[relay].step(self._kernel.now_s, Ended(number))
            wait_us = 2 * self._network.latency.one_way_us(index, relay)
        if not brings:
            self._kernel.plan(self._kernel.now_us + wait_us, on_failed, index, relay)
        return brings

    def _ask(self, relay: int, number: int, index: int, there: int, has_target: bool) -> bool:
        """Let a relay decide; return whether it splices."""
        machine, now = self._machines[relay], self._kernel.now_s
        asker, target = (self._network.nodes[end].identifier for end in (index, there))
        machine.step(now, Ask(number, asker, target, has_target))
        granted = any(type(effect) is Grant for effect in machine.step(now, Answered(number, True)))
        for end in range(2):
            machine.step(now, Arrived(number, end))
        return granted

    def _charge(self, index: int, relay: int, size: int) -> None:
        """Charge bytes between a node and a relay, half of them each way."""
        for one in (index, relay):
            self._network.sent_bytes[one] += size // 2
            self._network.received_bytes[one] += size // 2

    # -- bytes -----------------------------------------------------------------------------------------

    def send(self, index: int, there: int, session: list[int], begins_us: int, what: Any) -> None:
        """Send a message to the relay, which passes it on."""
        session[1] = begins_us
        circuit = self._circuits.get(session[STREAM])
        if circuit is None:
            return  # lost; the end notices soon
        at_us = begins_us + self._network.latency.one_way_us(index, circuit.relay)
        session[2] = at_us = max(at_us, session[2] + 1)
        self._kernel.plan(at_us, self._pass_on, circuit, (index, there, what))

    def _pass_on(self, circuit: Circuit, what: tuple[int, int, Any]) -> None:
        index, there, message = what
        network, now_us = self._network, self._kernel.now_us
        relay = network.nodes[circuit.relay]
        if not circuit.open or not relay.alive:
            return
        if relay.stalled_until_us > now_us:
            self._kernel.plan(relay.stalled_until_us, self._pass_on, circuit, what)
            return
        if not (network.can_reach(index, relay.index) and network.can_reach(relay.index, there)):
            return  # both ends find out by silence
        size = message[2]
        network.received_bytes[relay.index] += size
        network.sent_bytes[relay.index] += size
        at_us = now_us
        machine = self._machines.get(relay.index)
        if machine is not None:
            for effect in machine.step(self._kernel.now_s, Moved(circuit.number, size)):
                if type(effect) is Drop:
                    self._drop(effect.stream)
                elif type(effect) is Hold:
                    at_us += int(effect.seconds * SECOND_US)
        if network.lines is not None:
            at_us = network.lines.leave(relay.index, network.lines.enter(relay.index, at_us, size), size)
        at_us += network.latency.one_way_us(relay.index, there)
        circuit.last_us[there] = at_us = max(at_us, circuit.last_us[there] + 1)
        self._kernel.plan(at_us, network.arrive, network.nodes[there], message)

    # -- the end ---------------------------------------------------------------------------------------

    def end(self, session: list[int]) -> None:
        """One end's session over a stream is over."""
        circuit = self._circuits.get(session[STREAM])
        if circuit is not None:
            self._end(circuit)

    def end_all(self, index: int, reason: str) -> None:
        """A node is gone: its streams end, and both ends of those that it relayed notice."""
        for circuit in [c for c in self._circuits.values() if index in (c.relay, *c.ends)]:
            self._end(circuit)
            if circuit.relay == index:
                self._tell_ends(circuit, reason)

    def _sweep(self, circuit: Circuit, second: None) -> None:
        """End a session that nobody uses, or look again when it might be one: it holds a stream."""
        if not circuit.open:
            return
        one, other = circuit.ends
        used_us = max(self._network.find_use(one, other), self._network.find_use(other, one))
        if used_us + IDLE_US > self._kernel.now_us:
            self._kernel.plan(used_us + IDLE_US, self._sweep, circuit)
        else:
            self._network.close(one, other)

    def _stall(self, circuit: Circuit, second: None) -> None:
        """A lying relay passes nothing any more: both ends notice by silence."""
        if circuit.open:
            self._end(circuit)
            self._tell_ends(circuit, "idle")

    def _drop(self, number: int) -> None:
        """A relay has spent what it gives: it closes the stream."""
        circuit = self._circuits.get(number)
        if circuit is not None:
            self._end(circuit)
            self._tell_ends(circuit, "reset")

    def _tell_ends(self, circuit: Circuit, reason: str) -> None:
        one, other = circuit.ends
        for index, there in ((one, other), (other, one)):
            node = self._network.nodes[index]
            session = node.sessions.get(there)
            if node.alive and session is not None and session[STREAM:] == [circuit.number, circuit.relay]:
                self._network.plan_notice(node, there, reason, session)

    def _end(self, circuit: Circuit) -> None:
        if not circuit.open:
            return
        circuit.open = False
        del self._circuits[circuit.number]
        self._carry(circuit, -1)
        machine = self._machines.get(circuit.relay)
        if machine is not None:
            machine.step(self._kernel.now_s, Ended(circuit.number))

    def _carry(self, circuit: Circuit, more: int) -> None:
        for end in circuit.ends:
            held = self._carried.get((end, circuit.relay), 0) + more
            if held:
                self._carried[end, circuit.relay] = held
            else:
                del self._carried[end, circuit.relay]
