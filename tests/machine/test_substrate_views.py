"""Playbooks of the views: joins, walks, wishes, partings, shuffles, and who may push himself in."""

from __future__ import annotations

from tests.support.substrate_world import ME, Playbook, peer

from shoal.overlay.substrate.config import SubstrateConfig, ViewsConfig
from shoal.overlay.substrate.messages import (
    ForwardJoin,
    Gossip,
    IHave,
    Join,
    Neighbour,
    NeighbourAnswer,
    Part,
    Shuffle,
    ShuffleAnswer,
)
from shoal.overlay.substrate.steps import Connect, Disconnect, SessionDown, Started, Timer

GUARDED = SubstrateConfig(views=ViewsConfig(evict_s=10.0), detects=False, estimates=False)
ANCHORED = SubstrateConfig(views=ViewsConfig(evict_s=10.0, anchors=3), detects=False, estimates=False)


def make_full(config: SubstrateConfig | None = None) -> Playbook:
    """Return a playbook whose node has five neighbours, 1 to 5."""
    book = Playbook(config)
    for number in range(1, 6):
        book.get(peer(number), Neighbour(False))
    assert len(book.machine.views.active) == 5
    return book


def test_a_newcomer_links_its_contact_and_joins() -> None:
    book = Playbook()
    book.do(Started((peer(1), peer(2))))
    assert book.of(Connect) == [Connect(peer(1))]
    assert Join() in book.sent(peer(1))
    assert book.machine.views.passive == [peer(2)]


def test_a_newcomer_whose_walks_bring_too_few_asks_soon() -> None:
    book = Playbook()
    book.do(Started((peer(1), peer(2), peer(3))))
    wait_s = book.timer_in("refill")
    assert wait_s is not None
    book.do(Timer(("refill",)), wait_s)
    assert sorted(book.sent_to(Neighbour)) == [peer(2), peer(3)]


def test_a_contact_takes_a_newcomer_in_and_sends_it_on_walks() -> None:
    book = make_full()
    book.get(peer(9), Join())
    views = book.machine.views
    assert peer(9) in views.active
    assert len(views.active) == 5
    (gone,) = book.of(Disconnect)
    assert Part(False) in book.sent(gone.peer)
    assert gone.peer in views.passive
    assert sorted(book.sent_to(ForwardJoin)) == sorted(other for other in views.active if other != peer(9))


def test_a_walk_goes_on_until_it_has_no_hops_left() -> None:
    book = make_full()
    book.get(peer(1), ForwardJoin(peer(9), 4))
    (onwards,) = book.sent_to(ForwardJoin)
    assert onwards not in (peer(1), peer(9))
    assert book.sent(onwards) == [ForwardJoin(peer(9), 3)]
    book.get(peer(1), ForwardJoin(peer(9), 0))
    assert peer(9) in book.machine.views.active
    assert NeighbourAnswer(True) in book.sent(peer(9))


def test_a_walk_leaves_the_newcomer_in_a_passive_view_on_its_way() -> None:
    book = make_full()
    book.get(peer(1), ForwardJoin(peer(9), 3))
    assert peer(9) in book.machine.views.passive


def test_a_walk_of_ourselves_ends() -> None:
    book = make_full()
    assert book.get(peer(1), ForwardJoin(ME, 3)) == []


def test_a_wish_is_granted_where_there_is_a_place_or_need() -> None:
    book = make_full()
    book.get(peer(9), Neighbour(False))
    assert book.sent(peer(9)) == [NeighbourAnswer(False)]
    assert peer(9) in book.machine.views.passive
    book.get(peer(9), Neighbour(True))
    assert NeighbourAnswer(True) in book.sent(peer(9))
    assert peer(9) in book.machine.views.active


