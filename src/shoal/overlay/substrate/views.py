"""Views: HyParView, the few neighbours a node has (active view) and those it could have (passive view).

Leitao, Pereira, Rodrigues, "HyParView: a membership protocol for reliable gossip-based broadcast", 2007.
Links are symmetric: whoever takes a peer in tells it. Differences from the paper: a place that nobody has
taken is offered again from time to time, and who was evicted waits before it asks somebody else, so that a
full network comes to rest (iroh-gossip#152: eager repair evicts healthy neighbours for ever). And a wish is
urgent below half of a view, not only without any neighbour: two who have nobody else but each other are
denied everywhere by the paper's rule, and who joined by them stayed apart with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from blake3 import blake3

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import ViewsConfig
from shoal.overlay.substrate.messages import (
    ForwardJoin,
    Join,
    Neighbour,
    NeighbourAnswer,
    Part,
    Shuffle,
    ShuffleAnswer,
)
from shoal.overlay.substrate.steps import Connect, Disconnect, Effect, Send, SetTimer

SHUFFLE = ("shuffle",)
REFILL = ("refill",)
PUSH_WINDOW_S = 60.0  # at most half of the active view gives way to who was not wished for
REPAIRED = frozenset(
    {"reset", "idle", "unreachable"}
)  # iroh-gossip#152: repair after `evicted` churns for ever
ANCHOR_PARTNERS = 24  # members that are each node's possible anchors, on average
ANCHOR_DRAWS = 64  # members looked at in a round of seeking
LAST_DRAWS = 16  # members asked for a place when everybody that is known is gone
CONTACTS = 64  # kept to begin again from when everybody is gone
# that gave way in the passive view, for the same: of 2,000 nodes that a crash of 80 % leaves about one knows
# nobody else who is there (0.8^35), and who knows that one may need nobody
FORMER = 64

_JOIN = Join()
_WISH, _URGENT_WISH = Neighbour(False), Neighbour(True)
_GRANTED, _DENIED = NeighbourAnswer(True), NeighbourAnswer(False)
_EVICTED, _LEAVING = Part(False), Part(True)


class LinkListener(Protocol):
    """Who wants to know of neighbours that come and go."""

    def on_link_up(self, now: float, peer: bytes, out: list[Effect]) -> None:
        """`peer` is a neighbour from now on."""

    def on_link_down(self, now: float, peer: bytes, out: list[Effect]) -> None:
        """`peer` is no neighbour any more."""


class Views:
    """The two views of one node. Every method appends what the driver must do to `out`."""

    __slots__ = (
        "_anchors",
        "_asked",
        "_awaits_answer",
        "_chance",
        "_config",
        "_contacts",
        "_find_member",
        "_former",
        "_inbound",
        "_listener",
        "_member_count",
        "_own",
        "_pushed",
        "_refilling",
        "_shuffled",
        "_tries",
        "active",
        "is_member",
        "is_resting",
        "passive",
    )

    def __init__(self, own: bytes, config: ViewsConfig, chance: Chance, listener: LinkListener) -> None:
        self._own = own
        self._config = config
        self._chance = chance
        self._listener = listener
        self._contacts: tuple[bytes, ...] = ()  # at most CONTACTS
        self._former: deque[bytes] = deque(maxlen=FORMER)
        self._asked: dict[
            bytes, float
        ] = {}  # wishes under way and when they end; at most config.active, and anchors
        self._shuffled: list[bytes] = []  # what the last shuffle gave away: goes first
        self._awaits_answer = False  # of our last shuffle
        self._member_count = 1
        self._find_member: Callable[[], bytes | None] = lambda: None
        self._anchors: list[bytes] = []  # neighbours that chance has made for us; within active
        self._inbound: list[bytes] = []  # neighbours that were not wished for; within active
        self._pushed: list[float] = []  # when links gave way to such; at most config.active / 2
        self._refilling = False
        self._tries = config.tries  # left until the next refill
        self.is_resting = False  # in a small network: who asks for a place gets it, nobody is looked for
        self.is_member: Callable[[bytes], bool] = lambda peer: True  # only members enter the views
        self.active: list[bytes] = []  # at most config.active and config.reserved
        self.passive: list[bytes] = []  # at most config.passive, none of the active ones, never ourselves

    def start(self, now: float, contacts: tuple[bytes, ...], out: list[Effect]) -> None:
        """Join by the first contact that answers; without contacts wait to be joined."""
        self._contacts = tuple(peer for peer in contacts if peer != self._own)[:CONTACTS]
        for peer in self._contacts:
            self._add_passive(peer)
        if self._contacts:
            self._join(now, self._contacts[0], out)
            self._refill_later(now, out)  # its walks may bring too few, or end at nodes that start too
        period = self._config.shuffle_s
        out.append(SetTimer(now + self._chance.between(0.0, period), SHUFFLE))

    def begin(self, now: float, contacts: tuple[bytes, ...], out: list[Effect]) -> None:
        """Fill the views from peers that can be reached, all of them about to do the same: no walks."""
        self._contacts = tuple(peer for peer in contacts if peer != self._own)[:CONTACTS]
        for peer in self._contacts:
            self._add_passive(peer)
        self._refilling = False  # while the views rest its timer is cancelled
        self._refill(now, out, urgent=False)
        out.append(SetTimer(now + self._chance.between(0.0, self._config.shuffle_s), SHUFFLE))

    def leave(self, out: list[Effect]) -> None:
        """Tell the neighbours that this node ends."""
        out.extend(Send(peer, _LEAVING) for peer in self.active)

    def tell_members(self, count: int, find_member: Callable[[], bytes | None]) -> None:
        """Say how many members there are, and how to get a random one: a function without side effects."""
        self._member_count = max(1, count)
        self._find_member = find_member

    # -- links -----------------------------------------------------------------------------------------

    def _join(self, now: float, contact: bytes, out: list[Effect]) -> None:
        self._link(now, contact, out)
        out.append(Send(contact, _JOIN))

    def _link(self, now: float, peer: bytes, out: list[Effect], reserved: int = 0) -> None:
        """Make `peer` a neighbour; if there is no place, somebody has to go."""
        active = self.active
        if peer in active or peer == self._own or not self.is_member(peer):
            return
        if len(active) >= self._config.active + reserved:
            evicted = self._chance.pick(self._find_victims())
            out.append(Send(evicted, _EVICTED))
            self._unlink(now, evicted, "evicted", out)
            self._add_passive(evicted)
        if peer in self.passive:
            self.passive.remove(peer)
        active.append(peer)
        if self._is_anchor(peer):
            self._anchors.append(peer)
        out.append(Connect(peer))
        self._listener.on_link_up(now, peer, out)

    def _let_in(self, now: float, peer: bytes, out: list[Effect]) -> bool:
        """Make a neighbour of who was not wished for; return whether it is one now.

        With `evict_s` liars cannot replace a view: only one link gives way in that time, at most half of the
        view in a minute, and where half of it came in by itself another one of those goes.
        """
        if peer in self.active:
            return True
        config = self._config
        if config.evict_s > 0.0 and len(self.active) >= config.active and not self._find_victims():
            return False
        if config.evict_s > 0.0 and len(self.active) >= config.active and not self._is_anchor(peer):
            self._pushed = [at for at in self._pushed if at > now - PUSH_WINDOW_S]
            if len(self._pushed) >= config.active // 2:
                return False
            if self._pushed and now < self._pushed[-1] + config.evict_s:
                return False
            self._pushed.append(now)
        self._link(now, peer, out)
        if config.evict_s > 0.0 and peer in self.active:
            self._inbound.append(peer)
        return peer in self.active

    def _find_victims(self) -> list[bytes]:
        """Return who may have to go for somebody else: anchors never."""
        if not self._config.anchors:
            return self.active
        others = [peer for peer in self.active if peer not in self._anchors]
        inbound = [peer for peer in self._inbound if peer in others]
        return inbound if len(inbound) >= self._config.active // 2 > 0 else others

    # -- anchors ---------------------------------------------------------------------------------------

    def _is_anchor(self, peer: bytes) -> bool:
        """Whether chance has made this peer and us for each other.

        It is a matter of both ids alone: a liar cannot choose whose anchor it is, and about as many of a
        node's anchors lie as of all members. One place is left for everybody else.
        """
        if not self._config.anchors or len(self._anchors) >= self._config.active - 1:
            return False
        pair = blake3(min(self._own, peer) + max(self._own, peer)).digest(8)
        return int.from_bytes(pair, "big") * self._member_count < ANCHOR_PARTNERS << 64

    def _seek_anchors(self, now: float, out: list[Effect]) -> None:
        """Ask members for a place that only we and a few others can have with them."""
        for late in [peer for peer, until in self._asked.items() if until <= now]:
            del self._asked[late]
        wanted = self._config.anchors - len(self._anchors)
        for _ in range(ANCHOR_DRAWS if wanted > 0 and not self.is_resting else 0):
            peer = self._find_member()
            if wanted <= 0 or peer is None or peer == self._own or not self._is_anchor(peer):
                continue
            if peer not in self.active and peer not in self._asked:
                self._asked[peer] = now + self._config.answer_s
                out.append(Send(peer, _URGENT_WISH))
                wanted -= 1

    @property
    def has_reserve(self) -> bool:
        """Whether a link to another part of the network has a place."""
        return len(self.active) < self._config.active + self._config.reserved

    def link_reserved(self, now: float, peer: bytes, out: list[Effect]) -> bool:
        """Make `peer` a neighbour without evicting anybody; return whether it is one now."""
        if peer not in self.active and not self.has_reserve:
            return False
        self._link(now, peer, out, self._config.reserved)
        return True

    def _unlink(self, now: float, peer: bytes, reason: str, out: list[Effect]) -> None:
        self.active.remove(peer)
        for some in (self._inbound, self._anchors):
            if peer in some:
                some.remove(peer)
        out.append(Disconnect(peer, reason))
        self._listener.on_link_down(now, peer, out)

    def _add_passive(self, peer: bytes) -> None:
        passive = self.passive
        if peer == self._own or peer in passive or peer in self.active or not self.is_member(peer):
            return
        if len(passive) >= self._config.passive:
            while self._shuffled:
                given = self._shuffled.pop()
                if given in passive:
                    passive.remove(given)
                    self._former.append(given)
                    break
            else:
                self._former.append(passive.pop(self._chance.below(len(passive))))
        passive.append(peer)

    def _other_than(self, first: bytes, second: bytes) -> bytes | None:
        """Return a random neighbour that is neither."""
        others = [peer for peer in self.active if peer != first and peer != second]
        return self._chance.pick(others) if others else None

    # -- joining ---------------------------------------------------------------------------------------

    def on_join(self, now: float, sender: bytes, out: list[Effect]) -> None:
        """Take a newcomer in and send it on a walk from each other neighbour."""
        if not self._let_in(now, sender, out):
            out.append(Send(sender, _EVICTED))  # its walks find it other places
        walk = ForwardJoin(sender, self._config.active_walk)
        out.extend(Send(peer, walk) for peer in self.active if peer != sender)

    def on_forward_join(self, now: float, sender: bytes, message: ForwardJoin, out: list[Effect]) -> None:
        """Pass a newcomer on, or take it in where its walk ends."""
        newcomer, hops = message.newcomer, min(message.hops, self._config.active_walk)
        if newcomer == self._own:
            return
        onwards = None if hops <= 0 or len(self.active) <= 1 else self._other_than(sender, newcomer)
        if onwards is None:
            if newcomer not in self.active and self._let_in(now, newcomer, out):
                out.append(Send(newcomer, _GRANTED))
            return
        if hops == self._config.passive_walk:
            self._add_passive(newcomer)
        out.append(Send(onwards, ForwardJoin(newcomer, hops - 1)))

    # -- wishes ----------------------------------------------------------------------------------------

    def on_neighbour(self, now: float, sender: bytes, message: Neighbour, out: list[Effect]) -> None:
        """Answer a wish."""
        free = len(self.active) < self._config.active
        if (sender in self.active or message.urgent or free) and self._let_in(now, sender, out):
            out.append(Send(sender, _GRANTED))
        else:
            self._add_passive(sender)
            out.append(Send(sender, _DENIED))

    def on_neighbour_answer(
        self, now: float, sender: bytes, message: NeighbourAnswer, out: list[Effect]
    ) -> None:
        """Take in who granted a wish, or who took us in after a walk."""
        wished = self._asked.pop(sender, None) is not None
        if not message.granted:
            if wished and self._tries > 0:
                self._tries -= 1
                self._refill(now, out)
            else:
                self._refill_later(now, out)
        elif wished and self._is_full(sender):
            out.append(Send(sender, _EVICTED))  # others were faster
        elif wished:
            self._link(now, sender, out)
        elif not self._let_in(now, sender, out):
            out.append(Send(sender, _EVICTED))

    def _is_full(self, peer: bytes) -> bool:
        """Whether there is no place for somebody who was wished for."""
        if peer in self.active or len(self.active) < self._config.active:
            return False
        return not (self._is_anchor(peer) and self._find_victims())

    def on_part(self, now: float, sender: bytes, message: Part, out: list[Effect]) -> None:
        """Let a neighbour go that says so."""
        if sender not in self.active:
            return
        self._unlink(now, sender, "left" if message.leaving else "evicted", out)
        if not message.leaving:
            self._add_passive(sender)
        if self._is_lonely or message.leaving:
            self._refill(now, out)
        else:
            self._refill_later(now, out)

    def on_session_down(self, now: float, peer: bytes, out: list[Effect], reason: str = "reset") -> None:
        """A peer is not there any more: replace it, but not at once if it evicted us or is no member."""
        wished = self._asked.pop(peer, None) is not None
        if peer in self.passive:
            self.passive.remove(peer)
        linked = peer in self.active
        if linked:
            self._unlink(now, peer, "gone", out)
        if linked or wished:
            (self._refill if reason in REPAIRED else self._refill_later)(now, out)

    @property
    def _is_lonely(self) -> bool:
        """Whether so few neighbours are left that they may know only each other.

        A node that seeks anchors among all members needs no more than one, and would ask liars more often,
        who always say yes.
        """
        return not self.active or len(self.active) < self._config.urgent_below * self._config.active

    def _refill(self, now: float, out: list[Effect], urgent: bool = True) -> None:
        """Ask as many passive peers as there are places; urgently if few neighbours are left."""
        if self.is_resting:
            return
        for peer in [peer for peer, until in self._asked.items() if until <= now]:
            del self._asked[peer]
        places = self._config.active - len(self.active) - len(self._asked)
        if places <= 0:
            if self._asked:
                self._refill_later(now, out)  # who was asked may never answer
            return
        wish = _URGENT_WISH if self._is_lonely and urgent else _WISH
        candidates = [peer for peer in self.passive if peer not in self._asked]
        if not candidates and not self.active and not self._asked:
            known = dict.fromkeys((*self._contacts, *self._former))
            candidates = [*known, *self._draw_members()]
        for peer in self._chance.sample(candidates, places):
            self._asked[peer] = now + self._config.answer_s
            out.append(Send(peer, wish))
        self._refill_later(now, out)

    def _draw_members(self) -> list[bytes]:
        """Return some members, when nobody else is known; none in the paper's world."""
        drawn = [self._find_member() for _ in range(LAST_DRAWS if self._config.anchors else 0)]
        return [peer for peer in dict.fromkeys(drawn) if peer is not None and peer != self._own]

    def _refill_later(self, now: float, out: list[Effect]) -> None:
        if not self._refilling and not self.is_resting:
            self._refilling = True
            out.append(SetTimer(now + self._chance.between(0.5, 1.5) * self._config.refill_s, REFILL))

    def on_refill(self, now: float, out: list[Effect]) -> None:
        """Try again for the places that are still free."""
        self._refilling = False
        self._tries = self._config.tries
        if len(self.active) < self._config.active:
            if not self.passive:  # who could not be reached was forgotten, and may be by now
                for peer in self._draw_members():
                    self._add_passive(peer)
            self._seek_anchors(now, out)
            self._refill(now, out)

    # -- shuffles --------------------------------------------------------------------------------------

    def on_shuffle_timer(self, now: float, out: list[Effect]) -> None:
        """Exchange some of the views with somebody a walk away."""
        config, chance = self._config, self._chance
        out.append(SetTimer(now + config.shuffle_s * chance.between(0.9, 1.1), SHUFFLE))
        if not self.active:
            self._refill(now, out)
            return
        if len(self.active) < config.active:
            self._refill_later(now, out)  # a newcomer's walks may have brought too few
        else:
            self._seek_anchors(now, out)
        peer = chance.pick(self.active)
        given = chance.sample(self.passive, config.shuffle_passive)
        others = [other for other in self.active if other != peer]
        self._shuffled = list(given)
        given += chance.sample(others, config.shuffle_active)
        self._awaits_answer = True
        out.append(Send(peer, Shuffle(self._own, config.active_walk, given)))

    def on_shuffle(self, sender: bytes, message: Shuffle, out: list[Effect]) -> None:
        """Pass a shuffle of a neighbour on, or answer it where its walk ends."""
        if sender not in self.active:
            return  # who is no neighbour could fill the passive view with its friends
        origin, hops = message.origin, min(message.hops, self._config.active_walk) - 1
        if origin == self._own:
            return
        onwards = None if hops <= 0 or len(self.active) <= 1 else self._other_than(sender, origin)
        if onwards is not None:
            out.append(Send(onwards, Shuffle(origin, hops, message.peers)))
            return
        given = self._chance.sample(self.passive, len(message.peers))
        out.append(Send(origin, ShuffleAnswer(given)))
        self._shuffled = given
        self._add_passive(origin)
        for peer in message.peers:
            self._add_passive(peer)

    def on_shuffle_answer(self, message: ShuffleAnswer) -> None:
        """Keep what came back, once for each shuffle and not more than it gave."""
        if not self._awaits_answer:
            return
        self._awaits_answer = False
        for peer in message.peers[: self._config.shuffle_active + self._config.shuffle_passive]:
            self._add_passive(peer)
