"""Promises: what neighbours said they have and were asked for, so that words without deeds cost little.

Pure. Whoever says it has a broadcast promises it: asked, it owes it. Who owes many is asked for no more until
some have come, from anybody; who breaks several in a minute is not listened to for a while. A word is cheap
and is never signed, so its price has to be here (announce and never deliver; gossip storms).
"""

from __future__ import annotations

from shoal.overlay.substrate.config import BroadcastConfig


class Promises:
    """The promises to one node. Every map holds neighbours and what they owe, at most config.owed each."""

    __slots__ = ("_asked", "_broken", "_config", "_owed", "_unheard")

    def __init__(self, config: BroadcastConfig) -> None:
        self._config = config
        self._asked: dict[bytes, tuple[float, list[bytes]]] = {}  # until when, of whom; oldest first
        self._owed: dict[bytes, int] = {}  # by neighbour
        self._broken: dict[bytes, tuple[float, int]] = {}  # since when, how many; at most config.tellers
        self._unheard: dict[bytes, float] = {}  # who is not listened to, until when; at most config.tellers

    def is_heard(self, now: float, peer: bytes) -> bool:
        """Whether a neighbour's word counts."""
        until = self._unheard.get(peer)
        if until is None:
            return True
        if until > now:
            return False
        del self._unheard[peer]
        return True

    def may_ask(self, peer: bytes) -> bool:
        """Whether a neighbour owes so little that it can be asked for more."""
        return self._owed.get(peer, 0) < self._config.owed

    def ask(self, now: float, identifier: bytes, peer: bytes) -> None:
        """A neighbour is asked for a broadcast now."""
        _, peers = self._asked.setdefault(identifier, (now + self._config.promise_s, []))
        peers.append(peer)
        self._owed[peer] = self._owed.get(peer, 0) + 1

    def keep(self, identifier: bytes) -> None:
        """A broadcast has come: nobody owes it any more."""
        asked = self._asked.pop(identifier, None)
        for peer in () if asked is None else asked[1]:
            self._pay(peer)

    def drop(self, peer: bytes) -> None:
        """A neighbour is none any more: what it owed it cannot bring."""
        self._broken.pop(peer, None)
        if self._owed.pop(peer, 0):
            for _, peers in self._asked.values():
                peers[:] = [other for other in peers if other != peer]

    def expire(self, now: float) -> list[bytes]:
        """Look for broken promises; return who is not listened to from now on."""
        unheard: list[bytes] = []
        while self._asked:
            identifier, (until, peers) = next(iter(self._asked.items()))
            if until > now:
                break
            del self._asked[identifier]
            for peer in peers:
                self._pay(peer)
                if self._break(now, peer):
                    unheard.append(peer)
        return unheard

    def _pay(self, peer: bytes) -> None:
        owed = self._owed.get(peer, 0) - 1
        if owed > 0:
            self._owed[peer] = owed
        else:
            self._owed.pop(peer, None)

    def _break(self, now: float, peer: bytes) -> bool:
        config = self._config
        since, count = self._broken.pop(peer, (now, 0))
        if now >= since + config.unheard_s:
            since, count = now, 0
        if count + 1 <= config.broken:
            self._broken[peer] = (since, count + 1)
            if len(self._broken) > config.tellers:
                del self._broken[next(iter(self._broken))]
            return False
        is_new = peer not in self._unheard
        self._unheard[peer] = now + config.unheard_s
        if len(self._unheard) > config.tellers:
            del self._unheard[next(iter(self._unheard))]
        return is_new
