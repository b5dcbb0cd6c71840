"""Network: nodes that run the real machine, sessions between them, and what both cost.

A session is made when it is needed (two round trips, HANDSHAKE_BYTES), keeps its messages in order, and is
lost after 90 s without use unless one end keeps it as a neighbour's. Loss of packets shows as delay, as it
does under TCP; what cannot pass for a while comes later, if the session lasts. Who is gone does not answer:
dials time out, neighbours notice by missing heartbeats. `ways` (sim/reach.py) lead to who cannot be dialled.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

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
from shoal.sim.latency import RETRANSMIT_US, Latency
from shoal.sim.lines import Lines

DIAL_TIMEOUT_US = 5 * SECOND_US  # of transport
IDLE_US = 90 * SECOND_US  # architecture.md section 3
HEARTBEAT_US = (
    3_900_000  # between two pings of a silent session, whichever end sends them; transport.heartbeat
)
SILENCE_US = 9_500_000  # without a heartbeat a peer is gone; transport.config: silence, probe, tick

MACHINE, FAULTS, LATENCY = range(3)  # streams of chance
RESTARTS = 1000  # and those of each later start
UNUSED = "unused"  # a session that ended because nobody used it
STREAM = 3  # place in a session that goes over a relay: number of the relayed stream, then the relay


class Ways(Protocol):
    """Nodes that cannot be dialled, and relays; `Session`: both ends' lists, with STREAM if relayed."""

    def find_contacts(self, contacts: tuple[int, ...]) -> tuple[int, ...]:
        """Return whom a node that starts now may be told of."""
        ...

    def on_start(self, index: int) -> None:
        """A node started."""
        ...

    def on_crash(self, index: int, reason: str) -> None:
        """A node is gone; its sessions still are."""
        ...

    def on_session(self, index: int, there: int) -> None:
        """There is a session between two nodes, dialled by the first."""
        ...

    def on_end(self, session: list[int]) -> None:
        """A relayed session is over at one end."""
        ...

    def on_down(self, index: int, there: int, reason: str, session: list[int]) -> None:
        """A node noticed that a session is over; `reason` of `crash`, or UNUSED."""
        ...

    def take(self, index: int, effect: Send) -> bool:
        """Whether a message without session goes to somebody who cannot be dialled; then it waits here."""
        ...

    def send(self, index: int, there: int, session: list[int], begins_us: int, what: Any) -> None:
        """Send over a relayed session."""
        ...

    def is_kept(self, index: int, there: int) -> bool:
        """Whether a session is not let go though nobody uses it."""
        ...

    def find_relay(self, session: list[int]) -> int | None:
        """Return the relay of a stream that still passes bytes, or None."""
        ...


M = TypeVar("M", bound=Machine[Input, Effect])


