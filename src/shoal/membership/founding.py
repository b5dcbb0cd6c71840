"""Founding: makes a network out of nothing: genesis, first secrets, recovery key."""

from __future__ import annotations

from shoal.core.clock import Clock
from shoal.core.errors import LocalMisuse
from shoal.identity.keys import DeviceKeys
from shoal.identity.log import Added, MembershipLog, make_genesis
from shoal.identity.operations import Genesis, commitments_of, is_valid_name
from shoal.identity.recovery import RecoveryKey
from shoal.identity.secrets import Secret, SecretKind
from shoal.membership.network import Stores
from shoal.storage.entries import EntryRow
from shoal.storage.secrets_store import SecretRow


async def found_network(
    keys: DeviceKeys, stores: Stores, clock: Clock, *, network_name: str, name: str, user: str
) -> tuple[bytes, str]:
    """Make a network with this device as its owner; return its id and the recovery key's text.

    Everything is durable on return, but the home is not marked yet: who calls does that last, so that a crash
    in between only leaves rows that nobody reads. The recovery key is kept nowhere.
    Raises: LocalMisuse for a name that is none, StorageFault.
    """
    for what, text in (("network", network_name), ("device", name)):
        if not is_valid_name(text):
            raise LocalMisuse(
                "No network was made",
                cause=f"{text[:80]!r} cannot be a {what}'s name",
                next_step="use 1 to 64 bytes of printable characters without blanks at the ends",
            )
    recovery = RecoveryKey.generate()
    secrets = [Secret.generate(kind) for kind in SecretKind]
    genesis = Genesis(
        recovery_commitment=recovery.commitment,
        network_name=network_name,
        name=name,
        user=user,
        hpke_suite=int(keys.hpke_suite),
        hpke_public=keys.hpke_public,
        commitments=commitments_of(secrets),
    )
    entry = make_genesis(keys, genesis, int(clock.wall()))
    if not isinstance(MembershipLog(entry.id).add(entry), Added):
        raise LocalMisuse("No network was made", cause="its first entry would not be accepted")
    await stores.secrets.clear()  # what a foundation or join left that did not come to its end
    await stores.secrets.put(*(SecretRow(int(s.kind), s.space, s.generation, s.value) for s in secrets))
    await stores.entries.append([EntryRow(entry.id, entry.id, entry.author, 0, entry.data)], own=True)
    return entry.id, recovery.to_text()
