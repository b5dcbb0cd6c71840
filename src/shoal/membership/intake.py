"""Intake: checks every entry that comes from outside and keeps those whose parents are still missing.

The order of checks is the one of security.md section 3: size, duplicate, then the log's: signature, schema,
authorisation.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.identity.entry import Entry, parse_entry
from shoal.identity.log import Added, Duplicate, MembershipLog, MissingParents, Rejected
from shoal.membership.messages import MEMBERSHIP_ENTRY_BYTES
from shoal.membership.sync_events import Drop, Observe, Peer, SyncEffect

ORPHANS = 256
ORPHANS_PER_PEER = 64
REJECTED_REMEMBERED = 1024
STRIKE_PEERS = 1024
# security.md section 3: 5 bad signatures or 3 malformed messages a minute
STRIKES_A_MINUTE = {
    "membership_bad_signature": 5,
    "membership_malformed": 3,
    "membership_unauthorised": 5,
    "membership_orphans": 5,
}


@dataclass(frozen=True, slots=True)
class Orphan:
    """A well-signed entry whose parents are not here yet."""

    entry: Entry
    source: Peer | None
    missing: tuple[bytes, ...] = ()


class Intake:
    """Adds entries to the log or parks them; counts what a peer did wrong.

    Every list that it keeps is bounded: 256 orphans in all and 64 a peer (the oldest goes first), 1,024 ids
    of rejected entries, strikes of 1,024 peers.
    """

    def __init__(self, log: MembershipLog) -> None:
        self._log = log
        self._orphans: OrderedDict[bytes, Orphan] = OrderedDict()
        self._rejected: BoundedMap[bytes, None] = BoundedMap(REJECTED_REMEMBERED)
        self._strikes: BoundedMap[tuple[str, Peer], TokenBucket] = BoundedMap(STRIKE_PEERS)

    @property
    def orphan_count(self) -> int:
        """How many entries wait for parents."""
        return len(self._orphans)

    def orphans_from(self, peer: Peer) -> list[Orphan]:
        """Return the orphans that a peer sent."""
        return [orphan for orphan in self._orphans.values() if orphan.source == peer]

    def accept(
        self, now: float, entries: list[bytes] | tuple[bytes, ...], source: Peer | None
    ) -> tuple[list[Entry], list[SyncEffect]]:
        """Check and add; return the entries that are in the log now and were not before, in order."""
        added: list[Entry] = []
        effects: list[SyncEffect] = []
        for data in entries:
            try:
                entry = self._parse(data)
            except (MalformedMessage, LimitExceeded) as error:
                effects += self.strike(now, "membership_malformed", source, str(error))
                continue
            if self._known(entry.id):
                continue
            self._add(now, entry, source, added, effects)
        return added, effects

    def forget_orphans(self, now: float, peer: Peer) -> list[SyncEffect]:
        """Drop the orphans of a peer that did not have their parents either: an honest one has them."""
        stale = [entry_id for entry_id, orphan in self._orphans.items() if orphan.source == peer]
        for entry_id in stale:
            del self._orphans[entry_id]
        if not stale:
            return []
        return self.strike(now, "membership_orphans", peer, f"{len(stale)} entries without their parents")

    def strike(self, now: float, rule: str, source: Peer | None, detail: str) -> list[SyncEffect]:
        """Count a fault; more than a minute's allowance ends the session."""
        effects: list[SyncEffect] = [Observe(rule, source, detail)]
        if source is None:
            return effects
        allowed = STRIKES_A_MINUTE[rule]
        bucket = self._strikes.find((rule, source))
        if bucket is None:
            bucket = TokenBucket(allowed / 60.0, float(allowed), now)
            self._strikes.put((rule, source), bucket)
        if not bucket.try_take(now):
            effects.append(Drop(source, rule))
        return effects

    def _known(self, entry_id: bytes) -> bool:
        return entry_id in self._log or entry_id in self._orphans or entry_id in self._rejected

    def _parse(self, data: bytes) -> Entry:
        if len(data) > MEMBERSHIP_ENTRY_BYTES:
            raise LimitExceeded("A membership entry is too long", cause=f"{len(data)} bytes")
        return parse_entry(data)

    def _add(
        self,
        now: float,
        entry: Entry,
        source: Peer | None,
        added: list[Entry],
        effects: list[SyncEffect],
    ) -> None:
        ready: list[Orphan] = [Orphan(entry, source)]
        while ready:
            orphan = ready.pop()
            match self._log.add(orphan.entry):
                case Added():
                    added.append(orphan.entry)
                    ready += self._adopt(orphan.entry.id)
                case Duplicate():
                    pass
                case MissingParents(ids=ids):
                    self._park(Orphan(orphan.entry, orphan.source, tuple(ids)))
                case Rejected(reason=reason, code="full"):
                    effects.append(Observe("membership_full", orphan.source, reason))
                case Rejected(reason=reason, code="bad_signature"):
                    effects += self.strike(now, "membership_bad_signature", orphan.source, reason)
                case Rejected(reason=reason):
                    self._rejected.put(orphan.entry.id, None)
                    effects += self.strike(now, "membership_unauthorised", orphan.source, reason)

    def _adopt(self, entry_id: bytes) -> list[Orphan]:
        """Take out the orphans that only this entry was missing for, the oldest last (it is tried first)."""
        found = [
            orphan
            for orphan in self._orphans.values()
            if entry_id in orphan.missing and all(parent in self._log for parent in orphan.missing)
        ]
        for orphan in found:
            del self._orphans[orphan.entry.id]
        return found[::-1]

    def _park(self, orphan: Orphan) -> None:
        mine = [key for key, other in self._orphans.items() if other.source == orphan.source]
        if len(mine) >= ORPHANS_PER_PEER:
            del self._orphans[mine[0]]
        elif len(self._orphans) >= ORPHANS:
            self._orphans.popitem(last=False)
        self._orphans[orphan.entry.id] = orphan
