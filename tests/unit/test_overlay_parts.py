"""Parts of the full mesh: peer book and provider index."""

from __future__ import annotations

import pytest
from tests.support.identity import make_keys
from tests.support.mesh_world import NETWORK, make_record

from shoal.overlay import provider_index as index_module
from shoal.overlay.peer_book import TRUSTED, PeerBook
from shoal.overlay.provider_index import PROVIDERS, TTL_S, ProviderIndex
from shoal.overlay.search import SEARCHES, Searches
from shoal.overlay.steps import Emit, Located
from shoal.storage.peers import PeerRow

PEER = make_keys(1)


def _key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_rows_survive_and_damaged_records_are_left_out() -> None:
    book = PeerBook(NETWORK)
    record = make_record(PEER, 3, "192.0.2.1:1")
    book.put_record(record, over_loopback=False)
    book.put_trusted(PEER.peer_id, ["192.0.2.2:2"])
    book.mark_good(PEER.peer_id, "192.0.2.2:2", 17.0)
    contact = book.find(PEER.peer_id)
    assert contact is not None
    again = PeerBook(NETWORK)
    again.load([contact.row()])
    assert again.find(PEER.peer_id) == contact
    assert again.find_subject(record.packed) == record
    damaged = PeerBook(NETWORK)
    damaged.load([contact.row()._replace(record=b"\x01garbage")])
    assert damaged.addresses(PEER.peer_id) == ["192.0.2.2:2"]


def test_trusted_addresses_are_limited_newest_first_and_checked() -> None:
    book = PeerBook(NETWORK)
    for number in range(TRUSTED + 3):
        assert book.put_trusted(PEER.peer_id, [f"192.0.2.{number}:1"])
    assert book.addresses(PEER.peer_id) == [f"192.0.2.{n}:1" for n in range(TRUSTED + 2, 2, -1)]
    assert not book.put_trusted(PEER.peer_id, ["192.0.2.5:1", "not an address", "192.0.2.1:0", "::1"])
    assert book.addresses(PEER.peer_id)[0] == "192.0.2.5:1"


def test_at_one_seq_the_greater_bytes_win_everywhere() -> None:
    records = [make_record(PEER, 3, "192.0.2.1:1"), make_record(PEER, 3, "192.0.2.2:1")]
    kept = set()
    for order in (records, records[::-1]):
        book = PeerBook(NETWORK)
        for record in order:
            book.put_record(record, over_loopback=False)
        contact = book.find(PEER.peer_id)
        assert contact is not None
        assert contact.record is not None
        kept.add(contact.record.packed)
        assert len(book.records()) == 1
    assert kept == {max(r.packed for r in records)}


def test_a_dropped_peer_leaves_nothing() -> None:
    book = PeerBook(NETWORK)
    record = make_record(PEER, 3, "192.0.2.1:1")
    book.put_record(record, over_loopback=False)
    assert book.drop(PEER.peer_id)
    assert not book.drop(PEER.peer_id)
    assert (book.find(PEER.peer_id), book.find_subject(record.packed), book.peers()) == (None, None, set())


def test_the_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.overlay.peer_book.MEMBERS", 2)
    book = PeerBook(NETWORK)
    book.load([PeerRow(_key(n), None, ("192.0.2.1:1",)) for n in range(5)])
    assert len(book.peers()) == 2
    assert not book.put_trusted(_key(9), ["192.0.2.1:1"])
    assert not book.put_record(make_record(PEER, 1, "192.0.2.1:1"), over_loopback=False)


def test_the_index_finds_the_latest_announcement_first_and_forgets_expired_ones() -> None:
    index = ProviderIndex()
    index.announce(b"a", [_key(1)], 0.0)
    index.announce(b"b", [_key(1)], 10.0)
    assert index.find(_key(1), 11.0) == [b"b", b"a"]
    assert index.find(_key(1), TTL_S + 5.0) == [b"b"]
    index.sweep(TTL_S + 5.0)
    assert index.find(_key(1), 0.0) == [b"b"]
    index.sweep(TTL_S + 20.0)
    assert len(index) == 0


def test_the_index_is_bounded_in_every_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    index = ProviderIndex()
    for number in range(PROVIDERS):
        assert index.announce(_key(number), [_key(1)], 0.0) == 0
    assert index.announce(b"late", [_key(1), _key(2)], 0.0) == 1
    assert index.find(_key(2), 0.0) == [b"late"]
    monkeypatch.setattr(index_module, "KEYS_OF_A_PROVIDER", 3)
    assert index.announce(b"greedy", [_key(n) for n in range(10, 15)], 0.0) == 2
    monkeypatch.setattr(index_module, "KEYS", 2)
    index.announce(b"other", [_key(20)], 0.0)
    assert len(index) == 2
    assert index.find(_key(20), 0.0) == [b"other"]


def test_the_index_leaves_no_trace_of_who_is_dropped() -> None:
    index = ProviderIndex()
    index.announce(b"a", [_key(n) for n in range(5)], 0.0)
    index.announce(b"b", [_key(1)], 0.0)
    index.retract(b"a", [_key(0), _key(99)])
    index.drop_provider(b"a")
    index.drop_provider(b"nobody")
    assert [index.find(_key(n), 0.0) for n in range(5)] == [[], [b"b"], [], [], []]
    assert len(index) == 1
    assert list(index._keys) == [b"b"]


def make_searches() -> Searches:
    return Searches(lambda now, key: [], lambda peer: peer.startswith(b"member"))


def test_searches_have_a_limit_and_the_oldest_ends() -> None:
    searches = make_searches()
    for number in range(SEARCHES):
        searches.start(0.0, number, b"k" * 32, 5.0, {b"member 1"}, settling=False)
    ended = searches.start(1.0, SEARCHES, b"k" * 32, 5.0, {b"member 1"}, settling=False)
    assert [e.event.search for e in ended if isinstance(e, Emit) and isinstance(e.event, Located)] == [0]
    assert len(searches) == SEARCHES


def test_a_search_takes_one_answer_of_each_who_was_asked_and_members_alone() -> None:
    searches = make_searches()
    searches.start(0.0, 1, b"k" * 32, 5.0, {b"member 1", b"member 2"}, settling=False)
    assert searches.on_answer(1.0, b"member 3", 1, [b"member 4"], settling=False) == []
    assert searches.on_answer(1.0, b"member 1", 1, [b"stranger"], settling=False) == []
    assert searches.on_answer(1.0, b"member 1", 1, [b"member 4"], settling=False) == [], "it has answered"
    found = searches.on_answer(1.0, b"member 2", 1, [b"stranger", b"member 4"], settling=False)
    (located,) = [e.event for e in found if isinstance(e, Emit) and isinstance(e.event, Located)]
    assert located.result.hits == [b"member 4"]
