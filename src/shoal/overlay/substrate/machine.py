"""Substrate: the machine that composes views, broadcast and failure detection. Pure (core.machine)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.core.chance import Chance
from shoal.core.errors import LocalMisuse
from shoal.overlay.substrate.config import SubstrateConfig
from shoal.overlay.substrate.messages import (
    ForwardJoin,
    Gossip,
    Graft,
    IHave,
    Join,
    Neighbour,
    NeighbourAnswer,
    Part,
    Prune,
    Shuffle,
    ShuffleAnswer,
)
from shoal.overlay.substrate.plumtree import Plumtree
from shoal.overlay.substrate.steps import Broadcast, Effect, Input, Received, SessionDown, Timer
from shoal.overlay.substrate.views import Views


class SubstrateMachine:
    """One node's part in keeping the network together.

    The driver carries out effects in order, dials for a `Send` without a session, and tells with SessionDown
    when a session that this node used has ended or could not be made.
    """

    __slots__ = ("plumtree", "views")

    def __init__(self, own: bytes, config: SubstrateConfig, chance: Chance) -> None:
        self.views = Views(own, config.views, chance, self)
        self.plumtree = Plumtree(config.broadcast)

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
        return out

    def _on_timer(self, now: float, token: tuple[object, ...], out: list[Effect]) -> None:
        match token:
            case ("graft", bytes(identifier)):
                self.plumtree.on_graft_timer(now, identifier, out)
            case ("shuffle",):
                self.views.on_shuffle_timer(now, out)
            case ("refill",):
                self.views.on_refill(now, out)
            case ("sweep",):
                self.plumtree.on_sweep(now, out)
            case _:
                raise LocalMisuse(f"no timer has the token {token!r}")

    def on_link_up(self, now: float, peer: bytes, out: list[Effect]) -> None:
        """See `LinkListener`."""
        self.plumtree.on_link_up(peer)

    def on_link_down(self, now: float, peer: bytes, out: list[Effect]) -> None:
        """See `LinkListener`."""
        self.plumtree.on_link_down(peer)


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
    Shuffle: lambda node, now, peer, message, out: node.views.on_shuffle(peer, message, out),
    ShuffleAnswer: lambda node, now, peer, message, out: node.views.on_shuffle_answer(message),
}
