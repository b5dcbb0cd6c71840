"""The mesh machine: playbooks, input and expected effects."""

from __future__ import annotations

import random

import pytest
from tests.support.identity import make_keys
from tests.support.mesh_world import NETWORK, make_record

from shoal.core.errors import LocalMisuse
from shoal.identity.keys import DeviceKeys
from shoal.overlay.mesh import SPREADS_BURST, SPREADS_S, MeshMachine
from shoal.overlay.messages import Answer, Digest, Provisions, Query, Records
from shoal.overlay.provider_index import KEYS_OF_A_PROVIDER, TTL_S
from shoal.overlay.provision import sign_provision
from shoal.overlay.steps import (
    Cancel,
    Connect,
    ContactFound,
    Delivered,
    DialEnded,
    Effect,
    Emit,
    Forget,
    Input,
    Locate,
    Located,
    Members,
    NetworkChanged,
    Observe,
    OwnProvision,
    OwnRecord,
    OwnRecordBehind,
    PageChanged,
    Publish,
    Received,
    Save,
    Send,
    SessionDown,
    SessionUp,
    SetTimer,
    Spread,
    Started,
    Timer,
    Withdraw,
)
from shoal.overlay.substrate.plumtree import Verdict
from shoal.overlay.topics import PROVISION_TOPIC, RECORD_TOPIC
from shoal.storage.peers import PeerRow

ME, ANN, BOB, EVE = sorted((make_keys(number) for number in range(4)), key=lambda keys: keys.peer_id)
ME_ID, ANN_ID, BOB_ID, EVE_ID = ME.peer_id, ANN.peer_id, BOB.peer_id, EVE.peer_id
MY_RECORD = make_record(ME, 1, "192.0.2.1:4711")
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


class Playbook:
    """One machine that has started with some members; `do` gives it an input."""

    def __init__(self, *members: bytes, rows: tuple[PeerRow, ...] = ()) -> None:
        self.now = 100.0
        self.machine = MeshMachine(ME_ID, NETWORK, random.Random(1))
        self.effects = self.do(Started(MY_RECORD, frozenset({ME_ID, *members}), rows))

    def do(self, event: Input, wait_s: float = 0.0) -> list[Effect]:
        self.now += wait_s
        self.effects = self.machine.step(self.now, event)
        return self.effects

    def timer_at(self, *token: object) -> float | None:
        """Seconds from now to the timer of a token among the last effects."""
        found = [e.at - self.now for e in self.effects if isinstance(e, SetTimer) and e.token == token]
        return found[-1] if found else None

    def sent(self, peer: bytes) -> list[object]:
        return [e.message for e in self.effects if isinstance(e, Send) and e.peer == peer]

    def connect(self, *peers: bytes) -> None:
        for peer in peers:
            self.do(SessionUp(peer))

    def fail_round(self, peer: bytes) -> int:
        """Let every dial of a round fail; return how many there were."""
        count = 0
        self.do(Timer(("dial", peer)), self.timer_at("dial", peer) or 0.0)
        while dials := [e for e in self.effects if isinstance(e, Connect)]:
            self.do(DialEnded(peer, dials[0].address, "refused"), 0.1)
            count += 1
        return count


def provide(book: Playbook, device: DeviceKeys, *keys: bytes, seq: int = 1) -> None:
    """Let a member say by broadcast what it provides."""
    provision = sign_provision(device, NETWORK, 0, seq, keys)
    book.do(Delivered(PROVISION_TOPIC, provision.packed, device.peer_id))


# -- dials -------------------------------------------------------------------------------------------------


def test_members_without_session_are_dialled_in_turn_of_their_addresses() -> None:
    book = Playbook(ANN_ID)
    wait_s = book.timer_at("dial", ANN_ID)
    assert wait_s is not None
    assert 0 <= wait_s <= 0.2  # ours is the lower id: we begin
    book.do(ContactFound(ANN_ID, ("192.0.2.7:1", "192.0.2.8:1")))
    assert book.do(Timer(("dial", ANN_ID))) == [Connect(ANN_ID, "192.0.2.7:1")]
    assert book.do(DialEnded(ANN_ID, "192.0.2.7:1", "refused")) == [Connect(ANN_ID, "192.0.2.8:1")]
    book.do(DialEnded(ANN_ID, "192.0.2.8:1", "refused"))
    wait_s = book.timer_at("dial", ANN_ID)
    assert wait_s is not None
    assert 0.5 <= wait_s <= 1.0
    assert book.machine.state_of(ANN_ID) == ("offline", "192.0.2.8:1: refused")


