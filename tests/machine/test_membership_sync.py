"""Playbooks of the synchronisation machine: input, expected effects; no sockets, no clock."""

from __future__ import annotations

import random
from collections import deque

from tests.support.identity import admit, copy, found, make_keys, remove, write

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.identity.entry import Domain, Entry, EntryFlags, sign_entry
from shoal.identity.log import MembershipLog
from shoal.identity.operations import Role, pack_operation
from shoal.membership.intake import ORPHANS, ORPHANS_PER_PEER
from shoal.membership.messages import (
    MEMBERSHIP_ENTRY_BYTES,
    VECTOR_PAGE_ROWS,
    VECTOR_ROWS,
    Fetch,
    Page,
    VectorPage,
)
from shoal.membership.sync import PULLS, SPREAD_TIPS, SyncMachine
from shoal.membership.sync_events import (
    Answered,
    Ask,
    Asked,
    AskFailed,
    Drop,
    Fail,
    Heard,
    HeardOf,
    Observe,
    Offered,
    PeerHead,
    Reply,
    Save,
    SessionDown,
    SessionUp,
    Spread,
    Synced,
    SyncEffect,
    SyncInput,
)

OWNER, ADMIN, MEMBER, OTHER = (make_keys(n) for n in (1, 2, 3, 4))
P, Q = OWNER.peer_id, ADMIN.peer_id


def two_admins() -> MembershipLog:
    log = found(OWNER)
    write(log, OWNER, admit(log, ADMIN, Role.ADMIN))
    return log


def vector_rows(log: MembershipLog) -> list[tuple[bytes, int, bytes]]:
    return [(author, seq, entry_id) for author, (seq, entry_id) in sorted(log.vector.items())]


def asked(effects: list[SyncEffect]) -> list[Ask]:
    return [effect for effect in effects if isinstance(effect, Ask)]


def rules(effects: list[SyncEffect]) -> list[str]:
    return [effect.rule for effect in effects if isinstance(effect, Observe)]


# --- announcing ---------------------------------------------------------------------------------------------


def test_a_broadcast_entry_is_saved_and_its_tips_are_spread() -> None:
    theirs = two_admins()
    ours = copy(theirs)
    entry = write(theirs, OWNER, admit(theirs, MEMBER))
    machine = SyncMachine(ours)
    for peer in (P, Q, MEMBER.peer_id):
        machine.step(0, SessionUp(peer))
    assert machine.step(1, Heard(P, entry.data)) == [Save((entry,), P), Spread((entry,))]
    assert ours.head == theirs.head


def test_a_known_entry_is_neither_saved_nor_spread_again() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    machine.step(0, SessionUp(P))
    machine.step(0, SessionUp(Q))
    for entry in log.entries():
        assert machine.step(1, Heard(P, entry.data)) == []
    assert machine.step(1, Offered(tuple(entry.data for entry in log.entries()), P)) == []


def test_what_a_hello_brought_is_spread_by_its_tips() -> None:
    theirs = two_admins()
    ours = copy(theirs)
    first = write(theirs, OWNER, admit(theirs, MEMBER))
    second = write(theirs, OWNER, admit(theirs, OTHER))
    machine = SyncMachine(ours)
    effects = machine.step(0, Offered((first.data, second.data), P))
    assert effects == [Save((first, second), P), Spread((second,))]


def test_what_a_pull_brought_is_spread_by_few_tips_when_it_has_ended() -> None:
    ours = found(OWNER)
    branches = [copy(ours) for _ in range(SPREAD_TIPS + 4)]
    tips = [write(log, OWNER, admit(log, make_keys(60 + n))) for n, log in enumerate(branches)]
    machine = SyncMachine(ours)
    machine.step(0, SessionUp(P))
    first, second = tips[:5], tips[5:]
    effects = machine.step(1, Answered(P, Page([entry.data for entry in first], True, [])))
    assert not any(isinstance(effect, Spread) for effect in effects)
    effects = machine.step(2, Answered(P, Page([entry.data for entry in second], False, [])))
    [spread] = [effect for effect in effects if isinstance(effect, Spread)]
    assert spread.entries == tuple(tips[-SPREAD_TIPS:])


