"""Relay machine: who gets a stream, and what its owner's budget does."""

from __future__ import annotations

from dataclasses import replace

from shoal.transport.reach.relay_machine import (
    BURST_S,
    DAY_S,
    Answered,
    Arrived,
    Ask,
    Drop,
    Ended,
    Grant,
    Hold,
    Moved,
    Offer,
    PeerGone,
    Refuse,
    RelayLimits,
    RelayMachine,
    SetTimer,
    Splice,
    Timer,
)

A, B, C = b"A" * 32, b"B" * 32, b"C" * 32
LIMITS = RelayLimits(streams=3, streams_a_peer=2, rate_bytes_s=1000, day_bytes=10_000, idle_s=60, token_s=10)


def make_stream(machine: RelayMachine, stream: int, asker: bytes = A, target: bytes = B) -> None:
    assert Offer(stream, asker, target) in machine.step(0, Ask(stream, asker, target, True))
    assert Grant(stream) in machine.step(0, Answered(stream, True))
    assert machine.step(0, Arrived(stream, 1)) == []
    assert machine.step(0, Arrived(stream, 0)) == [Splice(stream), SetTimer(60, ("idle", stream))]


def refusal(effects: list[object]) -> str:
    assert len(effects) == 1
    assert isinstance(effects[0], Refuse)
    return effects[0].code


def test_a_stream_is_offered_granted_and_spliced() -> None:
    machine = RelayMachine(LIMITS)
    assert machine.step(5, Ask(1, A, B, True)) == [SetTimer(15, ("token", 1)), Offer(1, A, B)]
    assert machine.step(6, Answered(1, True)) == [Grant(1), SetTimer(16, ("token", 1))]
    assert machine.step(7, Arrived(1, 0)) == []
    assert machine.step(7, Arrived(1, 0)) == []  # the same end twice is not both ends
    assert machine.step(8, Arrived(1, 1)) == [Splice(1), SetTimer(68, ("idle", 1))]
    assert machine.step(16, Timer(("token", 1))) == []
    assert machine.step(20, Ended(1)) == [Drop(1, "an end closed")]
    assert machine.step(20, Ended(1)) == []


def test_no_stream_without_a_session() -> None:
    machine = RelayMachine(LIMITS)
    assert refusal([*machine.step(0, Ask(1, A, B, False))]) == "relay_no_session"
    assert machine.status().refused == 1
    assert machine.status().streams == 0


def test_who_calls_itself_gets_a_stream_as_others_do() -> None:
    machine = RelayMachine(LIMITS)
    make_stream(machine, 1, A, A)
    make_stream(machine, 2, A, A)
    assert refusal([*machine.step(0, Ask(3, A, A, True))]) == "relay_full"


def test_a_declined_or_silent_target_costs_no_stream() -> None:
    machine = RelayMachine(LIMITS)
    machine.step(0, Ask(1, A, B, True))
    assert refusal([*machine.step(1, Answered(1, False))]) == "relay_declined"
    machine.step(1, Ask(2, A, B, True))
    assert machine.step(11, Timer(("token", 2))) == [Drop(2, "nobody came")]
    assert refusal([*machine.step(12, Answered(2, True))]) == "relay_timeout"
    assert machine.status().streams == 0


def test_one_end_alone_is_dropped() -> None:
    machine = RelayMachine(LIMITS)
    machine.step(0, Ask(1, A, B, True))
    machine.step(0, Answered(1, True))
    machine.step(1, Arrived(1, 0))
    assert machine.step(10, Timer(("token", 1))) == [Drop(1, "nobody came")]
    assert machine.step(11, Arrived(1, 1)) == []


def test_streams_are_limited_for_each_member_and_in_all() -> None:
    machine = RelayMachine(replace(LIMITS, streams=2))
    make_stream(machine, 1)
    make_stream(machine, 2)
    assert refusal([*machine.step(0, Ask(3, C, C[:31] + b"x", True))]) == "relay_full"
    machine = RelayMachine(LIMITS)
    make_stream(machine, 1, A, B)
    make_stream(machine, 2, C, B)
    assert refusal([*machine.step(0, Ask(3, C, B, True))]) == "relay_full"  # B has two
    make_stream(machine, 4, C, A)
    machine.step(1, Ended(1))
    make_stream(machine, 5, A, B)


def test_the_rate_holds_all_streams_together() -> None:
    machine = RelayMachine(LIMITS)
    make_stream(machine, 1)
    make_stream(machine, 2)
    burst = int(1000 * BURST_S)
    assert machine.step(100, Moved(1, burst)) == []
    assert machine.step(100, Moved(2, 500)) == [Hold(2, 0.5)]
    assert machine.step(100, Moved(1, 500)) == [Hold(1, 1.0)]
    assert machine.step(102, Moved(1, burst)) == []


def test_a_spent_day_ends_all_streams_and_the_next_one_begins_anew() -> None:
    machine = RelayMachine(replace(LIMITS, rate_bytes_s=None))
    make_stream(machine, 1)
    make_stream(machine, 2, C, B)
    assert machine.step(10, Moved(1, 9_999)) == []
    drops = machine.step(20, Moved(2, 1))
    assert [type(effect) for effect in drops] == [Drop, Drop]
    effects = machine.step(30, Ask(3, A, B, True))
    assert refusal([*effects]) == "relay_day"
    assert isinstance(effects[0], Refuse)
    assert effects[0].retry_after_s == 10 + DAY_S - 30
    assert Offer(4, A, B) in machine.step(11 + DAY_S, Ask(4, A, B, True))


def test_an_idle_stream_ends_and_a_busy_one_does_not() -> None:
    machine = RelayMachine(LIMITS)
    make_stream(machine, 1)
    machine.step(50, Moved(1, 1))
    assert machine.step(60, Timer(("idle", 1))) == [SetTimer(110, ("idle", 1))]
    assert machine.step(110, Timer(("idle", 1))) == [Drop(1, "it was idle")]


def test_who_is_no_member_any_more_loses_its_streams() -> None:
    machine = RelayMachine(LIMITS)
    make_stream(machine, 1, A, B)
    make_stream(machine, 2, C, B)
    assert machine.step(5, PeerGone(A)) == [Drop(1, "a peer is gone")]
    assert machine.status().streams == 1


def test_no_bound_means_none() -> None:
    machine = RelayMachine(replace(LIMITS, rate_bytes_s=None, day_bytes=None))
    make_stream(machine, 1)
    assert machine.step(1, Moved(1, 10**15)) == []
    assert machine.status().day_bytes == 10**15
