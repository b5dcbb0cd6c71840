"""Peer book: what is known of each member: its signed record, addresses from other sources, what worked last.

Pure; the driver loads and saves its rows. Bounded by the number of members; at most TRUSTED addresses a peer
beside the 8 of its record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal.core.budget import BoundedMap
from shoal.core.errors import LocalMisuse, RemoteFault
from shoal.identity.record import PeerRecord, parse_record
from shoal.storage.peers import PeerRow
from shoal.transport.address import VIA, Address, may_dial
from shoal.wire.limits import MEMBERS

TRUSTED = 8  # addresses from tickets, joins and discovery; the oldest gives way
EARLY = 256  # records of those who are not members yet, as far as we know


@dataclass(slots=True)
class Contact:
    """One peer. `trusted` addresses come from a person, the LAN or over loopback, newest first."""

    peer: bytes
    record: PeerRecord | None = None
    trusted: list[str] = field(default_factory=list)
    last_good: str | None = None
    last_good_at: float = 0.0  # wall clock, for the order of rows after a restart
    failures: int = 0  # dial rounds without a session since the last one

    def row(self) -> PeerRow:
        """Return what is kept on disk."""
        record = None if self.record is None else self.record.packed
        return PeerRow(
            self.peer, record, tuple(self.trusted), self.last_good, self.last_good_at, self.failures
        )


class PeerBook:
    """The contacts of a network's members, ourselves included."""

    def __init__(self, network_id: bytes) -> None:
        self._network_id = network_id
        self._contacts: dict[bytes, Contact] = {}  # at most MEMBERS
        self._packed: dict[bytes, PeerRecord] = {}  # exactly the records of the contacts
        self._early: BoundedMap[bytes, PeerRecord] = BoundedMap(EARLY)

    def load(self, rows: Iterable[PeerRow]) -> None:
        """Take rows as they were saved; what does not parse any more is left out."""
        for row in rows:
            contact = self._make(row.peer_id)
            if contact is None:
                return
            if row.record is not None:
                try:
                    self._set_record(contact, parse_record(row.record, self._network_id))
                except RemoteFault:
                    pass  # written by another release, or damaged: its subject sends it again
            contact.trusted = list(row.addresses[:TRUSTED])
            contact.last_good, contact.last_good_at = row.last_good, row.last_good_at
            contact.failures = row.failures

    def find(self, peer: bytes) -> Contact | None:
        """Return what is known of a peer."""
        return self._contacts.get(peer)

    def peers(self) -> set[bytes]:
        """Return everybody of whom something is known."""
        return set(self._contacts)

    def records(self) -> list[PeerRecord]:
        """Return all records, in the order of their subjects."""
        known = (self._contacts[peer].record for peer in sorted(self._contacts))
        return [record for record in known if record is not None]

    def find_subject(self, packed: bytes) -> PeerRecord | None:
        """Return the record that is kept with exactly these bytes: asked before a signature is checked."""
        return self._packed.get(packed)

    def put_record(self, record: PeerRecord, over_loopback: bool) -> bool:
        """Keep a verified record if it is newer; return whether it was.

        Of two records with one seq the greater bytes count, so that everybody ends with the same one.
        Loopback addresses of a record that came over a loopback session become trusted: the peer is on this
        machine.
        """
        contact = self._make(record.peer_id)
        if contact is None:
            return False
        before = contact.record
        if before is not None and (before.seq, before.packed) >= (record.seq, record.packed):
            return False
        self._set_record(contact, record)
        local = [text for text in record.addresses if is_loopback(text)]
        stale = {text for text in before.addresses if is_loopback(text)} if before is not None else set()
        contact.trusted = [text for text in contact.trusted if text not in stale or text in local]
        if over_loopback:
            self.put_trusted(record.peer_id, local)
        return True

    def keep_early(self, record: PeerRecord) -> None:
        """Keep a verified record of somebody who is not a member as far as we know."""
        self._early.put(record.peer_id, record)

    def take_early(self, peer: bytes) -> PeerRecord | None:
        """Return and forget the record that came before its subject was admitted."""
        return self._early.pop(peer)

    def put_trusted(self, peer: bytes, addresses: Iterable[str]) -> bool:
        """Keep addresses, the first of them foremost; return whether one is new."""
        contact = self._make(peer)
        if contact is None:
            return False
        cleaned = list(dict.fromkeys(text for text in map(_clean, addresses) if text))[:TRUSTED]
        is_new = any(text not in contact.trusted for text in cleaned)
        contact.trusted = [*cleaned, *(t for t in contact.trusted if t not in cleaned)][:TRUSTED]
        return is_new

    def mark_good(self, peer: bytes, address: str, wall: float) -> None:
        """Note that a dial of this address became a session."""
        contact = self._make(peer)
        if contact is None:
            return
        contact.failures = 0
        way = find_address(address)
        if way is not None and not way.is_way:  # what a relay did says nothing for the next time
            contact.last_good, contact.last_good_at = address, wall

    def drop(self, peer: bytes) -> bool:
        """Forget a peer; return whether it was known."""
        contact = self._contacts.pop(peer, None)
        if contact is not None and contact.record is not None:
            del self._packed[contact.record.packed]
        return contact is not None

    def addresses(self, peer: bytes, own: frozenset[str] = frozenset()) -> list[str]:
        """Return what may be dialled, most promising first: last good, trusted, the record's; never `own`."""
        contact = self._contacts.get(peer)
        if contact is None:
            return []
        found = [contact.last_good] if contact.last_good is not None else []
        found += contact.trusted
        if contact.record is not None:
            found += [text for text in contact.record.addresses if _may_dial(text)]
        return [text for text in dict.fromkeys(found) if text not in own]

    def relays_of(self, peer: bytes) -> tuple[bytes, ...]:
        """Return over whom a peer says that it can be reached."""
        contact = self._contacts.get(peer)
        return () if contact is None or contact.record is None else contact.record.via

    def _set_record(self, contact: Contact, record: PeerRecord) -> None:
        if contact.record is not None:
            del self._packed[contact.record.packed]
        contact.record = record
        self._packed[record.packed] = record

    def _make(self, peer: bytes) -> Contact | None:
        contact = self._contacts.get(peer)
        if contact is None and len(self._contacts) < MEMBERS:
            contact = self._contacts[peer] = Contact(peer)
        return contact


def is_loopback(text: str) -> bool:
    """Tell whether an address stays on its machine."""
    address = find_address(text)
    return address is not None and address.is_loopback


def find_address(text: str) -> Address | None:
    """Return the address in a text out of a record or row, or the way over a relay that we made, or None."""
    if text.startswith(VIA):
        way = Address(text, 0)
        return way if way.relay is not None else None
    try:
        return Address.parse(text)
    except LocalMisuse:
        return None


def _clean(text: str) -> str:
    address = find_address(text)
    return str(address) if address is not None and address.port else ""


def _may_dial(text: str) -> bool:
    address = find_address(text)
    return address is not None and may_dial(address)