def test_what_a_pull_brought_is_untold_until_it_ends() -> None:
    theirs = two_admins()
    ours = copy(theirs)
    entry = write(theirs, OWNER, admit(theirs, MEMBER))
    machine = SyncMachine(ours)
    machine.step(0, SessionUp(P))
    assert not machine.is_untold(entry.id)
    machine.step(1, Answered(P, Page([entry.data], True, [])))
    assert machine.is_untold(entry.id)  # a broadcast of it is passed on meanwhile
    machine.step(2, Answered(P, Page([], False, list(theirs.tips))))
    assert not machine.is_untold(entry.id)


def test_a_pull_that_breaks_off_spreads_what_it_brought() -> None:
    theirs = two_admins()
    ours = copy(theirs)
    entry = write(theirs, OWNER, admit(theirs, MEMBER))
    machine = SyncMachine(ours)
    machine.step(0, SessionUp(P))
    machine.step(1, Answered(P, Page([entry.data], True, [])))
    assert machine.step(2, SessionDown(P)) == [Spread((entry,))]


def test_an_entry_too_long_for_a_broadcast_is_pulled_from_who_has_it() -> None:
    theirs = two_admins()
    ours = copy(theirs)
    entry = write(theirs, OWNER, admit(theirs, MEMBER))
    machine = SyncMachine(ours)
    assert machine.step(0, HeardOf(P, entry.id)) == []  # no session
    machine.step(0, SessionUp(P))
    machine.step(0, Answered(P, Page([], False, list(ours.tips))))
    assert [ask.peer for ask in asked(machine.step(1, HeardOf(P, entry.id)))] == [P]
    # the answer was on its way before it had the entry: it is asked for that alone
    assert machine.step(2, Answered(P, Page([], False, list(ours.tips)))) == [Ask(P, Fetch([entry.id]))]
    effects = machine.step(3, Answered(P, Page([entry.data], False, list(theirs.tips))))
    assert effects == [Save((entry,), P), Synced(P), Spread((entry,))]
    assert machine.step(4, HeardOf(P, entry.id)) == []


def test_who_says_again_and_again_that_it_has_what_it_has_not_is_dropped() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    machine.step(0, SessionUp(P))
    machine.step(0, Answered(P, Page([], False, list(log.tips))))
    effects: list[SyncEffect] = []
    for number in range(7):
        assert asked(machine.step(number, HeardOf(P, bytes([number]) * 32)))
        machine.step(number, Answered(P, Page([], False, list(log.tips))))
        effects = machine.step(number, Answered(P, Page([], False, list(log.tips))))
        assert rules(effects) == ["membership_orphans"]
    assert Drop(P, "membership_orphans") in effects
    assert machine._promised == {}


# --- pulling ------------------------------------------------------------------------------------------------


def test_a_session_is_pulled_from_at_once() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    assert machine.step(0, SessionUp(P)) == [Ask(P, VectorPage(vector_rows(log), True, True))]


def test_nothing_is_pulled_from_who_has_the_same_log() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    assert machine.step(0, SessionUp(P, log.head[:8])) == [Synced(P)]
    assert asked(machine.step(0, SessionUp(Q, bytes(8))))


def test_a_pull_ends_when_everything_is_here() -> None:
    theirs = two_admins()
    ours = copy(theirs)
    entry = write(theirs, OWNER, admit(theirs, MEMBER))
    machine = SyncMachine(ours)
    machine.step(0, SessionUp(P))
    page = Page([entry.data], False, list(theirs.tips))
    assert machine.step(1, Answered(P, page)) == [Save((entry,), P), Synced(P), Spread((entry,))]


def test_a_full_page_is_followed_by_the_vector_that_has_grown() -> None:
    theirs = two_admins()
    ours = copy(theirs)
    first = write(theirs, OWNER, admit(theirs, MEMBER))
    second = write(theirs, OWNER, admit(theirs, OTHER))
    machine = SyncMachine(ours)
    machine.step(0, SessionUp(P))
    effects = machine.step(1, Answered(P, Page([first.data], True, list(theirs.tips))))
    assert effects == [Save((first,), P), Ask(P, VectorPage(vector_rows(ours), True, True))]
    assert machine.step(2, Answered(P, Page([second.data], False, list(theirs.tips)))) == [
        Save((second,), P),
        Synced(P),
        Spread((second,)),
    ]