def test_pauses_double_to_a_minute() -> None:
    book = Playbook(ANN_ID)
    book.do(ContactFound(ANN_ID, ("192.0.2.7:1",)))
    pauses = []
    for _ in range(9):
        assert book.fail_round(ANN_ID) == 1
        pauses.append(book.timer_at("dial", ANN_ID) or 0.0)
    for pause, longest in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert longest / 2 <= pause <= longest


def test_the_higher_id_lets_the_other_begin() -> None:
    machine = MeshMachine(EVE_ID, NETWORK, random.Random(1))
    record = make_record(EVE, 1, "192.0.2.1:4711")
    effects = machine.step(0.0, Started(record, frozenset({ME_ID, EVE_ID})))
    assert [1.0 <= e.at <= 1.2 for e in effects if isinstance(e, SetTimer) and e.token[0] == "dial"] == [True]


def test_last_good_address_comes_first_and_own_ones_never() -> None:
    record = make_record(ANN, 3, "192.0.2.20:1", "192.0.2.1:4711", "127.0.0.1:9", "169.254.1.1:1")
    row = PeerRow(ANN_ID, record.packed, ("198.51.100.1:2", "203.0.113.9:2"), "203.0.113.9:2")
    book = Playbook(ANN_ID, rows=(row,))
    assert book.machine.addresses(ANN_ID) == ["203.0.113.9:2", "198.51.100.1:2", "192.0.2.20:1"]


def test_a_session_ends_the_dialling_and_a_lost_one_begins_it() -> None:
    book = Playbook(ANN_ID)
    book.do(ContactFound(ANN_ID, ("192.0.2.7:1",)))
    assert book.do(Timer(("dial", ANN_ID))) == [Connect(ANN_ID, "192.0.2.7:1")]
    assert Cancel(("dial", ANN_ID)) in book.do(SessionUp(ANN_ID))
    assert book.machine.state_of(ANN_ID) == ("connected", "")
    [saved] = book.do(DialEnded(ANN_ID, "192.0.2.7:1", "", 5.0))
    assert isinstance(saved, Save)
    assert (saved.row.last_good, saved.row.last_good_at, saved.row.failures) == ("192.0.2.7:1", 5.0, 0)
    book.do(SessionDown(ANN_ID, "reset"))
    assert book.timer_at("dial", ANN_ID) is not None


@pytest.mark.parametrize("reason", ["removed", "left"])
def test_who_was_removed_is_not_dialled_again(reason: str) -> None:
    book = Playbook(ANN_ID)
    book.do(ContactFound(ANN_ID, ("192.0.2.7:1",)))
    book.connect(ANN_ID)
    assert book.do(SessionDown(ANN_ID, reason)) == []
    assert book.do(Timer(("dial", ANN_ID)), 100.0) == []


def test_a_removed_member_is_forgotten_altogether() -> None:
    book = Playbook(ANN_ID, BOB_ID)
    book.do(ContactFound(ANN_ID, ("192.0.2.7:1",)))
    book.connect(ANN_ID)
    provide(book, ANN, KEY)
    book.do(SessionDown(ANN_ID, "removed"))
    assert Forget(ANN_ID) in book.do(Members(frozenset({ME_ID, BOB_ID})))
    assert book.machine.addresses(ANN_ID) == []
    assert book.machine.others() == [BOB_ID]
    book.do(Members(frozenset({ME_ID, ANN_ID, BOB_ID})))
    book.connect(BOB_ID)
    book.do(Locate(1, KEY, 1.0))
    assert not [e for e in book.effects if isinstance(e, Emit)]  # nobody provides it any more


def test_a_row_of_who_was_removed_meanwhile_is_dropped_at_the_start() -> None:
    book = Playbook(BOB_ID, rows=(PeerRow(ANN_ID, None, ("192.0.2.7:1",)),))
    assert Forget(ANN_ID) in book.effects


def test_a_new_address_is_dialled_at_once_in_the_middle_of_a_pause() -> None:
    book = Playbook(ANN_ID)
    book.do(ContactFound(ANN_ID, ("192.0.2.7:1",)))
    for _ in range(6):
        book.fail_round(ANN_ID)
    book.do(ContactFound(ANN_ID, ("192.0.2.9:1",)), 1.0)
    assert book.timer_at("dial", ANN_ID) == 0.0
    assert book.do(Timer(("dial", ANN_ID))) == [Connect(ANN_ID, "192.0.2.9:1")]


