"""Standing: what is known of how this node can be reached, from what peers saw and dialled. Pure.

A node is `public` where peers dialled one of its addresses, `local` where only peers of its own network were
asked; where nobody got through it is behind a `nat` that shows one port to all peers (punching may work) or a
`symmetric` one that does not (it cannot), or `blocked` by a firewall if peers see an address of this machine.
An address counts where two peers see it, or where only one was asked: what one of several peers makes up is
not told to everybody as ours.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from shoal.core.budget import BoundedMap
from shoal.transport.address import Address

StandingName = Literal["public", "local", "nat", "symmetric", "blocked", "unknown"]

UNDIALLED: frozenset[StandingName] = frozenset({"nat", "symmetric", "blocked"})  # nobody outside got through

WITNESSES = 8  # peers whose word is kept; the oldest gives way
FRESH_S = 1800.0  # how long it counts


_INNER = [
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]


@dataclass(frozen=True, slots=True)
class Standing:
    """How this node can be reached, for people and for the record. Frozen."""

    state: StandingName = "unknown"
    witnesses: int = 0  # peers that were asked and answered
    reached_by: int = 0  # of them, who got through
    addresses: tuple[str, ...] = ()  # that were dialled with success
    observed: tuple[str, ...] = ()  # hosts under which peers see this node


@dataclass(slots=True)
class _Word:
    at: float
    results: Mapping[str, str] = field(default_factory=dict)
    observed: str = ""


class StandingBook:
    """Collects what peers said. The time is given."""

    def __init__(self) -> None:
        self._words: BoundedMap[bytes, _Word] = BoundedMap(WITNESSES)
        self._mapping: str = ""  # one | many, of the last look from one port at two peers

    def on_answers(self, now: float, peer: bytes, observed: Address, results: Mapping[str, str]) -> None:
        """A peer sees us under `observed`, and this came of its dials of our addresses."""
        self._words.put(peer, _Word(now, dict(results), observed.host))

    def on_mapping(self, seen: Iterable[Address]) -> None:
        """Two peers saw one port of ours so: compare the ports that the NAT gave it."""
        found = list(seen)
        if len(found) >= 2:
            self._mapping = "one" if len(set(found)) == 1 else "many"

    def forget(self) -> None:
        """Our addresses changed: nothing that was said counts."""
        self._words = BoundedMap(WITNESSES)
        self._mapping = ""

    def judge(self, now: float, own_hosts: Iterable[str]) -> Standing:
        """Return what follows. `own_hosts`: the addresses of this machine's interfaces."""
        fresh = [word for _, word in self._words.items() if now - word.at <= FRESH_S]
        outside = [word for word in fresh if not is_inner(word.observed)]
        words = outside or fresh  # who is on our side of the NAT knows nothing of it
        believed = _find_believed(words)
        reached = [word for word in words if "ok" in word.results.values() and word.observed in believed]
        addresses = tuple(
            dict.fromkeys(text for word in reached for text, result in word.results.items() if result == "ok")
        )
        shown = [word.observed for word in words if word.observed in believed]
        observed = tuple(dict.fromkeys(shown or [word.observed for word in words if word.observed]))
        state: StandingName
        if reached:
            state = "public" if outside else "local"
        elif not words:
            state = "unknown"
        elif observed and set(observed) <= set(own_hosts):
            state = "blocked"
        else:
            state = "symmetric" if self._mapping == "many" else "nat"
        return Standing(state, len(words), len(reached), addresses, observed)


def _find_believed(words: Iterable[_Word]) -> set[str]:
    """Return the hosts that two peers see, or the only one that was asked over IPv4 or IPv6."""
    seen = Counter(word.observed for word in words)
    families = Counter(":" in host for host in seen.elements())
    return {host for host, count in seen.items() if count > 1 or families[":" in host] == 1}


def is_inner(host: str) -> bool:
    """Whether an address means something in its own network only; 100.64/10 is inside of a provider's NAT."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return ip.is_link_local or any(ip.version == net.version and ip in net for net in _INNER)
