"""Plumtree: broadcast over a tree that grows out of the first flood and mends itself.

Leitao, Pereira, Rodrigues, "Epidemic broadcast trees", 2007. A payload goes at once over eager links, over
lazy ones only word of it; who hears of a message that does not come asks for it and makes that link eager;
who gets one twice makes that link lazy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum, auto
from itertools import islice

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import BroadcastConfig
from shoal.overlay.substrate.messages import Cached, Gossip, Graft, IHave, Prune
from shoal.overlay.substrate.promises import Promises
from shoal.overlay.substrate.steps import Cancel, Deliver, Effect, Observe, Send, SetTimer

SWEEP = ("sweep",)
REPAIR = ("repair",)
HOPS = 64  # more than any path has; what claims more is not passed on

_PRUNE = Prune()


class Verdict(Enum):
    """What is to become of a broadcast that has come for the first time."""

    GOOD = auto()  # deliver it and pass it on
    STALE = auto()  # well signed, but something newer is known, or it cannot be judged here: neither
    LATER = auto()  # deliver it only: it is passed on from here by `broadcast` when it can be judged
    FORGED = auto()  # nobody honest passes this on: its sender is observed, and another one may bring it


Judge = Callable[[bytes, Gossip], Verdict]  # sender, broadcast; without side effects


class Plumtree:
    """The broadcasts of one node. Every method appends what the driver must do to `out`."""

    __slots__ = (
        "_answered",
        "_cache",
        "_cached_bytes",
        "_config",
        "_ids",
        "_judge",
        "_missing",
        "_promises",
        "_repairing",
        "_sweeping",
        "eager",
        "lazy",
    )

    def __init__(self, config: BroadcastConfig, judge: Judge | None = None) -> None:
        """Without a judge everything that comes is good."""
        self._config = config
        self._judge = judge
        self._cache: OrderedDict[bytes, tuple[float, Gossip]] = OrderedDict()  # until when; bounded by config
        self._cached_bytes = 0
        self._ids: OrderedDict[bytes, float] = OrderedDict()  # until when; at most config.ids
        self._missing: dict[bytes, list[tuple[bytes, int]]] = {}  # who has it; at most config.missing
        self._promises = Promises(config)
        self._answered: dict[bytes, list[bytes]] = {}  # who was sent a cached one because it asked; in _cache
        self._repairing = False
        self._sweeping = False
        self.eager: list[bytes] = []  # neighbours that get payloads
        self.lazy: list[bytes] = []  # neighbours that get word

    # -- neighbours ------------------------------------------------------------------------------------

    def on_link_up(self, now: float, peer: bytes, out: list[Effect]) -> None:
        """A new neighbour gets payloads until it prunes us; word, if this node is part of a tree already.

        The paper takes every new link for eager. In a tree that has formed that costs a payload sent twice
        for each, and word is enough: who misses something grafts. A tree has formed where a broadcast
        has been, or where a link is lazy; all links of a node may be the tree's.
        """
        if peer not in self.eager and peer not in self.lazy:
            in_tree = self.eager and (self.lazy or self._ids)
            (self.lazy if in_tree else self.eager).append(peer)
            self._tell_cached(now, peer, out)

    def on_link_down(self, peer: bytes) -> None:
        """Forget a neighbour and what it has."""
        for view in (self.eager, self.lazy):
            if peer in view:
                view.remove(peer)
        self._promises.drop(peer)
        for answered in self._answered.values():
            if peer in answered:
                answered.remove(peer)
        for sources in self._missing.values():
            sources[:] = [source for source in sources if source[0] != peer]

    def _make_eager(self, peer: bytes) -> None:
        if peer in self.lazy:
            self.lazy.remove(peer)
            self.eager.append(peer)

    def _make_lazy(self, peer: bytes) -> None:
        if peer in self.eager:
            self.eager.remove(peer)
            self.lazy.append(peer)

    # -- messages --------------------------------------------------------------------------------------

    def has(self, identifier: bytes) -> bool:
        """Whether a broadcast has been here."""
        return identifier in self._ids

    def broadcast(self, now: float, identifier: bytes, topic: int, payload: bytes, out: list[Effect]) -> None:
        """Send to everybody; not delivered here."""
        if identifier not in self._ids:
            self._found(identifier, out)
            self._spread(now, b"", Gossip(identifier, 1, topic, payload), out)

    def on_gossip(self, now: float, sender: bytes, message: Gossip, out: list[Effect]) -> None:
        """Deliver and pass on what is new; prune the link that brings it again."""
        identifier = message.identifier
        if identifier in self._ids:
            if not self._config.eager_only:
                self._make_lazy(sender)
                out.append(Send(sender, _PRUNE))
            return
        verdict = Verdict.GOOD if self._judge is None else self._judge(sender, message)
        if verdict is Verdict.FORGED:
            out.append(Observe("forged_broadcast", sender, f"topic {message.topic}"))
            return
        if verdict is Verdict.STALE:
            self.ignore(now, identifier, out)
            return
        hops = message.hops
        out.append(Deliver(identifier, message.topic, message.payload, hops, sender))
        if verdict is Verdict.LATER:
            self._promises.keep(identifier)
            return  # who else has it is still asked: this sender may lie
        self._make_eager(sender)
        sources = self._found(identifier, out)
        if sources is not None:
            self._optimise(sender, hops, sources, out)
        if hops < HOPS:
            self._spread(now, sender, Gossip(identifier, hops + 1, message.topic, message.payload), out)

    def ignore(self, now: float, identifier: bytes, out: list[Effect]) -> None:
        """Remember a broadcast that is neither delivered nor passed on."""
        self._remember(now, identifier)
        self._found(identifier, out)
        self._sweep_later(now, out)

    def _found(self, identifier: bytes, out: list[Effect]) -> list[tuple[bytes, int]] | None:
        """A broadcast is here: ask nobody for it any more. Return who has it too, if anybody said so."""
        self._promises.keep(identifier)
        sources = self._missing.pop(identifier, None)
        if sources is not None:
            out.append(Cancel(("graft", identifier)))
        return sources

    def _spread(self, now: float, source: bytes, message: Gossip, out: list[Effect]) -> None:
        for peer in self.eager:
            if peer != source:
                out.append(Send(peer, message))
        if self.lazy:
            word = IHave([message.identifier], [message.hops])
            for peer in self.lazy:
                if peer != source:
                    out.append(Send(peer, word))
        self._keep(now, message, out)

    def _optimise(
        self, sender: bytes, hops: int, sources: list[tuple[bytes, int]], out: list[Effect]
    ) -> None:
        """Take a lazy link into the tree if it is much shorter than the one the message came over."""
        for peer, shorter in sources:
            if hops - shorter >= self._config.threshold and peer != sender:
                self._make_eager(peer)
                out.append(Send(peer, Graft(b"", shorter)))
                self._make_lazy(sender)
                out.append(Send(sender, _PRUNE))
                return

    def on_i_have(self, now: float, sender: bytes, message: IHave | Cached, out: list[Effect]) -> None:
        """Wait a moment for what the sender has; then ask for it."""
        for peer in self._promises.expire(now):
            out.append(Observe("announced_not_delivered", peer))
        if not self._promises.is_heard(now, sender):
            return
        for identifier, hops in zip(message.identifiers, message.hops, strict=True):
            if identifier in self._ids:
                continue
            sources = self._missing.get(identifier)
            if sources is None:
                if len(self._missing) >= self._config.missing:
                    return
                self._missing[identifier] = [(sender, hops)]
                out.append(SetTimer(now + self._config.graft_s, ("graft", identifier)))
            elif len(sources) < self._config.sources and all(sender != peer for peer, _ in sources):
                sources.append((sender, hops))

    def on_cached(self, now: float, sender: bytes, message: Cached, out: list[Effect]) -> None:
        """Ask for what is missing here, and tell what is missing there: push and pull.

        With pushes alone a node waits until one of its neighbours happens to choose it; this way its own next
        list brings what it has missed.
        """
        self.on_i_have(now, sender, message, out)
        theirs = frozenset(message.identifiers)
        newest = islice(reversed(self._cache.values()), self._config.repair_ids)
        limit = now + self._config.cache_s - self._config.under_way_s
        missing = [one for until, one in newest if now < until <= limit and one.identifier not in theirs]
        if missing:
            out.append(
                Send(sender, IHave([one.identifier for one in missing], [one.hops for one in missing]))
            )

    def on_graft_timer(self, now: float, identifier: bytes, out: list[Effect]) -> None:
        """It did not come: ask the next one who has it."""
        sources = self._missing.get(identifier)
        if sources is None:
            return
        at = next((at for at, (peer, _) in enumerate(sources) if self._promises.may_ask(peer)), None)
        if at is None:
            del self._missing[identifier]  # anti-entropy brings it
            return
        peer, hops = sources[at]
        del sources[: at + 1]
        self._promises.ask(now, identifier, peer)
        self._make_eager(peer)
        out.append(Send(peer, Graft(identifier, hops)))
        out.append(SetTimer(now + self._config.graft_again_s, ("graft", identifier)))

    def on_graft(self, sender: bytes, message: Graft, out: list[Effect]) -> None:
        """Send payloads to the sender from now on, and the one it misses, once."""
        self._make_eager(sender)
        cached = self._cache.get(message.identifier)
        if cached is None:
            return
        answered = self._answered.setdefault(message.identifier, [])
        if sender not in answered:  # a question is a hundredth of its answer
            answered.append(sender)
            out.append(Send(sender, cached[1]))

    def on_prune(self, sender: bytes) -> None:
        """Send only word to the sender from now on."""
        self._make_lazy(sender)

    # -- repair ----------------------------------------------------------------------------------------

    def on_repair(self, now: float, chance: Chance, out: list[Effect]) -> None:
        """Tell one neighbour what is cached: a message that was missed is a message late (anti-entropy)."""
        self._repairing = bool(self._cache)
        neighbours = self.eager + self.lazy
        if neighbours and self._cache:
            self._tell_cached(now, chance.pick(neighbours), out)
        if self._repairing:
            out.append(SetTimer(now + self._config.repair_s * chance.between(0.9, 1.1), REPAIR))

    def _tell_cached(self, now: float, peer: bytes, out: list[Effect]) -> None:
        newest = list(islice(reversed(self._cache.values()), self._config.repair_ids))
        messages = [message for until, message in newest if until > now]
        if messages:
            identifiers = [message.identifier for message in messages]
            out.append(Send(peer, Cached(identifiers, [message.hops for message in messages])))

    # -- memory ----------------------------------------------------------------------------------------

    def _keep(self, now: float, message: Gossip, out: list[Effect]) -> None:
        config = self._config
        self._remember(now, message.identifier)
        self._cache[message.identifier] = (now + config.cache_s, message)
        self._cached_bytes += len(message.payload)
        while len(self._cache) > config.cache_messages or self._cached_bytes > config.cache_bytes:
            self._uncache()
        if not self._repairing:
            self._repairing = True
            out.append(SetTimer(now + config.repair_s, REPAIR))
        self._sweep_later(now, out)

    def _remember(self, now: float, identifier: bytes) -> None:
        self._ids[identifier] = now + self._config.ids_s
        while len(self._ids) > self._config.ids:
            self._ids.popitem(last=False)

    def _sweep_later(self, now: float, out: list[Effect]) -> None:
        if not self._sweeping:
            self._sweeping = True
            out.append(SetTimer(now + self._config.cache_s, SWEEP))

    def _uncache(self) -> None:
        identifier, (_, message) = self._cache.popitem(last=False)
        self._answered.pop(identifier, None)
        self._cached_bytes -= len(message.payload)

    def on_sweep(self, now: float, out: list[Effect]) -> None:
        """Forget what is old."""
        while self._cache and next(iter(self._cache.values()))[0] <= now:
            self._uncache()
        while self._ids and next(iter(self._ids.values())) <= now:
            self._ids.popitem(last=False)
        self._sweeping = bool(self._ids)
        if self._sweeping:
            out.append(SetTimer(now + self._config.cache_s, SWEEP))
