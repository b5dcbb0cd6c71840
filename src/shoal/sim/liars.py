"""Liars: nodes that run the substrate and break its rules. A share of them is put among honest ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import SubstrateConfig
from shoal.overlay.substrate.machine import SubstrateMachine
from shoal.overlay.substrate.merge import BEACON_TOPIC
from shoal.overlay.substrate.messages import (
    SHUFFLED,
    Gossip,
    Graft,
    IHave,
    Join,
    Neighbour,
    Part,
    Shuffle,
    ShuffleAnswer,
)
from shoal.overlay.substrate.plumtree import Verdict
from shoal.overlay.substrate.steps import Effect, Input, Received, Send, SetTimer, Started, Timer

ATTACK = ("attack",)
ATTACK_S = 1.0
FORGED = b"forged"  # what a judge takes for a wrong signature
STORM_BROADCASTS = 3  # made up in each attack, to each neighbour
STORM_WORDS = 16  # broadcasts that there are not, announced in each attack
REJOIN_CONTACTS = 3  # joined by in each attack: each sends walks from all of its links
ECLIPSE_VICTIMS = 8  # asked in each attack
ECLIPSE_PLACES = 200  # a liar takes in whoever comes


def judge(sender: bytes, message: Gossip) -> Verdict:
    """Judge as a node does that checks signatures."""
    return Verdict.FORGED if message.payload.startswith(FORGED) else Verdict.GOOD


class Liar(SubstrateMachine):
    """A node that changes what it sends, and attacks once a second."""

    def __init__(self, own: bytes, config: SubstrateConfig, chance: Chance, gang: Sequence[bytes]) -> None:
        """`gang` are all liars, this one too."""
        super().__init__(own, config, chance)
        self._own = own
        self._gang = gang
        self._luck = chance

    def step(self, now: float, event: Input) -> list[Effect]:
        """Do what an honest node does, and worse."""
        if type(event) is Timer and event.token == ATTACK:
            return [*self._attack(now), SetTimer(now + ATTACK_S, ATTACK)]
        out: list[Effect] = []
        for effect in super().step(now, event):
            if type(effect) is Send:
                out.extend(self._change(effect))
            else:
                out.append(effect)
        if type(event) is Started:
            out.append(SetTimer(now + ATTACK_S, ATTACK))
        return out

    def _attack(self, now: float) -> list[Effect]:
        return []

    def _change(self, effect: Send) -> list[Effect]:
        return [effect]


class Silent(Liar):
    """Announces every broadcast, as if from its source, and never delivers one."""

    def _change(self, effect: Send) -> list[Effect]:
        message = effect.message
        if type(message) is Gossip:
            return [Send(effect.peer, IHave([message.identifier], [0]))]
        return [effect]


class Hops(Liar):
    """Claims to be next to every source, so that links to it look short."""

    def _change(self, effect: Send) -> list[Effect]:
        message = effect.message
        if type(message) is IHave:
            return [Send(effect.peer, IHave(message.identifiers, [0] * len(message.hops)))]
        return [effect]


class Forger(Liar):
    """Passes on something else under the same identifier."""

    def _change(self, effect: Send) -> list[Effect]:
        message = effect.message
        if type(message) is Gossip:
            forged = Gossip(message.identifier, message.hops, message.topic, FORGED + message.payload)
            return [Send(effect.peer, forged)]
        return [effect]


class Storm(Liar):
    """Sends broadcasts that nobody signed, word of such that there are not, and asks for what it has."""

    def _attack(self, now: float) -> list[Effect]:
        out: list[Effect] = []
        for peer in self.views.active:
            for _ in range(STORM_BROADCASTS):
                out.append(Send(peer, Gossip(self._make_identifier(), 1, 1, FORGED)))
            words = [self._make_identifier() for _ in range(STORM_WORDS)]
            out.append(Send(peer, IHave(words, [0] * STORM_WORDS)))
            out.append(Send(peer, Graft(b"", 0)))
        return out

    def _make_identifier(self) -> bytes:
        return self._luck.draw().to_bytes(8, "big") + self._luck.draw().to_bytes(8, "big")


class Beacons(Liar):
    """Sends beacons, which nobody signs, so that all pass them on."""

    def _attack(self, now: float) -> list[Effect]:
        return [
            Send(peer, Gossip(self._luck.draw().to_bytes(16, "big"), 1, BEACON_TOPIC, b""))
            for peer in self.views.active
            for _ in range(STORM_BROADCASTS)
        ]


class Rejoin(Liar):
    """Leaves its neighbours and joins again, every second, so that views never rest."""

    def _attack(self, now: float) -> list[Effect]:
        out: list[Effect] = []
        for peer in list(self.views.active):
            out.append(Send(peer, Part(True)))
            self.views.on_part(now, peer, Part(False), out)
        known = self._luck.sample(self.views.passive, REJOIN_CONTACTS)
        return [*out, *(Send(peer, Join()) for peer in known)]


class Eclipse(Liar):
    """Wants every place of every view for its gang, passes nothing on and names only its gang."""

    def __init__(self, own: bytes, config: SubstrateConfig, chance: Chance, gang: Sequence[bytes]) -> None:
        """See `Liar`."""
        views = replace(
            config.views, active=ECLIPSE_PLACES, passive=2 * ECLIPSE_PLACES, evict_s=0.0, anchors=0
        )
        super().__init__(own, replace(config, views=views), chance, gang)

    def step(self, now: float, event: Input) -> list[Effect]:
        """Swallow newcomers and broadcasts."""
        if type(event) is Received and type(event.message) is Gossip:
            return []
        return super().step(now, event)

    def _change(self, effect: Send) -> list[Effect]:
        message = effect.message
        if type(message) is ShuffleAnswer:
            return [Send(effect.peer, ShuffleAnswer(self._luck.sample(self._gang, len(message.peers))))]
        if type(message) is Shuffle:
            return [Send(effect.peer, Shuffle(self._own, message.hops, self._name_gang()))]
        return [effect]

    def _name_gang(self) -> list[bytes]:
        return self._luck.sample(self._gang, SHUFFLED)

    def _attack(self, now: float) -> list[Effect]:
        known = self.views.passive + self.views.active
        out: list[Effect] = []
        for victim in self._luck.sample(known, ECLIPSE_VICTIMS):
            if victim not in self._gang:
                out.append(Send(victim, Neighbour(True)))
                out.append(Send(victim, Shuffle(self._own, 1, self._name_gang())))
        return out


class Relay(Liar):
    """Takes part as others do; what it is asked to relay is lost (sim/reach.py)."""


RELAY = "relay"
KINDS: dict[str, type[Liar]] = {
    "beacons": Beacons,
    "eclipse": Eclipse,
    "forge": Forger,
    "hops": Hops,
    "rejoin": Rejoin,
    RELAY: Relay,
    "silent": Silent,
    "storm": Storm,
}
MIXED = tuple(kind for kind in sorted(KINDS) if kind != RELAY)  # what `mixed` stands for
