"""Merge: finds out that the network has fallen into parts, and builds bridges between them.

Beacons are broadcast so that there is something to compare. Every period about sqrt(N) nodes ask a member
outside their view whether it knows the newest beacon that they have known for a while. Two nodes of one part
have both had it; if neither knows the other's, they are of two parts and become neighbours, in places that
are kept for that: nobody is evicted (iroh-gossip#86: a split never heals; #152: a naive join evicts healthy
neighbours for ever). Over the first bridge new beacons reach everybody at once, but those do not count yet:
for a while others go on building bridges, about sqrt(N) / 2 of them, so that the parts do not hang together
by one link.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from shoal.core.budget import TokenBucket
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

    __slots__ = (
        "_allowed",
        "_beacons",
        "_chance",
        "_config",
        "_find_member",
        "_member_count",
        "_plumtree",
        "_views",
    )

    def __init__(self, config: MergeConfig, chance: Chance, views: Views, plumtree: Plumtree) -> None:
        self._config = config
        self._chance = chance
        self._views = views
        self._plumtree = plumtree
        self._member_count = 1
        self._find_member: Callable[[], bytes | None] = lambda: None
        self._beacons: OrderedDict[bytes, float] = OrderedDict()  # since when; at most config.kept
        self._allowed: OrderedDict[bytes, TokenBucket] = OrderedDict()  # by sender; at most config.senders

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
            self.on_beacon(now, identifier)
        if chance.fraction() * math.sqrt(count) >= 1.0 and self._views.active:
            return
        peer = self._find_member()
        if peer is None or peer in self._views.active or not self._views.has_reserve:
            return
        newest = self._find_newest(now)
        if newest is not None:
            out.append(Send(peer, PartProbe([newest])))

    def allows_beacon(self, now: float, sender: bytes) -> bool:
        """Whether a neighbour may bring one more beacon now; one that may not is not passed on."""
        config = self._config
        bucket = self._allowed.pop(sender, None) or TokenBucket(config.accepted_s, config.accepted_burst, now)
        self._allowed[sender] = bucket
        if len(self._allowed) > config.senders:
            self._allowed.popitem(last=False)
        return bucket.try_take(now)

    def on_beacon(self, now: float, identifier: bytes) -> None:
        """Keep a beacon that has come for the first time."""
        newest = next(reversed(self._beacons.values()), None)
        if newest is not None and now < newest + self._config.apart_s:
            return
        self._beacons[identifier] = now
        if len(self._beacons) > self._config.kept:
            self._beacons.popitem(last=False)

    def _find_newest(self, now: float) -> bytes | None:
        limit = now - self._config.settled_s
        settled = (identifier for identifier, since in reversed(self._beacons.items()) if since <= limit)
        return next(settled, None)

    def _knows_any(self, now: float, identifiers: list[bytes]) -> bool:
        """Whether one of them has been here for as long as those that are told."""
        limit = now - self._config.settled_s
        return any(self._beacons.get(identifier, now) <= limit for identifier in identifiers)

    def on_part_probe(self, now: float, sender: bytes, message: PartProbe, out: list[Effect]) -> None:
        """Answer if nothing of it is known here."""
        newest = self._find_newest(now)
        if newest is not None and self._views.has_reserve and not self._knows_any(now, message.identifiers):
            out.append(Send(sender, PartAnswer([newest])))

    def on_part_answer(self, now: float, sender: bytes, message: PartAnswer, out: list[Effect]) -> None:
        """Wish for a bridge if nothing of it is known here either."""
        if self._views.has_reserve and not self._knows_any(now, message.identifiers):
            out.append(Send(sender, _WISH))

    def on_bridge(self, now: float, sender: bytes, message: Bridge, out: list[Effect]) -> None:
        """Make the link, if there is still a place."""
        if self._views.link_reserved(now, sender, out) and not message.granted:
            out.append(Send(sender, _GRANTED))
