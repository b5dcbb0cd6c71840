"""Members that are wanted in a large network: what names a relay is reached over it, dialled at need."""

from __future__ import annotations

from tests.machine.test_overlay_mesh import ANN, ANN_ID, BOB, BOB_ID, EVE_ID, NETWORK, Playbook

from shoal.identity.keys import DeviceKeys
from shoal.identity.record import sign_record
from shoal.overlay.messages import Records
from shoal.overlay.steps import Connect, DialEnded, Emit, Received, Sparse, Timer, Unreached, Wanted
from shoal.transport.address import Address


def make_views_with_a_relay() -> Playbook:
    """Bob can be reached over Ann, whom we have no session with; Eve told us."""
    relay = sign_record(ANN, NETWORK, 1, ["192.0.2.2:4711"], "ann", 0, True)
    hidden = sign_record(BOB, NETWORK, 1, ["10.9.0.2:4711"], "bob", 0, False, (ANN_ID,))
    book = Playbook(ANN_ID, BOB_ID, EVE_ID)
    book.do(Sparse(True))
    book.connect(EVE_ID)
    book.do(Received(EVE_ID, Records([relay.packed, hidden.packed])))
    return book


def test_who_is_wanted_and_names_a_relay_has_that_dialled_too() -> None:
    book = make_views_with_a_relay()
    assert book.machine.relays_known() == [ANN_ID]
    assert book.machine.names_as_relay(BOB_ID, ANN_ID)
    book.do(Wanted(BOB_ID))
    assert book.timer_at("dial", BOB_ID) is not None
    assert book.timer_at("dial", ANN_ID) is not None
    assert book.do(Timer(("dial", ANN_ID))) == [Connect(ANN_ID, "192.0.2.2:4711")]
    assert book.do(Timer(("dial", BOB_ID))) == [Connect(BOB_ID, "10.9.0.2:4711")]
    refused = book.do(DialEnded(BOB_ID, "10.9.0.2:4711", "refused"))
    assert not any(isinstance(e, Emit) for e in refused), "given up though the relay is on its way"
    book.connect(ANN_ID)
    assert book.timer_at("dial", BOB_ID) == 0.0
    assert book.do(Timer(("dial", BOB_ID))) == [Connect(BOB_ID, str(Address.via(ANN_ID)))]


def test_a_wanted_peer_is_given_up_with_the_last_relay_to_it() -> None:
    book = make_views_with_a_relay()
    book.do(Wanted(BOB_ID))
    for peer, address in ((ANN_ID, "192.0.2.2:4711"), (BOB_ID, "10.9.0.2:4711")):
        book.do(Timer(("dial", peer)))
        book.do(DialEnded(peer, address, "refused"))
    assert [e.event.peer for e in book.effects if isinstance(e, Emit)] == [BOB_ID]


def test_a_peer_whose_relay_has_a_session_is_dialled_over_it_at_once() -> None:
    book = make_views_with_a_relay()
    book.connect(ANN_ID)
    book.do(Wanted(BOB_ID))
    assert book.do(Timer(("dial", BOB_ID))) == [Connect(BOB_ID, str(Address.via(ANN_ID)))]
    assert book.timer_at("dial", ANN_ID) is None


def give_up(*via: tuple[DeviceKeys, bytes]) -> list[bytes]:
    """Want Bob, whom nothing reaches; return who was told to be unreachable in ten rounds of dials."""
    addresses = {ANN_ID: "192.0.2.2:4711", BOB_ID: "192.0.2.3:4711"}
    records = [sign_record(k, NETWORK, 1, [addresses[k.peer_id]], "x", 0, True, (r,)) for k, r in via]
    book = Playbook(ANN_ID, BOB_ID, EVE_ID)
    book.do(Sparse(True))
    book.connect(EVE_ID)
    book.do(Received(EVE_ID, Records([record.packed for record in records])))
    book.do(Wanted(BOB_ID))
    found = []
    for _ in range(10):
        for keys, _ in via:
            for dial in [e for e in book.do(Timer(("dial", keys.peer_id))) if isinstance(e, Connect)]:
                ended = book.do(DialEnded(dial.peer, dial.address, "refused"))
                found += [
                    e.event.peer for e in ended if isinstance(e, Emit) and isinstance(e.event, Unreached)
                ]
    return found


def test_two_that_name_each_other_as_relay_are_given_up() -> None:
    assert sorted(give_up((ANN, BOB_ID), (BOB, ANN_ID))) == sorted([ANN_ID, BOB_ID])


def test_who_names_itself_as_relay_is_given_up() -> None:
    assert give_up((BOB, BOB_ID)) == [BOB_ID]