def test_who_was_denied_asks_the_next_but_not_for_ever() -> None:
    book = Playbook()
    book.get(peer(1), Neighbour(False))
    for number in range(10, 30):
        book.get(peer(1), ForwardJoin(peer(number), 0))
        book.get(peer(number), Part(False))
    book.do(Timer(("refill",)), 20.0)
    asked = len(book.sent_to(Neighbour))
    waiting = book.sent_to(Neighbour)
    while waiting:
        waiting.extend(book.sent_to(Neighbour) if book.get(waiting.pop(), NeighbourAnswer(False)) else [])
        asked += len(book.sent_to(Neighbour))
        assert asked < 100
    assert asked >= 4


def test_a_lost_session_is_replaced_from_the_passive_view() -> None:
    book = make_full()
    book.get(peer(1), ForwardJoin(peer(9), 3))
    book.do(SessionDown(peer(2), "reset"))
    assert peer(2) not in book.machine.views.active + book.machine.views.passive
    assert book.sent(peer(9)) == [Neighbour(False)]
    book.get(peer(9), NeighbourAnswer(True))
    assert peer(9) in book.machine.views.active


def test_who_was_evicted_waits_before_it_asks() -> None:
    book = make_full()
    book.get(peer(1), ForwardJoin(peer(9), 3))
    book.get(peer(2), Part(False))
    assert book.sent_to(Neighbour) == []
    assert book.timer_in("refill") is not None


def test_wishes_that_nobody_answers_do_not_end_the_search() -> None:
    """Two nodes that half of a network left by its restart kept to each other alone for a minute."""
    book = make_full()
    for number in range(10, 30):
        book.get(peer(1), ForwardJoin(peer(number), 3))
    for number in range(2, 6):
        book.do(SessionDown(peer(number), "reset"))
    assert len(book.sent_to(Neighbour)) == 1
    book.do(Timer(("refill",)), 1.0)
    assert book.sent_to(Neighbour) == []  # four are asked already
    wait_s = book.timer_in("refill")
    assert wait_s is not None
    book.do(Timer(("refill",)), wait_s)
    assert len(book.sent_to(Neighbour)) == 4


def test_who_is_left_with_less_than_half_of_its_neighbours_asks_urgently_and_at_once() -> None:
    book = make_full()
    for number in (1, 2):
        book.get(peer(number), Part(False))
        assert book.sent_to(Neighbour) == []
    book.get(peer(3), Part(False))
    asked = book.sent_to(Neighbour)
    assert sorted(asked) == [peer(1), peer(2), peer(3)]
    assert all(book.sent(other) == [Neighbour(True)] for other in asked)


def test_who_knows_nobody_any_more_asks_those_that_gave_way_in_its_views() -> None:
    book = make_full()
    for number in range(10, 200):
        book.get(peer(1), ForwardJoin(peer(number), 3))
    views = book.machine.views
    former = {peer(number) for number in range(10, 200)} - {*views.passive, *views.active}
    asked: set[bytes] = set()
    for _ in range(200):
        gone = [*views.active, *views.passive]
        if not gone:
            break
        for other in gone:
            book.do(SessionDown(other, "unreachable"))
            asked.update(book.sent_to(Neighbour))
    assert not views.active
    while book.machine.views._asked:
        book.do(SessionDown(next(iter(views._asked)), "unreachable"))
        asked.update(book.sent_to(Neighbour))
        if asked & former:
            break
    assert asked & former
    assert len(views._former) == 64


def test_a_newcomer_with_too_few_links_asks_for_more() -> None:
    book = Playbook()
    book.get(peer(1), Neighbour(False))
    book.do(Timer(("shuffle",)), 60.0)
    assert book.timer_in("refill") is not None


def test_a_shuffle_is_answered_to_its_origin_where_its_walk_ends() -> None:
    book = make_full()
    for number in (20, 21, 22):
        book.get(peer(1), ForwardJoin(peer(number), 3))
    book.get(peer(1), Shuffle(peer(30), 1, [peer(40), peer(41)]))
    (answer,) = book.sent(peer(30))
    assert isinstance(answer, ShuffleAnswer)
    assert set(answer.peers) <= {peer(20), peer(21), peer(22)}
    assert {peer(30), peer(40), peer(41)} <= set(book.machine.views.passive)


