"""Address, admission, heartbeat and session table: pure parts, with times that are given."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.errors import LocalMisuse
from shoal.transport.address import Address, may_dial
from shoal.transport.admission import Admission, Admit
from shoal.transport.config import AdmissionLimits, SessionTiming
from shoal.transport.heartbeat import Beat, Heartbeat
from shoal.transport.session import Session
from shoal.transport.session_table import SessionTable, Verdict

LOW, OWN, HIGH = b"\x01" * 32, b"\x50" * 32, b"\xf0" * 32


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.7:4711", "192.0.2.7", 4711),
        (" [2001:DB8::7]:1 ", "2001:db8::7", 1),
        ("[fe80::1%eth0]:5", "fe80::1%eth0", 5),
        ("Name.Example:65535", "name.example", 65535),
        ("localhost:0", "localhost", 0),
    ],
)
def test_addresses_are_read_and_written(text: str, host: str, port: int):
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":1",
        "host",
        "host:",
        "host:x",
        "host:-1",
        "host:65536",
        "host:99999999999",
        "host:0000009999999",
        "::1:80",
        "[::1]",
        "[host]:",
        "1.2.3:4",
        "1.2.3.256:4",
        "a b:1",
        "-a:1",
        "a..b:1",
        "[1.2.3.4%x]:1",
        "h\u00f6st:1",
        "host:\u0661",
        "x" * 300 + ":1",
    ],
)
def test_other_texts_are_refused_with_an_example(text: str):
    with pytest.raises(LocalMisuse) as error:
        Address.parse(text)
    assert "192.0.2.7:4711" in error.value.next_step


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_misuse(text: str):
    try:
        address = Address.parse(text)
    except LocalMisuse:
        return
    assert Address.parse(str(address)) == address


def test_socket_names_become_plain_addresses():
    assert Address.from_socket(("::ffff:192.0.2.1", 5, 0, 0)) == Address("192.0.2.1", 5)
    assert Address.from_socket(("fe80::1%eth0", 5, 0, 2)) == Address("fe80::1%eth0", 5)
    assert Address("2001:db8::1", 1).budget_group == Address("2001:db8::ffff", 2).budget_group
    assert Address("192.0.2.1", 1).budget_group != Address("192.0.2.2", 1).budget_group


@pytest.mark.parametrize(
    ("host", "record", "loopback"),
    [
        ("192.168.1.4", True, True),
        ("10.0.0.1", True, True),
        ("2001:db8::1", True, True),
        ("fd00::1", True, True),
        ("127.0.0.1", False, True),
        ("127.9.9.9", False, True),
        ("::1", False, True),
        ("localhost", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("169.254.169.254", False, False),
        ("fe80::1", False, False),
        ("fe80::1%eth0", True, True),
        ("224.0.0.251", False, False),
        ("ff02::fb", False, False),
        ("0.0.0.0", False, False),
        ("::", False, False),
        ("255.255.255.255", False, False),
        ("0.1.2.3", False, False),
        ("name.example", True, True),
    ],
)
def test_records_do_not_make_a_node_dial_its_own_machine(host: str, record: bool, loopback: bool):
    assert may_dial(Address(host, 80)) is record
    assert may_dial(Address(host, 80), learned_over_loopback=True) is loopback
    assert not may_dial(Address(host, 0), learned_over_loopback=True)


LIMITS = AdmissionLimits(
    pending_handshakes=4, pending_a_group=3, connections_s=1, connections_burst=5, knocks_s=1, knocks_burst=2
)


def test_connections_without_a_knock_are_paid_for():
    admission = Admission(LIMITS)
    for _ in range(5):
        _verdict, pending, _ = admission.open("a", 0.0)
        assert pending is not None
        admission.close(pending)
    assert admission.open("a", 0.0)[0] is Admit.RATE
    assert admission.open("b", 0.0)[0] is Admit.YES
    assert admission.open("a", 1.0)[0] is Admit.YES


def test_right_knocks_are_free_once_authenticated():
    admission = Admission(LIMITS)
    for _ in range(50):
        _, pending, _ = admission.open("a", 0.0)
        assert pending is not None
        assert admission.on_knock(pending, True, 0.0)
        admission.on_authenticated(pending)
        admission.close(pending)
    results = []
    for _ in range(3):  # right knocks that never authenticate
        _, pending, _ = admission.open("a", 0.0)
        assert pending is not None
        results.append(admission.on_knock(pending, True, 0.0))
        admission.close(pending)
    assert results == [True, True, False]


def test_an_old_door_key_is_charged_like_none():
    admission = Admission(LIMITS)
    for _ in range(5):
        _, pending, _ = admission.open("a", 0.0)
        assert pending is not None
        assert admission.on_knock(pending, False, 0.0)
        admission.on_authenticated(pending)
        admission.close(pending)
    assert admission.open("a", 0.0)[0] is Admit.RATE


def test_a_full_table_drops_the_oldest_that_had_its_time():
    admission = Admission(LIMITS)
    first = admission.open("a", 0.0)[1]
    knocked = admission.open("b", 0.0)[1]
    assert first is not None
    assert knocked is not None
    admission.on_knock(knocked, True, 0.0)
    admission.open("c", 0.5)
    admission.open("d", 0.5)
    assert admission.open("e", 0.9)[0] is Admit.FULL
    verdict, _pending, victim = admission.open("e", 1.0)
    assert (verdict, victim) == (Admit.YES, first)
    assert len(admission) == 4
    assert admission.open("e", 1.2)[0] is Admit.FULL  # the next oldest has knocked, the others are young


def test_one_address_does_not_take_all_places():
    admission = Admission(LIMITS)
    for _ in range(3):
        assert admission.open("a", 0.0)[0] is Admit.YES
    assert admission.open("a", 0.0)[0] is Admit.FULL
    assert admission.open("b", 0.0)[0] is Admit.YES


def test_heartbeat_pings_probes_and_gives_up():
    timing, beat = SessionTiming(), Heartbeat(SessionTiming(), 0.0)
    assert beat.judge(3.5, 0.0, False) is Beat.NOTHING
    assert beat.judge(3.6, 0.0, False) is Beat.PING
    beat.on_sent(1, 3.6, None)
    assert beat.judge(4.9, 0.0, False) is Beat.NOTHING
    assert beat.judge(5.0, 0.0, False) is Beat.PING
    beat.on_sent(2, 5.0, None)
    assert beat.judge(8.9, 0.0, False) is not Beat.DEAD
    assert beat.judge(9.0, 0.0, False) is Beat.DEAD
    assert timing.silence_s + timing.probe_s + 2 * timing.tick_s <= 10


@pytest.mark.parametrize(("use", "longest_s"), [("silent", 3.6), ("busy", 10.0), ("resting", 12.0)])
def test_two_ends_take_turns_with_pings(use: str, longest_s: float):
    """So that less is sent than by two ends that ping on their own, and each learns the round trip."""
    timing = SessionTiming()
    ends = [Heartbeat(timing, 0.0), Heartbeat(timing, 0.0)]
    pings: list[tuple[float, int]] = []
    heard_at = 0.0
    for tick in range(1, 480):
        now = tick * timing.tick_s
        heard_at = now - 0.1 if use == "busy" else heard_at
        for end, beat in enumerate(ends):
            if beat.judge(now, heard_at, False, use == "resting") is Beat.PING:
                pings.append((now, end))
                beat.on_sent(tick, now, None)
                beat.on_answer(tick, now + 0.05)
                ends[1 - end].on_asked(now + 0.025)
                heard_at = now + 0.05
    waits = [other[0] - one[0] for one, other in itertools.pairwise(pings)]
    assert longest_s <= min(waits)
    assert max(waits) <= longest_s + 2 * timing.tick_s
    assert all(one[1] != other[1] for one, other in itertools.pairwise(pings))
    assert all(beat.rtt_ms for beat in ends)


def test_a_session_that_rests_is_probed_as_soon_as_it_is_used():
    beat = Heartbeat(SessionTiming(), 0.0)
    assert beat.judge(11.5, 0.0, False, resting=True) is Beat.NOTHING
    assert beat.judge(11.5, 0.0, False, resting=False) is Beat.PING
    beat.on_sent(1, 11.5, None)
    assert beat.judge(15.5, 0.0, False, resting=False) is Beat.DEAD
    idle = Heartbeat(SessionTiming(), 0.0)
    assert idle.judge(12.0, 0.0, False, resting=True) is Beat.PING
    idle.on_sent(1, 12.0, None)
    assert idle.judge(16.0, 0.0, False, resting=True) is Beat.DEAD


def test_any_byte_is_a_sign_of_life():
    beat = Heartbeat(SessionTiming(), 0.0)
    assert beat.judge(5.0, 0.0, False) is Beat.PING
    beat.on_sent(1, 5.0, None)
    beat.on_asked(8.0)
    assert beat.judge(9.0, 5.5, False) is Beat.NOTHING
    assert beat.judge(11.5, 9.0, False) is Beat.NOTHING
    assert beat.judge(12.7, 9.0, False) is Beat.PING


def test_after_a_stall_of_our_own_the_peer_has_its_full_time():
    beat = Heartbeat(SessionTiming(), 0.0)
    assert beat.judge(100.0, 0.0, True) is Beat.PING  # a machine that slept 100 s
    beat.on_sent(1, 100.0, None)
    assert beat.judge(103.9, 0.0, False) is not Beat.DEAD
    assert beat.judge(104.0, 0.0, False) is Beat.DEAD
    again = Heartbeat(SessionTiming(), 0.0)
    again.judge(100.0, 0.0, True)
    again.on_sent(1, 100.0, None)
    assert again.judge(104.0, 100.1, False) is not Beat.DEAD


def test_round_trips_are_smoothed_and_waiting_pings_bounded():
    beat = Heartbeat(SessionTiming(), 0.0)
    beat.on_sent(1, 0.0, None)
    beat.on_answer(1, 0.1)
    beat.on_sent(2, 1.0, None)
    beat.on_answer(2, 1.9)
    assert beat.rtt_ms == pytest.approx(200.0)
    for ping in range(100):
        beat.on_sent(ping, 2.0, None)
    assert not beat.is_waiting(91)
    assert beat.is_waiting(92)


def session(peer: bytes, dialler: bool, at: float = 0.0, instance: bytes = b"i") -> Session:
    made = SimpleNamespace(peer_id=peer, is_dialler=dialler, established_at=at, instance=instance)
    return cast(Session, made)


def judge(table: SessionTable, peer: bytes, **given: object) -> Verdict:
    facts = {"instance": b"i", "replaces": False, "now": 1.0, "dialling": False} | given
    return table.judge_accepted(peer, **facts)  # type: ignore[arg-type]


def test_the_lower_tls_client_stays_when_both_dial():
    table = SessionTable(OWN, 8.0)
    assert judge(table, HIGH) is Verdict.STAY
    assert judge(table, HIGH, dialling=True) is Verdict.WAIT  # ours would win
    assert judge(table, LOW, dialling=True) is Verdict.STAY  # theirs wins
    table.put(session(HIGH, True))
    assert judge(table, HIGH) is Verdict.REFUSE
    table.put(session(LOW, True))
    assert judge(table, LOW) is Verdict.STAY


def test_who_lost_its_session_may_dial_again():
    table = SessionTable(OWN, 8.0)
    table.put(session(HIGH, True))
    assert judge(table, HIGH, instance=b"restarted") is Verdict.STAY
    assert judge(table, HIGH, replaces=True) is Verdict.STAY
    assert judge(table, HIGH, now=8.0) is Verdict.STAY
    table.put(session(HIGH, False))
    assert judge(table, HIGH) is Verdict.STAY  # it dialled both


def test_table_forgets_only_what_it_holds():
    table = SessionTable(OWN, 8.0)
    old, new = session(LOW, True), session(LOW, False)
    assert table.put(old) is None
    assert table.put(new) is old
    assert not table.remove(old)
    assert table.find(LOW) is new
    assert table.wait(old) is None
    assert table.wait(new) is old
    assert table.take_waiting(LOW) is new
    assert table.take_waiting(LOW) is None
    assert table.remove(new)
    assert len(table) == 0
