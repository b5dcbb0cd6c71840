"""Playbooks of the broadcast: the tree, what is missed, what is forged, and what is kept."""

from __future__ import annotations

from tests.support.substrate_world import Playbook, peer

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import BroadcastConfig
from shoal.overlay.substrate.messages import Cached, Gossip, Graft, IHave, Neighbour, Prune
from shoal.overlay.substrate.plumtree import Plumtree, Verdict
from shoal.overlay.substrate.steps import Broadcast, Cancel, Deliver, Effect, Observe, Send, SetTimer, Timer

ID, OTHER = b"i" * 16, b"o" * 16


def make_linked(count: int = 4) -> Playbook:
    book = Playbook()
    for number in range(1, count + 1):
        book.get(peer(number), Neighbour(False))
    return book


def test_a_broadcast_goes_to_all_eager_neighbours_and_is_not_delivered_at_home() -> None:
    book = make_linked()
    book.do(Broadcast(ID, 1, b"hello"))
    assert sorted(book.sent_to(Gossip)) == [peer(number) for number in range(1, 5)]
    assert book.of(Deliver) == []


def test_what_is_new_is_delivered_and_passed_on_what_is_known_is_pruned() -> None:
    book = make_linked()
    book.get(peer(1), Gossip(ID, 3, 1, b"hello"))
    assert book.of(Deliver) == [Deliver(ID, 1, b"hello", 3, peer(1))]
    assert sorted(book.sent_to(Gossip)) == [peer(2), peer(3), peer(4)]
    assert book.sent(peer(2)) == [Gossip(ID, 4, 1, b"hello")]
    book.get(peer(2), Gossip(ID, 4, 1, b"hello"))
    assert book.of(Deliver) == []
    assert book.sent(peer(2)) == [Prune()]
    assert book.machine.plumtree.lazy == [peer(2)]


def test_a_new_link_is_lazy_where_all_others_are_the_trees() -> None:
    book = make_linked()
    book.get(peer(1), Gossip(ID, 3, 1, b"hello"))
    assert book.machine.plumtree.lazy == []
    book.get(peer(5), Neighbour(False))
    assert book.machine.plumtree.lazy == [peer(5)]
    book.get(peer(2), Gossip(OTHER, 3, 1, b"again"))
    assert book.sent(peer(5)) == [IHave([OTHER], [4])]


def test_a_lazy_neighbour_gets_word() -> None:
    book = make_linked()
    book.get(peer(2), Prune())
    book.get(peer(1), Gossip(ID, 3, 1, b"hello"))
    assert book.sent(peer(2)) == [IHave([ID], [4])]


def test_what_was_heard_of_and_does_not_come_is_asked_for_one_after_the_other() -> None:
    book = make_linked()
    book.get(peer(1), IHave([ID], [2]))
    assert abs((book.timer_in("graft", ID) or 0) - 0.080) < 1e-9
    book.get(peer(2), IHave([ID], [5]))
    assert book.effects == []
    book.do(Timer(("graft", ID)), 0.080)
    assert book.sent(peer(1)) == [Graft(ID, 2)]
    assert abs((book.timer_in("graft", ID) or 0) - 0.040) < 1e-9
    book.do(Timer(("graft", ID)), 0.040)
    assert book.sent(peer(2)) == [Graft(ID, 5)]
    book.get(peer(2), Gossip(ID, 6, 1, b"late"))
    assert Cancel(("graft", ID)) in book.effects
    assert len(book.of(Deliver)) == 1


def test_who_asks_gets_it_and_is_eager_again() -> None:
    book = make_linked()
    book.get(peer(1), Gossip(ID, 1, 1, b"hello"))
    book.get(peer(2), Prune())
    book.get(peer(2), Graft(ID, 2))
    assert book.sent(peer(2)) == [Gossip(ID, 2, 1, b"hello")]
    assert peer(2) in book.machine.plumtree.eager


