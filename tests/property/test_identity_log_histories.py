"""Random histories of a network on several devices: whatever happened, all that hear of it agree."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from tests.support.identity import (
    TIME,
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

from shoal.core.errors import Refused
from shoal.identity.entry import Domain, Entry, EntryFlags, sign_entry
from shoal.identity.keys import DeviceKeys
from shoal.identity.log import MembershipLog, MissingParents
from shoal.identity.merge import evaluate
from shoal.identity.operations import Operation, Role
from shoal.wire.codec import encode

DEVICES = [make_keys(n) for n in range(1, 9)]
REPLICAS = 4


def choose(rng: random.Random, log: MembershipLog) -> tuple[DeviceKeys, Operation]:
    author, other = rng.choice(DEVICES), rng.choice(DEVICES)
    role = rng.choice(list(Role))
    kind = rng.choices(["admit", "remove", "leave", "epoch"], [5, 4, 1, 1])[0]
    if kind == "admit":
        return author, admit(log, other, role)
    if kind == "remove":
        return author, remove(other)
    if kind == "leave":
        return author, leave()
    generation = rng.randrange(3)
    return author, epoch(generation, make_secret(rng.randrange(5), generation=generation))


def make_history(rng: random.Random, steps: int, *, is_honest: bool = False) -> list[MembershipLog]:
    """Let devices write on replicas that hear of each other now and then. Unless all are honest, a device
    writes on any replica: its chain has forks."""
    base = found(DEVICES[0])
    for keys, role in zip(DEVICES[1:5], [Role.OWNER, Role.ADMIN, Role.ADMIN, Role.MEMBER], strict=True):
        write(base, DEVICES[0], admit(base, keys, role))
    replicas = [copy(base) for _ in range(REPLICAS)]
    for _ in range(steps):
        log = rng.choice(replicas)
        if rng.random() < 0.25:
            other = rng.choice(replicas)
            lacking = log.missing_for(other.vector)
            rng.shuffle(lacking)
            deliver(other, lacking)
            continue
        author, operation = choose(rng, log)
        if is_honest:
            log = replicas[DEVICES.index(author) % REPLICAS]
        try:
            write(log, author, operation)
        except Refused:
            continue
    return replicas


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 40))
def test_every_delivery_of_a_history_gives_one_state(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    replicas = make_history(rng, steps)
    union = {entry.id: entry for log in replicas for entry in log.entries()}
    entries = list(union.values())
    note(f"{len(entries)} entries")
    logs: list[MembershipLog] = []
    for attempt in range(4):
        rng.shuffle(entries)
        log = MembershipLog(replicas[0].network_id)
        for entry in entries[: rng.randrange(len(entries))]:
            log.add(entry)
            if attempt % 2:
                assert log.state is log.state, "it is kept"
        assert deliver(log, entries) == [], "what one device accepted all accept"
        logs.append(log)
    for log in logs:
        assert log.head == logs[0].head
        assert log.tips == logs[0].tips
        assert log.vector == logs[0].vector
        assert log.state == logs[0].state
        assert effective(log) == effective(logs[0])
        assert log.entries() == logs[0].entries()
    oracle = Oracle(entries)
    assert {m.peer_id: m.role for m in logs[0].state.active_members()} == oracle.active()
    assert dict(logs[0].state.removals) == oracle.removals()
    assert effective(logs[0]) == oracle.effective


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 40))
def test_growing_gives_what_a_fresh_evaluation_gives(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    entries = [e for log in make_history(rng, steps) for e in log.entries()]
    rng.shuffle(entries)
    log = MembershipLog(found(DEVICES[0]).network_id)
    waiting = entries
    for _ in range(len(entries)):
        for entry in waiting:
            log.add(entry)
            grown, fresh = log._evaluation(), evaluate(log._ordered)
            assert (grown.mask, grown.effective, grown.processed, grown.kept) == (
                fresh.mask,
                fresh.effective,
                fresh.processed,
                fresh.kept,
            )
        waiting = [e for e in waiting if e.id not in log]
        if not waiting:
            break
    assert not waiting


def deliver_and_ask(log: MembershipLog, sent: list[Entry], sender: MembershipLog) -> bool:
    """Add what was sent; ask the sender by id for what that follows, and so on. Return whether one had to."""
    left = deliver(log, sent)
    is_incomplete = bool(left)
    while left:
        missing = {i for e in left if isinstance(r := log.add(e), MissingParents) for i in r.ids}
        left = deliver(log, [*left, *(sender.entry(i) for i in missing)])
    return is_incomplete


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 60), is_honest=st.booleans())
def test_exchanging_vectors_makes_two_devices_equal(seed: int, steps: int, is_honest: bool) -> None:
    """One exchange, if nobody equivocated; else a few, and asking for parents."""
    rng = random.Random(seed)
    left, right, *_ = make_history(rng, steps, is_honest=is_honest)
    has_asked, exchange = False, 0
    for exchange in range(4):
        if left.head == right.head:
            break
        note(f"exchange {exchange}")
        to_right, to_left = left.missing_for(right.vector), right.missing_for(left.vector)
        has_asked |= deliver_and_ask(right, to_right, left)
        has_asked |= deliver_and_ask(left, to_left, right)
    assert left.head == right.head
    assert left.state == right.state
    if not left.equivocations:  # else a vector names only one end of a fork, and the other is sent again
        assert left.missing_for(right.vector) == []
        assert not has_asked, "what is sent is complete"
        assert exchange <= 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_later_release_s_operations_do_not_part_devices(seed: int) -> None:
    """Operations of unknown numbers, by anybody, keep their place; only an admin's critical one blocks."""
    rng = random.Random(seed)
    base = found(DEVICES[0])
    write(base, DEVICES[0], admit(base, DEVICES[1], Role.ADMIN))
    write(base, DEVICES[0], admit(base, DEVICES[2], Role.MEMBER))
    author, critical = rng.choice(DEVICES[:3]), rng.random() < 0.5
    payload = encode_unknown(base.tips, rng.randrange(6, 2**16))
    last = base.vector.get(author.peer_id)
    seq, prev = (last[0] + 1, last[1]) if last else (0, bytes(32))
    flags = EntryFlags.CRITICAL if critical else EntryFlags.NONE
    network = base.network_id
    entry = sign_entry(author, Domain.MEMBERSHIP, network, network, seq, prev, TIME, flags, payload)
    assert deliver(base, [entry]) == []
    after = write(base, DEVICES[0], remove(DEVICES[1]))
    other = MembershipLog(network)
    assert deliver(other, reversed(base.entries())) == []
    assert other.state == base.state
    assert after.id in other
    assert (other.state.blocked is not None) == (critical and author is not DEVICES[2])


def encode_unknown(parents: tuple[bytes, ...], number: int) -> bytes:
    from shoal.identity.operations import _Payload

    return encode(_Payload(parents, number, b"what this release does not know"))
