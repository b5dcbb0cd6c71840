"""Secrets: who may have which, and that only what the log commits is believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.identity import admit, epoch, found, make_keys, make_secret, write
from tests.support.stores import open_stores

from shoal.core.errors import MalformedMessage, Unavailable
from shoal.identity.keys import wrap, wrap_info
from shoal.identity.log import MembershipLog
from shoal.identity.operations import Role
from shoal.identity.secrets import DEFAULT_SPACE, SecretKind
from shoal.membership.messages import SECRETS_GIVEN, SecretRef, WrappedSecret
from shoal.membership.spaces import Secrets, may_have
from shoal.storage.secrets_store import SecretsStore

OWNER, MEMBER, STORE = make_keys(1), make_keys(2), make_keys(3)
DOOR, CONTENT, NEWER = make_secret(1, SecretKind.DOOR), make_secret(2), make_secret(3, generation=1)


@pytest.fixture
def log() -> MembershipLog:
    log = found(OWNER)
    write(log, OWNER, admit(log, MEMBER))
    write(log, OWNER, admit(log, STORE, Role.STORAGE))
    write(log, OWNER, epoch(1, NEWER))
    return log


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SecretsStore]:
    async with open_stores(tmp_path) as stores:
        yield stores.secrets


@pytest.fixture
async def owners(log: MembershipLog, tmp_path: Path) -> AsyncIterator[Secrets]:
    (tmp_path / "owner").mkdir()
    async with open_stores(tmp_path / "owner") as stores:
        secrets = Secrets(stores.secrets, OWNER, log.network_id)
        await secrets.put([DOOR, CONTENT, NEWER])
        yield secrets


def test_storage_devices_have_the_door_key_alone() -> None:
    for role in (Role.OWNER, Role.ADMIN, Role.MEMBER):
        assert all(may_have(role, kind) for kind in SecretKind)
    assert [kind for kind in SecretKind if may_have(Role.STORAGE, kind)] == [SecretKind.DOOR]
    assert not any(may_have(None, kind) for kind in SecretKind)


async def test_a_member_gets_all_generations(
    log: MembershipLog, owners: Secrets, store: SecretsStore
) -> None:
    secrets = Secrets(store, MEMBER, log.network_id)
    missing = secrets.missing(log.state)
    assert len(missing) == 3
    assert missing[0].generation == 1
    given = owners.wrap_for(log.state.members[MEMBER.peer_id], missing)
    assert await secrets.accept(log.state, given) == 3
    assert await secrets.accept(log.state, given) == 0
    assert secrets.missing(log.state) == []
    assert secrets.content_generation() == 1
    assert secrets.get_content(0) == CONTENT.value
    again = Secrets(store, MEMBER, log.network_id)
    await again.load()
    assert again.get_content(1) == NEWER.value
    assert again.door_keys() == [DOOR.value]


async def test_a_storage_device_that_asks_for_everything_gets_the_door_key(
    log: MembershipLog, owners: Secrets, store: SecretsStore
) -> None:
    secrets = Secrets(store, STORE, log.network_id)
    everything = [SecretRef(int(s.kind), s.space, s.generation) for s in (DOOR, CONTENT, NEWER)]
    given = owners.wrap_for(log.state.members[STORE.peer_id], everything)
    assert [secret.kind for secret in given] == [SecretKind.DOOR]
    assert [ref.kind for ref in secrets.missing(log.state)] == [SecretKind.DOOR]
    await secrets.accept(log.state, given)
    with pytest.raises(Unavailable):
        secrets.get_content(0)
    with pytest.raises(Unavailable):
        secrets.content_generation()


async def test_what_does_not_fit_its_commitment_is_refused(log: MembershipLog, store: SecretsStore) -> None:
    secrets = Secrets(store, MEMBER, log.network_id)
    info = wrap_info(log.network_id, DEFAULT_SPACE, MEMBER.peer_id)
    wrong = WrappedSecret(2, DEFAULT_SPACE, 0, wrap(MEMBER.hpke_public, b"x" * 32, info))
    right = WrappedSecret(1, DEFAULT_SPACE, 0, wrap(MEMBER.hpke_public, DOOR.value, info))
    with pytest.raises(MalformedMessage):
        await secrets.accept(log.state, [right, wrong])
    assert secrets.door_keys() == []
    other = wrap(OWNER.hpke_public, CONTENT.value, wrap_info(log.network_id, DEFAULT_SPACE, OWNER.peer_id))
    for sealed in (b"", b"x" * 2000, other):
        with pytest.raises(MalformedMessage):
            await secrets.accept(log.state, [WrappedSecret(2, DEFAULT_SPACE, 0, sealed)])
    unknown = WrappedSecret(2, DEFAULT_SPACE, 9, b"not opened: nothing in the log names it")
    assert await secrets.accept(log.state, [unknown]) == 0


async def test_an_answer_is_bounded(log: MembershipLog, owners: Secrets) -> None:
    await owners.put([make_secret(n, generation=n) for n in range(2, 60)])
    member = log.state.members[MEMBER.peer_id]
    assert len(owners.wrap_for(member)) == SECRETS_GIVEN
    repeated = [SecretRef(1, DEFAULT_SPACE, 0)] * 60
    assert len(owners.wrap_for(member, repeated)) == 1