def test_a_much_shorter_lazy_link_takes_an_eager_ones_place() -> None:
    book = make_linked()
    book.get(peer(2), Prune())
    book.get(peer(2), IHave([ID], [2]))
    book.get(peer(1), Gossip(ID, 9, 1, b"hello"))
    assert Graft(b"", 2) in book.sent(peer(2))
    assert Prune() in book.sent(peer(1))
    assert peer(2) in book.machine.plumtree.eager
    assert peer(1) in book.machine.plumtree.lazy


def test_a_new_neighbour_hears_what_is_cached() -> None:
    book = make_linked()
    book.get(peer(1), Gossip(ID, 1, 1, b"hello"))
    book.get(peer(9), Neighbour(False))
    assert Cached([ID], [2]) in book.sent(peer(9))


def test_what_is_cached_is_told_to_somebody_now_and_then() -> None:
    book = make_linked()
    book.get(peer(1), Gossip(ID, 1, 1, b"hello"))
    assert book.timer_in("repair") is not None
    book.do(Timer(("repair",)), 10.0)
    assert len(book.sent_to(Cached)) == 1


def test_a_forged_broadcast_is_not_passed_on_and_the_true_one_is_still_taken() -> None:
    def judge(sender: bytes, message: Gossip) -> Verdict:
        return Verdict.FORGED if message.payload == b"forged" else Verdict.GOOD

    tree = Plumtree(BroadcastConfig(), judge)
    out: list[Effect] = []
    tree.on_link_up(0.0, peer(1), out)
    tree.on_link_up(0.0, peer(2), out)
    tree.on_gossip(0.0, peer(1), Gossip(ID, 1, 1, b"forged"), out)
    assert out == [Observe("forged_broadcast", peer(1), "topic 1")]
    out.clear()
    tree.on_gossip(0.0, peer(2), Gossip(ID, 1, 1, b"true"), out)
    assert Deliver(ID, 1, b"true", 1, peer(2)) in out


def test_what_is_to_be_judged_later_is_delivered_only_and_spread_when_it_is_broadcast_here() -> None:
    tree = Plumtree(BroadcastConfig(), lambda sender, message: Verdict.LATER)
    tree.on_link_up(0.0, peer(1), [])
    tree.on_link_up(0.0, peer(2), [])
    tree.on_i_have(0.0, peer(2), IHave([ID], [1]), [])
    for number in range(2):  # nobody is pruned for it: it has not been passed on
        tree.on_gossip(0.0, peer(1), Gossip(ID, 1, 1, b"early"), out := [])
        assert out == [Deliver(ID, 1, b"early", 1, peer(1))], number
    assert not tree.has(ID)
    tree.on_graft_timer(0.1, ID, out := [])
    assert Send(peer(2), Graft(ID, 1)) in out  # the first sender may lie
    tree.broadcast(0.2, ID, 1, b"early", out := [])
    assert Cancel(("graft", ID)) in out
    assert {effect.peer for effect in out if isinstance(effect, Send)} == {peer(1), peer(2)}
    tree.on_gossip(0.3, peer(1), Gossip(ID, 1, 1, b"early"), out := [])
    assert out == [Send(peer(1), Prune())]


def make_words(first: int, count: int) -> IHave:
    return IHave([number.to_bytes(16, "big") for number in range(first, first + count)], [1] * count)


def ask_all(tree: Plumtree, now: float) -> list[Effect]:
    """Let every graft timer run out until nobody is asked any more; return the effects."""
    out: list[Effect] = []
    while tree._missing:
        for identifier in list(tree._missing):
            tree.on_graft_timer(now, identifier, out)
    return out


