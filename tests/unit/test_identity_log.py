"""The membership log's rules, one by one: who may what, what is refused, what a state says."""

from __future__ import annotations

import time

import pytest
from tests.support.identity import (
    INVITE,
    TIME,
    active,
    admit,
    copy,
    deliver,
    epoch,
    found,
    leave,
    make_keys,
    make_secret,
    remove,
    write,
)

from shoal.core.errors import LocalMisuse, Refused
from shoal.identity.entry import ZERO_ID, Domain, Entry, EntryFlags, parse_entry, sign_entry
from shoal.identity.keys import DeviceKeys
from shoal.identity.log import (
    CEILINGS,
    PLAIN_ENTRIES,
    Added,
    Duplicate,
    MembershipLog,
    MissingParents,
    Rejected,
    make_genesis,
)
from shoal.identity.operations import Admit, Genesis, Operation, Remove, Role, pack_operation, sign_joiner
from shoal.identity.secrets import DEFAULT_SPACE
from shoal.wire.limits import ADMINS, OPERATIONS

OWNER, OTHER_OWNER, ADMIN, OTHER_ADMIN, MEMBER, STORAGE, NEW, STRANGER = (make_keys(n) for n in range(1, 9))
BY_ROLE = {Role.OWNER: OWNER, Role.ADMIN: ADMIN, Role.MEMBER: MEMBER, Role.STORAGE: STORAGE}


@pytest.fixture
def log() -> MembershipLog:
    network = found(OWNER)
    for keys, role in (
        (OTHER_OWNER, Role.OWNER),
        (ADMIN, Role.ADMIN),
        (OTHER_ADMIN, Role.ADMIN),
        (MEMBER, Role.MEMBER),
        (STORAGE, Role.STORAGE),
    ):
        write(network, OWNER, admit(network, keys, role, role.name.lower()))
    return network


def forge(
    log: MembershipLog,
    author: DeviceKeys,
    operation: Operation,
    *,
    parents: tuple[bytes, ...] | None = None,
    seq: int | None = None,
    prev: bytes | None = None,
    network: bytes | None = None,
    domain: Domain = Domain.MEMBERSHIP,
) -> Entry:
    """Sign what `make_entry` would refuse to."""
    last = log.vector.get(author.peer_id)
    next_seq, next_prev = (last[0] + 1, last[1]) if last else (0, ZERO_ID)
    payload = pack_operation(log.tips if parents is None else parents, operation)
    home = log.network_id if network is None else network
    return sign_entry(
        author,
        domain,
        home,
        home,
        next_seq if seq is None else seq,
        next_prev if prev is None else prev,
        TIME,
        EntryFlags.CRITICAL,
        payload,
    )


def code(log: MembershipLog, entry: Entry) -> str:
    head = log.head
    result = log.add(entry)
    assert isinstance(result, Rejected), result
    assert log.head == head
    assert entry.id not in log
    return result.code


# who may what


@pytest.mark.parametrize("author", Role)
@pytest.mark.parametrize("role", Role)
def test_who_admits_whom(log: MembershipLog, author: Role, role: Role) -> None:
    allowed = author is Role.OWNER or (author is Role.ADMIN and role >= Role.MEMBER)
    operation = admit(log, NEW, role)
    if allowed:
        write(log, BY_ROLE[author], operation)
        assert log.state.role_of(NEW.peer_id) is role
        member = log.state.members[NEW.peer_id]
        assert (member.state, member.admitted_by, member.since) == ("active", BY_ROLE[author].peer_id, TIME)
        return
    with pytest.raises(Refused, match="would not accept"):
        log.make_entry(BY_ROLE[author], operation, TIME)
    assert code(log, forge(log, BY_ROLE[author], operation)) == "not_permitted"


@pytest.mark.parametrize("author", Role)
@pytest.mark.parametrize(
    ("target", "role"),
    [(OTHER_OWNER, Role.OWNER), (OTHER_ADMIN, Role.ADMIN), (MEMBER, Role.MEMBER), (STORAGE, Role.STORAGE)],
)
def test_who_removes_whom(log: MembershipLog, author: Role, target: DeviceKeys, role: Role) -> None:
    allowed = author is Role.OWNER or (author is Role.ADMIN and role is not Role.OWNER)
    if allowed:
        entry = write(log, BY_ROLE[author], remove(target))
        member = log.state.members[target.peer_id]
        assert (member.state, member.removed_by_op) == ("removed", entry.id)
        assert log.state.removals == {entry.id: target.peer_id}
        assert not log.state.is_active(target.peer_id)
        assert log.state.role_of(target.peer_id) is None
        return
    assert code(log, forge(log, BY_ROLE[author], remove(target))) == "not_permitted"


