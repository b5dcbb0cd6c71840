"""Network: nodes that run the real machine, sessions between them, and what both cost.

A session is made when it is needed (two round trips, HANDSHAKE_BYTES), keeps its messages in order, and is
lost after 90 s without use unless one end keeps it as a neighbour's. Loss of packets shows as delay, as it
does under TCP. Who is gone does not answer: dials time out, neighbours notice by missing heartbeats.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from shoal.core.chance import Chance
from shoal.core.machine import Machine
from shoal.overlay.substrate.steps import (
    Cancel,
    Connect,
    Deliver,
    Disconnect,
    Effect,
    Found,
    Input,
    Observe,
    Received,
    Send,
    SessionDown,
    SetTimer,
    Started,
    Timer,
)
from shoal.sim.cost import HANDSHAKE_BYTES, HANDSHAKE_ROUND_TRIPS, size_bytes
from shoal.sim.kernel import SECOND_US, Kernel
from shoal.sim.latency import Latency

DIAL_TIMEOUT_US = 5 * SECOND_US  # of transport
IDLE_US = 90 * SECOND_US  # architecture.md section 3
HEARTBEAT_US = 5 * SECOND_US
SILENCE_US = 15 * SECOND_US  # without a heartbeat a peer is gone

MACHINE, FAULTS, LATENCY = range(3)  # streams of chance

M = TypeVar("M", bound=Machine[Input, Effect])


class SimNode(Generic[M]):
    """One node: its machine, its sessions and its timers."""

    __slots__ = ("alive", "identifier", "index", "kept", "machine", "sessions", "stalled_until_us", "timers")

    def __init__(self, index: int, identifier: bytes, machine: M) -> None:
        self.index = index
        self.identifier = identifier
        self.machine = machine
        self.alive = False
        self.stalled_until_us = 0
        self.sessions: dict[int, list[int]] = {}  # peer -> [ready, last use, last arrival there], in us
        self.kept: set[int] = set()  # peers that are neighbours
        self.timers: dict[Any, int] = {}  # token -> number of the planned event


class Network(Generic[M]):
    """All nodes of one simulation; `make_machine` is given an id and the node's own chance."""

    def __init__(
        self, seed: int, count: int, make_machine: Callable[[bytes, Chance], M], latency: Latency
    ) -> None:
        self.kernel = Kernel()
        self.seed = seed
        self.latency = latency
        self.chance = Chance(seed, 2**32, FAULTS)
        self.nodes: list[SimNode[M]] = []
        self.number: dict[bytes, int] = {}
        self.sent_bytes = array("Q", bytes(8 * count))
        self.received_bytes = array("Q", bytes(8 * count))
        self.sent = array("Q", bytes(8 * count))
        self.received = array("Q", bytes(8 * count))
        self.handshakes = 0
        self.steps = 0
        self.sent_by_type: dict[type, int] = {}
        self.on_deliver: Callable[[SimNode[M], Deliver], None] = lambda node, event: None
        self.on_found: Callable[[SimNode[M], Found], None] = lambda node, event: None
        self.on_send: Callable[[SimNode[M], Send], None] | None = None
        self.side: bytearray | None = None  # of each node, while the network is cut
        self._timer_count = 0
        for index in range(count):
            identifier = index.to_bytes(32, "big")
            machine = make_machine(identifier, Chance(seed, index, MACHINE))
            self.nodes.append(SimNode(index, identifier, machine))
            self.number[identifier] = index

    # -- life ------------------------------------------------------------------------------------------

    def start(self, index: int, contacts: tuple[int, ...]) -> None:
        """Start a node now."""
        node = self.nodes[index]
        node.alive = True
        self.step(node, Started(tuple(self.nodes[contact].identifier for contact in contacts)))

    def crash(self, index: int) -> None:
        """End a node without a word; those it had a session with notice by silence."""
        node = self.nodes[index]
        node.alive = False
        node.timers.clear()
        now_us = self.kernel.now_us
        for other in sorted(node.sessions):
            peer = self.nodes[other]
            if peer.alive and node.index in peer.sessions:
                silence = SILENCE_US - int(self.chance.fraction() * HEARTBEAT_US)
                self.kernel.plan(now_us + silence, self._notice, peer, (index, "idle"))
        node.sessions.clear()
        node.kept.clear()

    def stall(self, index: int, until_us: int) -> None:
        """Let what a node sends and what comes for it wait until a time, while its clock goes on.

        This is Lifeguard's anomaly (section V: sends and receives block).
        """
        self.nodes[index].stalled_until_us = until_us

    def cut(self, side: bytearray) -> None:
        """Let nothing through between nodes of different sides; neighbours notice by silence."""
        self.side = side
        kernel = self.kernel
        for node in self.nodes:
            here = node.index
            for there in sorted(node.sessions):
                if side[here] != side[there]:
                    del node.sessions[there]
                    silence = SILENCE_US - int(self.chance.fraction() * HEARTBEAT_US)
                    kernel.plan(kernel.now_us + silence, self._notice, node, (there, "idle"))

    def heal(self) -> None:
        """Let everything through again."""
        self.side = None

    def can_reach(self, here: int, there: int) -> bool:
        """Whether a packet gets from here to there at all."""
        return self.nodes[there].alive and (self.side is None or self.side[here] == self.side[there])

    def revive(self, index: int) -> None:
        """Let a node that crashed be there again as it was (a long pause, not a restart)."""
        self.nodes[index].alive = True

    def _notice(self, node: SimNode[M], what: tuple[int, str]) -> None:
        other, reason = what
        if not node.alive or (other in node.sessions and self.can_reach(node.index, other)):
            return  # it came back before anybody noticed
        node.sessions.pop(other, None)
        node.kept.discard(other)
        self.step(node, SessionDown(self.nodes[other].identifier, reason))

    # -- steps -----------------------------------------------------------------------------------------

    def step(self, node: SimNode[M], event: Input) -> None:
        """Give a node an input and carry out what it wants."""
        self.steps += 1
        kernel = self.kernel
        for effect in node.machine.step(kernel.now_us / SECOND_US, event):
            kind = type(effect)
            if kind is Send:
                self._send(node, effect)  # type: ignore[arg-type]
            elif kind is SetTimer:
                self._timer_count = number = self._timer_count + 1
                node.timers[effect.token] = number  # type: ignore[union-attr]
                at_us = max(kernel.now_us, int(effect.at * SECOND_US))  # type: ignore[union-attr]
                kernel.plan(at_us, self._fire, node, (effect.token, number))  # type: ignore[union-attr]
            elif kind is Deliver:
                self.on_deliver(node, effect)  # type: ignore[arg-type]
            else:
                self._carry_out(node, effect)

    def _carry_out(self, node: SimNode[M], effect: Effect) -> None:
        match effect:
            case Connect(peer):
                node.kept.add(self.number[peer])
            case Disconnect(peer, _):
                node.kept.discard(self.number[peer])
            case Cancel(token):
                node.timers.pop(token, None)
            case Found():
                self.on_found(node, effect)
            case Observe():
                pass

    def _fire(self, node: SimNode[M], what: tuple[Any, int]) -> None:
        token, number = what
        if node.timers.get(token) == number:
            del node.timers[token]
            self.step(node, Timer(token))

    # -- messages --------------------------------------------------------------------------------------

    def _send(self, node: SimNode[M], effect: Send) -> None:
        message = effect.message
        here, there = node.index, self.number[effect.peer]
        kernel = self.kernel
        now_us = kernel.now_us
        if self.on_send is not None:
            self.on_send(node, effect)
        session = node.sessions.get(there)
        if session is not None and now_us - session[1] > IDLE_US and not self._is_kept(node, there):
            self._close(here, there)
            session = None
        if session is None:
            session = self._dial(node, there)
            if session is None:
                return
        size = size_bytes(message)
        self.sent[here] += 1
        self.sent_bytes[here] += size
        kind = type(message)
        self.sent_by_type[kind] = self.sent_by_type.get(kind, 0) + 1
        begins_us = max(session[0], now_us, node.stalled_until_us)
        arrives_us = begins_us + self.latency.one_way_us(here, there)
        if arrives_us <= session[2]:
            arrives_us = session[2] + 1
        session[1] = begins_us
        session[2] = arrives_us
        kernel.plan(arrives_us, self._arrive, self.nodes[there], (node.identifier, message, size))

    def _is_kept(self, node: SimNode[M], there: int) -> bool:
        return there in node.kept or node.index in self.nodes[there].kept

    def count_sessions(self, node: SimNode[M]) -> int:
        """Return how many sessions a node has now; those that have been idle for too long are over."""
        limit_us = self.kernel.now_us - IDLE_US
        return sum(
            session[1] >= limit_us or self._is_kept(node, there) for there, session in node.sessions.items()
        )

    def _arrive(self, node: SimNode[M], what: tuple[bytes, Any, int]) -> None:
        if not node.alive:
            return
        if node.stalled_until_us > self.kernel.now_us:
            self.kernel.plan(node.stalled_until_us, self._arrive, node, what)
            return
        sender, message, size = what
        self.received[node.index] += 1
        self.received_bytes[node.index] += size
        self.step(node, Received(sender, message))

    def _dial(self, node: SimNode[M], there: int) -> list[int] | None:
        """Make a session, or plan the end of the attempt."""
        now_us = self.kernel.now_us
        here = node.index
        peer = self.nodes[there]
        if not self.can_reach(here, there):
            self.kernel.plan(now_us + DIAL_TIMEOUT_US, self._notice, node, (there, "unreachable"))
            return None
        self.handshakes += 1
        for index in (here, there):
            self.sent_bytes[index] += HANDSHAKE_BYTES // 2
            self.received_bytes[index] += HANDSHAKE_BYTES // 2
        ready = now_us + HANDSHAKE_ROUND_TRIPS * 2 * self.latency.one_way_us(here, there)
        node.sessions[there] = session = [ready, ready, 0]
        peer.sessions[here] = [ready, ready, 0]
        return session

    def _close(self, here: int, there: int) -> None:
        self.nodes[here].sessions.pop(there, None)
        self.nodes[there].sessions.pop(here, None)
