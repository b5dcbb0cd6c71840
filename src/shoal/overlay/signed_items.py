"""Signed items: records and provisions in what they have in common: a signer, and a seq that counts up.

Pure; what a large network passes on by broadcast and compares in its exchanges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shoal.core.errors import RemoteFault
from shoal.identity.record import PeerRecord, parse_record
from shoal.overlay.exchange import Slot
from shoal.overlay.peer_book import PeerBook
from shoal.overlay.provision import Provision, parse_provision
from shoal.overlay.provision_store import OwnPages, ProvisionStore
from shoal.overlay.substrate.plumtree import Verdict
from shoal.overlay.topics import PROVISION_TOPIC


class SignedItems:
    """The records of the peer book and the provisions of members, ours included."""

    def __init__(
        self,
        own_id: bytes,
        network_id: bytes,
        book: PeerBook,
        own_pages: OwnPages,
        is_member: Callable[[bytes], bool],
    ) -> None:
        self._own_id = own_id
        self._network_id = network_id
        self._book = book
        self._own_pages = own_pages
        self._is_member = is_member
        self._provisions = ProvisionStore()
        self._judged: tuple[bytes, PeerRecord | Provision] | None = None  # the last broadcast: it comes again

    def parse(self, topic: int, payload: bytes) -> PeerRecord | Provision:
        """Return what is in a broadcast, its signature checked. Raises: MalformedMessage, LimitExceeded."""
        if self._judged is not None and self._judged[0] == payload:
            return self._judged[1]
        item: PeerRecord | Provision
        if topic == PROVISION_TOPIC:
            item = parse_provision(payload, self._network_id)
        else:
            item = self._book.find_subject(payload) or parse_record(payload, self._network_id)
        self._judged = (payload, item)
        return item

    def find_author(self, topic: int, payload: bytes) -> bytes:
        """Return who signed a broadcast that was found good."""
        return self.parse(topic, payload).peer_id

    def judge(self, topic: int, payload: bytes) -> Verdict:
        """Say whether a broadcast is to be passed on; changes nothing."""
        try:
            item = self.parse(topic, payload)
        except RemoteFault:
            return Verdict.FORGED
        if not self._is_member(item.peer_id):  # we, or who sent it, know less of the log
            return Verdict.STALE if isinstance(item, Provision) else Verdict.LATER
        if isinstance(item, Provision):
            known = self._provisions.find(item.peer_id, item.page)
            return Verdict.GOOD if item.is_newer(known) or item == known else Verdict.STALE
        contact = self._book.find(item.peer_id)
        before = None if contact is None else contact.record
        is_old = before is not None and (before.seq, before.packed) > (item.seq, item.packed)
        return Verdict.STALE if is_old else Verdict.GOOD

    def put(self, now: float, provision: Provision, age_s: float = 0.0) -> list[bytes] | None:
        """Keep a member's provision, as `ProvisionStore.put` does; None also for a stranger's."""
        if not self._is_member(provision.peer_id):
            return None
        return self._provisions.put(provision, now - age_s, now)

    def renew(self, now: float, provision: Provision, age_s: float) -> bool:
        """Take an age of a provision that is kept, as `ProvisionStore.renew` does."""
        return self._provisions.renew(provision, now - age_s)

    def find_heads(self, peer: bytes, page: int) -> Mapping[bytes, int]:
        """Return how many entries a member said that its feeds of a page have."""
        known = self._provisions.find(peer, page)
        return {} if known is None else known.heads

    def claim(self, provision: Provision) -> bool:
        """Look at a provision of our own that others have; return whether it needs a newer one."""
        if not provision.is_newer(self._provisions.find(self._own_id, provision.page)):
            return False
        self._own_pages.take_over(provision.page, provision.seq)  # from before a crash, or a backup
        return True

    def drop(self, peer: bytes) -> None:
        """Forget what a device signed; its record goes with its contact."""
        self._provisions.drop(peer)

    def list_seqs(self) -> dict[Slot, int]:
        """Return the seq of everything that is here."""
        seqs = {(r.peer_id, 0): r.seq for r in self._book.records() if self._is_member(r.peer_id)}
        seqs.update({(p.peer_id, p.page + 1): p.seq for p in self._provisions.all()})
        return seqs

    def find_packed(self, now: float, slot: Slot) -> tuple[bytes, int] | None:
        """Return the signed bytes of a slot, and how many seconds ago a provision was signed."""
        subject, number = slot
        if number:
            provision = self._provisions.find(subject, number - 1)
            if provision is None:
                return None
            return provision.packed, int(now - self._provisions.signed_at(subject, number - 1))
        contact = self._book.find(subject)
        return None if contact is None or contact.record is None else (contact.record.packed, 0)

    def sweep(self, now: float) -> None:
        """Forget the provisions that their devices did not sign anew in time."""
        self._provisions.sweep(now)
