"""Exchange and provisions: two mesh machines of a large network compare what they have; peers that lie."""

from __future__ import annotations

import pytest
from tests.support.identity import make_keys
from tests.support.mesh_world import NETWORK, MeshWorld, Node

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.overlay import provision as provision_module
from shoal.overlay.exchange import ROUND_MESSAGES, Exchange
from shoal.overlay.mesh import PAGES_BURST, ROUNDS_BURST
from shoal.overlay.messages import OVERLAY_TABLE, PROVISION_BYTES, Digest, Provisions, Summary, Wanted, check
from shoal.overlay.provider_index import TTL_S
from shoal.overlay.provision import PAGE_KEYS, PAGES, Provision, parse_provision, sign_provision
from shoal.overlay.provision_store import KEPT, KEPT_BYTES, SMALL_PAGE, OwnPages, ProvisionStore
from shoal.overlay.steps import (
    Delivered,
    Observe,
    Publish,
    Received,
    Send,
    SessionUp,
    Sparse,
    Spread,
)
from shoal.overlay.substrate.plumtree import Verdict
from shoal.overlay.topics import PROVISION_TOPIC, RECORD_TOPIC
from shoal.wire.codec import encode

KEY = b"k" * 32


def make_world(count: int) -> MeshWorld:
    world = MeshWorld(count)
    for node in world.nodes:
        world.step(node, Sparse(True))
        world.start(node)
    return world


def connect(world: MeshWorld, one: Node, two: Node) -> None:
    one.sessions.add(two.peer_id)
    two.sessions.add(one.peer_id)
    world.step(one, SessionUp(two.peer_id))
    world.step(two, SessionUp(one.peer_id))


def count_records(node: Node) -> int:
    return len(node.machine._book.records())


def test_a_new_session_brings_what_the_other_end_has() -> None:
    world = make_world(4)
    hub, *others = world.nodes
    for node in others:
        connect(world, hub, node)
        world.run(2)
    assert count_records(hub) == 4
    assert count_records(others[-1]) == 4
    world.run(200)  # those that came earlier get the rest by a round a minute
    assert [count_records(node) for node in world.nodes] == [4, 4, 4, 4]


def test_provisions_of_others_come_with_a_session_and_are_found() -> None:
    world = make_world(3)
    hub, one, two = world.nodes
    connect(world, hub, one)
    world.step(one, Publish(KEY))
    world.run(2)
    assert hub.machine._index.find(KEY, world.now) == [one.peer_id]
    connect(world, hub, two)
    world.run(2)
    assert two.machine._index.find(KEY, world.now) == [one.peer_id]
    provision = hub.machine._signed._provisions.find(one.peer_id, 0)
    assert provision is not None
    later = sign_provision(one.keys, NETWORK, 1, 1, (KEY,))
    found = hub.machine.step(world.now, Received(one.peer_id, Provisions([later.packed])))
    assert Spread(PROVISION_TOPIC, later.packed) in found  # its own device said so
    newer = sign_provision(one.keys, NETWORK, 0, provision.seq + 1, ())
    hub.machine.step(world.now, Delivered(PROVISION_TOPIC, newer.packed))
    assert hub.machine._index.find(KEY, world.now) == []
    assert hub.machine.judge(PROVISION_TOPIC, provision.packed) is Verdict.STALE
    assert hub.machine.judge(PROVISION_TOPIC, newer.packed) is Verdict.GOOD


def test_forged_ones_and_strangers_are_judged() -> None:
    world = make_world(2)
    one, two = world.nodes
    good = sign_provision(two.keys, NETWORK, 3, 1, (KEY,)).packed
    assert one.machine.judge(PROVISION_TOPIC, good) is Verdict.GOOD
    for at in (0, 5, len(good) - 1):
        forged = bytes([*good[:at], good[at] ^ 1, *good[at + 1 :]])
        assert one.machine.judge(PROVISION_TOPIC, forged) is Verdict.FORGED
        assert one.machine.judge(RECORD_TOPIC, forged) is Verdict.FORGED
    stranger = sign_provision(make_keys(999), NETWORK, 0, 1, (KEY,)).packed
    assert one.machine.judge(PROVISION_TOPIC, stranger) is Verdict.STALE
    other = sign_provision(two.keys, b"o" * 32, 0, 1, (KEY,)).packed
    assert one.machine.judge(PROVISION_TOPIC, other) is Verdict.FORGED
    with pytest.raises(LimitExceeded):
        parse_provision(b"\x01" * 6000, NETWORK)
    with pytest.raises(MalformedMessage):
        parse_provision(b"", NETWORK)