@pytest.mark.parametrize("author", Role)
def test_everybody_may_leave_and_is_gone_for_ever(log: MembershipLog, author: Role) -> None:
    keys = BY_ROLE[author]
    entry = write(log, keys, leave())
    assert log.state.removals == {entry.id: keys.peer_id}
    assert code(log, forge(log, keys, leave())) == "not_permitted"
    assert code(log, forge(log, OTHER_OWNER, admit(log, keys))) == "not_permitted"


@pytest.mark.parametrize("author", Role)
def test_only_owners_and_admins_begin_an_epoch(log: MembershipLog, author: Role) -> None:
    secret = make_secret(7, generation=1)
    if author <= Role.ADMIN:
        write(log, BY_ROLE[author], epoch(1, secret))
        assert log.state.commitments[secret.key] == secret.commitment
        write(log, OWNER, epoch(1, make_secret(8, generation=1)))
        assert log.state.commitments[secret.key] == secret.commitment, "nobody replaces a commitment"
        return
    assert code(log, forge(log, BY_ROLE[author], epoch(1, secret))) == "not_permitted"


def test_a_stranger_may_nothing(log: MembershipLog) -> None:
    for operation in (leave(), remove(MEMBER), admit(log, STRANGER), epoch(1, make_secret(1))):
        assert code(log, forge(log, STRANGER, operation)) == "not_permitted"
    with pytest.raises(Refused, match="not a member"):
        log.make_entry(STRANGER, leave(), TIME)


def test_a_removed_device_may_nothing_and_never_returns(log: MembershipLog) -> None:
    write(log, OWNER, remove(ADMIN))
    assert code(log, forge(log, ADMIN, admit(log, NEW))) == "not_permitted"
    for role in Role:
        assert code(log, forge(log, OWNER, admit(log, ADMIN, role))) == "not_permitted"


def test_a_device_does_not_remove_itself_nor_a_stranger(log: MembershipLog) -> None:
    assert code(log, forge(log, OWNER, remove(OWNER))) == "not_permitted"
    assert code(log, forge(log, OWNER, remove(STRANGER))) == "not_permitted"


def test_a_second_admission_counts_only_if_it_is_stronger(log: MembershipLog) -> None:
    for role in (Role.MEMBER, Role.STORAGE):
        assert code(log, forge(log, OWNER, admit(log, MEMBER, role))) == "not_permitted"
    write(log, OWNER, admit(log, MEMBER, Role.ADMIN))
    assert log.state.role_of(MEMBER.peer_id) is Role.ADMIN
    write(log, MEMBER, admit(log, NEW))


def test_the_joiner_must_have_signed(log: MembershipLog) -> None:
    good = admit(log, NEW)
    for signature in (
        bytes(64),
        sign_joiner(NEW, b"x" * 32, INVITE, good.name),
        sign_joiner(OWNER, log.network_id, INVITE, good.name),
    ):
        bad = Admit(
            **{f: getattr(good, f) for f in good.__struct_fields__ if f != "joiner_signature"},
            joiner_signature=signature,
        )
        assert code(log, forge(log, OWNER, bad)) == "not_permitted"


def test_strong_roles_are_bounded() -> None:
    log = found(OWNER)
    for n in range(100, 100 + ADMINS - 1):
        write(log, OWNER, admit(log, make_keys(n), Role.ADMIN))
    for role in (Role.OWNER, Role.ADMIN):
        assert code(log, forge(log, OWNER, admit(log, NEW, role))) == "not_permitted"
    write(log, OWNER, remove(make_keys(100)))
    write(log, OWNER, admit(log, NEW, Role.ADMIN))


# what is refused before authority is looked at


def test_an_entry_of_another_network_or_kind_is_foreign(log: MembershipLog) -> None:
    assert code(log, forge(log, OWNER, remove(MEMBER), network=b"x" * 32)) == "foreign"
    assert code(log, forge(log, OWNER, remove(MEMBER), domain=Domain.FEED)) == "foreign"
    assert code(log, found(STRANGER).entries()[0]) == "foreign"
    assert code(log, make_genesis(OWNER, genesis_of(log), TIME + 1)) == "foreign"


def genesis_of(log: MembershipLog) -> Genesis:
    return Genesis(bytes(32), "other", "owner", "", 1, OWNER.hpke_public, ())


def test_a_second_genesis_is_refused(log: MembershipLog) -> None:
    payload = pack_operation((), genesis_of(log))
    network = log.network_id
    second = sign_entry(STRANGER, Domain.MEMBERSHIP, network, network, 0, ZERO_ID, TIME, 0, payload)
    assert code(log, second) == "malformed"


