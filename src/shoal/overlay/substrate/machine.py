"""Substrate: the machine that composes views, broadcast and failure detection. Pure (core.machine)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import SubstrateConfig
from shoal.overlay.substrate.detector import Detector, Standing
from shoal.overlay.substrate.detector_machine import handle_timer
from shoal.overlay.substrate.merge import BEACON_TOPIC, Merge
from shoal.overlay.substrate.messages import (
    Bridge,
    Cached,
    ForwardJoin,
    Gossip,
    Graft,
    IHave,
    Join,
    Neighbour,
    NeighbourAnswer,
    Part,
    PartAnswer,
    PartProbe,
    Probe,
    ProbeAnswer,
    ProbeFor,
    ProbeSilence,
    Prune,
    Shuffle,
    ShuffleAnswer,
    SizePull,
    SizePush,
)
from shoal.overlay.substrate.plumtree import Judge, Plumtree
from shoal.overlay.substrate.size import SizeEstimate
from shoal.overlay.substrate.steps import (
    Broadcast,
    Cancel,
    Effect,
    Input,
    Received,
    Send,
    SessionDown,
    SessionUp,
    Timer,
    UseMesh,
    UseViews,
)
from shoal.overlay.substrate.views import Views


class SubstrateMachine:
    """One node's part in keeping the network together.

    The driver carries out effects in order, dials for a `Send` without a session, and tells with SessionDown
    when a session that this node used has ended or could not be made.

    In a small network (UseMesh) everybody has a session with everybody: all of them are links for broadcasts,
    the views only keep who asks for a place, and heartbeats of the sessions do what the detector does.
    """

    __slots__ = (
        "_chance",
        "_detects",
        "_estimates",
        "detector",
        "is_mesh",
        "merge",
        "plumtree",
        "size",
        "views",
    )

    def __init__(
        self, own: bytes, config: SubstrateConfig, chance: Chance, judge: Judge | None = None
    ) -> None:
        self.is_mesh = False
        self.views = Views(own, config.views, chance, self)
        self.plumtree = Plumtree(config.broadcast, judge)
        self.merge = Merge(config.merge, chance, self.views, self.plumtree)
        self._chance = chance
        self.detector = Detector(own, config.detector, chance)
        self._detects = config.detects
        self.size = SizeEstimate(own, config.size, chance, self.views.active)
        self._estimates = config.estimates

    def step(self, now: float, event: Input) -> list[Effect]:
        """Take one input, return what the driver must do, in order."""
        out: list[Effect] = []
        kind = type(event)
        if kind is Received:
            message = event.message  # type: ignore[union-attr]
            _ON_MESSAGE[type(message)](self, now, event.peer, message, out)  # type: ignore[union-attr]
            if type(message) in _OF_NEIGHBOURS and not self.is_mesh:
                self._check_link(event.peer, out)  # type: ignore[union-attr]
        elif kind is Timer:
            self._on_timer(now, event.token, out)  # type: ignore[union-attr]
        elif kind is SessionDown:
            if self.is_mesh:
                self.plumtree.on_link_down(event.peer)  # type: ignore[union-attr]
            self.views.on_session_down(now, event.peer, out, event.reason)  # type: ignore[union-attr]
        elif kind is SessionUp:
            if self.is_mesh:
                self.plumtree.on_link_up(now, event.peer, out)  # type: ignore[union-attr]
        elif kind is Broadcast:
            self.plumtree.broadcast(now, event.identifier, event.topic, event.payload, out)  # type: ignore[union-attr]
        elif kind is UseMesh:
            self._use_mesh(now, event.sessions, out)  # type: ignore[union-attr]
        elif kind is UseViews:
            self._use_views(now, event.contacts, out)  # type: ignore[union-attr]
        else:
            self.views.start(now, event.contacts, out)  # type: ignore[union-attr]
            self._start_others(now, out)
        return out

    def on_gossip(self, now: float, sender: bytes, message: Gossip, out: list[Effect]) -> None:
        """Take a broadcast; a beacon also tells which part of the network this is."""
        is_news = message.topic == BEACON_TOPIC and not self.plumtree.has(message.identifier)
        if is_news and not self.merge.allows_beacon(now, sender):
            self.plumtree.ignore(now, message.identifier, out)
            return
        self.plumtree.on_gossip(now, sender, message, out)
        if is_news and self.plumtree.has(message.identifier):
            self.merge.on_beacon(now, message.identifier)

    def _check_link(self, peer: bytes, out: list[Effect]) -> None:
        """Tell who takes us for a neighbour and is none: half a link carries nothing back."""
        if peer not in self.views.active:
            out.append(Send(peer, _PART))

    def _start_others(self, now: float, out: list[Effect]) -> None:
        self.merge.start(now, out)
        if self._estimates:
            self.size.start(now, out)

    def _use_mesh(self, now: float, sessions: tuple[bytes, ...], out: list[Effect]) -> None:
        self.is_mesh = self.views.is_resting = True
        out.extend(Cancel(token) for token in _RESTING)
        for peer in self.plumtree.eager + self.plumtree.lazy:
            if peer not in sessions:
                self.plumtree.on_link_down(peer)
        for peer in sessions:
            self.plumtree.on_link_up(now, peer, out)
        for peer in self.views.active:
            self.detector.drop(peer, out)

    def _use_views(self, now: float, contacts: tuple[bytes, ...], out: list[Effect]) -> None:
        """Keep the links to those who have asked for one already, and look for the others."""
        self.is_mesh = self.views.is_resting = False
        for peer in self.plumtree.eager + self.plumtree.lazy:
            if peer not in self.views.active:
                self.plumtree.on_link_down(peer)
        for peer in list(self.views.active):
            self.on_link_up(now, peer, out)
        self.views.begin(now, contacts, out)
        self._start_others(now, out)

    def _on_timer(self, now: float, token: tuple[object, ...], out: list[Effect]) -> None:
        match token:
            case ("graft", bytes(identifier)):
                self.plumtree.on_graft_timer(now, identifier, out)
            case ("shuffle",):
                self.views.on_shuffle_timer(now, out)
            case ("refill",):
                self.views.on_refill(now, out)
            case ("repair",):
                self.plumtree.on_repair(now, self._chance, out)
            case ("size",):
                self.size.on_timer(now, out)
            case ("merge",):
                self.merge.on_timer(now, out)
            case ("sweep",):
                self.plumtree.on_sweep(now, out)
            case ("suspect", bytes(peer)):
                is_ours = self.detector.suspects(peer)  # else it is hearsay: the session is asked
                self.detector.on_suspect_timer(peer, out)
                if is_ours and self.detector.find_standing(peer) == Standing.GONE:
                    self.views.on_session_down(now, peer, out)
                    out.append(Send(peer, _PART))  # if it is there after all it must know
            case _:
                handle_timer(self.detector, now, token, out)

    def tell_members(self, count: int, find_member: Callable[[], bytes | None]) -> None:
        """Say how many members there are, and how to get a random one: a function without side effects."""
        self.views.tell_members(count, find_member)
        self.merge.tell_members(count, find_member)
        self.size.tell_members(count)

    def on_link_up(self, now: float, peer: bytes, out: list[Effect]) -> None:
        """See `LinkListener`."""
        if self.is_mesh:
            return  # a session is a link, whatever the views say
        self.plumtree.on_link_up(now, peer, out)
        if self._detects:
            self.detector.add(now, peer, out)

    def on_link_down(self, now: float, peer: bytes, out: list[Effect]) -> None:
        """See `LinkListener`."""
        if self.is_mesh:
            return
        self.plumtree.on_link_down(peer)
        self.detector.drop(peer, out)


_PART = Part(False)
# messages that come over links alone; Cached may be there before the word that makes the link
_OF_NEIGHBOURS = frozenset({Gossip, IHave, Shuffle})
_RESTING = (("shuffle",), ("refill",), ("merge",), ("size",))  # timers that a small network does without
_Handler = Callable[[SubstrateMachine, float, bytes, Any, list[Effect]], None]
_ON_MESSAGE: dict[type, _Handler] = {
    Gossip: SubstrateMachine.on_gossip,
    IHave: lambda node, now, peer, message, out: node.plumtree.on_i_have(now, peer, message, out),
    Cached: lambda node, now, peer, message, out: node.plumtree.on_cached(now, peer, message, out),
    Graft: lambda node, now, peer, message, out: node.plumtree.on_graft(peer, message, out),
    Prune: lambda node, now, peer, message, out: node.plumtree.on_prune(peer),
    Join: lambda node, now, peer, message, out: node.views.on_join(now, peer, out),
    ForwardJoin: lambda node, now, peer, message, out: node.views.on_forward_join(now, peer, message, out),
    Neighbour: lambda node, now, peer, message, out: node.views.on_neighbour(now, peer, message, out),
    NeighbourAnswer: lambda node, now, peer, message, out: node.views.on_neighbour_answer(
        now, peer, message, out
    ),
    Part: lambda node, now, peer, message, out: node.views.on_part(now, peer, message, out),
    PartProbe: lambda node, now, peer, message, out: node.merge.on_part_probe(now, peer, message, out),
    PartAnswer: lambda node, now, peer, message, out: node.merge.on_part_answer(now, peer, message, out),
    Bridge: lambda node, now, peer, message, out: node.merge.on_bridge(now, peer, message, out),
    SizePush: lambda node, now, peer, message, out: node.size.on_push(peer, message, out),
    SizePull: lambda node, now, peer, message, out: node.size.on_pull(peer, message),
    Probe: lambda node, now, peer, message, out: node.detector.on_probe(now, peer, message, out),
    ProbeAnswer: lambda node, now, peer, message, out: node.detector.on_probe_answer(now, peer, message, out),
    ProbeFor: lambda node, now, peer, message, out: node.detector.on_probe_for(now, peer, message, out),
    ProbeSilence: lambda node, now, peer, message, out: node.detector.on_probe_silence(peer, message),
    Shuffle: lambda node, now, peer, message, out: node.views.on_shuffle(peer, message, out),
    ShuffleAnswer: lambda node, now, peer, message, out: node.views.on_shuffle_answer(message),
}