def test_a_changed_network_shortens_all_pauses() -> None:
    book = Playbook(ANN_ID, BOB_ID)
    for peer in (ANN_ID, BOB_ID):
        book.do(ContactFound(peer, ("192.0.2.7:1",)))
        for _ in range(7):
            book.fail_round(peer)
    book.do(NetworkChanged(), 6.0)
    for peer in (ANN_ID, BOB_ID):
        wait_s = book.timer_at("dial", peer)
        assert wait_s is not None
        assert wait_s <= 1.0


def test_dials_at_once_are_limited() -> None:
    keys = [make_keys(number) for number in range(50, 90)]
    book = Playbook(*(k.peer_id for k in keys))
    dialled = 0
    for number, k in enumerate(keys):
        book.do(ContactFound(k.peer_id, (f"192.0.2.{number}:1",)))
        book.do(Timer(("dial", k.peer_id)))
        dialled += sum(isinstance(e, Connect) for e in book.effects)
    assert dialled == 32
    assert book.timer_at("dial", keys[-1].peer_id) is not None


def test_we_never_dial_ourselves() -> None:
    book = Playbook()
    assert book.do(ContactFound(ME_ID, ("192.0.2.7:1",))) == []
    assert book.do(Timer(("dial", ME_ID))) == []


# -- records -----------------------------------------------------------------------------------------------


def test_a_new_session_is_told_our_record_and_its_own_and_compares_the_others() -> None:
    bob = make_record(BOB, 1, "192.0.2.3:1")
    ann = make_record(ANN, 1, "192.0.2.2:1")
    book = Playbook(ANN_ID, BOB_ID, rows=(PeerRow(BOB_ID, bob.packed), PeerRow(ANN_ID, ann.packed)))
    book.connect(ANN_ID)
    # its own record too, so that a device that lost its count can catch up
    first, digest = book.sent(ANN_ID)
    assert first == Records([MY_RECORD.packed, ann.packed])
    assert isinstance(digest, Digest)  # ours is the lower id


def test_a_newer_record_is_kept_and_dialled_and_spread_if_its_subject_brings_it() -> None:
    book = Playbook(ANN_ID, BOB_ID, EVE_ID)
    book.connect(ANN_ID, BOB_ID)
    record = make_record(EVE, 5, "192.0.2.9:1")
    book.do(Received(ANN_ID, Records([record.packed])))
    assert next(e for e in book.effects if isinstance(e, Save)).row.record == record.packed
    assert book.timer_at("dial", EVE_ID) == 0.0
    assert not any(isinstance(e, Send | Spread) for e in book.effects)  # it was broadcast when it was new
    older = make_record(EVE, 4, "192.0.2.10:1")
    assert book.do(Received(BOB_ID, Records([older.packed]))) == []
    assert book.do(Received(BOB_ID, Records([record.packed]))) == []
    mine = make_record(BOB, 5, "192.0.2.9:1")
    assert Spread(RECORD_TOPIC, mine.packed) in book.do(Received(BOB_ID, Records([mine.packed])))


def test_a_broadcast_record_is_judged_kept_and_dialled() -> None:
    book = Playbook(ANN_ID, EVE_ID)
    book.do(SessionUp(ANN_ID, over_loopback=True))
    record = make_record(EVE, 5, "127.0.0.1:4000", "192.0.2.9:1")
    assert book.machine.judge(RECORD_TOPIC, record.packed) is Verdict.GOOD
    book.do(Delivered(RECORD_TOPIC, record.packed, ANN_ID))
    assert book.machine.addresses(EVE_ID) == ["127.0.0.1:4000", "192.0.2.9:1"]
    assert book.machine.judge(RECORD_TOPIC, record.packed) is Verdict.GOOD  # an exchange was faster
    older = make_record(EVE, 4, "192.0.2.9:1")
    assert book.machine.judge(RECORD_TOPIC, older.packed) is Verdict.STALE