def test_a_bad_signature_is_refused_and_not_held_against_the_entry(log: MembershipLog) -> None:
    entry = log.make_entry(OWNER, remove(MEMBER), TIME)
    assert code(log, parse_entry(entry.data[:-64] + bytes(64))) == "bad_signature"
    assert log.add(entry) == Added()
    assert log.add(parse_entry(entry.data[:-64] + bytes(64))) == Duplicate()


def test_a_broken_chain_is_refused(log: MembershipLog) -> None:
    owners, admins = log.vector[OWNER.peer_id], write(log, ADMIN, admit(log, NEW))
    for seq, prev in ((owners[0] + 2, owners[1]), (owners[0], owners[1]), (admins.seq + 1, admins.id)):
        assert code(log, forge(log, OWNER, remove(MEMBER), seq=seq, prev=prev)) == "malformed"


def test_garbage_in_a_signed_payload_is_refused(log: MembershipLog) -> None:
    network = log.network_id
    for payload in (b"", b"\xc1", b"\x90", b"\x91" * 60_000, bytes(1000)):
        last = log.vector[OWNER.peer_id]
        entry = sign_entry(OWNER, Domain.MEMBERSHIP, network, network, last[0] + 1, last[1], TIME, 0, payload)
        assert code(log, entry) == "malformed"
    big = sign_entry(OWNER, Domain.MEMBERSHIP, network, network, 0, ZERO_ID, TIME, 0, bytes(62_000))
    assert code(log, big) == "oversize"


def test_what_follows_a_refused_entry_is_refused_and_not_asked_for(log: MembershipLog) -> None:
    bad = forge(log, MEMBER, remove(OWNER))
    after = forge(log, MEMBER, leave(), parents=(bad.id,), seq=1, prev=bad.id)
    assert log.add(after) == MissingParents((bad.id,))
    assert code(log, bad) == "not_permitted"
    assert code(log, after) == "follows_refused"


def test_missing_parents_are_named(log: MembershipLog) -> None:
    behind = MembershipLog(log.network_id)
    entries = log.entries()
    assert behind.add(entries[2]) == MissingParents((entries[1].id,))
    assert behind.add(entries[0]) == Added()
    assert behind.add(entries[0]) == Duplicate()
    assert len(behind) == 1
    assert entries[2].id not in behind


def test_a_plain_member_writes_few_entries(log: MembershipLog) -> None:
    entry, seq = forge(log, MEMBER, leave()), 0
    payload_of_unknown = b"\x93\x91\xc4\x20" + log.tips[0] + b"\x63\xc4\x00"  # operation 99
    network, prev = log.network_id, ZERO_ID
    for seq in range(PLAIN_ENTRIES):
        entry = sign_entry(
            MEMBER, Domain.MEMBERSHIP, network, network, seq, prev, TIME, 1, payload_of_unknown
        )
        assert log.add(entry) == Added()
        prev = entry.id
    last = sign_entry(MEMBER, Domain.MEMBERSHIP, network, network, seq + 1, prev, TIME, 1, payload_of_unknown)
    assert code(log, last) == "not_permitted"
    assert log.state.blocked is None, "a member cannot stop the network"


def test_an_owner_can_still_remove_when_others_filled_the_log(
    log: MembershipLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CEILINGS, Role.ADMIN, 1)
    write(log, ADMIN, admit(log, NEW))
    late = forge(log, ADMIN, admit(log, STRANGER))
    assert code(log, late) == "full"
    write(log, OWNER, remove(ADMIN))
    monkeypatch.setitem(CEILINGS, Role.ADMIN, OPERATIONS)
    assert log.add(late) == Added(), "it was not held against the entry"


# what a state says


def test_a_genesis_says_who_owns_what() -> None:
    log = found(OWNER, "our network")
    state = log.state
    assert (state.network_name, state.descriptor, state.blocked) == ("our network", "hybrid", None)
    assert state.role_of(OWNER.peer_id) is Role.OWNER
    assert set(state.commitments) == {(1, DEFAULT_SPACE, 0), (2, DEFAULT_SPACE, 0)}
    assert len(state.recovery_commitment) == 32
    assert [m.name for m in state.active_members()] == ["owner"]


def test_a_state_is_kept_and_an_older_one_stays_as_it_was(log: MembershipLog) -> None:
    before = log.state
    assert log.state is before
    members, removals = dict(before.members), dict(before.removals)
    write(log, OWNER, remove(MEMBER))
    write(log, OWNER, epoch(1, make_secret(1, generation=1)))
    assert log.state is not before
    assert (dict(before.members), dict(before.removals)) == (members, removals)
    assert before.is_active(MEMBER.peer_id)


