"""Identity: devices, networks and deliveries for tests of the membership log."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from shoal.identity.entry import Entry
from shoal.identity.ids import EntryId, PeerId
from shoal.identity.keys import DeviceKeys
from shoal.identity.log import Added, Duplicate, MembershipLog, MissingParents, Rejected, make_genesis
from shoal.identity.operations import (
    INVITE_ID_BYTES,
    Admit,
    Epoch,
    Genesis,
    Leave,
    Operation,
    Remove,
    Role,
    commitments_of,
    sign_joiner,
)
from shoal.identity.recovery import RecoveryKey
from shoal.identity.secrets import DEFAULT_SPACE, Secret, SecretKind

INVITE = bytes(INVITE_ID_BYTES)
TIME = 1_700_000_000


@lru_cache(maxsize=4096)
def make_keys(number: int) -> DeviceKeys:
    """Return the same keys for the same number."""
    return DeviceKeys.from_seed(number.to_bytes(4, "big") * 32)


def make_secret(number: int, kind: SecretKind = SecretKind.CONTENT, generation: int = 0) -> Secret:
    """Return the same secret for the same arguments."""
    return Secret(kind, DEFAULT_SPACE, generation, number.to_bytes(4, "big") * 8)


def found(owner: DeviceKeys, name: str = "test network") -> MembershipLog:
    """Return a log that holds one genesis by `owner`."""
    genesis = Genesis(
        recovery_commitment=RecoveryKey(bytes(32)).commitment,
        network_name=name,
        name="owner",
        user="",
        hpke_suite=owner.hpke_suite,
        hpke_public=owner.hpke_public,
        commitments=commitments_of([make_secret(1, SecretKind.DOOR), make_secret(2)]),
    )
    entry = make_genesis(owner, genesis, TIME)
    log = MembershipLog(entry.id)
    assert log.add(entry) == Added()
    return log


def admit(log: MembershipLog, keys: DeviceKeys, role: Role = Role.MEMBER, name: str = "device") -> Admit:
    """Return the operation that admits a device, with its own signature."""
    return Admit(
        peer_id=keys.peer_id,
        role=role,
        user="",
        name=name,
        hpke_suite=keys.hpke_suite,
        hpke_public=keys.hpke_public,
        invite_id=INVITE,
        joiner_signature=sign_joiner(keys, log.network_id, INVITE, name),
    )


def remove(keys: DeviceKeys) -> Remove:
    """Return the operation that removes a device."""
    return Remove(keys.peer_id)


def epoch(number: int, secret: Secret) -> Epoch:
    """Return an operation that commits to one new secret."""
    return Epoch(number, commitments_of([secret]))


def leave() -> Leave:
    """Return the operation of a device that leaves."""
    return Leave()


def write(log: MembershipLog, author: DeviceKeys, operation: Operation, time: int = TIME) -> Entry:
    """Author an operation on top of a log and add it there."""
    entry = log.make_entry(author, operation, time)
    result = log.add(entry)
    assert result == Added(), result
    return entry


def copy(log: MembershipLog) -> MembershipLog:
    """Return a log with the same entries, as another device would have it."""
    other = MembershipLog(log.network_id)
    assert deliver(other, log.entries()) == []
    return other


def deliver(log: MembershipLog, entries: Iterable[Entry]) -> list[Entry]:
    """Add entries in any order, trying again those that came before their parents; return what stayed out."""
    waiting = list(entries)
    while True:
        left: list[Entry] = []
        for entry in waiting:
            match log.add(entry):
                case MissingParents():
                    left.append(entry)
                case Added() | Duplicate():
                    pass
                case Rejected() as refused:
                    raise AssertionError(refused)
        if not left or len(left) == len(waiting):
            return left
        waiting = left


def active(log: MembershipLog) -> set[PeerId]:
    """Return the ids of the active members."""
    return {member.peer_id for member in log.state.active_members()}


def effective(log: MembershipLog) -> set[EntryId]:
    """Return the ids of the entries that count."""
    return {entry.id for entry in log.entries() if log.is_effective(entry.id)}
