"""Sightings: what was heard on the local network, whom it is by, and what to report when. Pure.

Everything here is bounded, because anybody on the network can announce: announcements that wait to be tried,
those recognised, those not, addresses of one announcement, tries a second, reports a second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.transport.address import Address
from shoal.transport.announcement import Announcement, Search
from shoal.transport.interfaces import ADDRESSES
from shoal.transport.ports import DOOR_KEYS

# security.md section 2: at most 256 entries in all
WAITING = 64  # not yet tried
KNOWN = 128  # recognised
STRANGERS = 64  # not recognised: tried again when members or door keys are new
OFFERS_S = 50.0  # announcements looked at a second; wild guess: ten times a busy network
OFFERS_BURST = 200.0
TRIES_S = 20_000.0  # HMACs a second: 3 to 10 % of one core (1.5 us each measured, 5 us on a busy machine)
TRIES_SLICE = 500  # the loop is held for a millisecond or two
REPORTS_S = 1.0  # security.md section 2: 1 dial a second


class Sighting(NamedTuple):
    """One announcement heard on one link, with the addresses that are believed."""

    link: str
    name: str  # of the instance, for known answers
    announcement: Announcement
    addresses: tuple[Address, ...]


class Found(NamedTuple):
    """A member and where it can be dialled."""

    peer_id: bytes
    address: Address


_Key = tuple[str, Announcement]  # a nonce is used on one link: the same elsewhere is somebody else's copy


@dataclass(slots=True)
class _Entry:
    name: str
    addresses: dict[Address, None]
    peer_id: bytes | None = None
    tried_at: int = -1  # the change of members or door keys after which it was tried last


@dataclass(slots=True)
class _Waiting:
    entry: _Entry
    search: Search


@dataclass(slots=True)
class _Reports:
    """Addresses of one peer that wait to be reported, each with its link."""

    links: OrderedDict[Address, str] = field(default_factory=OrderedDict)


class Sightings:
    """Remembers sightings, finds out whom they are by, and gives each address of a member once.

    Expects `update` with the members and door keys now, then `offer`, `work` and `take_found` in any order.
    """

    def __init__(self, own_id: bytes, now: float) -> None:
        self._own_id = own_id
        self._members: tuple[bytes, ...] = ()
        self._door_keys: tuple[bytes, ...] = ()
        self._changes = 0
        self._waiting: OrderedDict[_Key, _Waiting] = OrderedDict()
        self._known: BoundedMap[_Key, _Entry] = BoundedMap(KNOWN)
        self._strangers: BoundedMap[_Key, _Entry] = BoundedMap(STRANGERS)
        self._reports: OrderedDict[bytes, _Reports] = OrderedDict()
        self._offers = TokenBucket(OFFERS_S, OFFERS_BURST, now)
        self._tries = TokenBucket(TRIES_S, TRIES_S, now)
        self._report_rate = TokenBucket(REPORTS_S, 1.0, now)

    def __len__(self) -> int:
        """How many announcements are remembered, at most 256."""
        return len(self._waiting) + len(self._known) + len(self._strangers)

    def update(self, members: Iterable[bytes], door_keys: Sequence[bytes]) -> None:
        """Learn who is a member now and which door keys count; what was not recognised is tried again."""
        wanted = set(members) - {self._own_id}
        keys = tuple(door_keys[:DOOR_KEYS])
        before = set(self._members)
        if wanted == before and keys == self._door_keys:
            return
        self._changes += 1
        fresh_keys = keys != self._door_keys
        self._members, self._door_keys = tuple(sorted(wanted)), keys
        to_try = self._members if fresh_keys else tuple(sorted(wanted - before))
        for key, waiting in self._waiting.items():
            waiting.search = Search(key[1], keys, self._members)
        for key, entry in self._known.items():
            if entry.peer_id not in wanted:
                self._known.pop(key)
        for peer in list(self._reports):
            if peer not in wanted:
                del self._reports[peer]
        if to_try:
            for key, entry in reversed(self._strangers.items()):  # the latest first
                if len(self._waiting) >= WAITING:
                    break
                self._strangers.pop(key)
                self._waiting[key] = _Waiting(entry, Search(key[1], keys, to_try))

    def offer(self, now: float, sighting: Sighting) -> bool:
        """Take a sighting in; False if it was dropped because there is too much of them."""
        if not sighting.addresses:
            return True
        if not self._offers.try_take(now):
            return False
        key = (sighting.link, sighting.announcement)
        waiting = self._waiting.get(key)
        entry = waiting.entry if waiting is not None else self._known.find(key) or self._strangers.find(key)
        if entry is not None:
            self._add_addresses(key, entry, sighting.addresses)
            if waiting is not None or entry.peer_id is not None or entry.tried_at == self._changes:
                return True
        if len(self._waiting) >= WAITING:
            return False
        self._strangers.pop(key)
        if entry is None:
            entry = _Entry(sighting.name, dict.fromkeys(sighting.addresses[:ADDRESSES]))
        self._waiting[key] = _Waiting(entry, Search(sighting.announcement, self._door_keys, self._members))
        return True

    def work(self, now: float) -> float | None:
        """Make some tries. Returns in how many seconds to call again, or None when nothing waits."""
        if not self._waiting:
            return None
        key, waiting = next(iter(self._waiting.items()))
        tries = min(TRIES_SLICE, waiting.search.left)
        if not self._tries.try_take(now, tries):
            return self._tries.wait_s(now, tries)
        peer = waiting.search.advance(tries)
        if peer is None and waiting.search.left:
            return 0.0
        del self._waiting[key]
        waiting.entry.peer_id, waiting.entry.tried_at = peer, self._changes
        if peer is None:
            self._strangers.put(key, waiting.entry)
        else:
            self._known.put(key, waiting.entry)
            self._report(key, waiting.entry, waiting.entry.addresses)
        return 0.0 if self._waiting else None

    def take_found(self, now: float) -> Found | None:
        """Return the next member and address to report, at most one a second; peers take turns."""
        if not self._reports or not self._report_rate.try_take(now):
            return None
        peer, reports = self._reports.popitem(last=False)
        address, _ = reports.links.popitem(last=False)
        if reports.links:
            self._reports[peer] = reports
        return Found(peer, address)

    def found_wait_s(self, now: float) -> float | None:
        """Seconds until `take_found` has something, or None."""
        return self._report_rate.wait_s(now) if self._reports else None

    def known_names(self, link: str, limit: int) -> list[str]:
        """Names of recognised instances on a link: they need not answer again."""
        names = [entry.name for key, entry in reversed(self._known.items()) if key[0] == link]
        return names[:limit]

    def forget_link(self, link: str) -> None:
        """Forget what was heard on a link that is gone or has other addresses: it is to be reported anew."""
        for known in (self._known, self._strangers):
            for key in known:
                if key[0] == link:
                    known.pop(key)
        for key in [key for key in self._waiting if key[0] == link]:
            del self._waiting[key]
        for peer, reports in list(self._reports.items()):
            for address in [address for address, heard_on in reports.links.items() if heard_on == link]:
                del reports.links[address]
            if not reports.links:
                del self._reports[peer]

    def _add_addresses(self, key: _Key, entry: _Entry, addresses: Iterable[Address]) -> None:
        """Add what one announcement says later; a copy of it gets no more than ADDRESSES reports for ever."""
        room = ADDRESSES - len(entry.addresses)
        fresh = [address for address in addresses if address not in entry.addresses][:room]
        entry.addresses.update(dict.fromkeys(fresh))
        if entry.peer_id is not None:
            self._report(key, entry, fresh)

    def _report(self, key: _Key, entry: _Entry, addresses: Iterable[Address]) -> None:
        peer = entry.peer_id
        if peer is None:
            return
        for address in addresses:
            reports = self._reports.get(peer)
            if reports is None:
                if len(self._reports) >= KNOWN:
                    return
                reports = self._reports[peer] = _Reports()
            if len(reports.links) < ADDRESSES:
                reports.links[address] = key[0]