def test_a_device_whose_admission_fell_may_be_admitted_again(log: MembershipLog) -> None:
    branch = copy(log)
    write(branch, ADMIN, admit(branch, NEW))
    write(log, OWNER, remove(ADMIN))
    assert deliver(log, branch.entries()) == []
    fallen = log.state.members[NEW.peer_id]
    assert (fallen.state, fallen.removed_by_op) == ("removed", None)
    write(log, OWNER, admit(log, NEW))
    assert log.state.role_of(NEW.peer_id) is Role.MEMBER


def test_back_dated_entries_of_a_removed_admin_do_not_count(log: MembershipLog) -> None:
    before = copy(log)
    write(log, OWNER, remove(ADMIN))
    late = [write(before, ADMIN, admit(before, NEW)), write(before, ADMIN, remove(MEMBER))]
    assert deliver(log, late) == []
    assert not any(log.is_effective(entry.id) for entry in late)
    assert MEMBER.peer_id in active(log)
    assert NEW.peer_id not in active(log)


def test_what_a_removed_admin_had_done_before_stands(log: MembershipLog) -> None:
    write(log, ADMIN, admit(log, NEW))
    write(log, ADMIN, remove(STORAGE))
    write(log, OWNER, remove(ADMIN))
    assert log.state.is_active(NEW.peer_id)
    assert not log.state.is_active(STORAGE.peer_id)


def test_equivocation_is_shown_and_parts_nobody(log: MembershipLog) -> None:
    other = copy(log)
    first, second = write(log, ADMIN, admit(log, NEW)), write(other, ADMIN, admit(other, STRANGER))
    assert deliver(log, [second]) == []
    assert deliver(other, [first]) == []
    assert log.head == other.head
    assert log.equivocations == {(ADMIN.peer_id, 0): tuple(sorted([first.id, second.id]))}
    assert write(log, ADMIN, remove(NEW)).seq == 1


def test_more_tips_than_an_entry_may_follow(log: MembershipLog) -> None:
    branches = [write(copy(log), OWNER, admit(log, make_keys(100 + n))) for n in range(20)]
    assert deliver(log, branches) == []
    assert len(log.tips) == 20
    write(log, OTHER_OWNER, remove(MEMBER))
    write(log, OTHER_OWNER, remove(STORAGE))
    assert len(log.tips) == 1


def test_a_log_tells_what_another_lacks(log: MembershipLog) -> None:
    behind = copy(log)
    new = [write(log, OWNER, remove(MEMBER)), write(log, ADMIN, admit(log, NEW))]
    assert log.missing_for(behind.vector) == new
    assert behind.missing_for(log.vector) == []
    assert log.missing_for({}) == log.entries()
    assert log.past_of(new[0].id) == [*behind.entries(), new[0]]
    assert log.past_of(b"") == []
    assert log.entry(new[0].id) is log.find_entry(new[0].id)
    with pytest.raises(LocalMisuse):
        log.entry(b"")


def test_an_admins_unknown_critical_operation_blocks_for_good(log: MembershipLog) -> None:
    network, last = log.network_id, log.vector[OWNER.peer_id]
    payload = b"\x93\x91\xc4\x20" + log.tips[0] + b"\x63\xc4\x00"
    entry = sign_entry(OWNER, Domain.MEMBERSHIP, network, network, last[0] + 1, last[1], TIME, 1, payload)
    assert log.add(entry) == Added()
    assert "operation 99" in (log.state.blocked or "")
    write(log, OWNER, remove(MEMBER))
    assert "operation 99" in (log.state.blocked or "")


# how long it takes


def make_long_history() -> list[Entry]:
    log = found(OWNER)
    write(log, OWNER, admit(log, ADMIN, Role.ADMIN))
    devices = [make_keys(1000 + n) for n in range((OPERATIONS - 2) // 2)]
    for keys in devices:
        write(log, OWNER, admit(log, keys))
    for keys in devices:
        write(log, OWNER, Remove(keys.peer_id))
    return log.entries()


def test_a_full_log_is_added_in_seconds_also_with_branches() -> None:
    """Bounds with room for a slow machine: 0.5 s and 0.02 s where this was written."""
    entries = make_long_history()
    assert len(entries) == OPERATIONS
    log = MembershipLog(entries[0].id)
    began = time.process_time()
    for entry in entries:
        assert log.add(entry) == Added()
        assert log.state is not None
    assert time.process_time() - began < 3
    branch = MembershipLog(entries[0].id)
    deliver(branch, entries[:2000])
    removal = write(branch, ADMIN, remove(make_keys(1000)))
    log = MembershipLog(entries[0].id)
    assert deliver(log, entries[:-10]) == []
    began = time.process_time()
    assert log.add(removal) == Added()
    assert not log.state.is_active(make_keys(1000).peer_id)
    assert time.process_time() - began < 1