def test_what_a_stranger_provides_is_not_kept_whoever_brings_it() -> None:
    world = make_world(2)
    one, two = world.nodes
    connect(world, one, two)
    stranger = sign_provision(make_keys(999), NETWORK, 0, 1, (KEY,))
    one.machine.step(world.now, Received(two.peer_id, Provisions([stranger.packed])))
    assert one.machine._signed._provisions.find(stranger.peer_id, 0) is None
    assert one.machine._index.find(KEY, world.now) == []


def test_a_summary_of_lies_brings_few_messages_and_a_round_is_bounded() -> None:
    items = {(bytes([n // 256, n % 256]) + bytes(30), 0): 1 for n in range(20_000)}
    exchange = Exchange(lambda: items, lambda now, slot: (b"r" * 2000, 0))
    answers = exchange.on_digest(b"p" * 32, Digest([b"x" * 8] * 64))
    assert 0 < len(answers) <= ROUND_MESSAGES
    for effect in answers:
        assert isinstance(effect, Send)
        check(effect.message)
    lie = Summary(0, bytes(32), b"\xff" * 32, [(bytes([0, n]) + bytes(30), 0, 2**62) for n in range(256)])
    assert len(exchange.on_summary(0.0, b"p" * 32, lie)) <= ROUND_MESSAGES + 1
    assert len(exchange.on_summary(0.0, b"p" * 32, Summary(0, bytes(32), b"\xff" * 32, []))) <= ROUND_MESSAGES


def test_who_begins_rounds_without_end_is_answered_some() -> None:
    world = make_world(2)
    one, two = world.nodes
    connect(world, one, two)
    world.run(10)
    lies = (Digest([b"x" * 8] * 64), Summary(0, bytes(32), b"\xff" * 32, []), Wanted([(two.peer_id, 0)]))
    for lie, most in zip(lies, (ROUNDS_BURST, PAGES_BURST, PAGES_BURST), strict=True):
        found = [e for _ in range(1000) for e in one.machine.step(world.now, Received(two.peer_id, lie))]
        answered = [effect for effect in found if isinstance(effect, Send)]
        assert len(answered) <= most * ROUND_MESSAGES
        assert sum(isinstance(e, Observe) and e.rule == "too_many_exchanges" for e in found) >= 1000 - most
    world.run(60)
    (again,) = one.machine.step(world.now, Received(two.peer_id, lies[2]))
    assert isinstance(again, Send)


def test_own_pages_change_one_at_a_time_and_are_counted_on_after_a_crash() -> None:
    pages = OwnPages()
    keys = [n.to_bytes(32, "big") for n in range(PAGE_KEYS + 1)]
    for key in keys:
        pages.put(key)
    assert [(page, len(held)) for page, _, held, _ in pages.take_dirty()] == [
        *((page, SMALL_PAGE) for page in range(PAGE_KEYS // SMALL_PAGE)),
        (PAGE_KEYS // SMALL_PAGE, 1),
    ]
    pages.drop(keys[0])
    [(page, least, held, _)] = pages.take_dirty()
    assert (page, least, len(held)) == (0, 0, SMALL_PAGE - 1)
    pages.take_over(7, 41)
    assert pages.take_dirty() == [(7, 42, (), ())]


def test_own_pages_fill_up_and_what_is_beyond_them_is_not_told() -> None:
    pages = OwnPages()
    keys = [n.to_bytes(32, "big") for n in range(PAGE_KEYS * PAGES + 1)]
    told = [pages.put(key) for key in keys]
    assert told == [True] * (PAGE_KEYS * PAGES) + [False]
    assert [len(held) for _, _, held, _ in pages.take_dirty()] == [PAGE_KEYS] * PAGES


def test_a_feed_that_grows_costs_its_page_and_never_shrinks() -> None:
    pages = OwnPages()
    pages.put(KEY)
    pages.take_dirty()
    assert not pages.put(KEY)
    assert pages.put(KEY, 3)
    assert pages.take_dirty() == [(0, 0, (KEY,), (3,))]
    assert not pages.put(KEY, 2)
    assert not pages.put(KEY)
    assert pages.take_dirty() == []


def test_a_page_of_the_most_keys_and_entries_is_within_its_limit() -> None:
    keys = tuple(n.to_bytes(32, "big") for n in range(PAGE_KEYS))
    provision = sign_provision(make_keys(1), NETWORK, PAGES - 1, 2**63 - 1, keys, (2**32 - 1,) * PAGE_KEYS)
    assert len(provision.packed) == 5108 <= PROVISION_BYTES
    assert provision.heads == dict.fromkeys(keys, 2**32 - 1)


def test_entries_that_do_not_fit_their_keys_are_malformed() -> None:
    for entries in ([1], [1, 2, 3], [-1, 1], [2**32, 1]):
        fields = provision_module._Fields(make_keys(1).peer_id, 0, 1, [KEY, KEY], entries)
        body = b"\x01" + encode(fields)
        signature = make_keys(1).sign(provision_module._signed(NETWORK, body))
        with pytest.raises(MalformedMessage):
            parse_provision(body + signature, NETWORK)


def test_a_head_is_told_once_for_each_change_and_found_by_an_exchange_if_it_was_missed() -> None:
    world = make_world(3)
    hub, one, two = world.nodes
    connect(world, hub, one)
    world.step(one, Publish(KEY, 2))
    world.run(2)
    assert hub.heads == [(one.peer_id, KEY, 2)]
    world.step(one, Publish(b"o" * 32))  # another key of the page
    world.step(one, Publish(KEY, 1))
    world.run(2)
    assert hub.heads == [(one.peer_id, KEY, 2)]
    connect(world, hub, two)
    world.run(2)
    assert two.heads == [(one.peer_id, KEY, 2)]
    world._spread = lambda *_: None  # type: ignore[method-assign, assignment]  # broadcasts are lost
    world.step(one, Publish(KEY, 5))
    world.run(200)  # two rounds
    assert hub.heads[-1] == two.heads[-1] == (one.peer_id, KEY, 5)


def test_the_store_of_provisions_is_bounded_in_number_and_bytes() -> None:
    for size, most in ((100, KEPT), (5000, KEPT_BYTES // 5000)):
        store = ProvisionStore()
        for number in range(most + 50):
            peer = number.to_bytes(32, "big")
            store.put(Provision(peer, 0, 1, (), bytes(size)), 0.0, 0.0)
            store.put(Provision(peer, 0, 2, (), bytes(size)), 0.0, 0.0)  # in its own place
        kept = list(store.all())
        assert len(kept) == most
        assert kept[0].peer_id == (50).to_bytes(32, "big")
        store.drop(kept[0].peer_id)
        assert store._bytes == sum(len(provision.packed) for provision in store.all()) == (most - 1) * size


def test_what_a_device_provided_is_forgotten_three_hours_after_it_went_away_whoever_restarts() -> None:
    world = make_world(4)
    away, one, two, _ = world.nodes
    connect(world, away, one)
    world.step(away, Publish(KEY))
    world.run(2)
    world.stop(away)
    connect(world, one, two)
    for _ in range(7):  # each node restarts again and again, and is told what the other one has
        for node, other in ((one, two), (two, one)):
            world.run(1500)
            world.stop(node)
            world.restart(node, node.address)
            world.step(node, Sparse(True))
            connect(world, node, other)
            world.run(2)
            told = node.machine._index.find(KEY, world.now) == [away.peer_id]
            assert told == (world.now < TTL_S), world.now
    for node in (one, two):
        assert node.machine._signed._provisions.find(away.peer_id, 0) is None
        assert (away.peer_id, 1) not in node.machine._signed.list_seqs()


def test_who_says_first_that_a_provision_is_old_ends_it_for_nobody_who_hears_it_new() -> None:
    world = make_world(3)
    one, two, liar = world.nodes
    connect(world, one, liar)
    packed = sign_provision(two.keys, NETWORK, 0, 1, (KEY,)).packed
    one.machine.step(world.now, Received(liar.peer_id, Provisions([packed], [int(TTL_S) - 5])))
    one.machine.step(world.now, Delivered(PROVISION_TOPIC, packed))  # later, by the tree
    world.run(120)
    assert one.machine._index.find(KEY, world.now) == [two.peer_id]
    assert one.machine._signed._provisions.find(two.peer_id, 0) is not None
    one.machine.step(world.now, Received(liar.peer_id, Provisions([packed], [int(TTL_S) - 5])))
    world.run(120)
    assert one.machine._index.find(KEY, world.now) == [two.peer_id]


def test_ages_fit_their_provisions_and_who_tells_none_told_of_new_ones() -> None:
    world = make_world(2)
    one, two = world.nodes
    connect(world, one, two)
    for seq, ages, kept in ((1, [], True), (2, [int(TTL_S)], False), (3, [int(TTL_S) - 1], True)):
        packed = sign_provision(two.keys, NETWORK, 0, seq, (KEY,)).packed
        one.machine.step(world.now, Received(two.peer_id, Provisions([packed], ages)))
        found = one.machine._signed._provisions.find(two.peer_id, 0)
        assert found is not None
        assert (found.seq == seq) == kept
    earlier = OVERLAY_TABLE.decode(54, bytes.fromhex("9191c40170"))  # of a release without ages
    assert earlier == Provisions([b"p"], [])
    for ages in ([1, 2], [-1], [2**32]):
        with pytest.raises(MalformedMessage):
            check(Provisions([b"p"], ages))
