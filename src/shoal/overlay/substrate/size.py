"""Size: how many nodes are here now, by gossip averaging.

Jelasity, Montresor, Babaoglu, "Gossip-based aggregation in large dynamic networks", 2005. In each epoch a few
leaders begin with the value 1, everybody else with 0; two nodes that meet take the mean, so that all values
become 1/N. An answer carries the change rather than the value: what else happened meanwhile is not undone,
and the sum stays 1.

Nobody signs any of it: whoever lies makes the estimate wrong, and nothing else. So what is sent is within its
limits whatever came, epochs have no end, and an answer counts once, of who was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import SizeConfig
from shoal.overlay.substrate.messages import SizePull, SizePush
from shoal.overlay.substrate.steps import Effect, Send, SetTimer

SIZE = ("size",)
LEADER_BYTES = 8
EPOCHS = 2**32  # counted on from the last one to 0, as serial numbers are (RFC 1982): a liar cannot end them


class SizeEstimate:
    """One node's values. Every method appends what the driver must do to `out`."""

    __slots__ = (
        "_asked",
        "_chance",
        "_config",
        "_cycle",
        "_expected",
        "_neighbours",
        "_own",
        "epoch",
        "estimate",
        "values",
    )

    def __init__(self, own: bytes, config: SizeConfig, chance: Chance, neighbours: Sequence[bytes]) -> None:
        """`neighbours` is looked at in each cycle: a list that its owner changes."""
        self._own = own[-LEADER_BYTES:]
        self._config = config
        self._chance = chance
        self._neighbours = neighbours
        self._expected = 1.0
        self._cycle = 0
        self._asked: bytes | None = None  # the neighbour whose answer counts
        self.epoch = 0
        # by leader; at most config.leaders_limit. Below 0 for a while where others took something while an
        # answer was under way: the sum stays 1
        self.values: dict[bytes, float] = {}
        self.estimate: float | None = None  # of the last epoch that is over

    def tell_members(self, count: int) -> None:
        """Say how many there can be at most: as many draw whether they lead."""
        self._expected = max(1.0, float(count))

    def start(self, now: float, out: list[Effect]) -> None:
        """Begin, somewhere in a cycle."""
        self._enter(0)
        out.append(SetTimer(now + self._chance.fraction() * self._config.cycle_s, SIZE))

    def _enter(self, epoch: int) -> None:
        self._cycle = 0
        self._asked = None
        self.epoch = epoch
        self.values = {}
        if self._chance.fraction() * (self.estimate or self._expected) < self._config.leaders:
            self.values[self._own] = 1.0

    def _end(self) -> None:
        found = [1.0 / value for value in self.values.values() if value > 0.0]
        self.estimate = min(median(found), self._expected) if found else None

    def on_timer(self, now: float, out: list[Effect]) -> None:
        """Meet a neighbour."""
        out.append(SetTimer(now + self._config.cycle_s, SIZE))
        self._cycle += 1
        if self._cycle > self._config.cycles:
            self._end()
            self._enter((self.epoch + 1) % EPOCHS)
        if self._neighbours:
            self._asked = peer = self._chance.pick(self._neighbours)
            values = [max(0.0, value) for value in self.values.values()]
            out.append(Send(peer, SizePush(self.epoch, list(self.values), values)))

    def on_push(self, sender: bytes, message: SizePush, out: list[Effect]) -> None:
        """Take the mean of both and answer what the sender has to add."""
        if message.epoch != self.epoch:
            if (message.epoch - self.epoch) % EPOCHS >= EPOCHS // 2:
                return  # an earlier one
            self._end()
            self._enter(message.epoch)
        theirs = dict(zip(message.leaders, message.values, strict=True))
        leaders, changes = [], []
        for leader in dict.fromkeys([*theirs, *self.values]):
            if leader not in self.values and len(self.values) >= self._config.leaders_limit:
                continue
            mine = self.values.get(leader, 0.0)
            change = (mine - theirs.get(leader, 0.0)) / 2
            self.values[leader] = mine - change
            leaders.append(leader)
            changes.append(change)
        out.append(Send(sender, SizePull(self.epoch, leaders, changes)))

    def on_pull(self, sender: bytes, message: SizePull) -> None:
        """Add what came back from who was asked."""
        if message.epoch != self.epoch or sender != self._asked:
            return
        self._asked = None
        for leader, change in zip(message.leaders, message.changes, strict=True):
            if leader in self.values or len(self.values) < self._config.leaders_limit:
                self.values[leader] = max(-1.0, min(1.0, self.values.get(leader, 0.0) + change))
