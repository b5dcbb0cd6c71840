"""Mesh world: many full mesh machines on a virtual clock; sessions and addresses are dictionaries."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tests.support.identity import make_keys

from shoal.identity.keys import DeviceKeys
from shoal.identity.record import PeerRecord, sign_record
from shoal.overlay.mesh import MeshMachine
from shoal.overlay.messages import check
from shoal.overlay.provision import sign_provision
from shoal.overlay.steps import (
    Cancel,
    Connect,
    Delivered,
    DialEnded,
    Effect,
    Emit,
    Forget,
    HeadTold,
    Input,
    Locate,
    Located,
    Observe,
    OwnProvision,
    OwnRecord,
    OwnRecordBehind,
    PageChanged,
    Received,
    Result,
    Save,
    Send,
    SessionDown,
    SessionUp,
    SetTimer,
    Spread,
    Started,
    Timer,
    Token,
)
from shoal.overlay.substrate.plumtree import Verdict
from shoal.storage.peers import PeerRow

NETWORK = b"n" * 32
LATENCY_S = 0.01
DIAL_S = 0.05
UNREACHABLE_S = 5.0


def make_record(keys: DeviceKeys, seq: int, *addresses: str, name: str = "device") -> PeerRecord:
    """Return a signed record of the test network."""
    return sign_record(keys, NETWORK, seq, list(addresses), name, 1_700_000_000)


@dataclass
class Node:
    """A machine with its driver's state."""

    keys: DeviceKeys
    machine: MeshMachine
    address: str
    seq: int = 1
    up: bool = True
    generation: int = 0  # counts restarts: what was under way before one is forgotten
    sessions: set[bytes] = field(default_factory=set)
    timers: dict[Token, int] = field(default_factory=dict)
    rows: dict[bytes, PeerRow] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)
    observed: list[Observe] = field(default_factory=list)
    dialled: list[tuple[float, str]] = field(default_factory=list)
    sent: int = 0
    had: set[bytes] = field(default_factory=set)  # broadcasts
    heads: list[tuple[bytes, bytes, int]] = field(default_factory=list)

    @property
    def peer_id(self) -> bytes:
        return self.keys.peer_id