def test_a_full_page_without_anything_new_ends_the_pull() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    machine.step(0, SessionUp(P))
    known = [entry.data for entry in log.entries()]
    assert machine.step(1, Answered(P, Page(known, True, list(log.tips)))) == []
    assert machine.step(2, PeerHead(P, b"\1" * 8)) == []  # quiet for a while


def test_a_head_that_differs_starts_a_pull_and_an_equal_one_does_not() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    machine.step(0, SessionUp(P))
    machine.step(0, Answered(P, Page([], False, list(log.tips))))
    assert machine.step(5, PeerHead(P, log.head[:8])) == [Synced(P)]
    assert len(asked(machine.step(10, PeerHead(P, b"\1" * 8)))) == 1
    assert machine.step(11, PeerHead(P, b"\1" * 8)) == []  # one pull at a time
    assert machine.step(12, PeerHead(Q, b"\1" * 8)) == []  # no session


def test_pulls_that_bring_nothing_become_rare() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    machine.step(0, SessionUp(P))
    lies = Page([], False, [b"\7" * 32])  # a tip it never gives
    starts: list[float] = []
    for now in range(0, 600, 5):
        if now and asked(machine.step(now, PeerHead(P, b"\1" * 8))):
            starts.append(now)
        machine.step(now, Answered(P, lies))
        machine.step(now, Answered(P, lies))
    assert len(starts) < 15
    assert starts[-1] - starts[-2] >= 60


def test_at_most_four_pulls_run_and_the_next_follows_a_failure() -> None:
    machine = SyncMachine(two_admins())
    peers = [bytes([n]) * 32 for n in range(6)]
    running = [ask.peer for peer in peers for ask in asked(machine.step(0, SessionUp(peer)))]
    assert running == peers[:PULLS]
    assert [ask.peer for ask in asked(machine.step(1, AskFailed(peers[0])))] == [peers[4]]
    assert [ask.peer for ask in asked(machine.step(2, SessionDown(peers[1])))] == [peers[5]]
    assert machine.step(3, AskFailed(peers[1])) == []


def test_a_long_vector_travels_in_pages() -> None:
    log = found(OWNER)
    machine = SyncMachine(log)
    rows = [(n.to_bytes(32, "big"), 0, bytes(32)) for n in range(1, VECTOR_PAGE_ROWS + 10)]
    first = VectorPage(rows[:VECTOR_PAGE_ROWS], True, False)
    second = VectorPage(rows[VECTOR_PAGE_ROWS:], False, True)
    assert machine.step(0, Asked(P, first)) == [Reply(Page([], False, []))]
    assert machine.step(0, Asked(P, second)) == [
        Reply(Page([entry.data for entry in log.entries()], False, list(log.tips)))
    ]


# --- parents that are missing -------------------------------------------------------------------------------


def test_an_entry_without_its_parent_waits_and_is_taken_when_the_parent_comes() -> None:
    theirs = two_admins()
    ours = copy(theirs)
    parent = write(theirs, OWNER, admit(theirs, MEMBER))
    child = write(theirs, OWNER, admit(theirs, OTHER))
    machine = SyncMachine(ours)
    machine.step(0, SessionUp(P))
    machine.step(0, Answered(P, Page([], False, list(ours.tips))))
    assert machine.step(1, Heard(P, child.data)) == [Ask(P, VectorPage(vector_rows(ours), True, True))]
    assert machine.orphan_count == 1
    assert machine.step(2, Heard(Q, parent.data)) == [Save((parent, child), Q), Spread((child,))]
    assert machine.orphan_count == 0


def test_both_branches_of_a_key_used_twice_are_found() -> None:
    base = two_admins()
    left, right = copy(base), copy(base)
    write(left, OWNER, admit(left, MEMBER))
    write(right, OWNER, admit(right, OTHER))
    converge({P: left, Q: right})
    assert left.head == right.head
    assert len(left.equivocations) == 1


# --- peers that lie -----------------------------------------------------------------------------------------


