"""Draft: makes a membership state by applying the entries of a set in their order."""

from __future__ import annotations

from dataclasses import replace

from shoal.identity.ids import EntryId, PeerId
from shoal.identity.merge import Evaluation, Node
from shoal.identity.operations import Admit, Commitment, Epoch, Genesis, Leave, Remove, Role
from shoal.identity.secrets import SecretKey
from shoal.identity.state import Member, MembershipState


class Draft:
    """A state that can still change. Expects every entry of the set once, in order; `freeze` ends it."""

    def __init__(self, state: MembershipState) -> None:
        self._members: dict[PeerId, Member] = dict(state.members)
        self._commitments: dict[SecretKey, bytes] = dict(state.commitments)
        self._removals: dict[EntryId, PeerId] = dict(state.removals)
        self._network_name = state.network_name
        self._descriptor = state.descriptor
        self._recovery_commitment = state.recovery_commitment
        self._blocked = state.blocked

    def freeze(self) -> MembershipState:
        """Return the state. The draft must not be used after it."""
        return MembershipState(
            members=self._members,
            commitments=self._commitments,
            removals=self._removals,
            network_name=self._network_name,
            descriptor=self._descriptor,
            recovery_commitment=self._recovery_commitment,
            blocked=self._blocked,
        )

    def apply(self, node: Node, evaluation: Evaluation) -> None:
        """Apply the next entry of the set that `evaluation` is of."""
        operation = node.payload.operation
        is_effective = bool(evaluation.effective & node.bit)
        if isinstance(operation, Genesis | Admit):
            self._admit(node, operation, is_effective=is_effective)
        if not is_effective:
            return
        match operation:
            case Genesis():
                self._network_name = operation.network_name
                self._descriptor = operation.descriptor
                self._recovery_commitment = operation.recovery_commitment
                self._commit(operation.commitments)
            case Epoch():
                self._commit(operation.commitments)
            case Remove():
                self._remove(node, operation.peer_id)
            case Leave():
                self._remove(node, node.entry.author)
            case None:
                self._block(node, evaluation)
            case _:
                pass

    def _admit(self, node: Node, operation: Genesis | Admit, *, is_effective: bool) -> None:
        """Note an admission. One that fell is noted too, as removed, unless there is another."""
        subject = node.subject()
        assert subject is not None  # genesis and admit have one
        peer_id, role = subject
        known = self._members.get(peer_id)
        if known is not None:
            is_better = known.state == "removed" or role < known.role
            if known.removed_by_op is not None or not is_effective or not is_better:
                return
        self._members[peer_id] = Member(
            peer_id=peer_id,
            name=operation.name,
            user=operation.user,
            role=role,
            state="active" if is_effective else "removed",
            since=node.entry.time,
            admitted_by=node.entry.author,
            hpke_suite=operation.hpke_suite,
            hpke_public=operation.hpke_public,
            admitted_by_op=node.entry.id,
        )

    def _remove(self, node: Node, target: PeerId) -> None:
        self._removals[node.entry.id] = target
        known = self._members.get(target)
        if known is not None and known.removed_by_op is None:
            self._members[target] = replace(known, state="removed", removed_by_op=node.entry.id)

    def _commit(self, commitments: tuple[Commitment, ...]) -> None:
        """What is committed first in the order stays: nobody replaces a secret's commitment."""
        for commitment in commitments:
            self._commitments.setdefault(commitment.key, commitment.commitment)

    def _block(self, node: Node, evaluation: Evaluation) -> None:
        role = evaluation.role_at(node.entry.author, node.past)
        is_binding = node.entry.is_critical and role is not None and role <= Role.ADMIN
        if is_binding and self._blocked is None:
            self._blocked = (
                f"the network uses operation {node.payload.number}, which this release does not know"
            )
