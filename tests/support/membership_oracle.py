"""Oracle: the merge rule of spec/membership.md once more, as literally and as slowly as it is written there.

It shares nothing with shoal.identity.merge: it works on sets of ids, starts from nothing for every removal,
and keeps nothing between calls.
"""

from __future__ import annotations

from shoal.identity.entry import Entry
from shoal.identity.ids import EntryId, PeerId
from shoal.identity.operations import Admit, Epoch, Genesis, Leave, Payload, Remove, Role, parse_operation


class Oracle:
    """The meaning of a closed set of entries."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = {entry.id: entry for entry in entries}
        self.payloads: dict[EntryId, Payload] = {e.id: parse_operation(e.payload) for e in entries}
        self.pasts: dict[EntryId, set[EntryId]] = {}
        for entry in entries:
            self._past(entry.id)
        self.order = sorted(self.entries, key=lambda i: (self._height(i), i))
        self.processed: list[EntryId] = []
        while True:
            self.effective = self._find_effective()
            waiting = [i for i in self.effective if self._target(i) and i not in self.processed]
            if not waiting:
                break
            self.processed.append(min(waiting, key=lambda i: (self._role(i), i)))

    def active(self) -> dict[PeerId, Role]:
        """Return the active members with their roles."""
        removed = {self._target(i) for i in self.processed}
        found: dict[PeerId, Role] = {}
        for entry_id in self.effective:
            for peer_id, role in self._admits(entry_id):
                if peer_id not in removed:
                    found[peer_id] = min(role, found.get(peer_id, role))
        return found

    def removals(self) -> dict[EntryId, PeerId]:
        """Return the removals that count."""
        return {i: target for i in self.processed if (target := self._target(i)) is not None}

    def _past(self, entry_id: EntryId) -> set[EntryId]:
        if entry_id not in self.pasts:
            entry = self.entries[entry_id]
            past: set[EntryId] = set()
            for parent in {*self.payloads[entry_id].parents, *([entry.prev] if entry.seq else [])}:
                past |= {parent} | self._past(parent)
            self.pasts[entry_id] = past
        return self.pasts[entry_id]

    def _height(self, entry_id: EntryId) -> int:
        return 1 + max((self._height(i) for i in self._past_tips(entry_id)), default=-1)

    def _past_tips(self, entry_id: EntryId) -> set[EntryId]:
        past = self.pasts[entry_id]
        return {i for i in past if not any(i in self.pasts[j] for j in past)}

    def _find_effective(self) -> set[EntryId]:
        self.effective: set[EntryId] = set()
        for entry_id in self.order:
            if entry_id in self.processed or (not self._is_cut(entry_id) and self._may(entry_id)):
                self.effective.add(entry_id)
        return self.effective

    def _is_cut(self, entry_id: EntryId) -> bool:
        author = self.entries[entry_id].author
        return any(self._target(r) == author and entry_id not in self.pasts[r] for r in self.processed)

    def _role(self, entry_id: EntryId) -> Role | None:
        author = self.entries[entry_id].author
        roles = [
            role
            for i in self.pasts[entry_id] & self.effective
            for peer_id, role in self._admits(i)
            if peer_id == author
        ]
        return min(roles, default=None)

    def _may(self, entry_id: EntryId) -> bool:
        operation = self.payloads[entry_id].operation
        role = self._role(entry_id)
        if isinstance(operation, Genesis):
            return True
        if role is None:
            return False
        if isinstance(operation, Admit):
            return role == Role.OWNER or (
                role == Role.ADMIN and operation.role in (Role.MEMBER, Role.STORAGE)
            )
        if isinstance(operation, Remove | Epoch):
            return role in (Role.OWNER, Role.ADMIN)
        return True

    def _admits(self, entry_id: EntryId) -> list[tuple[PeerId, Role]]:
        operation = self.payloads[entry_id].operation
        if isinstance(operation, Genesis):
            return [(self.entries[entry_id].author, Role.OWNER)]
        return [(operation.peer_id, Role(operation.role))] if isinstance(operation, Admit) else []

    def _target(self, entry_id: EntryId) -> PeerId | None:
        operation = self.payloads[entry_id].operation
        if isinstance(operation, Remove):
            return operation.peer_id
        return self.entries[entry_id].author if isinstance(operation, Leave) else None