def test_forged_entries_are_refused_and_end_the_session() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    machine.step(0, SessionUp(P))
    before = len(log)
    effects: list[SyncEffect] = []
    for n in range(7):
        theirs = copy(log)
        entry = write(theirs, OWNER, admit(theirs, make_keys(50 + n)))
        forged = entry.data[:-1] + bytes([entry.data[-1] ^ 1])
        effects = machine.step(n / 10, Heard(P, forged))
        assert rules(effects) == ["membership_bad_signature"]
    assert Drop(P, "membership_bad_signature") in effects
    assert len(log) == before
    # the id is not blamed for the signature: the true entry is taken
    assert isinstance(machine.step(2, Heard(Q, entry.data))[0], Save)


def test_entries_by_who_may_not_are_refused_once_and_remembered() -> None:
    log = two_admins()
    write(log, OWNER, admit(log, MEMBER))
    payload = pack_operation(log.tips, remove(OWNER))
    entry = sign_entry(
        MEMBER,
        Domain.MEMBERSHIP,
        log.network_id,
        log.network_id,
        0,
        bytes(32),
        0,
        EntryFlags.CRITICAL,
        payload,
    )
    machine = SyncMachine(log)
    assert rules(machine.step(0, Heard(P, entry.data))) == ["membership_unauthorised"]
    assert machine.step(1, Heard(P, entry.data)) == []


def test_entries_that_are_too_long_are_refused_before_they_are_parsed() -> None:
    machine = SyncMachine(two_admins())
    for size in (MEMBERSHIP_ENTRY_BYTES + 1, 65_537, 10**6):
        effects = machine.step(0, Offered((bytes(size),), None))
        assert rules(effects) == ["membership_malformed"]
        effects = machine.step(0, Heard(P, bytes(size)))
        assert rules(effects) == ["membership_malformed"]


def orphans(log: MembershipLog, count: int) -> list[Entry]:
    """Well-signed entries of a member whose parents do not exist."""
    made: list[Entry] = []
    for n in range(count):
        payload = pack_operation([n.to_bytes(32, "big")], remove(OWNER))
        made.append(
            sign_entry(
                MEMBER,
                Domain.MEMBERSHIP,
                log.network_id,
                log.network_id,
                0,
                bytes(32),
                n,
                EntryFlags.CRITICAL,
                payload,
            )
        )
    return made


def test_orphans_without_end_stay_bounded_and_end_the_session() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    machine.step(0, SessionUp(P))
    machine.step(0, Answered(P, Page([], False, list(log.tips))))
    dropped = False
    endless = orphans(log, 1200)
    for round_number in range(10):
        effects: list[SyncEffect] = []
        for n in range(120):
            effects += machine.step(round_number, Heard(P, endless[round_number * 120 + n].data))
            assert machine.orphan_count <= ORPHANS_PER_PEER
        if asked(effects):  # the peer has none of the parents
            effects += machine.step(round_number, Answered(P, Page([], False, list(log.tips))))
            effects += machine.step(round_number, Answered(P, Page([], False, list(log.tips))))
        dropped = dropped or Drop(P, "membership_orphans") in effects
    assert dropped
    assert machine.orphan_count <= ORPHANS_PER_PEER


def test_orphans_of_many_peers_stay_bounded() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    for n, entry in enumerate(orphans(log, 600)):
        machine.step(0, Heard(bytes([n % 20]) * 32, entry.data))
    assert machine.orphan_count == ORPHANS


def test_a_vector_of_a_hundred_thousand_rows_is_refused_at_its_limit() -> None:
    machine = SyncMachine(two_admins())
    sent, failed = 0, None
    for start in range(0, 100_000, VECTOR_PAGE_ROWS):
        rows = [((start + n + 1).to_bytes(32, "big"), 0, bytes(32)) for n in range(VECTOR_PAGE_ROWS)]
        effects = machine.step(0, Asked(P, VectorPage(rows, start == 0, False)))
        failed = next((effect for effect in effects if isinstance(effect, Fail)), None)
        if failed is not None:
            break
        sent += len(rows)
    assert sent == VECTOR_ROWS
    assert failed is not None
    assert isinstance(failed.error, LimitExceeded)
    after = machine.step(0, Asked(P, VectorPage([], False, True)))  # what was collected is gone
    assert any(isinstance(effect, Fail) for effect in after)


