"""Merge: finds out that the network has fallen into parts, and builds bridges between them.

Every period about sqrt(N) nodes ask a member outside their view what it has heard lately. Two nodes of one
part have heard the same broadcasts; if neither knows any of the other's, they are of two parts and become
neighbours, in places that are kept for that: nobody is evicted (iroh-gossip#86: a split never heals; #152: a
naive join evicts healthy neighbours for ever). Beacons are broadcast so that there is something to compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import MergeConfig
from shoal.overlay.substrate.messages import Bridge, PartAnswer, PartProbe
from shoal.overlay.substrate.plumtree import Plumtree
from shoal.overlay.substrate.steps import Effect, Send, SetTimer
from shoal.overlay.substrate.views import Views

MERGE = ("merge",)
BEACON_TOPIC = 0
_WISH, _GRANTED = Bridge(False), Bridge(True)


class Merge:
    """One node's part in healing. Every method appends what the driver must do to `out`."""

    __slots__ = ("_chance", "_config", "_find_member", "_member_count", "_plumtree", "_views")

    def __init__(self, config: MergeConfig, chance: Chance, views: Views, plumtree: Plumtree) -> None:
        self._config = config
        self._chance = chance
        self._views = views
        self._plumtree = plumtree
        self._member_count = 1
        self._find_member: Callable[[], bytes | None] = lambda: None

    def tell_members(self, count: int, find_member: Callable[[], bytes | None]) -> None:
        """Say how many members there are, and how to get a random one: a function without side effects."""
        self._member_count = max(1, count)
        self._find_member = find_member

    def start(self, now: float, out: list[Effect]) -> None:
        """Begin, somewhere in a period."""
        out.append(SetTimer(now + self._chance.fraction() * self._config.period_s, MERGE))

    def on_timer(self, now: float, out: list[Effect]) -> None:
        """Perhaps ask somebody, perhaps send a beacon."""
        config, chance, count = self._config, self._chance, self._member_count
        out.append(SetTimer(now + config.period_s * chance.between(0.8, 1.2), MERGE))
        if chance.fraction() * count < config.beacons:
            identifier = chance.draw().to_bytes(8, "big") + chance.draw().to_bytes(8, "big")
            self._plumtree.broadcast(now, identifier, BEACON_TOPIC, b"", out)
        if chance.fraction() * math.sqrt(count) >= 1.0 and self._views.active:
            return
        peer = self._find_member()
        if peer is None or peer in self._views.active or not self._views.has_reserve:
            return
        digest = self._plumtree.find_newest(now, config.settled_s, config.digest)
        if digest:
            out.append(Send(peer, PartProbe(digest)))

    def on_part_probe(self, now: float, sender: bytes, message: PartProbe, out: list[Effect]) -> None:
        """Answer if nothing of it is known here."""
        if any(self._plumtree.has(identifier) for identifier in message.identifiers):
            return
        digest = self._plumtree.find_newest(now, self._config.settled_s, self._config.digest)
        if digest and self._views.has_reserve:
            out.append(Send(sender, PartAnswer(digest)))

    def on_part_answer(self, sender: bytes, message: PartAnswer, out: list[Effect]) -> None:
        """Wish for a bridge if nothing of it is known here either."""
        if self._views.has_reserve and not any(self._plumtree.has(item) for item in message.identifiers):
            out.append(Send(sender, _WISH))

    def on_bridge(self, now: float, sender: bytes, message: Bridge, out: list[Effect]) -> None:
        """Make the link, if there is still a place."""
        if self._views.link_reserved(now, sender, out) and not message.granted:
            out.append(Send(sender, _GRANTED))
