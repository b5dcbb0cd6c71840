"""Every delivery order of up to six concurrent membership operations gives one state."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
from tests.support.identity import (
    active,
    admit,
    copy,
    deliver,
    effective,
    epoch,
    found,
    leave,
    make_keys,
    make_secret,
    remove,
    write,
)
from tests.support.membership_oracle import Oracle

from shoal.identity.entry import Entry
from shoal.identity.keys import DeviceKeys
from shoal.identity.log import Added, Duplicate, MembershipLog, MissingParents
from shoal.identity.operations import Operation, Role

OWNER, OTHER_OWNER, ADMIN_1, ADMIN_2, ADMIN_3, MEMBER = (make_keys(n) for n in range(1, 7))
NEW_1, NEW_2, NEW_3, NEW_4, NEW_5 = (make_keys(n) for n in range(11, 16))


def base_log() -> MembershipLog:
    log = found(OWNER)
    write(log, OWNER, admit(log, OTHER_OWNER, Role.OWNER))
    for keys in (ADMIN_1, ADMIN_2, ADMIN_3):
        write(log, OWNER, admit(log, keys, Role.ADMIN))
    write(log, ADMIN_1, admit(log, MEMBER))
    return log


BASE = base_log()
Scenario = tuple[str, Callable[[], list[Entry]], Callable[[MembershipLog], None]]


def concurrent(*written: tuple[DeviceKeys, Operation]) -> list[Entry]:
    """Author each operation on its own copy of the base."""
    return [write(copy(BASE), author, operation) for author, operation in written]


def chains(*branches: list[tuple[DeviceKeys, Operation]]) -> list[Entry]:
    """Author each branch on its own copy of the base, one operation after the other."""
    entries: list[Entry] = []
    for branch in branches:
        log = copy(BASE)
        entries += [write(log, author, operation) for author, operation in branch]
    return entries


def is_gone(*keys: DeviceKeys) -> Callable[[MembershipLog], None]:
    def check(log: MembershipLog) -> None:
        assert not active(log) & {k.peer_id for k in keys}

    return check


def check_mutual(log: MembershipLog) -> None:
    assert len(active(log) & {ADMIN_1.peer_id, ADMIN_2.peer_id}) == 1


def check_cycle(log: MembershipLog) -> None:
    # the lowest hash goes first and cuts its target's removal; the third one's then ends the first
    assert len(active(log) & {ADMIN_1.peer_id, ADMIN_2.peer_id, ADMIN_3.peer_id}) == 1


def check_owner_first(log: MembershipLog) -> None:
    assert ADMIN_1.peer_id not in active(log)
    assert {ADMIN_2.peer_id, ADMIN_3.peer_id, MEMBER.peer_id} <= active(log)


def check_fallen(log: MembershipLog) -> None:
    members = log.state.members
    assert {NEW_1.peer_id, NEW_2.peer_id, NEW_3.peer_id}.isdisjoint(active(log))
    assert members[ADMIN_1.peer_id].removed_by_op is not None
    assert members[NEW_1.peer_id].removed_by_op is None
    assert MEMBER.peer_id in active(log), "was admitted before the removal, which follows it"


def check_twice(log: MembershipLog) -> None:
    assert log.state.role_of(NEW_1.peer_id) is Role.MEMBER, (
        "the admission of the removed admin fell, one holds"
    )


def check_epochs(log: MembershipLog) -> None:
    key = make_secret(3, generation=1).key
    assert log.state.commitments[key] in {make_secret(n, generation=1).commitment for n in (3, 4, 5)}


SCENARIOS: list[Scenario] = [
    (
        "mutual removal of admins",
        lambda: concurrent((ADMIN_1, remove(ADMIN_2)), (ADMIN_2, remove(ADMIN_1)), (ADMIN_3, remove(MEMBER))),
        check_mutual,
    ),
    (
        "cycle of three",
        lambda: concurrent(
            (ADMIN_1, remove(ADMIN_2)),
            (ADMIN_2, remove(ADMIN_3)),
            (ADMIN_3, remove(ADMIN_1)),
        ),
        check_cycle,
    ),
    (
        "mutual removal of owners, and what they did besides",
        lambda: chains(
            [(OWNER, admit(BASE, NEW_1, Role.ADMIN)), (OWNER, remove(OTHER_OWNER))],
            [(OTHER_OWNER, admit(BASE, NEW_2, Role.ADMIN)), (OTHER_OWNER, remove(OWNER))],
            [(ADMIN_1, remove(MEMBER))],
        ),
        lambda log: None,
    ),
    (
        "an owner's removal goes before an admin's",
        lambda: (
            concurrent(
                (ADMIN_1, remove(ADMIN_2)),
                (ADMIN_1, remove(ADMIN_3)),
                (ADMIN_1, remove(MEMBER)),
                (OWNER, remove(ADMIN_1)),
            )[2:]
            + chains([(ADMIN_2, admit(BASE, NEW_1)), (ADMIN_2, admit(BASE, NEW_2))])
        ),
        check_owner_first,
    ),
    (
        "what a removed admin admitted meanwhile falls, and what those did",
        lambda: chains(
            [(ADMIN_1, admit(BASE, NEW_1)), (ADMIN_1, admit(BASE, NEW_2)), (NEW_1, leave())],
            [(ADMIN_1, admit(BASE, NEW_3, Role.STORAGE))],
            [(OWNER, remove(ADMIN_1))],
        ),
        check_fallen,
    ),
    (
        "an owner admits an owner who admits an admin who admits, and the first is removed",
        lambda: chains(
            [
                (OTHER_OWNER, admit(BASE, NEW_1, Role.OWNER)),
                (NEW_1, admit(BASE, NEW_2, Role.ADMIN)),
                (NEW_2, admit(BASE, NEW_3)),
                (NEW_2, remove(MEMBER)),
                (NEW_1, remove(ADMIN_2)),
            ],
            [(OWNER, remove(OTHER_OWNER))],
        ),
        is_gone(OTHER_OWNER, NEW_1, NEW_2, NEW_3),
    ),
    (
        "one device admitted by two, one of them removed",
        lambda: concurrent(
            (ADMIN_1, admit(BASE, NEW_1)),
            (ADMIN_2, admit(BASE, NEW_1)),
            (ADMIN_3, admit(BASE, NEW_1, Role.STORAGE)),
            (OWNER, remove(ADMIN_1)),
            (OTHER_OWNER, remove(ADMIN_1)),
        ),
        check_twice,
    ),
    (
        "leaving meets removal and the leaver's own work",
        lambda: chains(
            [(ADMIN_1, leave())],
            [(ADMIN_1, admit(BASE, NEW_1))],
            [(ADMIN_2, remove(ADMIN_1)), (ADMIN_2, admit(BASE, NEW_2))],
            [(MEMBER, leave())],
        ),
        is_gone(ADMIN_1, MEMBER),
    ),
    (
        "three epochs of one number",
        lambda: concurrent(
            (ADMIN_1, epoch(1, make_secret(3, generation=1))),
            (ADMIN_2, epoch(1, make_secret(4, generation=1))),
            (OWNER, epoch(1, make_secret(5, generation=1))),
            (OWNER, remove(ADMIN_1)),
        ),
        check_epochs,
    ),
    (
        "a removal that was cut comes back when what cut it is cut",
        lambda: chains(
            [(ADMIN_1, remove(ADMIN_2)), (ADMIN_1, admit(BASE, NEW_1))],
            [(ADMIN_2, remove(MEMBER)), (ADMIN_2, admit(BASE, NEW_2))],
            [(OWNER, remove(ADMIN_1))],
        ),
        is_gone(ADMIN_1, MEMBER, NEW_1),
    ),
]


@pytest.mark.parametrize(("make", "check"), [s[1:] for s in SCENARIOS], ids=[s[0] for s in SCENARIOS])
def test_every_order_gives_one_state(
    make: Callable[[], list[Entry]], check: Callable[[MembershipLog], None]
) -> None:
    entries = make()
    assert len(entries) <= 6
    first = copy(BASE)
    assert deliver(first, entries) == []
    oracle = Oracle(first.entries())
    assert {m.peer_id: m.role for m in first.state.active_members()} == oracle.active()
    assert dict(first.state.removals) == oracle.removals()
    assert effective(first) == oracle.effective
    check(first)
    for order in permutations(entries):
        log = copy(BASE)
        assert deliver(log, [*order, *order[:2]]) == []
        assert log.state == first.state
        assert log.head == first.head
        assert log.equivocations == first.equivocations


def test_every_order_of_a_whole_network_gives_one_state() -> None:
    """From nothing, genesis included: what comes before its parents is named as missing."""
    log = found(OWNER)
    write(log, OWNER, admit(log, ADMIN_1, Role.ADMIN))
    branch = copy(log)
    write(log, OWNER, remove(ADMIN_1))
    write(branch, ADMIN_1, admit(log, NEW_1))
    write(branch, NEW_1, leave())
    assert deliver(log, branch.entries()) == []
    write(log, OWNER, admit(log, NEW_2))
    for order in permutations(log.entries()):
        other = MembershipLog(log.network_id)
        for entry in order:
            result = other.add(entry)
            assert isinstance(result, Added | MissingParents)
            if isinstance(result, MissingParents):
                assert all(parent not in other for parent in result.ids)
        assert deliver(other, order) == []
        assert isinstance(other.add(order[0]), Duplicate)
        assert (other.state, other.head) == (log.state, log.head)