def test_vector_pages_out_of_order_or_shape_are_refused() -> None:
    one, two = b"\1" * 32, b"\2" * 32
    bad = [
        VectorPage([(one, 0, one)], False, True),  # no first page
        VectorPage([(two, 0, two), (one, 0, one)], True, True),
        VectorPage([(one, 0, one), (one, 1, one)], True, True),
        VectorPage([(one[:31], 0, one)], True, True),
        VectorPage([(one, -1, one)], True, True),
        VectorPage([(one, 2**63, one)], True, True),
        VectorPage([(n.to_bytes(32, "big"), 0, one) for n in range(VECTOR_PAGE_ROWS + 1)], True, True),
    ]
    for message in bad:
        effects = SyncMachine(two_admins()).step(0, Asked(P, message))
        failed = [effect for effect in effects if isinstance(effect, Fail)]
        assert len(failed) == 1, message
        assert isinstance(failed[0].error, MalformedMessage | LimitExceeded)


def test_fetch_answers_what_is_there_and_refuses_a_long_list() -> None:
    log = two_admins()
    machine = SyncMachine(log)
    entry = log.entries()[0]
    assert machine.step(0, Asked(P, Fetch([entry.id, b"\7" * 32]))) == [
        Reply(Page([entry.data], False, list(log.tips)))
    ]
    assert any(isinstance(e, Fail) for e in machine.step(0, Asked(P, Fetch([bytes(32)] * 65))))


# --- whole networks -----------------------------------------------------------------------------------------


def converge(logs: dict[bytes, MembershipLog], *, seed: int = 0, lose: float = 0.0) -> dict[bytes, int]:
    """Run machines over a wire that reorders between pairs, loses notices, and ends. Returns saved counts."""
    rng = random.Random(seed)
    machines = {peer: SyncMachine(log) for peer, log in logs.items()}
    wire: deque[tuple[bytes, SyncInput]] = deque()
    saved = dict.fromkeys(logs, 0)
    now = 0.0

    def perform(own: bytes, effects: list[SyncEffect]) -> None:
        for effect in effects:
            match effect:
                case Save(entries, _):
                    saved[own] += len(entries)
                case Spread(entries):
                    heard = [(peer, entry) for peer in logs for entry in entries if peer != own]
                    wire.extend((peer, Heard(own, e.data)) for peer, e in heard if rng.random() >= lose)
                case Ask(peer, message):
                    answer = machines[peer].step(now, Asked(own, message))
                    replies = [e.message for e in answer if isinstance(e, Reply)]
                    wire.append((own, Answered(peer, replies[0]) if replies else AskFailed(peer)))
                case Drop():
                    raise AssertionError(effect)
                case _:
                    pass

    for own in logs:
        for peer in logs:
            if peer != own:
                perform(own, machines[own].step(now, SessionUp(peer)))
    for _ in range(40):
        while wire:
            own, event = wire.popleft()
            perform(own, machines[own].step(now, event))
        if len({log.head for log in logs.values()}) == 1:
            break
        now += 5
        for own in logs:
            for peer in logs:
                if peer != own:
                    perform(own, machines[own].step(now, PeerHead(peer, logs[peer].head[:8])))
    return saved


def test_concurrent_histories_converge_with_every_second_notice_lost() -> None:
    for seed in range(5):
        base = two_admins()
        logs = {make_keys(n).peer_id: copy(base) for n in range(100, 105)}
        peers = sorted(logs)
        for n, peer in enumerate(peers[:3]):
            log = logs[peer]
            author = OWNER if n == 0 else ADMIN
            if n < 2:
                for k in range(4):
                    write(log, author, admit(log, make_keys(200 + 10 * n + k)))
        write(logs[peers[2]], OWNER, remove(ADMIN))  # one seq used twice: a fork, too
        converge(logs, seed=seed, lose=0.5)
        assert len({log.head for log in logs.values()}) == 1, seed
        assert len({len(log) for log in logs.values()}) == 1


def test_a_newcomer_gets_a_log_of_many_pages() -> None:
    full = found(OWNER)
    for n in range(300, 400):
        write(full, OWNER, admit(full, make_keys(n)))
    assert sum(len(entry.data) for entry in full.entries()) > 2 * MEMBERSHIP_ENTRY_BYTES
    empty = MembershipLog(full.network_id)
    saved = converge({P: full, Q: empty})
    assert empty.head == full.head
    assert saved == {P: 0, Q: 101}
