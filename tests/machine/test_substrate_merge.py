"""Playbooks of healing and of the size estimate."""

from __future__ import annotations

import pytest
from tests.support.substrate_world import Playbook, peer

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import MergeConfig, SizeConfig, SubstrateConfig
from shoal.overlay.substrate.merge import BEACON_TOPIC
from shoal.overlay.substrate.messages import (
    Bridge,
    Gossip,
    IHave,
    Neighbour,
    PartAnswer,
    PartProbe,
    SizePull,
    SizePush,
    check,
)
from shoal.overlay.substrate.size import SizeEstimate
from shoal.overlay.substrate.steps import Connect, Disconnect, Effect, Send, Timer

KNOWN, FRESH, STRANGE = b"k" * 16, b"f" * 16, b"s" * 16
LEADER = b"leader.."


def make(neighbours: int = 5) -> Playbook:
    """A node that has had KNOWN for a while, and FRESH not for long; everybody it could ask is peer 9."""
    quiet = SubstrateConfig(merge=MergeConfig(beacons=0.0), detects=False, estimates=False)
    book = Playbook(quiet)
    for number in range(1, neighbours + 1):
        book.get(peer(number), Neighbour(False))
    book.machine.tell_members(1, lambda: peer(9))
    book.get(peer(1), Gossip(KNOWN, 1, BEACON_TOPIC, b""))
    book.get(peer(1), Gossip(FRESH, 1, BEACON_TOPIC, b""), wait_s=50.0)
    book.now += 10.0
    return book


def test_somebody_outside_the_view_is_asked_for_the_newest_beacon_that_has_been_here_for_a_while() -> None:
    book = make()
    book.do(Timer(("merge",)))
    assert book.sent(peer(9)) == [PartProbe([KNOWN])]
    assert 48.0 <= (book.timer_in("merge") or 0) <= 72.0


def test_who_knows_one_of_them_says_nothing() -> None:
    book = make()
    assert book.get(peer(9), PartProbe([STRANGE, KNOWN])) == []
    assert book.get(peer(9), PartAnswer([KNOWN])) == []


def test_what_came_over_the_first_bridge_a_moment_ago_does_not_count_yet() -> None:
    book = make()
    book.get(peer(9), PartProbe([FRESH]))
    assert book.sent(peer(9)) == [PartAnswer([KNOWN])]
    book.get(peer(9), PartAnswer([FRESH]))
    assert book.sent(peer(9)) == [Bridge(False)]
    book.now += 45.0
    assert book.get(peer(9), PartProbe([FRESH])) == []
    book.do(Timer(("merge",)))
    assert book.sent(peer(9)) == [PartProbe([FRESH])]


def test_other_broadcasts_say_nothing_of_parts() -> None:
    book = make()
    book.get(peer(1), Gossip(STRANGE, 1, 1, b""))
    book.now += 50.0
    book.get(peer(9), PartProbe([STRANGE]))
    assert book.sent(peer(9)) == [PartAnswer([FRESH])]


def test_a_node_that_has_no_beacon_yet_neither_asks_nor_answers() -> None:
    book = Playbook(SubstrateConfig(merge=MergeConfig(beacons=0.0), detects=False, estimates=False))
    book.machine.tell_members(1, lambda: peer(9))
    book.do(Timer(("merge",)))
    assert book.sent(peer(9)) == []
    assert book.get(peer(9), PartProbe([STRANGE])) == []


def test_a_flood_of_beacons_pushes_none_out_that_have_been_here_for_a_while() -> None:
    book = make()
    for number in range(2000):
        book.get(peer(1), Gossip(number.to_bytes(16, "big"), 1, BEACON_TOPIC, b""), wait_s=0.02)
    assert book.get(peer(9), PartProbe([KNOWN])) == []
    assert book.get(peer(9), PartProbe([FRESH])) == []
    book.get(peer(9), PartProbe([STRANGE]))
    assert len(book.sent(peer(9))) == 1


def test_two_that_know_nothing_of_each_other_build_a_bridge_and_evict_nobody() -> None:
    book = make()
    before = list(book.machine.views.active)
    book.get(peer(9), PartProbe([STRANGE]))
    assert book.sent(peer(9)) == [PartAnswer([KNOWN])]
    book.get(peer(9), PartAnswer([STRANGE]))
    assert book.sent(peer(9)) == [Bridge(False)]
    book.get(peer(9), Bridge(False))
    assert book.of(Connect) == [Connect(peer(9))]
    assert Bridge(True) in book.sent(peer(9))
    assert book.of(Disconnect) == []
    assert book.machine.views.active == [*before, peer(9)]


def test_there_is_one_place_for_bridges_whoever_asks() -> None:
    book = make()
    for number in range(20, 80):
        book.get(peer(number), Bridge(False))
        book.get(peer(number), Bridge(True))
    assert len(book.machine.views.active) == 6


def test_a_neighbour_that_floods_beacons_has_few_of_them_passed_on() -> None:
    book = make()
    passed = 0
    for number in range(600):
        book.get(peer(1), Gossip((7000 + number).to_bytes(16, "big"), 1, BEACON_TOPIC, b""), wait_s=0.1)
        passed += peer(2) in book.sent_to(Gossip) + book.sent_to(IHave)
    assert 11 <= passed <= 12  # six at once, one in 10 s
    book.get(peer(2), Gossip(STRANGE, 1, BEACON_TOPIC, b""))
    assert peer(3) in book.sent_to(Gossip) + book.sent_to(IHave), "the others' are passed on as ever"