def test_a_broadcast_record_of_who_is_no_member_yet_waits_and_is_spread_when_it_is() -> None:
    book = Playbook(ANN_ID)
    book.connect(ANN_ID)
    record = make_record(EVE, 5, "192.0.2.9:1")
    assert book.machine.judge(RECORD_TOPIC, record.packed) is Verdict.LATER
    assert book.do(Delivered(RECORD_TOPIC, record.packed, ANN_ID)) == []
    book.do(Members(frozenset({ME_ID, ANN_ID, EVE_ID})))
    assert Spread(RECORD_TOPIC, record.packed) in book.effects
    assert book.machine.addresses(EVE_ID) == ["192.0.2.9:1"]


def test_a_loopback_address_counts_only_if_it_came_over_loopback() -> None:
    record = make_record(EVE, 5, "127.0.0.1:4000", "192.0.2.9:1")
    far, near = Playbook(ANN_ID, EVE_ID), Playbook(ANN_ID, EVE_ID)
    far.connect(ANN_ID)
    near.do(SessionUp(ANN_ID, over_loopback=True))
    for book in (far, near):
        book.do(Received(ANN_ID, Records([record.packed])))
    assert far.machine.addresses(EVE_ID) == ["192.0.2.9:1"]
    assert near.machine.addresses(EVE_ID) == ["127.0.0.1:4000", "192.0.2.9:1"]
    moved = make_record(EVE, 6, "127.0.0.1:5000")
    near.do(Received(ANN_ID, Records([moved.packed])))
    assert near.machine.addresses(EVE_ID) == ["127.0.0.1:5000"]


def test_a_record_that_does_not_verify_is_observed_and_ends_the_page() -> None:
    book = Playbook(ANN_ID, BOB_ID, EVE_ID)
    book.connect(ANN_ID)
    bad = bytearray(make_record(EVE, 5, "192.0.2.9:1").packed)
    bad[-1] ^= 1
    good = make_record(BOB, 5, "192.0.2.9:1")
    effects = book.do(Received(ANN_ID, Records([bytes(bad), good.packed])))
    assert [type(e) for e in effects] == [Observe]
    assert book.machine.addresses(BOB_ID) == []


def test_a_record_of_another_network_does_not_count() -> None:
    from shoal.identity.record import sign_record

    book = Playbook(ANN_ID, EVE_ID)
    book.connect(ANN_ID)
    foreign = sign_record(EVE, b"x" * 32, 5, ["192.0.2.9:1"], "eve", 0)
    assert [type(e) for e in book.do(Received(ANN_ID, Records([foreign.packed])))] == [Observe]


def test_a_record_that_comes_before_its_subject_is_admitted_waits_for_that() -> None:
    book = Playbook(ANN_ID)
    book.connect(ANN_ID)
    record = make_record(EVE, 5, "192.0.2.9:1")
    assert book.do(Received(ANN_ID, Records([record.packed]))) == []
    book.do(Members(frozenset({ME_ID, ANN_ID, EVE_ID})))
    assert book.machine.addresses(EVE_ID) == ["192.0.2.9:1"]
    assert book.timer_at("dial", EVE_ID) is not None


def test_a_flood_of_records_is_cut_off() -> None:
    book = Playbook(ANN_ID, EVE_ID)
    book.connect(ANN_ID)
    book.machine._peers[ANN_ID].bucket._level = 2.0
    flood = [make_record(EVE, seq, "192.0.2.9:1").packed for seq in range(10, 15)]
    effects = book.do(Received(ANN_ID, Records(flood)))
    assert [e.rule for e in effects if isinstance(e, Observe)] == ["too_many_records"]
    assert sum(isinstance(e, Save) for e in effects) == 2


def test_one_peer_cannot_have_us_broadcast_without_end() -> None:
    book = Playbook(EVE_ID)
    book.connect(EVE_ID)
    told = 0
    for page in range(20):
        flood = [make_record(EVE, 1 + page * 20 + n, "192.0.2.9:1").packed for n in range(20)]
        told += sum(isinstance(e, Spread) for e in book.do(Received(EVE_ID, Records(flood))))
    assert 1 <= told <= SPREADS_BURST
    book.do(Received(EVE_ID, Records([make_record(EVE, 500, "192.0.2.10:1").packed])), 2 / SPREADS_S)
    assert sum(isinstance(e, Spread) for e in book.effects) == 1
    assert book.machine.addresses(EVE_ID) == ["192.0.2.10:1"]


