"""Service: drives the substrate's machine with a node's sessions: timers, dials on demand, mode, broadcasts.

Up to `mesh_members` members everybody keeps a session with everybody, and every session is a link; above that
the views choose the links, other sessions are made on demand and end when nobody uses them. Below four fifths
of the limit it is a mesh again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.core.chance import Chance
from shoal.core.clock import Clock
from shoal.core.errors import LocalMisuse
from shoal.core.observation import Observation, Observer
from shoal.core.timers import Timers
from shoal.identity.ids import short_peer_id
from shoal.overlay.substrate.config import LIVE, SubstrateConfig
from shoal.overlay.substrate.detector import Standing
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.overlay.substrate.merge import BEACON_TOPIC
from shoal.overlay.substrate.messages import IDENTIFIER_BYTES, PAYLOAD_BYTES, Gossip
from shoal.overlay.substrate.plumtree import Verdict
from shoal.overlay.substrate.steps import (
    Broadcast,
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
    SessionUp,
    SetTimer,
    Started,
    Timer,
    Token,
    UseMesh,
    UseViews,
)
from shoal.transport.session import Session
from shoal.wire.codec import Message
from shoal.wire.limits import MEMBERS
from shoal.wire.registry import ServiceNumber

MESH_MEMBERS = 30  # overlay.md, "up to about 30 members everybody keeps a session with everybody"
MESH_AGAIN = 0.8  # of the limit: hysteresis, so that a member more or less does not turn it over
EXTRA_SESSIONS = 64  # beside those of neighbours
IDLE_S = 90.0  # architecture.md section 3
SWEEP_S = 15.0
LONELY_S = 2.0  # a node without neighbours looks for some this often
WAITING_MESSAGES = 16  # for one peer that is being dialled; the rest is dropped
TIMERS = 4 * MEMBERS  # a suspect a member, grafts, probes: the machine's maps are smaller than that
EVENTS = 4096  # inputs that wait while one is carried out, or for the start
FORGED_A_MINUTE = 5.0  # broadcasts of one peer; security.md section 3, bad signatures
FORGERS = 1024
FORGED = "forged_broadcast"  # rule of plumtree.py
# broadcasts that are passed on of one author and topic: all its pages of keys twice, then one in two seconds
AUTHOR_S = 0.5
AUTHOR_BURST = 128.0
AUTHORS = 4096

# what transport says of a session's end -> what the machine is told
REASONS = {
    "idle": "idle",
    "evicted": "evicted",
    "left": "left",
    "blocked": "left",
    "removed": "banned",
    "banned": "banned",
}


class TopicHandler(Protocol):
    """Who takes the broadcasts of one topic."""

    def judge(self, payload: bytes) -> Verdict:
        """Say whether it is to be passed on, by its own signature; changes nothing."""
        ...

    def find_author(self, payload: bytes) -> bytes | None:
        """Return who made a payload that was found good; None if something else bounds what they make."""
        ...

    def deliver(self, payload: bytes, sender: bytes) -> None:
        """Take what was found good or is to be judged later; must be short. `sender`: a neighbour."""
        ...


class SessionsPort(Protocol):
    """What the substrate needs of the transport."""

    def find_session(self, peer_id: bytes) -> Session | None: ...

    def sessions(self) -> list[Session]: ...


@dataclass(frozen=True, slots=True)
class SubstrateStatus:
    """The substrate, for people."""

    mode: str  # mesh | views
    neighbours: int  # links that broadcasts go over
    active: int  # of them by choice of the views
    passive: int  # peers that could be neighbours
    size: float | None  # how many nodes are here now, as far as that is known


def make_identifier(topic: int, payload: bytes) -> bytes:
    """Return the identifier of a broadcast: the beginning of BLAKE3 over topic and payload."""
    return blake3(bytes([topic]) + payload).digest(IDENTIFIER_BYTES)


class SubstrateService:
    """The driver. Constructed inert; `start` once the peer book is loaded; `close` is idempotent.

    `dial` wants a session with a member soon (answered by a session or `on_unreached`), `set_sparse` says
    that only such dials are made, `is_busy` whether bulk data runs beside a session, `find_reachable` who
    has known addresses, most promising first; `compare` begins a round of anti-entropy with some session;
    `find_kept` whose sessions are not let go.
    """

    def __init__(
        self,
        own_id: bytes,
        sessions: SessionsPort,
        chance: Chance,
        *,
        dial: Callable[[bytes], None],
        set_sparse: Callable[[bool], None],
        is_busy: Callable[[bytes], bool],
        find_reachable: Callable[[], list[bytes]],
        compare: Callable[[], None],
        clock: Clock,
        observe: Observer,
        mesh_members: int = MESH_MEMBERS,
        find_kept: Callable[[], set[bytes]] = set,
        config: SubstrateConfig = LIVE,
    ) -> None:
        self._own_id = own_id
        self._sessions = sessions
        self._chance = chance
        self._dial = dial
        self._set_sparse = set_sparse
        self._is_busy = is_busy
        self._find_reachable = find_reachable
        self._compare = compare
        self._clock = clock
        self._observe = observe
        self._mesh_members = mesh_members
        self._find_kept = find_kept
        self._machine = SubstrateMachine(own_id, config, chance, self._judge)
        self._machine.views.is_member = self._is_member
        self._handlers: dict[int, TopicHandler] = {}  # by topic
        self._members: frozenset[bytes] = frozenset()
        self._others: list[bytes] = []  # the members without ourselves
        self._timers = Timers[Token](clock.monotonic, lambda token: self._step(Timer(token)), TIMERS)
        self._waiting: dict[bytes, list[Message]] = {}  # peers that are dialled; at most EXTRA_SESSIONS
        self._ends: BoundedMap[bytes, str] = BoundedMap(MEMBERS)  # why the last session went down
        self._forgers: BoundedMap[bytes, TokenBucket] = BoundedMap(FORGERS)
        self._authors: BoundedMap[tuple[int, bytes], TokenBucket] = BoundedMap(AUTHORS)
        self._events: deque[Input] = deque(maxlen=EVENTS)
        self._swept_at = 0.0
        self._sweeper: asyncio.TimerHandle | None = None
        self._stepping = False
        self._started = False
        self._closed = False

    # -- life ------------------------------------------------------------------------------------------

    def start(self, members: frozenset[bytes]) -> None:
        """Begin with these members."""
        self._set_members(members)
        self._started = True
        early, self._events = list(self._events), deque(maxlen=EVENTS)
        present = [session.peer_id for session in self._sessions.sessions()]
        if len(members) <= self._mesh_members:
            self._step(UseMesh(tuple(present)))
        else:
            self._set_sparse(True)
            self._step(Started(self._find_contacts()))
        for event in early:
            if not isinstance(event, Received) or event.peer in members:
                self._step(event)
        self._sweep_later()

    def close(self) -> None:
        """Tell the neighbours, stop all timers."""
        if self._closed:
            return
        if self._started and not self._machine.is_mesh:
            out: list[Effect] = []
            self._machine.views.leave(out)
            for effect in out:
                self._carry_out(effect)
        self._closed = True
        self._timers.close()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def handle(self, topic: int, handler: TopicHandler) -> None:
        """Give the broadcasts of a topic to somebody. Raises: LocalMisuse for one that is taken."""
        if topic in self._handlers or topic == BEACON_TOPIC:
            raise LocalMisuse(f"the topic {topic} is taken")
        self._handlers[topic] = handler

    # -- facts -----------------------------------------------------------------------------------------

    @property
    def is_mesh(self) -> bool:
        """Whether everybody keeps a session with everybody."""
        return self._machine.is_mesh

    def is_neighbour(self, peer: bytes) -> bool:
        """Whether broadcasts go to a peer."""
        return peer in self._machine.plumtree.eager or peer in self._machine.plumtree.lazy

    def find_end(self, peer: bytes) -> str:
        """Return why the last session with a peer went down, or an empty text."""
        return self._ends.find(peer) or ""

    def status(self) -> SubstrateStatus:
        """Return what people are shown."""
        machine = self._machine
        links = len(machine.plumtree.eager) + len(machine.plumtree.lazy)
        size = float(links + 1) if machine.is_mesh else machine.size.estimate
        mode = "mesh" if machine.is_mesh else "views"
        return SubstrateStatus(mode, links, len(machine.views.active), len(machine.views.passive), size)

    # -- told ------------------------------------------------------------------------------------------

    def on_members(self, members: frozenset[bytes]) -> None:
        """The set of active members is another one."""
        gone = self._members - members
        self._set_members(members)
        if not self._started:
            return
        for peer in sorted(gone):
            self._waiting.pop(peer, None)
            self._step(SessionDown(peer, "banned"))
        if self._machine.is_mesh and len(members) > self._mesh_members:
            self._set_sparse(True)
            self._waiting.clear()  # the mesh's dials have ended with it
            self._step(UseViews(self._find_contacts()))
        elif not self._machine.is_mesh and len(members) < MESH_AGAIN * self._mesh_members:
            self._set_sparse(False)
            self._step(UseMesh(tuple(session.peer_id for session in self._sessions.sessions())))

    def on_contact(self, peer: bytes) -> None:
        """A member can perhaps be reached: without any neighbour that is where to begin."""
        views = self._machine.views
        if self._started and not self._machine.is_mesh and not views.active and peer in self._members:
            self._step(Started((peer,)))

    def on_session_up(self, peer: bytes) -> None:
        """A session is settled."""
        if self._machine.is_mesh:
            self._step(SessionUp(peer))
        else:
            self.on_contact(peer)
        for message in self._waiting.pop(peer, ()):
            self._send(peer, message)

    def on_session_down(self, peer: bytes, reason: str) -> None:
        """A session ended; `reason` is one of transport's words."""
        self._ends.put(peer, reason)
        if not self._machine.is_mesh and reason == "idle" and peer not in self._machine.views.active:
            return  # nobody needed it
        self._step(SessionDown(peer, REASONS.get(reason, "reset")))

    def on_unreached(self, peer: bytes) -> None:
        """No address of a peer answered."""
        self._waiting.pop(peer, None)
        if not self._machine.is_mesh:
            self._ends.put(peer, "unreachable")
            self._step(SessionDown(peer, "unreachable"))

    def on_message(self, peer: bytes, message: Message) -> None:
        """Take a message that was checked; before `start` it waits."""
        if not self._started:
            self._events.append(Received(peer, message))
        elif peer in self._members:
            self._step(Received(peer, message))

    # -- asked -----------------------------------------------------------------------------------------

    def broadcast(self, topic: int, payload: bytes) -> None:
        """Send a payload to all members. Raises: LocalMisuse for one that is too long."""
        if len(payload) > PAYLOAD_BYTES:
            raise LocalMisuse(f"a broadcast has at most {PAYLOAD_BYTES} bytes")
        self._step(Broadcast(make_identifier(topic, payload), topic, payload))

    def want(self, peer: bytes) -> bool:
        """Make a session with a member if there is none and a place for it; return whether it may come."""
        if peer not in self._members or peer == self._own_id or self._closed:
            return False
        if self._sessions.find_session(peer) is None:
            if not self._machine.is_mesh and not self._make_room():
                return False
            self._dial(peer)
        return True

    # -- the machine -----------------------------------------------------------------------------------

    def _set_members(self, members: frozenset[bytes]) -> None:
        self._members = members
        self._others = sorted(members - {self._own_id})
        others = self._others
        self._machine.tell_members(len(members), lambda: self._chance.pick(others) if others else None)

    def _find_contacts(self) -> tuple[bytes, ...]:
        """Return who could be a neighbour: who has a session first, in random order."""
        present = [session.peer_id for session in self._sessions.sessions()]
        self._chance.shuffle(present)
        return (*present, *(peer for peer in self._find_reachable() if peer not in present))

    def _is_member(self, peer: bytes) -> bool:
        return peer in self._members

    def _step(self, event: Input) -> None:
        """Give the machine an input, after those that are being carried out."""
        if self._closed or not self._started:
            return
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events:
                for effect in self._machine.step(self._clock.monotonic(), self._events.popleft()):
                    self._carry_out(effect)
        finally:
            self._stepping = False

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                self._send(peer, message)
            case Connect(peer):
                self.want(peer)
            case Disconnect():
                pass  # the sweep ends its session when nobody uses it
            case SetTimer(at, token):
                self._timers.set(at, token)
            case Cancel(token):
                self._timers.cancel(token)
            case Deliver(_, topic, payload, _, sender):
                handler = self._handlers.get(topic)
                if handler is not None:
                    handler.deliver(payload, sender)
            case Found(peer, standing):
                self._on_found(peer, standing)
            case Observe(rule, peer, detail):
                self._observe(Observation(rule, short_peer_id(peer), detail))
                if rule == FORGED:
                    self._strike(peer)

    def _send(self, peer: bytes, message: Message) -> None:
        session = self._sessions.find_session(peer)
        if session is not None:
            if not session.notify(ServiceNumber.OVERLAY, message):
                self._observe(Observation("overlay_not_sent", short_peer_id(peer), "its buffer is full"))
            return
        if peer not in self._waiting and len(self._waiting) >= EXTRA_SESSIONS:
            return
        if not self.want(peer):
            self._events.append(SessionDown(peer, "unreachable"))
            return
        waiting = self._waiting.setdefault(peer, [])
        if len(waiting) < WAITING_MESSAGES:
            waiting.append(message)

    def _on_found(self, peer: bytes, standing: int) -> None:
        """Who is gone by our own probes loses its session; by hearsay it is asked for a sign of life."""
        session = self._sessions.find_session(peer)
        if standing != Standing.GONE or session is None:
            return
        if peer in self._machine.views.active:
            session.judge(self._clock.monotonic(), probe=True)
        else:
            session.close("dead")

    def _judge(self, sender: bytes, message: Gossip) -> Verdict:
        if message.topic == BEACON_TOPIC:
            return Verdict.FORGED if message.payload else Verdict.GOOD
        if message.identifier != make_identifier(message.topic, message.payload):
            return Verdict.FORGED
        handler = self._handlers.get(message.topic)
        if handler is None:
            return Verdict.STALE
        verdict = handler.judge(message.payload)
        return verdict if verdict is not Verdict.GOOD else self._judge_rate(handler, message)

    def _judge_rate(self, handler: TopicHandler, message: Gossip) -> Verdict:
        """Pass on no more than so many broadcasts of one author: nobody else can tell a storm from news.

        Its neighbours do, so the storm ends there, and the session's budgets are left to everybody else.
        """
        author = handler.find_author(message.payload)
        if author is None:
            return Verdict.GOOD
        now = self._clock.monotonic()
        bucket = self._authors.find((message.topic, author))
        if bucket is None:
            bucket = TokenBucket(AUTHOR_S, AUTHOR_BURST, now)
            self._authors.put((message.topic, author), bucket)
        if bucket.try_take(now):
            return Verdict.GOOD
        self._observe(Observation("too_many_broadcasts", short_peer_id(author), f"topic {message.topic}"))
        return Verdict.STALE

    def _strike(self, peer: bytes) -> None:
        now = self._clock.monotonic()
        bucket = self._forgers.find(peer)
        if bucket is None:
            bucket = TokenBucket(FORGED_A_MINUTE / 60.0, FORGED_A_MINUTE, now)
            self._forgers.put(peer, bucket)
        session = self._sessions.find_session(peer)
        if not bucket.try_take(now) and session is not None:
            session.close("fault")

    # -- sessions that nobody uses ---------------------------------------------------------------------

    def _find_extra(self) -> list[Session]:
        """Return the sessions that nobody uses now, but neighbours' and relays', longest unused first."""
        unused = [s for s in self._list_extra() if not s.in_flight and not self._is_busy(s.peer_id)]
        return sorted(unused, key=lambda session: session.used_at)

    def _list_extra(self) -> list[Session]:
        kept = {*self._machine.views.active, *self._find_kept()}
        return [session for session in self._sessions.sessions() if session.peer_id not in kept]

    def _make_room(self) -> bool:
        """Whether one more session fits beside those of neighbours; the longest unused one gives way."""
        if len(self._list_extra()) + len(self._waiting) < EXTRA_SESSIONS:
            return True
        unused = self._find_extra()
        if not unused:
            return False
        unused[0].close("idle")
        return True

    def _sweep_later(self) -> None:
        wait_s = min(SWEEP_S, LONELY_S)
        self._sweeper = asyncio.get_running_loop().call_later(wait_s, self._sweep)

    def _sweep(self) -> None:
        """End what was dialled from here and is not used. Who was dialled leaves it to the other end."""
        self._sweep_later()
        unused = [] if self._machine.is_mesh else self._find_extra()
        for session in self._sessions.sessions():
            session.may_rest = session in unused
        if self._machine.is_mesh:
            return
        if not self._machine.views.active:  # begin again: somebody may have become reachable
            contacts = list(self._find_contacts())
            self._chance.shuffle(contacts)
            self._compare()
            self._step(Started(tuple(contacts)))
        now = self._clock.monotonic()
        if now < self._swept_at + SWEEP_S:
            return
        self._swept_at = now
        limit = now - IDLE_S
        unused = self._find_extra()
        for place, session in enumerate(unused):
            too_many = len(unused) - place > EXTRA_SESSIONS
            if too_many or (session.is_dialler and session.used_at < limit):
                session.close("idle")
