"""State: who is a member of a network and what its log commits to; a frozen value made by the merge.

A state is never changed: each one holds its own maps, which share nothing that is written later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shoal.identity.ids import EntryId, PeerId
from shoal.identity.operations import Role
from shoal.identity.secrets import SecretKey


@dataclass(frozen=True, slots=True)
class Member:
    """A device that is or was admitted.

    `removed` without `removed_by_op`: its admission fell, because who admitted it had been removed by then;
    such a device may be admitted again, one that was removed itself never.
    """

    peer_id: PeerId
    name: str
    user: str
    role: Role
    state: Literal["active", "removed"]
    since: int  # time of the entry that admitted it, seconds since 1970, for display only
    admitted_by: PeerId
    hpke_suite: int
    hpke_public: bytes = field(repr=False)
    admitted_by_op: EntryId = field(repr=False)
    removed_by_op: EntryId | None = None


@dataclass(frozen=True, slots=True)
class MembershipState:
    """What the set of entries of a membership log means."""

    members: Mapping[PeerId, Member] = field(default_factory=dict)  # active and removed
    commitments: Mapping[SecretKey, bytes] = field(default_factory=dict)  # by (kind, space, generation)
    removals: Mapping[EntryId, PeerId] = field(default_factory=dict)  # effective ones, leaves included
    network_name: str = ""
    descriptor: str = ""  # overlay type: pure | hybrid | structured
    recovery_commitment: bytes = b""
    blocked: str | None = None  # why a node of this release must not go on

    def is_active(self, peer_id: PeerId) -> bool:
        """Tell whether a device is a member now."""
        member = self.members.get(peer_id)
        return member is not None and member.state == "active"

    def role_of(self, peer_id: PeerId) -> Role | None:
        """Return an active member's role, or None for everybody else."""
        member = self.members.get(peer_id)
        return member.role if member is not None and member.state == "active" else None

    def active_members(self) -> list[Member]:
        """Return the members of now, in the order of their ids."""
        active = [member for member in self.members.values() if member.state == "active"]
        return sorted(active, key=lambda member: member.peer_id)