def test_who_announces_and_never_delivers_is_asked_for_little_and_then_not_heard_for_a_while() -> None:
    config = BroadcastConfig()
    tree = Plumtree(config)
    liar, honest = peer(1), peer(2)
    asked, seen = 0, []
    for second in range(120):
        out: list[Effect] = []
        for words in range(15):  # what a session allows
            tree.on_i_have(float(second), liar, make_words((second * 15 + words) * 64, 64), out)
        out += ask_all(tree, second + 0.1)
        asked += sum(isinstance(effect, Send) for effect in out)
        seen += [effect for effect in out if isinstance(effect, Observe)]
        # in the middle of it somebody else's word counts, and its broadcast comes
        told = b"honest" + second.to_bytes(10, "big")
        tree.on_i_have(float(second), honest, IHave([told], [1]), [])
        assert Send(honest, Graft(told, 1)) in ask_all(tree, second + 0.1)
        tree.on_gossip(second + 0.2, honest, Gossip(told, 2, 1, b""), out := [])
        assert any(isinstance(effect, Deliver) for effect in out)
        assert len(tree._promises._asked) <= config.owed
    assert asked <= 2 * config.owed  # of 115,200 announced
    assert [effect.peer for effect in seen] == [liar, liar]  # once a time that it is not heard
    assert {effect.rule for effect in seen} == {"announced_not_delivered"}


def test_who_says_the_same_again_and_again_takes_nobody_else_s_place() -> None:
    book = make_linked()
    for _ in range(20):
        book.get(peer(1), IHave([ID], [1]))
    book.get(peer(2), IHave([ID], [1]))
    book.do(Timer(("graft", ID)), 0.080)
    assert book.sent_to(Graft) == [peer(1)]
    book.do(Timer(("graft", ID)), 0.040)
    assert book.sent_to(Graft) == [peer(2)]


def test_a_promise_is_kept_by_whoever_brings_the_broadcast_and_void_without_a_link() -> None:
    tree = Plumtree(BroadcastConfig(broken=0))
    for number in (1, 2):
        tree.on_link_up(0.0, peer(number), [])
    tree.on_i_have(0.0, peer(1), IHave([ID], [1]), [])
    tree.on_graft_timer(0.1, ID, [])
    tree.on_gossip(0.2, peer(2), Gossip(ID, 1, 1, b""), [])
    tree.on_i_have(0.2, peer(1), IHave([OTHER], [1]), [])
    tree.on_graft_timer(0.3, OTHER, [])
    tree.on_link_down(peer(1))
    tree.on_i_have(10.0, peer(2), IHave([b"n" * 16], [1]), out := [])
    assert not any(isinstance(effect, Observe) for effect in out)
    assert tree._promises._owed == {}
    tree.on_graft_timer(10.1, b"n" * 16, [])
    tree.on_i_have(20.0, peer(1), IHave([b"m" * 16], [1]), out := [])
    assert Observe("announced_not_delivered", peer(2)) in out
    tree.on_i_have(20.0, peer(2), IHave([b"o" * 16], [1]), out := [])
    assert out == []  # for a minute
    tree.on_i_have(81.0, peer(2), IHave([b"p" * 16], [1]), out := [])
    assert any(isinstance(effect, SetTimer) for effect in out)


def test_liars_without_end_are_remembered_up_to_a_bound() -> None:
    config = BroadcastConfig(tellers=8)
    tree = Plumtree(config)
    for number in range(200):
        tree.on_i_have(number * 10.0, peer(number), make_words(number * 64, 64), [])
        ask_all(tree, number * 10.0 + 0.1)
        promises = tree._promises
        assert len(promises._unheard) <= 8
        assert len(promises._broken) <= 8
        assert len(promises._asked) <= config.owed


def test_a_question_is_answered_once_and_again_after_the_link_was_lost() -> None:
    tree = Plumtree(BroadcastConfig())
    tree.on_link_up(0.0, peer(1), [])
    tree.on_link_up(0.0, peer(2), [])
    tree.on_gossip(0.0, peer(1), Gossip(ID, 1, 1, b"x" * 16_000), [])
    out: list[Effect] = []
    for _ in range(100):
        tree.on_graft(peer(2), Graft(ID, 1), out)
    assert len(out) == 1
    tree.on_link_down(peer(2))
    tree.on_link_up(1.0, peer(2), [])
    tree.on_graft(peer(2), Graft(ID, 1), out := [])
    assert len(out) == 1
    tree.on_sweep(31.0, [])
    assert tree._answered == {}