class SimNode(Generic[M]):
    """One node: its machine, its sessions and its timers."""

    __slots__ = (
        "alive",
        "identifier",
        "index",
        "kept",
        "machine",
        "sessions",
        "skew_us",
        "stalled_until_us",
        "starts",
        "timers",
    )

    def __init__(self, index: int, identifier: bytes, machine: M) -> None:
        self.index = index
        self.identifier = identifier
        self.machine = machine
        self.alive = False
        self.stalled_until_us = 0
        self.skew_us = 0  # of its clock; only ever grows
        self.starts = 0
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
        self.lines: Lines | None = None
        self.ways: Ways | None = None
        self._make_machine = make_machine
        self._side: bytearray | None = None  # of each node, while the network is cut
        self._one_way = False  # only what goes from side 1 to side 0 is lost
        self._held: list[tuple[int, int, list[int], Any]] = []  # what could not pass; until `heal`
        self._clogs: dict[tuple[int, int], int] = {}  # both ends, lower first -> until when
        self._timer_count = 0
        for index in range(count):
            identifier = index.to_bytes(32, "big")
            machine = make_machine(identifier, Chance(seed, index, MACHINE))
            self.nodes.append(SimNode(index, identifier, machine))
            self.number[identifier] = index

    # -- life ------------------------------------------------------------------------------------------

    def start(self, index: int, contacts: tuple[int, ...]) -> None:
        """Start a node now; one that has been here before as a new machine, with its old id."""
        node = self.nodes[index]
        if node.starts:
            node.machine = self._make_machine(
                node.identifier, Chance(self.seed, index, RESTARTS + node.starts)
            )
            node.skew_us = node.stalled_until_us = 0
        node.starts += 1
        node.alive = True
        if self.ways is not None:
            contacts = self.ways.find_contacts(contacts)
            self.ways.on_start(index)
        self.step(node, Started(tuple(self.nodes[contact].identifier for contact in contacts)))

    def crash(self, index: int, reason: str = "idle") -> None:
        """End a node without a word.

        Those it had a session with notice by silence (`idle`: the machine is gone) or at once (`reset`: only
        the process is, and the machine answers for it).
        """
        node = self.nodes[index]
        node.alive = False
        node.timers.clear()
        if self.ways is not None:
            self.ways.on_crash(index, reason)
        for other in sorted(node.sessions):
            peer = self.nodes[other]
            session = peer.sessions.get(index)
            if peer.alive and session is not None:
                self.plan_notice(peer, index, reason, session)
        node.sessions.clear()
        node.kept.clear()

    def plan_notice(self, node: SimNode[M], other: int, reason: str, session: list[int]) -> None:
        """Let a node notice that a session is over: after a silence (`idle`), or when it is told."""
        wait_us = self.latency.one_way_us(other, node.index)
        if reason == "idle":
            wait_us = SILENCE_US - int(self.chance.fraction() * HEARTBEAT_US)
        self.kernel.plan(self.kernel.now_us + wait_us, self._notice, node, (other, reason, session))

    def stall(self, index: int, until_us: int) -> None:
        """Let what a node sends and what comes for it wait until a time, while its clock goes on.

        This is Lifeguard's anomaly (section V: sends and receives block).
        """
        self.nodes[index].stalled_until_us = until_us

    def jump(self, index: int, by_us: int) -> None:
        """Put a node's clock forward: all that it waits for is nearer."""
        node = self.nodes[index]
        node.skew_us += by_us
        for at_us, (token, number) in self.kernel.find_planned(self._fire, node):
            if node.timers.get(token) == number:
                self._timer_count = node.timers[token] = self._timer_count + 1
                earlier_us = max(self.kernel.now_us, at_us - by_us)
                self.kernel.plan(earlier_us, self._fire, node, (token, self._timer_count))

    # -- ways ------------------------------------------------------------------------------------------

    def cut(self, side: bytearray, one_way: bool = False) -> None:
        """Let nothing through between nodes of different sides; `one_way`: from side 1 to side 0."""
        self._side, self._one_way = side, one_way
        for node in self.nodes:
            for there, session in sorted(node.sessions.items()):
                relay = self._find_relay(session)
                if side[node.index] != side[there] or (relay is not None and side[node.index] != side[relay]):
                    self.plan_notice(node, there, "idle", session)

    def heal(self) -> None:
        """Let everything through again; what was sent over sessions that still are comes now."""
        self._side = None
        held, self._held = self._held, []
        for here, there, session, what in held:
            if self.nodes[here].sessions.get(there) is session:
                arrives_us = self.kernel.now_us + RETRANSMIT_US + self.latency.one_way_us(here, there)
                session[2] = max(arrives_us, session[2] + 1)
                self.kernel.plan(session[2], self.arrive, self.nodes[there], what)

    def clog(self, here: int, there: int, until_us: int) -> None:
        """Let a session pass nothing until a time, without closing it."""
        self._clogs[min(here, there), max(here, there)] = until_us
        for one, other in ((here, there), (there, here)):
            session = self.nodes[one].sessions.get(other)
            if session is not None:
                self.plan_notice(self.nodes[one], other, "idle", session)

    def _find_relay(self, session: list[int]) -> int | None:
        return None if self.ways is None or len(session) <= STREAM else self.ways.find_relay(session)

    def _find_clog(self, here: int, there: int) -> int:
        return self._clogs.get((min(here, there), max(here, there)), 0)

    def _passes(self, here: int, there: int) -> bool:
        side = self._side
        return side is None or side[here] == side[there] or (self._one_way and side[here] == 0)

    def can_reach(self, here: int, there: int) -> bool:
        """Whether packets get from here to there and back at all."""
        return (
            self.nodes[there].alive
            and self._passes(here, there)
            and self._passes(there, here)
            and self._find_clog(here, there) <= self.kernel.now_us
        )

    def _notice(self, node: SimNode[M], what: tuple[int, str, list[int] | None]) -> None:
        other, reason, session = what
        if not node.alive or node.sessions.get(other) is not session:
            return  # there is another one by now
        if session is not None:
            if node.index in self.nodes[other].sessions and self._lasts(node.index, other, session):
                return  # it came back before anybody noticed
            del node.sessions[other]
            if self.ways is not None:
                self.ways.on_end(session)
                self.ways.on_down(node.index, other, reason, session)
        node.kept.discard(other)
        self.step(node, SessionDown(self.nodes[other].identifier, reason))

    def _lasts(self, here: int, there: int, session: list[int]) -> bool:
        """Whether what a session carries gets through."""
        if self.ways is None or len(session) <= STREAM:
            return self.can_reach(here, there)
        relay = self.ways.find_relay(session)
        return relay is not None and self.can_reach(here, relay) and self.can_reach(there, relay)

    # -- steps -----------------------------------------------------------------------------------------

    def step(self, node: SimNode[M], event: Input) -> None:
        """Give a node an input and carry out what it wants."""
        self.steps += 1
        kernel = self.kernel
        for effect in node.machine.step((kernel.now_us + node.skew_us) / SECOND_US, event):
            kind = type(effect)
            if kind is Send:
                self.send(node, effect)  # type: ignore[arg-type]
            elif kind is SetTimer:
                self._timer_count = number = self._timer_count + 1
                node.timers[effect.token] = number  # type: ignore[union-attr]
                at_us = max(kernel.now_us, int(effect.at * SECOND_US) - node.skew_us)  # type: ignore[union-attr]
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

    def send(self, node: SimNode[M], effect: Send) -> None:
        message = effect.message
        here, there = node.index, self.number[effect.peer]
        kernel = self.kernel
        now_us = kernel.now_us
        if self.on_send is not None:
            self.on_send(node, effect)
        session = node.sessions.get(there)
        if session is not None and now_us - session[1] > IDLE_US and not self.is_kept(here, there):
            self.close(here, there)
            session = None
        if session is None:
            if self.ways is not None and self.ways.take(here, effect):
                return
            session = self.dial(node, there)
            if session is None:
                return
        size = size_bytes(message)
        self.sent[here] += 1
        self.sent_bytes[here] += size
        kind = type(message)
        self.sent_by_type[kind] = self.sent_by_type.get(kind, 0) + 1
        begins_us = max(session[0], now_us, node.stalled_until_us)
        if self._clogs:
            begins_us = max(begins_us, self._find_clog(here, there))
        if self.lines is not None:
            begins_us = self.lines.leave(here, begins_us, size)
        if self.ways is not None and len(session) > STREAM:
            self.ways.send(here, there, session, begins_us, (node.identifier, message, size))
            return
        arrives_us = begins_us + self.latency.one_way_us(here, there)
        if arrives_us <= session[2]:
            arrives_us = session[2] + 1
        session[1] = begins_us
        session[2] = arrives_us
        if self._side is not None and not self._passes(here, there):
            self._held.append((here, there, session, (node.identifier, message, size)))
            return
        kernel.plan(arrives_us, self.arrive, self.nodes[there], (node.identifier, message, size))

    def is_kept(self, here: int, there: int) -> bool:
        """Whether one of the two is a neighbour of the other, or leads to one."""
        if there in self.nodes[here].kept or here in self.nodes[there].kept:
            return True
        return self.ways is not None and self.ways.is_kept(here, there)

    def has_session(self, here: int, there: int) -> bool:
        """Whether there is a session that goes over no relay."""
        session = self.nodes[here].sessions.get(there)
        if session is None or len(session) > STREAM:
            return False
        return session[1] >= self.kernel.now_us - IDLE_US or self.is_kept(here, there)

    def find_use(self, here: int, there: int) -> int:
        """Return when a session was last used by this end; now, if it is kept."""
        if self.is_kept(here, there):
            return self.kernel.now_us
        session = self.nodes[here].sessions.get(there)
        return 0 if session is None else session[1]

    def count_sessions(self, node: SimNode[M]) -> int:
        """Return how many sessions a node has now; those that have been idle for too long are over."""
        limit_us = self.kernel.now_us - IDLE_US
        return sum(
            session[1] >= limit_us or self.is_kept(node.index, there)
            for there, session in node.sessions.items()
        )

    def arrive(self, node: SimNode[M], what: tuple[bytes, Any, int]) -> None:
        """Let a message reach a node: (sender, message, bytes)."""
        if not node.alive:
            return
        if node.stalled_until_us > self.kernel.now_us:
            self.kernel.plan(node.stalled_until_us, self.arrive, node, what)
            return
        if self.lines is None:
            self._take(node, what)
        else:
            self.kernel.plan(
                self.lines.enter(node.index, self.kernel.now_us, what[2]), self._take, node, what
            )

    def _take(self, node: SimNode[M], what: tuple[bytes, Any, int]) -> None:
        sender, message, size = what
        self.received[node.index] += 1
        self.received_bytes[node.index] += size
        if node.alive:
            self.step(node, Received(sender, message))

    def dial(self, node: SimNode[M], there: int) -> list[int] | None:
        """Make a session, or plan the end of the attempt."""
        now_us = self.kernel.now_us
        here = node.index
        peer = self.nodes[there]
        if not self.can_reach(here, there):
            self.kernel.plan(now_us + DIAL_TIMEOUT_US, self._notice, node, (there, "unreachable", None))
            return None
        self.handshakes += 1
        for index in (here, there):
            self.sent_bytes[index] += HANDSHAKE_BYTES // 2
            self.received_bytes[index] += HANDSHAKE_BYTES // 2
        ready = now_us + HANDSHAKE_ROUND_TRIPS * 2 * self.latency.one_way_us(here, there)
        node.sessions[there] = session = [ready, ready, 0]
        peer.sessions[here] = [ready, ready, 0]
        if self.ways is not None:
            self.ways.on_session(here, there)
        return session

    def close(self, here: int, there: int) -> None:
        """End a session that nobody uses, at both ends."""
        session = self.nodes[here].sessions.pop(there, None)
        self.nodes[there].sessions.pop(here, None)
        if self.ways is not None and session is not None:
            self.ways.on_end(session)
            for one, other in ((here, there), (there, here)):
                self.ways.on_down(one, other, UNUSED, session)
