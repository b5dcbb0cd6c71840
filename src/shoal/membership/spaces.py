"""Spaces: the secrets of the network and its spaces: who may have which, how they travel, what is believed.

The log commits every secret; the secrets themselves are never in it. A device gets them after its admission,
each wrapped to the HPKE key of its `admit`, and keeps one only if it fits the commitment. So whoever delivers
need not be trusted, and any member that may read can deliver.
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal.core.errors import MalformedMessage, Unavailable
from shoal.identity.keys import DeviceKeys, HpkeSuite, wrap, wrap_info
from shoal.identity.operations import Role
from shoal.identity.secrets import DEFAULT_SPACE, Secret, SecretKey, SecretKind, commit
from shoal.identity.state import Member, MembershipState
from shoal.membership.messages import SECRETS_GIVEN, SECRETS_WANTED, SecretRef, WrappedSecret
from shoal.storage.secrets_store import SecretRow, SecretsStore

DOOR_KEYS = 16  # formats.md, Knock


def may_have(role: Role | None, kind: int) -> bool:
    """Whether a device of this role gets secrets of this kind: a storage-only one gets the door key alone."""
    if role is None:
        return False
    return kind == SecretKind.DOOR or role is not Role.STORAGE


class Secrets:
    """The secrets this device holds. `load` before anything else."""

    def __init__(self, store: SecretsStore, keys: DeviceKeys, network_id: bytes) -> None:
        self._store = store
        self._keys = keys
        self._network_id = network_id
        self._held: dict[SecretKey, bytes] = {}

    async def load(self) -> None:
        """Read what is kept."""
        self._held = {(row.kind, row.space, row.generation): row.value for row in await self._store.load()}

    async def put(self, secrets: Iterable[Secret]) -> None:
        """Keep secrets that this device made itself, durable on return."""
        rows = [SecretRow(int(s.kind), s.space, s.generation, s.value) for s in secrets]
        await self._store.put(*rows)
        for row in rows:
            self._held[(row.kind, row.space, row.generation)] = row.value

    async def clear(self) -> None:
        """Forget all: what a foundation or join left behind that did not come to its end."""
        await self._store.clear()
        self._held.clear()

    def door_keys(self) -> list[bytes]:
        """Door keys, newest first, at most 16."""
        return self._newest_first(SecretKind.DOOR, DEFAULT_SPACE)[:DOOR_KEYS]

    def find(self, kind: SecretKind, space: bytes, generation: int) -> bytes | None:
        """Return a secret, or None."""
        return self._held.get((int(kind), space, generation))

    def get_content(self, generation: int, space: bytes = DEFAULT_SPACE) -> bytes:
        """Return a content secret. Raises: Unavailable when this device was not given it (yet)."""
        found = self.find(SecretKind.CONTENT, space, generation)
        if found is None:
            raise Unavailable(
                "The content cannot be read",
                cause=f"this device does not have the content secret of generation {generation}",
                next_step="wait until a member that can read is connected; storage-only devices never get it",
                code="no_secret",
            )
        return found

    def content_generation(self, space: bytes = DEFAULT_SPACE) -> int:
        """Return the newest generation that is held. Raises: Unavailable when there is none."""
        held = [g for kind, where, g in self._held if kind == SecretKind.CONTENT and where == space]
        if not held:
            self.get_content(0, space)
        return max(held)

    def missing(self, state: MembershipState) -> list[SecretRef]:
        """Return what the log commits, this device may have and does not hold; at most 64, newest first."""
        role = state.role_of(self._keys.peer_id)
        wanted = [key for key in state.commitments if key not in self._held and may_have(role, key[0])]
        wanted.sort(key=lambda key: (-key[2], key[0], key[1]))
        return [SecretRef(*key) for key in wanted[:SECRETS_WANTED]]

    def wrap_for(self, member: Member, refs: Iterable[SecretRef] | None = None) -> list[WrappedSecret]:
        """Wrap what `member` may have and this device holds: those named, or all; at most 32, newest first.

        Costs about 0.3 ms each. Nothing for a suite that this release does not know.
        """
        if member.hpke_suite != HpkeSuite.MLKEM768_X25519_SHA256_AES256:
            return []
        if refs is None:
            names = sorted(self._held, key=lambda key: (-key[2], key[0], key[1]))
        else:
            names = list(dict.fromkeys((ref.kind, ref.space, ref.generation) for ref in refs))
        chosen = [key for key in names if key in self._held and may_have(member.role, key[0])]
        info = {space: wrap_info(self._network_id, space, member.peer_id) for _, space, _ in chosen}
        return [
            WrappedSecret(*key, wrap(member.hpke_public, self._held[key], info[key[1]], member.hpke_suite))
            for key in chosen[:SECRETS_GIVEN]
        ]

    async def accept(self, state: MembershipState, given: Iterable[WrappedSecret]) -> int:
        """Open and keep delivered secrets, durable on return; returns how many were new.

        Raises: MalformedMessage for one that does not open or does not fit its commitment (none of this
        delivery is kept then), StorageFault.
        """
        rows: dict[SecretKey, SecretRow] = {}
        for wrapped in given:
            key = (wrapped.kind, wrapped.space, wrapped.generation)
            commitment = state.commitments.get(key)
            if commitment is None or key in self._held:
                continue  # not in our log yet: asked for again when it is
            value = self._keys.open_wrapped(
                wrapped.sealed, wrap_info(self._network_id, wrapped.space, self._keys.peer_id)
            )
            if commit(value) != commitment:
                raise MalformedMessage("A delivered secret does not fit its commitment", code="bad_secret")
            rows[key] = SecretRow(*key, value)
        if rows:
            await self._store.put(*rows.values())
            self._held.update({key: row.value for key, row in rows.items()})
        return len(rows)

    def _newest_first(self, kind: SecretKind, space: bytes) -> list[bytes]:
        found = [(g, value) for (k, s, g), value in self._held.items() if k == kind and s == space]
        return [value for _, value in sorted(found, key=lambda pair: pair[0], reverse=True)]
