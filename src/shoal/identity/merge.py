"""Merge: what a set of membership entries means, as a pure function of the set (spec/membership.md).

The set is closed: with an entry it holds all that the entry follows. Sets and pasts are bit masks (Python
integers) over the entries' places in their log, so that "is a in the past of b" is one shift.

Effective is an entry whose author, by the effective admissions in the entry's own past, has a role that
permits it, and that no processed removal cuts. Removals are processed one at a time, strongest author's role
first, then lowest id; each cuts all entries of its target outside its own past, except removals processed
before it. Cutting only ever takes away, so the loop ends, and its result depends on nothing but the set.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from shoal.identity.entry import Entry
from shoal.identity.ids import EntryId, PeerId
from shoal.identity.operations import Admit, Epoch, Genesis, Leave, Payload, Remove, Role


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """An accepted entry with its place. `past` has the bits of all that it follows, itself excluded."""

    entry: Entry
    payload: Payload
    index: int
    height: int  # 1 + the greatest of what it follows; a genesis has 0
    past: int

    @property
    def order(self) -> tuple[int, EntryId]:
        """Sorts any set of entries so that what is followed comes first; depends on the entry alone."""
        return (self.height, self.entry.id)

    @property
    def bit(self) -> int:
        """The entry's own bit."""
        return 1 << self.index

    def subject(self) -> tuple[PeerId, Role] | None:
        """Return the device and role that the entry admits, if it admits."""
        operation = self.payload.operation
        if isinstance(operation, Admit):
            return operation.peer_id, Role(operation.role)
        return (self.entry.author, Role.OWNER) if isinstance(operation, Genesis) else None

    def removed(self) -> PeerId | None:
        """Return the device that the entry removes, if it removes."""
        operation = self.payload.operation
        if isinstance(operation, Remove):
            return operation.peer_id
        return self.entry.author if isinstance(operation, Leave) else None


def permits(role: Role, payload: Payload) -> bool:
    """Tell whether a role may do an operation. Whom an admin may remove is judged on acceptance."""
    match payload.operation:
        case Admit() as admit:
            return role is Role.OWNER or (role is Role.ADMIN and admit.role >= Role.MEMBER)
        case Remove() | Epoch():
            return role <= Role.ADMIN
        case Genesis():
            return False  # only the first entry is one, and it needs no role
        case _:
            return True  # leaving, and what a later release may permit to all


@dataclass(slots=True)
class Evaluation:
    """The outcome for one set. `extend` changes it in place; `copy` first if the old one is still needed."""

    mask: int = 0
    effective: int = 0
    processed: int = 0  # removals that count
    admissions: dict[PeerId, tuple[Node, ...]] = field(default_factory=dict)  # effective or not, in any order
    kept: dict[PeerId, int] = field(default_factory=dict)  # by removed device: its entries that still count

    def copy(self) -> Evaluation:
        """Return one that can be extended on its own."""
        return Evaluation(self.mask, self.effective, self.processed, dict(self.admissions), dict(self.kept))

    def role_at(self, peer_id: PeerId, past: int) -> Role | None:
        """Return the strongest role that effective admissions within `past` give a device, or None."""
        within = past & self.effective
        roles = [
            subject[1]
            for node in self.admissions.get(peer_id, ())
            if within >> node.index & 1 and (subject := node.subject()) is not None
        ]
        return min(roles, default=None)

    def role_of(self, peer_id: PeerId) -> Role | None:
        """Return a device's role after all of the set; None if it has none or was removed."""
        return None if peer_id in self.kept else self.role_at(peer_id, self.mask)

    def can_extend(self, node: Node) -> bool:
        """Tell whether `extend` gives what a fresh evaluation would.

        Nothing in the set follows the new entry, so an entry that is no removal changes no other's outcome. A
        removal that follows the whole set cuts nothing but what comes later.
        """
        return node.removed() is None or node.past == self.mask

    def extend(self, node: Node) -> None:
        """Add one entry, for which `can_extend` is true and whose past is in the set."""
        self._note(node)
        if self._is_cut(node) or not self._is_permitted(node):
            return
        self.effective |= node.bit
        target = node.removed()
        if target is not None:
            self.processed |= node.bit
            self.kept[target] = self.kept.get(target, -1) & node.past

    def process_removals(self, ordered: list[Node]) -> None:
        """Process the effective removals of the set, given all its entries; none may be processed yet."""
        by_author: dict[PeerId, list[Node]] = {}
        waiting: list[tuple[int, EntryId, Node]] = []
        for node in ordered:
            by_author.setdefault(node.entry.author, []).append(node)
            if node.removed() is not None and self.effective & node.bit:
                waiting.append((self._weight(node), node.entry.id, node))
        heapq.heapify(waiting)
        while waiting:
            weight, entry_id, node = heapq.heappop(waiting)
            target = node.removed()
            if target is None or not self.effective & node.bit:
                continue
            if self._weight(node) != weight:  # an admission of its author fell: it waits with what is left
                heapq.heappush(waiting, (self._weight(node), entry_id, node))
                continue
            self.processed |= node.bit
            self.kept[target] = self.kept.get(target, -1) & node.past
            self._drop(by_author, [n for n in by_author.get(target, ()) if self._is_cut(n)])

    def _note(self, node: Node) -> None:
        self.mask |= node.bit
        subject = node.subject()
        if subject is not None:
            self.admissions[subject[0]] = (*self.admissions.get(subject[0], ()), node)

    def _is_permitted(self, node: Node) -> bool:
        if isinstance(node.payload.operation, Genesis):
            return True
        role = self.role_at(node.entry.author, node.past)
        return role is not None and permits(role, node.payload)

    def _is_cut(self, node: Node) -> bool:
        kept = self.kept.get(node.entry.author)
        return kept is not None and not kept >> node.index & 1 and not self.processed & node.bit

    def _weight(self, node: Node) -> int:
        return int(self.role_at(node.entry.author, node.past) or 0)

    def _drop(self, by_author: dict[PeerId, list[Node]], nodes: list[Node]) -> None:
        """Take entries out of the effective ones, and with them all that loses its permission."""
        stack = list(nodes)
        while stack:
            node = stack.pop()
            if not self.effective & node.bit or self.processed & node.bit:
                continue
            self.effective &= ~node.bit
            subject = node.subject()
            if subject is None:
                continue
            stack += [
                later
                for later in by_author.get(subject[0], ())
                if later.past >> node.index & 1 and not self._is_permitted(later)
            ]


def evaluate(ordered: list[Node]) -> Evaluation:
    """Return the outcome for a closed set of entries, given in their order."""
    result = Evaluation()
    for node in ordered:
        result._note(node)
        if result._is_permitted(node):
            result.effective |= node.bit
    result.process_removals(ordered)
    return result