def test_who_is_no_neighbour_cannot_fill_the_passive_view() -> None:
    book = make_full()
    book.get(peer(66), Shuffle(peer(66), 0, [peer(number) for number in range(50, 66)]))
    book.get(peer(66), ShuffleAnswer([peer(number) for number in range(50, 66)]))
    assert book.machine.views.passive == []


def test_a_shuffle_is_answered_once() -> None:
    book = make_full()
    book.do(Timer(("shuffle",)), 60.0)
    book.get(peer(1), ShuffleAnswer([peer(50)]))
    book.get(peer(1), ShuffleAnswer([peer(51)]))
    assert book.machine.views.passive == [peer(50)]


def test_half_a_link_is_told_to_the_other_end() -> None:
    book = make_full()
    for message in (Gossip(b"i" * 16, 1, 1, b""), IHave([b"j" * 16], [1])):
        book.get(peer(9), message)
        assert Part(False) in book.sent(peer(9))
        book.get(peer(1), message)
        assert Part(False) not in book.sent(peer(1))


def test_pushes_are_let_in_slowly() -> None:
    book = make_full(GUARDED)
    before = set(book.machine.views.active)
    for number in range(100, 200):
        book.get(peer(number), Neighbour(True), 0.1)
    assert len(before - set(book.machine.views.active)) <= 2


def test_pushes_take_at_most_half_of_a_view_in_a_minute_however_slowly_they_come() -> None:
    book = make_full(GUARDED)
    before = set(book.machine.views.active)
    for number in range(100, 105):
        book.get(peer(number), Neighbour(True), 10.1)
    assert len(before - set(book.machine.views.active)) <= GUARDED.views.active // 2


def test_unasked_answers_are_pushes_too() -> None:
    book = make_full(GUARDED)
    before = set(book.machine.views.active)
    for number in range(100, 200):
        book.get(peer(number), NeighbourAnswer(True), 0.1)
    assert len(before - set(book.machine.views.active)) <= 2


def test_anchors_stay_whoever_pushes() -> None:
    book = Playbook(ANCHORED)
    members = [peer(number) for number in range(1, 61)]
    turns = iter(members * 50)
    book.machine.tell_members(60, lambda: next(turns))
    for number in (1, 2, 3, 4, 5):
        book.get(peer(number), Neighbour(False))
    for _ in range(10):
        book.do(Timer(("shuffle",)), 60.0)
        for one in book.sent_to(Neighbour):
            book.get(one, NeighbourAnswer(True))
    views = book.machine.views
    anchors = set(views.active)
    for number in range(100, 1000):
        book.get(peer(number), Neighbour(True), 1.0)
    assert len(views.active) == 5
    assert len(anchors & set(views.active)) >= 3


def test_who_has_lost_everybody_asks_members() -> None:
    book = Playbook(ANCHORED)
    book.machine.tell_members(5000, lambda: peer(4999))
    book.get(peer(1), Neighbour(False))
    book.do(SessionDown(peer(1), "idle"))
    assert book.sent(peer(4999)) == [Neighbour(True)]


def test_who_could_not_be_reached_is_tried_again_where_nobody_else_is_left() -> None:
    """In a network of a few members somebody behind a NAT may be reached only once its relays are known."""
    book = Playbook(ANCHORED)
    members = [peer(number) for number in range(1, 6)]
    book.machine.tell_members(6, lambda: book.machine.views._chance.pick(members))
    for number in range(1, 5):
        book.get(peer(number), Neighbour(False))
    book.do(SessionDown(peer(5), "unreachable"))
    assert book.machine.views.passive == []
    book.machine.views._refilling = True
    book.do(Timer(("refill",)), 20.0)
    assert book.sent_to(Neighbour) == [peer(5)]