def test_who_brings_beacons_is_remembered_in_bounds() -> None:
    book = make()
    for number in range(500):
        book.get(peer(100 + number), Gossip((9000 + number).to_bytes(16, "big"), 1, BEACON_TOPIC, b""))
    assert len(book.machine.merge._allowed) <= book.config.merge.senders


def test_a_beacon_is_broadcast_now_and_then() -> None:
    book = Playbook(SubstrateConfig(merge=MergeConfig(beacons=2.0), detects=False, estimates=False))
    book.get(peer(1), Neighbour(False))
    book.machine.tell_members(2, lambda: None)
    book.do(Timer(("merge",)))
    assert len(book.sent_to(Gossip)) == 1
    book.machine.tell_members(1, lambda: peer(9))
    book.do(Timer(("merge",)), wait_s=60.0)
    ((probe,),) = [[m for m in book.sent(peer(9)) if isinstance(m, PartProbe)]]
    assert len(probe.identifiers) == 1  # it knows its own one


def make_size(leaders: float = 0.0) -> SizeEstimate:
    size = SizeEstimate(peer(1), SizeConfig(leaders=leaders), Chance(1), [peer(2)])
    size.start(0.0, [])
    return size


def test_two_that_meet_have_the_mean_and_the_sum_stays() -> None:
    size = make_size()
    size.values[LEADER] = 1.0
    out: list[Effect] = []
    size.on_push(peer(2), SizePush(0, [], []), out)
    assert size.values[LEADER] == 0.5
    assert out == [Send(peer(2), SizePull(0, [LEADER], [0.5]))]


def test_a_later_epoch_is_entered_an_earlier_one_ignored() -> None:
    size = make_size()
    size.values[LEADER] = 0.25
    size.tell_members(100)
    size.on_push(peer(2), SizePush(3, [], []), [])
    assert size.epoch == 3
    assert size.estimate == 4.0
    assert LEADER not in size.values
    out: list[Effect] = []
    size.on_push(peer(2), SizePush(2, [LEADER], [1.0]), out)
    assert out == []


def test_an_estimate_is_never_more_than_there_are_members() -> None:
    size = make_size()
    size.tell_members(10)
    size.values[LEADER] = 1e-9
    size.on_push(peer(2), SizePush(1, [], []), [])
    assert size.estimate == 10.0


@pytest.mark.parametrize("answer", [False, True])
def test_leaders_have_a_cap(answer: bool) -> None:
    size = make_size()
    for number in range(100):
        leader = number.to_bytes(8, "big")
        if answer:
            size.on_timer(float(number), [])
            size.on_pull(peer(2), SizePull(size.epoch, [leader], [0.5]))
        else:
            size.on_push(peer(2), SizePush(0, [leader], [0.5]), [])
    assert len(size.values) <= 16


def test_an_answer_counts_once_and_only_of_who_was_asked() -> None:
    size = make_size()
    size.on_pull(peer(2), SizePull(0, [LEADER], [0.5]))
    assert size.values == {}  # nobody was asked
    size.on_timer(10.0, [])
    size.on_pull(peer(3), SizePull(0, [LEADER], [0.5]))
    assert size.values == {}
    for _ in range(3):
        size.on_pull(peer(2), SizePull(0, [LEADER], [0.5]))
    assert size.values == {LEADER: 0.5}


def test_who_gave_while_an_answer_was_under_way_tells_no_value_below_nothing() -> None:
    size = make_size()
    size.values[LEADER] = 0.5
    size.on_timer(10.0, [])
    for other in (3, 4):  # take half each time
        size.on_push(peer(other), SizePush(0, [LEADER], [0.0]), [])
    size.on_pull(peer(2), SizePull(0, [LEADER], [-0.25]))
    assert size.values[LEADER] == -0.125  # the sum of all is as before
    size.on_timer(20.0, out := [])
    (push,) = [effect.message for effect in out if isinstance(effect, Send)]
    check(push)
    assert isinstance(push, SizePush)
    assert push.values == [0.0]


def test_whatever_was_answered_what_is_told_keeps_its_limits() -> None:
    size = make_size()
    for change in (1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0):
        size.on_timer(0.0, [])
        size.on_pull(peer(2), SizePull(0, [LEADER], [change]))
        size.on_timer(0.0, out := [])
        size.on_push(peer(3), SizePush(0, [LEADER], [0.0]), out)
        for effect in out:
            if isinstance(effect, Send):
                check(effect.message)


def test_the_last_epoch_is_followed_by_the_first() -> None:
    size = make_size()
    size.on_push(peer(2), SizePush(2**31 - 1, [], []), [])
    size.on_push(peer(2), SizePush(2**32 - 1, [], []), [])
    assert size.epoch == 2**31 - 1  # half of all epochs ahead is behind
    size.on_push(peer(2), SizePush(2**32 - 2, [], []), [])
    assert size.epoch == 2**32 - 2
    for at in range(3 * 60):
        size.on_timer(10.0 * at, out := [])
        for effect in out:
            if isinstance(effect, Send):
                check(effect.message)
    assert size.epoch == 0