def test_a_device_that_lost_its_count_is_told_by_its_peers() -> None:
    book = Playbook(ANN_ID)
    book.connect(ANN_ID)
    ahead = make_record(ME, 9, "192.0.2.77:1")
    assert book.do(Received(ANN_ID, Records([ahead.packed]))) == [Emit(OwnRecordBehind(9))]
    record = make_record(ME, 10, "192.0.2.1:4711")
    assert Spread(RECORD_TOPIC, record.packed) in book.do(OwnRecord(record))
    assert book.do(Received(ANN_ID, Records([ahead.packed]))) == []


# -- keys --------------------------------------------------------------------------------------------------


def test_keys_that_come_and_go_are_signed_on_their_page_and_broadcast() -> None:
    book = Playbook(ANN_ID, BOB_ID)
    book.do(Publish(KEY))
    assert book.timer_at("announce") is not None
    assert book.do(Publish(KEY)) == []
    assert book.do(Publish(OTHER_KEY)) == []  # the timer is set
    assert book.do(Timer(("announce",))) == [Emit(PageChanged(0, 0, (KEY, OTHER_KEY), (0, 0)))]
    mine = sign_provision(ME, NETWORK, 0, 7, (KEY, OTHER_KEY))
    assert book.do(OwnProvision(mine)) == [Spread(PROVISION_TOPIC, mine.packed)]
    book.do(Withdraw(KEY), 0.1)
    assert book.timer_at("announce") == pytest.approx(1.9)  # others take so many of one device
    assert book.do(Timer(("announce",))) == [Emit(PageChanged(0, 8, (OTHER_KEY,), (0,)))]
    assert book.do(Withdraw(KEY)) == []


def test_more_keys_than_the_limit_are_misuse() -> None:
    book = Playbook(ANN_ID)
    for number in range(KEYS_OF_A_PROVIDER):
        book.do(Publish(number.to_bytes(32, "big")))
    with pytest.raises(LocalMisuse):
        book.do(Publish(KEY))
    pages = [e.event for e in book.do(Timer(("announce",))) if isinstance(e, Emit)]
    assert sum(len(page.keys) for page in pages if isinstance(page, PageChanged)) == KEYS_OF_A_PROVIDER


def test_own_keys_are_signed_again_before_they_expire() -> None:
    book = Playbook(ANN_ID)
    wait_s = next(
        e.at - book.now for e in book.effects if isinstance(e, SetTimer) and e.token == ("refresh",)
    )
    assert wait_s < TTL_S / 2
    book.do(Publish(KEY))
    book.do(Timer(("announce",)))
    book.do(Timer(("refresh",)), wait_s)
    assert book.timer_at("refresh") is not None
    assert book.timer_at("announce") is not None
    assert book.do(Timer(("announce",))) == [Emit(PageChanged(0, 0, (KEY,), (0,)))]


def test_a_provision_that_we_signed_before_a_crash_is_taken_over() -> None:
    book = Playbook(ANN_ID)
    book.connect(ANN_ID)
    before = sign_provision(ME, NETWORK, 3, 40, (KEY,))
    book.do(Received(ANN_ID, Provisions([before.packed])))
    assert book.timer_at("announce") is not None
    assert book.do(Timer(("announce",))) == [Emit(PageChanged(3, 41, (), ()))]


def test_locate_answers_at_once_from_what_was_announced() -> None:
    book = Playbook(ANN_ID, BOB_ID)
    book.connect(ANN_ID, BOB_ID)
    provide(book, BOB, KEY)
    book.do(Locate(7, KEY, 5.0))
    [result] = [e.event.result for e in book.effects if isinstance(e, Emit) and isinstance(e.event, Located)]
    assert (result.hits, result.asked, result.answered, result.messages) == ([BOB_ID], 2, 2, 0)


def test_locate_asks_everybody_and_ends_when_all_have_answered() -> None:
    book = Playbook(ANN_ID, BOB_ID)
    book.connect(ANN_ID, BOB_ID)
    book.do(Locate(7, KEY, 5.0))
    assert book.timer_at("search", 7) == 5.0
    assert book.sent(ANN_ID) == book.sent(BOB_ID) == [Query(7, KEY)]
    assert book.do(Received(ANN_ID, Answer(7, []))) == []
    book.do(Received(BOB_ID, Answer(7, [])))
    [result] = [e.event.result for e in book.effects if isinstance(e, Emit) and isinstance(e.event, Located)]
    assert (result.hits, result.asked, result.answered) == ([], 2, 2)
    assert book.do(Timer(("search", 7))) == []