class MeshWorld:
    """A network whose members all know each other's keys. `seed` decides all jitter."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.now = 0.0
        self._seed = seed
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self.heard = 0  # broadcasts, by all
        self.unreachable: set[str] = set()  # addresses where nothing answers
        self.nodes = [self._make_node(number) for number in range(count)]
        self.members = frozenset(node.peer_id for node in self.nodes)

    def _make_node(self, number: int) -> Node:
        keys = make_keys(number + 100)
        machine = MeshMachine(keys.peer_id, NETWORK, random.Random(self._seed * 1000 + number))
        return Node(keys, machine, f"192.0.2.{number + 1}:4711")

    def start(self, node: Node) -> None:
        record = make_record(node.keys, node.seq, node.address)
        self.step(node, Started(record, self.members, tuple(node.rows.values())))

    def stop(self, node: Node) -> None:
        """End a node without a word; its book stays."""
        node.up = False
        node.generation += 1
        for peer in sorted(node.sessions):
            self.end_session(node, self.node_of(peer), "reset")
        node.timers.clear()

    def restart(self, node: Node, address: str) -> None:
        """Start a stopped node again, elsewhere."""
        node.machine = MeshMachine(node.peer_id, NETWORK, random.Random(self._seed * 7919 + node.seq))
        node.address, node.up = address, True
        node.seq += 1
        self.start(node)

    def move(self, node: Node, address: str) -> None:
        """Give a running node another address; its sessions break."""
        node.address = address
        node.seq += 1
        for peer in sorted(node.sessions):
            self.end_session(node, self.node_of(peer), "dead")
        self.step(node, OwnRecord(make_record(node.keys, node.seq, address)))

    def node_of(self, peer: bytes) -> Node:
        return next(node for node in self.nodes if node.peer_id == peer)

    def step(self, node: Node, event: Input) -> None:
        if not node.up:
            return
        for effect in node.machine.step(self.now, event):
            self._carry_out(node, effect)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, call = heapq.heappop(self._events)
            call()
        self.now = until

    def run_until(self, condition: Callable[[], bool], limit_s: float) -> float:
        """Let time pass until something is so; return how long it took."""
        started = self.now
        while not condition():
            assert self.now - started < limit_s, "it did not happen"
            assert self._events, "nothing will happen any more"
            self.now, _, call = heapq.heappop(self._events)
            call()
        return self.now - started

    def is_full(self, *without: Node) -> bool:
        """Whether everybody has a session with everybody."""
        present = [node for node in self.nodes if node.up and node not in without]
        return all(len(node.sessions) >= len(present) - 1 for node in present)

    def end_session(self, one: Node, two: Node, reason: str) -> None:
        one.sessions.discard(two.peer_id)
        two.sessions.discard(one.peer_id)
        self.step(one, SessionDown(two.peer_id, reason))
        self.step(two, SessionDown(one.peer_id, reason))

    def locate(self, node: Node, key: bytes, budget_s: float = 5.0) -> Result:
        """Run one search to its end."""
        search = next(self._order)
        self.step(node, Locate(search, key, budget_s))
        self.run_until(lambda: search in node.results, budget_s + 1)
        return node.results[search]

    def _at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), call))

    def _carry_out(self, node: Node, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                check(message)
                node.sent += 1
                if peer in node.sessions:
                    other = self.node_of(peer)
                    event = Received(node.peer_id, message)
                    self._at(self.now + LATENCY_S, lambda: self._deliver(node, other, event))
            case Connect(peer, address):
                node.dialled.append((self.now, address))
                self._dial(node, peer, address)
            case SetTimer(at, token):
                number = node.timers[token] = next(self._order)
                self._at(at, lambda: self._fire(node, token, number))
            case Cancel(token):
                node.timers.pop(token, None)
            case Save(row):
                node.rows[row.peer_id] = row
            case Forget(peer):
                node.rows.pop(peer, None)
            case Emit(Located(search, result)):
                node.results[search] = result
            case Spread(topic, payload):
                self._spread(node, topic, payload)
            case Emit(PageChanged(page, least_seq, keys, entries)):
                seq = max(least_seq, int(self.now * 1000))
                provision = sign_provision(node.keys, NETWORK, page, seq, keys, entries)
                self.step(node, OwnProvision(provision))
            case Emit(HeadTold(peer, key, entries)):
                node.heads.append((peer, key, entries))
            case Emit(OwnRecordBehind(seq)):
                node.seq = max(node.seq, seq) + 1
                self.step(node, OwnRecord(make_record(node.keys, node.seq, node.address)))
            case Observe():
                node.observed.append(effect)

    def _spread(self, node: Node, topic: int, payload: bytes) -> None:
        """Broadcast: to everybody whom sessions lead to, a hop a latency, once each, if they find it good."""
        if payload in node.had:
            return
        node.had.add(payload)
        for peer in sorted(node.sessions):
            other = self.node_of(peer)
            self._at(self.now + LATENCY_S, partial(self._hear, node, other, topic, payload))

    def _hear(self, source: Node, node: Node, topic: int, payload: bytes) -> None:
        if source.peer_id not in node.sessions or payload in node.had or not node.up:
            return
        self.heard += 1
        verdict = node.machine.judge(topic, payload)
        if verdict is Verdict.GOOD:
            self._spread(node, topic, payload)
        if verdict in (Verdict.GOOD, Verdict.LATER):
            self.step(node, Delivered(topic, payload, source.peer_id))

    def _deliver(self, source: Node, target: Node, event: Received) -> None:
        if source.peer_id in target.sessions:
            self.step(target, event)

    def _fire(self, node: Node, token: Token, number: int) -> None:
        if node.timers.get(token) == number:
            del node.timers[token]
            self.step(node, Timer(token))

    def _dial(self, node: Node, peer: bytes, address: str) -> None:
        found = [n for n in self.nodes if n.up and n.address == address and address not in self.unreachable]
        generation = node.generation
        if found:
            self._at(self.now + DIAL_S, lambda: self._arrive(node, found[0], peer, address, generation))
        else:
            wait_s = UNREACHABLE_S if address in self.unreachable else DIAL_S
            failed = DialEnded(peer, address, "refused")
            self._at(self.now + wait_s, lambda: self._end_dial(node, failed, generation))

    def _end_dial(self, node: Node, event: DialEnded, generation: int) -> None:
        if node.generation == generation:
            self.step(node, event)

    def _arrive(self, node: Node, target: Node, peer: bytes, address: str, generation: int) -> None:
        if node.generation != generation or not node.up:
            return
        if target.peer_id != peer or not target.up or target.address != address:
            self.step(node, DialEnded(peer, address, "another device answered"))
            return
        if peer not in node.sessions:
            node.sessions.add(peer)
            target.sessions.add(node.peer_id)
            self.step(target, SessionUp(node.peer_id))
            self.step(node, SessionUp(peer))
        self.step(node, DialEnded(peer, address, "", 1_700_000_000.0))
