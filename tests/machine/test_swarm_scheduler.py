"""Playbooks of the swarm's scheduler: input, time, expected effects."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from shoal.core.errors import MalformedMessage
from shoal.core.units import KIB
from shoal.swarm.chunk_set import bits, runs_to_set, to_set
from shoal.swarm.offer import make_runs
from shoal.swarm.scheduler import (
    BAD_LIMIT,
    ENDGAME_AGE_S,
    ORDERED_RUN_CHUNKS,
    RETURN_LIMIT,
    STALL_LAST_S,
    STALL_MIN_S,
    WINDOW_MAX_CHUNKS,
    WINDOW_MIN_CHUNKS,
    WINDOW_SLOW_CHUNKS,
    Scheduler,
)
from shoal.swarm.scheduler_events import (
    Arriving,
    Cancel,
    ChunkBad,
    ChunkMissing,
    ChunksDone,
    DropProvider,
    Effect,
    Finished,
    Have,
    Paced,
    ProviderDown,
    ProviderUp,
    Reached,
    Taken,
    Tick,
    Want,
)

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
CHUNK = 512 * KIB


def make(total: int, done: int = 0, seed: int = 1) -> Scheduler:
    return Scheduler(total, lambda _: CHUNK, random.Random(seed), done)


def wanted(effects: list[Effect], peer: bytes) -> list[int]:
    return [o for e in effects if isinstance(e, Want) and e.peer == peer for o in e.ordinals]


def make_ordered(total: int, ahead: int, done: int = 0) -> Scheduler:
    return Scheduler(total, lambda _: CHUNK, random.Random(1), done, ahead)


def test_in_order_the_first_are_asked_first_and_none_too_far_ahead() -> None:
    scheduler = make_ordered(100, ahead=12, done=to_set(range(20), 100))
    asked = wanted(scheduler.step(0.0, ProviderUp(A, None)), A)
    other = wanted(scheduler.step(0.0, ProviderUp(B, None)), B)
    assert asked[0] == 20
    assert sorted(asked + other) == list(range(20, 32))
    assert all(b - a == 1 for a, b in pairwise(asked[:ORDERED_RUN_CHUNKS]))
    done = scheduler.step(0.1, ChunksDone(A, tuple(asked))) + scheduler.step(0.1, ChunksDone(B, tuple(other)))
    assert not wanted(done, A) + wanted(done, B)
    assert not scheduler.is_stuck()  # it is the reader who is waited for
    effects = scheduler.step(0.2, Reached(23))
    assert sorted(wanted(effects, A) + wanted(effects, B)) == [32, 33, 34]


def test_in_order_what_nobody_has_is_waited_for_at_once() -> None:
    scheduler = make_ordered(100, ahead=4)
    assert wanted(scheduler.step(0.0, ProviderUp(A, to_set([2, 3, 50], 100))), A) == [2, 3]
    scheduler.step(0.1, ChunksDone(A, (2, 3)))
    assert scheduler.is_stuck()
    assert wanted(scheduler.step(0.2, Have(A, to_set([0, 1], 100))), A) == [0, 1]
    assert not scheduler.is_stuck()


def test_in_order_a_slow_first_chunk_is_asked_twice() -> None:
    scheduler = make_ordered(100, ahead=4)
    assert wanted(scheduler.step(0.0, ProviderUp(A, None)), A) == [0, 1, 2, 3]
    scheduler.step(0.1, ProviderUp(B, None))
    assert wanted(scheduler.step(0.2 + ENDGAME_AGE_S, Tick()), B) == [0, 1, 2, 3]


def test_in_order_to_the_end() -> None:
    scheduler = make_ordered(10, ahead=3)
    scheduler.step(0.0, ProviderUp(A, None))
    reached, now = 0, 0.0
    while reached < 10:
        now += 0.1
        effects = scheduler.step(now, ChunksDone(A, (reached,)))
        reached += 1
        effects += scheduler.step(now, Reached(reached))
    assert Finished() in effects


def test_sets_are_integers() -> None:
    assert list(bits(to_set([0, 9, 3, 70], 64))) == [0, 3, 9]
    assert list(bits(0)) == []


@pytest.mark.parametrize("seed", range(20))
def test_runs_become_sets(seed: int) -> None:
    rng = random.Random(seed)
    total = rng.randrange(1, 200)
    chosen = rng.getrandbits(total)
    runs = make_runs(chosen)
    rng.shuffle(runs)
    assert runs_to_set([*runs, (total, 1), (total - 1, 2), (0, 0)], total) == chosen


def test_a_flood_of_overlapping_runs_costs_next_to_nothing() -> None:
    """4,096 times everything of a share of 8 TiB kept the loop busy for eleven seconds."""
    total = 16 * 1024 * 1024
    with pytest.raises(MalformedMessage):
        runs_to_set([(0, total)] * 4096, total)


def test_one_provider_is_asked_a_window_and_then_more() -> None:
    machine = make(100)
    first = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    assert WINDOW_MIN_CHUNKS <= len(first) <= WINDOW_MAX_CHUNKS
    assert len(set(first)) == len(first)
    second = wanted(machine.step(0.1, ChunksDone(A, tuple(first))), A)
    assert len(second) >= len(first)
    assert not set(first) & set(second)
    assert machine.left == 100 - len(first)


def test_a_slow_start_does_not_keep_the_window_small() -> None:
    """The first chunks take long (the file is being reserved); then all that is owed comes every 3 ms."""
    scheduler = make(8000)
    owed = wanted(scheduler.step(0.0, ProviderUp(A, None)), A)
    now = 0.1
    for _ in range(60):
        owed = wanted(scheduler.step(now, ChunksDone(A, tuple(owed))), A)
        now += 0.003
    assert len(owed) == WINDOW_MAX_CHUNKS


def test_a_pause_is_not_taken_for_a_slow_peer() -> None:
    scheduler = make(1500)
    owed = wanted(scheduler.step(0.0, ProviderUp(A, to_set(range(8), 1500))), A)
    assert len(owed) == 8
    assert wanted(scheduler.step(0.03, ChunksDone(A, tuple(owed))), A) == []
    owed = wanted(scheduler.step(60.0, Have(A, to_set(range(8, 1500), 1500))), A)
    effects = scheduler.step(60.03, ChunksDone(A, tuple(owed)))
    assert len(wanted(effects, A)) == WINDOW_MAX_CHUNKS


def test_a_run_is_made_of_neighbours() -> None:
    first = wanted(make(1000).step(0.0, ProviderUp(A, None)), A)
    assert sum(b == a + 1 for a, b in pairwise(first)) >= len(first) - 2


def test_what_is_done_is_not_asked_and_an_empty_plan_is_finished() -> None:
    machine = make(6, done=to_set([0, 1, 2, 3], 6))
    assert sorted(wanted(machine.step(0.0, ProviderUp(A, None)), A)) == [4, 5]
    assert machine.step(0.1, ChunksDone(A, (4, 5)))[-1] == Finished()
    assert make(0).step(0.0, Tick()) == [Finished()]
    assert machine.step(0.2, Tick()) == []


def test_rarest_first() -> None:
    machine = make(200)
    machine.step(0.0, ProviderUp(A, to_set(range(190), 200)))
    machine.step(0.0, ProviderUp(B, to_set(range(190), 200)))
    picked = wanted(machine.step(1.0, ProviderUp(C, None)), C)
    assert set(picked) >= set(range(190, 198)) & set(range(190, 190 + len(picked)))


def test_only_what_a_provider_has_is_asked() -> None:
    machine = make(50)
    assert sorted(wanted(machine.step(0.0, ProviderUp(A, to_set([3, 7], 50))), A)) == [3, 7]
    assert wanted(machine.step(0.0, Have(A, to_set([9], 50))), A) == [9]


def test_no_chunk_is_asked_twice_outside_the_end_game() -> None:
    machine = make(12)
    first = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    second = wanted(machine.step(0.0, ProviderUp(B, None)), B)
    assert not set(first) & set(second)


def test_end_game_duplicates_old_asks_and_cancels_the_loser() -> None:
    machine = make(4)
    first = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    assert machine.step(0.0, ProviderUp(B, None)) == []
    assert machine.step(ENDGAME_AGE_S / 2, Tick()) == []
    again = wanted(machine.step(ENDGAME_AGE_S, Tick()), B)
    assert sorted(again) == sorted(first)
    effects = machine.step(1.0, ChunksDone(B, tuple(again)))
    assert [e for e in effects if isinstance(e, Cancel)] == [Cancel(A, tuple(again))]
    assert effects[-1] == Finished()
    assert machine.step(1.1, ChunksDone(A, (again[0],))) == []
    assert machine.duplicate_bytes == CHUNK


def test_a_provider_that_leaves_is_replaced() -> None:
    machine = make(8)
    first = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    machine.step(0.0, ProviderUp(B, None))
    assert sorted(wanted(machine.step(0.2, ProviderDown(A)), B)) == sorted(first)


def test_a_silent_provider_loses_what_another_one_has() -> None:
    machine = make(40)
    first = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    machine.step(0.0, ProviderUp(B, to_set(first, 40)))
    effects = machine.step(STALL_MIN_S + 0.1, Tick())
    assert Cancel(A, tuple(first)) in effects
    assert set(wanted(effects, B)) <= set(first)
    assert wanted(effects, A) == []
    late = wanted(machine.step(STALL_MIN_S + 0.2, ChunksDone(A, (first[0],))), A)
    assert late, "who delivers late is asked again"


def test_a_slow_only_provider_is_left_in_peace_but_not_for_ever() -> None:
    machine = make(4)
    machine.step(0.0, ProviderUp(A, None))
    assert machine.step(STALL_MIN_S + 1, Tick()) == []
    assert machine.owed(A) == 4
    assert machine.step(STALL_LAST_S + 1, Tick()) == [DropProvider(A, "it stopped answering", blamed=False)]
    assert machine.is_stuck()


def test_a_liar_is_not_asked_for_the_chunk_again_and_then_for_nothing() -> None:
    machine = make(4)
    first = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    assert first[0] not in wanted(machine.step(0.1, ChunkBad(A, first[0])), A)
    assert wanted(machine.step(0.1, ProviderUp(B, None)), B) == [first[0]]
    effects = machine.step(0.2, ChunkBad(A, first[1]))
    assert BAD_LIMIT == 2
    assert DropProvider(A, "it sent wrong data", blamed=True) in effects
    assert set(wanted(effects, B)) == set(first[1:])
    assert machine.blamed == {A}
    assert machine.step(0.3, ProviderUp(A, None)) == [
        DropProvider(A, "it sent wrong data before", blamed=True)
    ]


def test_a_reconnection_does_not_wash_a_wrong_chunk_away() -> None:
    machine = make(4)
    first = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    machine.step(0.1, ChunkBad(A, first[0]))
    machine.step(0.2, ProviderDown(A))
    assert first[0] not in wanted(machine.step(0.3, ProviderUp(A, None)), A)


def test_a_missing_chunk_is_asked_elsewhere_without_blame() -> None:
    machine = make(4)
    first = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    machine.step(0.0, ProviderUp(B, None))
    assert wanted(machine.step(0.1, ChunkMissing(A, first[0])), B) == [first[0]]
    assert machine.blamed == frozenset()


def test_an_answer_that_something_is_missing_does_not_cost_a_look_at_all_others() -> None:
    """Who claims everything may say so of each chunk; the others are busy, and looked after at every tick."""
    machine = make(20_000)
    machine.step(0.0, ProviderUp(A, None))
    peers = [bytes([n]) * 32 for n in range(10, 40)]
    for peer in peers:
        assert wanted(machine.step(0.0, ProviderUp(peer, None)), peer)
    looked: list[bytes] = []
    fill = machine._fill

    def count(now: float, provider: Any, effects: list[Any]) -> None:
        looked.append(provider.peer)
        fill(now, provider, effects)

    machine._fill = count  # type: ignore[method-assign]
    for _ in range(50):
        machine.step(0.1, ChunkMissing(A, next(iter(machine._providers[A].owed))))
    assert set(looked) == {A}
    assert len(looked) <= 50
    before = len(looked)
    machine.step(0.2, Tick())
    assert set(looked[before:]) == {A, *peers}


def test_who_lacks_a_whole_file_is_asked_in_few_messages() -> None:
    """A message for each answer would be more than a peer may send: what is dropped is never answered."""
    machine = make(20_000)
    waiting = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    messages = 1
    while waiting:
        effects = machine.step(0.1, ChunkMissing(A, waiting.pop(0)))
        messages += sum(isinstance(effect, Want) for effect in effects)
        waiting += wanted(effects, A)
    assert messages < 400


def test_what_was_missing_is_asked_again_once_it_is_offered_anew() -> None:
    machine = make(4)
    (ordinal, *_) = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    assert machine.step(0.1, ChunkMissing(A, ordinal)) == []
    assert wanted(machine.step(0.2, Have(A, 1 << ordinal)), A) == [ordinal]
    machine.step(0.3, ChunkBad(A, ordinal))  # but never what was wrong
    assert machine.step(0.4, Have(A, 1 << ordinal)) == []


def test_who_offers_and_lacks_for_ever_is_not_asked_for_ever() -> None:
    machine = make(1)
    machine.step(0.0, ProviderUp(A, None))
    asked = 0
    for turn in range(2 * RETURN_LIMIT):
        machine.step(0.1 + turn, ChunkMissing(A, 0))
        asked += len(wanted(machine.step(0.2 + turn, Have(A, 1)), A))
    assert asked == RETURN_LIMIT


def test_stuck_means_that_only_somebody_new_can_help() -> None:
    machine = make(4)
    assert machine.is_stuck()
    machine.step(0.0, ProviderUp(A, to_set([1], 4)))
    assert not machine.is_stuck()
    machine.step(0.1, ChunksDone(A, (1,)))
    assert machine.is_stuck()
    machine.step(0.2, Have(A, to_set([2], 4)))
    assert not machine.is_stuck()


def test_a_paced_provider_is_asked_for_a_second_not_for_a_minute() -> None:
    machine = make(400)
    assert len(wanted(machine.step(0.0, ProviderUp(A, None, 1_000_000.0)), A)) == WINDOW_SLOW_CHUNKS
    now = 0.0
    owed = list(machine._providers[A].owed)
    for _ in range(50):
        now += CHUNK / 1_000_000
        owed += wanted(machine.step(now, ChunksDone(A, (owed.pop(0),))), A)
        assert len(owed) == WINDOW_SLOW_CHUNKS
    assert len(wanted(machine.step(now, Paced(A, None)), A)) == 0, "it is measured first"
    now += 0.05
    fast = wanted(machine.step(now, ChunksDone(A, tuple(owed))), A)
    assert len(fast) > WINDOW_MIN_CHUNKS


def test_a_pace_shortens_a_window_that_was_large() -> None:
    machine = make(400)
    owed = len(wanted(machine.step(0.0, ProviderUp(A, None)), A))
    machine.step(0.0, Paced(A, 500_000.0))
    done = list(machine._providers[A].owed)
    now = 0.0
    while owed > WINDOW_SLOW_CHUNKS:
        now += 1.0
        assert wanted(machine.step(now, ChunksDone(A, (done.pop(0),))), A) == []
        owed -= 1
    assert len(wanted(machine.step(now + 1.0, ChunksDone(A, (done.pop(0),))), A)) == 1


def test_the_end_game_waits_longer_where_this_end_is_the_limit() -> None:
    machine = make(2)
    first = wanted(machine.step(0.0, ProviderUp(A, None, 100_000.0)), A)
    machine.step(0.0, ProviderUp(B, None, 100_000.0))
    assert wanted(machine.step(20.0, Tick()), B) == []
    assert sorted(wanted(machine.step(21.0, Tick()), B)) == sorted(first)


def test_who_trickles_because_we_pace_it_does_not_stall() -> None:
    machine = make(40)
    first = wanted(machine.step(0.0, ProviderUp(A, None, 50_000.0)), A)
    machine.step(0.0, ProviderUp(B, to_set(first, 40), 50_000.0))
    assert [e for e in machine.step(20.0, Tick()) if isinstance(e, Cancel)] == []
    assert [e for e in machine.step(60.0, Tick()) if isinstance(e, Cancel | DropProvider)]


def test_a_first_chunk_that_comes_slowly_is_no_silence() -> None:
    machine = make(4)
    first = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    machine.step(0.0, ProviderUp(B, None))
    for second in range(1, 100):
        machine.step(second, Arriving(A))
        effects = machine.step(second, Tick())
        assert not [e for e in effects if isinstance(e, Cancel | DropProvider) and e.peer == A]
    assert machine.step(100.0, ChunksDone(A, tuple(first)))[-1] == Finished()


def test_bytes_that_come_keep_a_provider_but_not_its_chunks() -> None:
    machine = make(40)
    first = wanted(machine.step(0.0, ProviderUp(A, None)), A)
    more = wanted(machine.step(1.0, ChunksDone(A, tuple(first))), A)
    machine.step(1.0, ProviderUp(B, to_set(more, 40)))
    effects: list[Effect] = []
    for second in range(2, 200):
        machine.step(second, Arriving(A))
        effects += machine.step(second, Tick())
    assert Cancel(A, tuple(more)) in effects
    assert DropProvider(A, "it stopped answering", blamed=False) not in effects


def test_nonsense_is_ignored() -> None:
    machine = make(4)
    for event in (
        Have(A, 7),
        ChunksDone(A, (99, -1)),
        ChunkMissing(A, 1),
        ProviderDown(A),
        Arriving(A),
        Paced(A, 1.0),
    ):
        assert machine.step(0.0, event) == []
    machine.step(0.0, ProviderUp(A, 1 << 60))
    assert machine.step(0.0, Have(A, 1 << 60)) == []
    machine.step(0.0, ChunkBad(A, 99))
    assert machine.left == 4


def test_what_a_provider_gives_to_others_is_asked_last_and_given_back_for_what_is_free() -> None:
    scheduler = make(40)
    owed = wanted(scheduler.step(0.0, ProviderUp(A, None)), A)
    taken = to_set(owed[:3] + [o for o in range(40) if o not in owed][:5], 40)
    effects = scheduler.step(0.1, Taken(A, taken))
    assert Cancel(A, tuple(owed[:3])) in effects
    instead = wanted(effects, A)
    assert len(instead) == 3
    assert not to_set(instead, 40) & taken
    now, rest = 0.2, owed[3:] + instead
    order: list[int] = []
    while rest:
        rest = wanted(scheduler.step(now, ChunksDone(A, tuple(rest))), A)
        order += rest
        now += 0.1
    assert to_set(order[-8:], 40) == taken
    assert scheduler.left == 0


def test_what_is_taken_is_had_from_who_took_it() -> None:
    scheduler = make(20)
    scheduler.step(0.0, ProviderUp(A, None))
    scheduler.step(0.0, Taken(A, to_set([19], 20)))
    scheduler.step(0.0, ProviderUp(B, 0))
    assert wanted(scheduler.step(0.1, Have(B, to_set([19], 20))), B) == [19]


def test_what_is_taken_is_kept_where_there_is_nothing_else_to_ask() -> None:
    scheduler = make(4)
    assert len(wanted(scheduler.step(0.0, ProviderUp(A, None)), A)) == 4
    assert scheduler.step(0.1, Taken(A, to_set([0, 1], 4))) == []
    assert scheduler.owed(A) == 4
    assert scheduler.step(0.1, Taken(C, to_set([0], 4))) == []  # of somebody unknown
