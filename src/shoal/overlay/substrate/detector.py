"""Detector: SWIM with Lifeguard, who of a set of members is still there.

Every period one member is probed; who does not answer is probed by helpers too, then suspected, and held for
gone if it does not speak up in time. A member that is itself slow (it misses answers, or hears that it is
suspected) waits longer before it blames others: that is Lifeguard. Pure; the members are told from outside:
in a node its neighbours, in a simulation of the papers everybody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import IntEnum

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import DetectorConfig
from shoal.overlay.substrate.messages import Probe, ProbeAnswer, ProbeFor, ProbeSilence, Update
from shoal.overlay.substrate.steps import Cancel, Effect, Found, Send, SetTimer

PERIOD = ("probe",)
LATE = ("probe late",)
HELPED_LIMIT = 64  # probes for others under way
HELPED_A_PEER = 8  # of them for one: it asks for one in a period
INCARNATIONS = (
    2**32
)  # counted on from the last one to 0, as serial numbers are (RFC 1982): nobody can end them
HELPER_DRAWS = 16  # tries to find helpers that are there


class Standing(IntEnum):
    """What is held of a member; part of the format."""

    THERE = 1
    SUSPECT = 2
    GONE = 3


def is_later(incarnation: int, other: int) -> bool:
    """Whether a member that counted to `other` can have counted on to `incarnation`."""
    return 0 < (incarnation - other) % INCARNATIONS < INCARNATIONS // 2


class Roster:
    """The members that a detector watches. Detectors that watch the same ones may share it."""

    __slots__ = ("_places", "peers")

    def __init__(self, peers: Iterable[bytes] = ()) -> None:
        self.peers = list(peers)
        self._places = {peer: place for place, peer in enumerate(self.peers)}

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._places

    def __len__(self) -> int:
        return len(self.peers)

    def add(self, peer: bytes) -> None:
        """Add a member, once."""
        if peer not in self._places:
            self._places[peer] = len(self.peers)
            self.peers.append(peer)

    def drop(self, peer: bytes) -> None:
        """Take a member out; the last one takes its place."""
        place = self._places.pop(peer, None)
        if place is not None:
            last = self.peers.pop()
            if last != peer:
                self.peers[place] = last
                self._places[last] = place


class _Round:
    """An order in which each place of a roster comes once: by a stride that shares no divisor with it."""

    __slots__ = ("_at", "_left", "_stride")

    def __init__(self) -> None:
        self._at = self._stride = self._left = 0

    def next_place(self, count: int, chance: Chance) -> int:
        if self._left <= 0:
            self._left = count
            self._at = chance.below(count)
            self._stride = 1 + chance.below(count)
            while math.gcd(self._stride, count) != 1:
                self._stride = 1 + chance.below(count)
        self._left -= 1
        self._at = (self._at + self._stride) % count
        return self._at


class _Suspicion:
    __slots__ = ("began", "members", "sources")

    def __init__(self, began: float, source: bytes, members: int) -> None:
        self.began = began
        self.members = members
        self.sources = [source]  # independent ones; at most confirmations + 1


class _Member:
    __slots__ = ("incarnation", "standing", "suspicion")

    def __init__(self) -> None:
        self.standing = Standing.THERE
        self.incarnation = 0
        self.suspicion: _Suspicion | None = None


class _Probe:
    """The probe of this period."""

    __slots__ = ("answered", "helpers", "number", "silent", "target")

    def __init__(self, number: int, target: bytes) -> None:
        self.number = number
        self.target = target
        self.answered = False
        self.helpers: list[bytes] = []  # at most config.helpers
        self.silent: list[bytes] = []  # of these, who said that they are there and the target is silent


class Detector:
    """One node's detector. Every method appends what the driver must do to `out`."""

    __slots__ = (
        "_chance",
        "_config",
        "_helped",
        "_incarnation",
        "_number",
        "_own",
        "_probe",
        "_roster",
        "_round",
        "_running",
        "_states",
        "_updates",
        "health",
    )

    def __init__(
        self, own: bytes, config: DetectorConfig, chance: Chance, roster: Roster | None = None
    ) -> None:
        """`roster` may hold ourselves too: a node does not probe itself."""
        self._own = own
        self._config = config
        self._chance = chance
        self._roster = Roster() if roster is None else roster
        self._states: dict[bytes, _Member] = {}  # of members of whom something was said; within the roster
        self._round = _Round()
        self._number = 0
        self._incarnation = 0
        self._probe: _Probe | None = None
        self._helped: dict[int, tuple[bytes, int, bytes]] = {}  # own number -> asker, its number, target
        self._updates: dict[bytes, _Rumour] = {}  # at most one a member
        self._running = False
        self.health = 0  # Lifeguard's local health multiplier: 0 is well

    # -- members ---------------------------------------------------------------------------------------

    def start(self, now: float, out: list[Effect]) -> None:
        """Begin to probe, somewhere in a period; idempotent."""
        if not self._running:
            self._running = True
            out.append(SetTimer(now + self._chance.fraction() * self._config.period_s, PERIOD))

    def add(self, now: float, peer: bytes, out: list[Effect]) -> None:
        """Watch a member from now on."""
        if peer != self._own:
            self._roster.add(peer)
            self.start(now, out)

    def drop(self, peer: bytes, out: list[Effect]) -> None:
        """Watch a member no more."""
        self._roster.drop(peer)
        self._updates.pop(peer, None)
        member = self._states.pop(peer, None)
        if member is not None and member.suspicion is not None:
            out.append(Cancel(("suspect", peer)))

    def find_standing(self, peer: bytes) -> Standing | None:
        """Return what is held of a member, None if it is not watched."""
        member = self._states.get(peer)
        if member is not None:
            return member.standing
        return Standing.THERE if peer in self._roster else None

    def _find_state(self, peer: bytes) -> _Member | None:
        """Return the state of a member, made now if nothing was said of it yet."""
        member = self._states.get(peer)
        if member is None and peer in self._roster:
            self._states[peer] = member = _Member()
        return member

    def _is_there(self, peer: bytes) -> bool:
        member = self._states.get(peer)
        return member is None or member.standing is Standing.THERE

    # -- periods ---------------------------------------------------------------------------------------

    @property
    def _slowness(self) -> int:
        return self.health + 1 if self._config.lifeguard else 1

    def _feel(self, change: int) -> None:
        self.health = min(self._config.health_limit, max(0, self.health + change))

    def on_period(self, now: float, out: list[Effect]) -> None:
        """Judge the last probe and send the next one."""
        self._judge(now, out)
        target = self._next_target()
        if target is None:
            self._running = False
            return
        config = self._config
        out.append(SetTimer(now + config.period_s * self._slowness, PERIOD))
        self._number = (self._number + 1) % 2**32
        self._probe = _Probe(self._number, target)
        out.append(Send(target, Probe(self._number, self._take_updates(target))))
        out.append(SetTimer(now + config.answer_s * self._slowness, LATE))

    def _next_target(self) -> bytes | None:
        """Return the next member that is not gone, each once a round: SWIM section 4.3."""
        peers, count = self._roster.peers, len(self._roster)
        for _ in range(count):
            peer = peers[self._round.next_place(count, self._chance)]
            member = self._states.get(peer)
            if peer != self._own and (member is None or member.standing is not Standing.GONE):
                return peer
        return None

    def on_late(self, now: float, out: list[Effect]) -> None:
        """The target has not answered: ask helpers."""
        probe = self._probe
        if probe is None or probe.answered or probe.target not in self._roster:
            return
        for _ in range(HELPER_DRAWS):
            if len(probe.helpers) == self._config.helpers:
                break
            peer = self._chance.pick(self._roster.peers)
            if peer not in (self._own, probe.target, *probe.helpers) and self._is_there(peer):
                probe.helpers.append(peer)
                out.append(Send(peer, ProbeFor(probe.number, probe.target, self._take_updates(peer))))

    def _judge(self, now: float, out: list[Effect]) -> None:
        probe, self._probe = self._probe, None
        if probe is None or probe.target not in self._roster:
            return
        if probe.answered:
            self._feel(-1)
            return
        # Lifeguard IV.A: helpers that say nothing either mean that it is we who do not hear
        self._feel(len(probe.helpers) - len(probe.silent) if probe.helpers else 1)
        member = self._find_state(probe.target)
        if member is None:
            return
        self._suspect(now, probe.target, member.incarnation, self._own, out)

    # -- messages --------------------------------------------------------------------------------------

    def on_probe(self, now: float, sender: bytes, message: Probe, out: list[Effect]) -> None:
        """Answer."""
        self._read(now, message.updates, out)
        out.append(Send(sender, ProbeAnswer(message.number, self._take_updates(sender))))

    def on_probe_for(self, now: float, sender: bytes, message: ProbeFor, out: list[Effect]) -> None:
        """Probe in the sender's place; only for who is watched: the target has to be dialled perhaps."""
        self._read(now, message.updates, out)
        target = message.target
        if len(self._helped) >= HELPED_LIMIT or target == self._own or sender not in self._roster:
            return
        if sum(asker == sender for asker, _, _ in self._helped.values()) >= HELPED_A_PEER:
            return
        self._number = number = (self._number + 1) % 2**32
        self._helped[number] = (sender, message.number, target)
        out.append(Send(target, Probe(number, self._take_updates(target))))
        wait_s = self._config.answer_s * self._config.silence_share
        out.append(SetTimer(now + wait_s, ("probe silence", number)))
        out.append(SetTimer(now + self._config.period_s, ("probe helped", number)))

    def on_silence_timer(self, number: int, out: list[Effect]) -> None:
        """The target is silent: say at least that we are there."""
        helped = self._helped.get(number)
        if helped is not None and self._config.lifeguard:
            out.append(Send(helped[0], ProbeSilence(helped[1])))

    def on_helped_timer(self, number: int) -> None:
        """Forget a probe for somebody else."""
        self._helped.pop(number, None)

    def on_probe_answer(self, now: float, sender: bytes, message: ProbeAnswer, out: list[Effect]) -> None:
        """Note that the target is there, or pass it on to who asked."""
        self._read(now, message.updates, out)
        probe = self._probe
        if probe is not None and message.number == probe.number:
            if sender == probe.target or sender in probe.helpers:
                probe.answered = True
            return
        helped = self._helped.get(message.number)
        if helped is not None and sender == helped[2]:
            del self._helped[message.number]
            out += [Cancel(("probe silence", message.number)), Cancel(("probe helped", message.number))]
            out.append(Send(helped[0], ProbeAnswer(helped[1], self._take_updates(helped[0]))))

    def on_probe_silence(self, sender: bytes, message: ProbeSilence) -> None:
        """A helper is there: it is not we who are deaf."""
        probe = self._probe
        if probe is None or message.number != probe.number:
            return
        if sender in probe.helpers and sender not in probe.silent:
            probe.silent.append(sender)

    # -- updates ---------------------------------------------------------------------------------------

    def _read(self, now: float, updates: list[Update], out: list[Effect]) -> None:
        for update in updates:
            if update.peer == self._own:
                self._refute(update)
            elif update.standing == Standing.SUSPECT:
                self._suspect(now, update.peer, update.incarnation, update.source, out)
            elif update.standing == Standing.GONE:
                self._bury(update.peer, update.incarnation, update.source, out)
            else:
                self._revive(update, out)

    def _refute(self, update: Update) -> None:
        """Others suspect us: we are there, with a later incarnation than they speak of.

        Who took us for a neighbour after we had counted on does not know how far: it is told again.
        """
        if update.standing == Standing.THERE:
            return
        if not is_later(self._incarnation, update.incarnation):
            self._incarnation = (update.incarnation + 1) % INCARNATIONS
            self._feel(1)
        elif self._own in self._updates:
            return
        self._spread(Update(self._own, Standing.THERE, self._incarnation, self._own))

    def _revive(self, update: Update, out: list[Effect]) -> None:
        member = self._find_state(update.peer)
        if member is None or not is_later(update.incarnation, member.incarnation):
            return
        was = member.standing
        member.incarnation, member.standing, member.suspicion = update.incarnation, Standing.THERE, None
        out.append(Cancel(("suspect", update.peer)))
        self._spread(update)
        if was is not Standing.THERE:
            out.append(Found(update.peer, Standing.THERE))

    def _suspect(self, now: float, peer: bytes, incarnation: int, source: bytes, out: list[Effect]) -> None:
        member = self._find_state(peer)
        if member is None or is_later(member.incarnation, incarnation) or member.standing is Standing.GONE:
            return
        suspicion = member.suspicion
        update = Update(peer, Standing.SUSPECT, incarnation, source)
        if suspicion is None or is_later(incarnation, member.incarnation):
            member.standing, member.incarnation = Standing.SUSPECT, incarnation
            member.suspicion = suspicion = _Suspicion(now, source, len(self._roster) + 1)
            self._spread(update)
            out.append(Found(peer, Standing.SUSPECT))
        elif source in suspicion.sources or len(suspicion.sources) > self._config.confirmations:
            return
        else:
            suspicion.sources.append(source)
            self._spread(update)  # Lifeguard IV.B: the first K independent suspicions are told on
            if not self._config.lifeguard:
                return
        end = suspicion.began + self._suspicion_s(suspicion)
        out.append(SetTimer(max(now, end), ("suspect", peer)))

    def _suspicion_s(self, suspicion: _Suspicion) -> float:
        """Return how long a suspect may take to speak up."""
        config = self._config
        shortest = config.suspicion_min * max(1.0, math.log10(suspicion.members)) * config.period_s
        if not config.lifeguard:
            return shortest
        confirmations = min(config.confirmations, suspicion.members - 2)
        if confirmations < 1:
            return shortest
        longest = config.suspicion_max * shortest
        share = math.log(len(suspicion.sources)) / math.log(confirmations + 1)
        return max(shortest, longest - (longest - shortest) * share)

    def suspects(self, peer: bytes) -> bool:
        """Whether a member is suspected by our own probes, not by what others say alone."""
        member = self._states.get(peer)
        return member is not None and member.suspicion is not None and self._own in member.suspicion.sources

    def on_suspect_timer(self, peer: bytes, out: list[Effect]) -> None:
        """It did not speak up: it is gone."""
        member = self._states.get(peer)
        if member is not None and member.standing is Standing.SUSPECT:
            self._bury(peer, member.incarnation, self._own, out)

    def _bury(self, peer: bytes, incarnation: int, source: bytes, out: list[Effect]) -> None:
        member = self._find_state(peer)
        if member is None or member.standing is Standing.GONE or is_later(member.incarnation, incarnation):
            return
        member.standing, member.incarnation, member.suspicion = Standing.GONE, incarnation, None
        out.append(Cancel(("suspect", peer)))
        self._spread(Update(peer, Standing.GONE, incarnation, source))
        out.append(Found(peer, Standing.GONE))

    def _spread(self, update: Update) -> None:
        self._updates[update.peer] = _Rumour(update)

    def _take_updates(self, receiver: bytes) -> list[Update]:
        """Return what is to be told, least told first; a suspect hears that it is one (buddy system)."""
        rumours = self._updates
        taken: list[Update] = []
        if self._config.lifeguard:
            member = self._states.get(receiver)
            if member is not None and member.standing is not Standing.THERE:
                taken.append(Update(receiver, member.standing, member.incarnation, self._own))
        if not rumours:
            return taken
        rides = math.ceil(self._config.spread * math.log10(len(self._roster) + 2))
        fresh = (
            sorted(rumours.values(), key=_times) if len(rumours) > self._config.updates else rumours.values()
        )
        for rumour in list(fresh)[: self._config.updates - len(taken)]:
            taken.append(rumour.update)
            rumour.times += 1
            if rumour.times >= rides:
                del rumours[rumour.update.peer]
        return taken


class _Rumour:
    """An update and how often it was told."""

    __slots__ = ("times", "update")

    def __init__(self, update: Update) -> None:
        self.update = update
        self.times = 0


def _times(rumour: _Rumour) -> int:
    return rumour.times
