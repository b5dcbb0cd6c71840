"""Substrate: the machine that composes views, broadcast and failure detection. Pure (core.machine)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import SubstrateConfig
from shoal.overlay.substrate.detector import Detector, Standing
from shoal.overlay.substrate.detector_machine import handle_timer
from shoal.overlay.substrate.merge import Merge
from shoal.overlay.substrate.messages import (
    Bridge,
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
from shoal.overlay.substrate.plumtree import Plumtree
from shoal.overlay.substrate.size import SizeEstimate
from shoal.overlay.substrate.steps import Broadcast, Effect, Input, Received, SessionDown, Timer
from shoal.overlay.substrate.views import Views


class SubstrateMachine:
    """One node's part in keeping the network together.

    The driver carries out effects in order, dials for a `Send` without a session, and tells with SessionDown
    when a session that this node used has ended or could not be made.
    """

    __slots__ = ("_chance", "_detects", "_estimates", "detector", "merge", "plumtree", "size", "views")

    def __init__(self, own: bytes, config: SubstrateConfig, chance: Chance) -> None:
        self.views = Views(own, config.views, chance, self)
        self.plumtree = Plumtree(config.broadcast)
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
            _ON_MESSAGE[type(event.message)](self, now, event.peer, event.message, out)  # type: ignore[union-attr]
        elif kind is Timer:
            self._on_timer(now, event.token, out)  # type: ignore[union-attr]
        elif kind is SessionDown:
            self.views.on_session_down(now, event.peer, out)  # type: ignore[union-attr]
        elif kind is Broadcast:
            self.plumtree.broadcast(now, event.identifier, event.topic, event.payload, out)  # type: ignore[union-attr]
        else:
            self.views.start(now, event.contacts, out)  # type: ignore[union-attr]
            self.merge.start(now, out)
            if self._estimates:
                self.size.start(now, out)
        return out

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
                self.detector.on_suspect_timer(peer, out)
                if self.detector.find_standing(peer) == Standing.GONE:
                    self.views.on_session_down(now, peer, out)
            case _:
                handle_timer(self.detector, now, token, out)

    def tell_members(self, count: int, find_member: Callable[[], bytes | None]) -> None:
        """Say how many members there are, and how to get a random one: a function without side effects."""
        self.merge.tell_members(count, find_member)
        self.size.tell_members(count)

    def on_link_up(self, now: float, peer: bytes, out: list[Effect]) -> None:
        """See `LinkListener`."""
        self.plumtree.on_link_up(now, peer, out)
        if self._detects:
            self.detector.add(now, peer, out)

    def on_link_down(self, now: float, peer: bytes, out: list[Effect]) -> None:
        """See `LinkListener`."""
        self.plumtree.on_link_down(peer)
        self.detector.drop(peer, out)


_Handler = Callable[[SubstrateMachine, float, bytes, Any, list[Effect]], None]
_ON_MESSAGE: dict[type, _Handler] = {
    Gossip: lambda node, now, peer, message, out: node.plumtree.on_gossip(now, peer, message, out),
    IHave: lambda node, now, peer, message, out: node.plumtree.on_i_have(now, peer, message, out),
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
    PartAnswer: lambda node, now, peer, message, out: node.merge.on_part_answer(peer, message, out),
    Bridge: lambda node, now, peer, message, out: node.merge.on_bridge(now, peer, message, out),
    SizePush: lambda node, now, peer, message, out: node.size.on_push(peer, message, out),
    SizePull: lambda node, now, peer, message, out: node.size.on_pull(message),
    Probe: lambda node, now, peer, message, out: node.detector.on_probe(now, peer, message, out),
    ProbeAnswer: lambda node, now, peer, message, out: node.detector.on_probe_answer(now, peer, message, out),
    ProbeFor: lambda node, now, peer, message, out: node.detector.on_probe_for(now, peer, message, out),
    ProbeSilence: lambda node, now, peer, message, out: node.detector.on_probe_silence(message),
    Shuffle: lambda node, now, peer, message, out: node.views.on_shuffle(peer, message, out),
    ShuffleAnswer: lambda node, now, peer, message, out: node.views.on_shuffle_answer(message),
}