def test_locate_ends_by_its_budget_and_says_who_did_not_answer() -> None:
    book = Playbook(ANN_ID, BOB_ID)
    book.connect(ANN_ID, BOB_ID)
    book.do(Locate(7, KEY, 5.0))
    book.do(Received(ANN_ID, Answer(7, [])))
    book.do(Timer(("search", 7)), 5.0)
    [result] = [e.event.result for e in book.effects if isinstance(e, Emit) and isinstance(e.event, Located)]
    assert (result.hits, result.asked, result.answered, result.elapsed_s) == ([], 2, 1, 5.0)
    assert "did not answer" in result.guarantee


def test_locate_takes_members_that_others_name_and_dials_them() -> None:
    book = Playbook(ANN_ID, EVE_ID)
    book.do(ContactFound(EVE_ID, ("192.0.2.9:1",)))
    book.fail_round(EVE_ID)
    book.connect(ANN_ID)
    book.do(Locate(7, KEY, 5.0))
    book.do(Received(ANN_ID, Answer(7, [b"stranger" * 4, ME_ID, EVE_ID])), 10.0)
    [result] = [e.event.result for e in book.effects if isinstance(e, Emit) and isinstance(e.event, Located)]
    assert result.hits == [EVE_ID]
    assert book.timer_at("dial", EVE_ID) is not None


def test_locate_waits_for_members_that_are_being_dialled() -> None:
    book = Playbook(ANN_ID, BOB_ID)
    book.do(ContactFound(BOB_ID, ("192.0.2.9:1",)))
    book.connect(ANN_ID)
    book.do(Locate(7, KEY, 5.0))
    assert book.do(Received(ANN_ID, Answer(7, []))) == []  # bob may come
    book.do(SessionUp(BOB_ID))
    assert Query(7, KEY) in book.sent(BOB_ID)
    provide(book, BOB, KEY)
    [result] = [e.event.result for e in book.effects if isinstance(e, Emit) and isinstance(e.event, Located)]
    assert result.hits == [BOB_ID]


def test_an_answer_that_nobody_asked_for_is_ignored() -> None:
    book = Playbook(ANN_ID, BOB_ID)
    book.connect(ANN_ID)
    book.do(Locate(7, KEY, 5.0))
    assert book.do(Received(ANN_ID, Answer(8, [BOB_ID]))) == []
    assert book.do(Received(BOB_ID, Answer(7, [BOB_ID]))) == []  # no session
    book.do(SessionDown(ANN_ID, "reset"))
    assert book.do(Received(ANN_ID, Answer(7, [BOB_ID]))) == []


def test_queries_are_answered_with_ourselves_and_others_but_not_the_asker() -> None:
    book = Playbook(ANN_ID, BOB_ID, EVE_ID)
    book.connect(ANN_ID, BOB_ID)
    book.do(Publish(KEY))
    for keys in (ANN, BOB):
        provide(book, keys, KEY)
    [answer] = book.do(Received(ANN_ID, Query(3, KEY)))
    assert answer == Send(ANN_ID, Answer(3, [ME_ID, BOB_ID]))
    assert book.do(Received(ANN_ID, Query(4, OTHER_KEY))) == [Send(ANN_ID, Answer(4, []))]


def test_a_page_replaces_what_it_said_before() -> None:
    book = Playbook(ANN_ID)
    book.connect(ANN_ID)
    provide(book, ANN, KEY)
    provide(book, ANN, OTHER_KEY, seq=2)
    book.do(Locate(1, KEY, 1.0))
    assert not [e for e in book.effects if isinstance(e, Emit)]
    book.do(Locate(2, OTHER_KEY, 1.0))
    assert [e for e in book.effects if isinstance(e, Emit)]
    provide(book, ANN, seq=3)
    book.do(Locate(3, OTHER_KEY, 1.0))
    assert not [e for e in book.effects if isinstance(e, Emit)]


def test_announcements_expire() -> None:
    book = Playbook(ANN_ID)
    book.connect(ANN_ID)
    provide(book, ANN, KEY)
    book.do(Locate(1, KEY, 1.0), TTL_S + 1)
    assert not [e for e in book.effects if isinstance(e, Emit)]


def test_an_unknown_timer_is_our_own_mistake() -> None:
    with pytest.raises(LocalMisuse):
        Playbook().do(Timer(("what",)))