def test_a_storm_of_words_and_broadcasts_stays_within_the_caps() -> None:
    config = BroadcastConfig(cache_messages=20, cache_bytes=1000, ids=50, missing=30, sources=3)
    tree, chance = Plumtree(config), Chance(1)
    for number in range(2000):
        out: list[Effect] = []
        sender = peer(chance.below(8))
        identifier = chance.below(500).to_bytes(16, "big")
        if number % 2:
            tree.on_gossip(0.0, sender, Gossip(identifier, 1, 1, b"x" * 200), out)
        else:
            tree.on_i_have(0.0, sender, IHave([identifier], [0]), out)
        assert len(tree._cache) <= 20
        assert tree._cached_bytes <= 1000
        assert len(tree._ids) <= 50
        assert len(tree._missing) <= 30
        assert all(len(sources) <= 3 for sources in tree._missing.values())


def test_what_is_old_is_forgotten() -> None:
    tree = Plumtree(BroadcastConfig())
    out: list[Effect] = []
    tree.on_gossip(0.0, peer(1), Gossip(ID, 1, 1, b""), out)
    tree.on_sweep(31.0, out)
    assert tree.has(ID)
    tree.on_graft(peer(1), Graft(ID, 1), out := [])
    assert not any(isinstance(effect, Send) for effect in out)
    tree.on_sweep(91.0, out := [])
    assert not tree.has(ID)
    assert not any(isinstance(effect, SetTimer) for effect in out)


def test_a_list_of_what_is_cached_is_answered_with_what_it_lacks() -> None:
    book = make_linked()
    book.get(peer(1), Gossip(ID, 3, 1, b"hello"))
    book.get(peer(1), Gossip(OTHER, 3, 1, b"hello"))
    book.get(peer(2), Cached([OTHER], [3]), wait_s=5.0)
    assert book.sent(peer(2)) == [IHave([ID], [4])]
    book.get(peer(2), Cached([OTHER, ID], [3, 3]))
    assert book.sent(peer(2)) == []


def test_what_is_still_on_its_way_to_whom_lists_is_not_told_again() -> None:
    book = make_linked()
    book.get(peer(1), Gossip(ID, 3, 1, b"hello"))
    book.get(peer(2), Cached([OTHER], [3]), wait_s=1.0)
    assert book.sent(peer(2)) == []


def test_who_announces_and_never_delivers_costs_a_moment_and_is_asked_once_for_each_broadcast() -> None:
    book = make_linked()
    liar, honest = peer(1), peer(2)
    for number in range(50):
        identifier = number.to_bytes(16, "big")
        book.get(liar, IHave([identifier], [0]))
        book.get(honest, IHave([identifier], [4]))
        book.do(Timer(("graft", identifier)), 0.080)
        assert book.sent(liar) == [Graft(identifier, 0)]
        book.do(Timer(("graft", identifier)), 0.040)
        assert book.sent(honest) == [Graft(identifier, 4)]
        book.get(honest, Gossip(identifier, 5, 1, b"true"), wait_s=0.020)
        assert len(book.of(Deliver)) == 1
        assert Cancel(("graft", identifier)) in book.effects
        assert liar not in book.sent_to(Graft)


def test_what_a_liar_alone_announces_is_forgotten_after_it_was_asked() -> None:
    book = make_linked()
    for number in range(3000):
        identifier = number.to_bytes(16, "big")
        book.get(peer(1), IHave([identifier], [0]))
        book.do(Timer(("graft", identifier)), 0.080)
        book.do(Timer(("graft", identifier)), 0.040)
    assert book.of(Send) == []
    assert not book.machine.plumtree._missing
