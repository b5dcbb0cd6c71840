"""Playbooks of upload turns: input, time, expected effects."""

from __future__ import annotations

from collections.abc import Callable

from shoal.core.units import KIB
from shoal.swarm.turns import CREDIT_BYTES, FEW, IDLE_S, LATE_S, LONG_S, MANY, Turns
from shoal.swarm.turns_events import Ask, Effect, LaneDown, LaneUp, Rest, Sent, Tick, Turn, Wake

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
CHUNK = 512 * KIB
LINE_S = 0.05  # 10 MiB/s


def make(*getters: bytes, slow: bool = True) -> Turns:
    """Return turns with lanes 0, 1, ... of these getters, after a turn that was slow or quick."""
    turns = Turns()
    for number, getter in enumerate(getters):
        turns.step(0.0, LaneUp(number, getter))
    turns.step(0.0, Ask(0))
    turns.step(0.24 if slow else 0.001, Sent(0, 1))
    return turns


def granted(effects: list[Effect]) -> list[int]:
    return [effect.lane for effect in effects if isinstance(effect, Turn)]


def serve(
    turns: Turns,
    lanes: dict[int, float],
    until: float,
    begins: dict[int, float] | None = None,
    line_s: Callable[[float], float] = lambda now: LINE_S,
    at_once: list[tuple[float, int]] | None = None,
) -> list[tuple[float, int]]:
    """Let lanes ask for ever on a line that moves a chunk in `line_s(now)`; `lanes` gives the seconds that a
    chunk takes at least on each. Returns when each chunk was sent; `at_once`: how many were under way when.
    """
    sent: list[tuple[float, int]] = []
    left: dict[int, float] = {}  # of the chunk that a lane has its turn for
    now = 1.0
    to_begin = {lane: (begins or {}).get(lane, now) for lane in lanes}
    while now < until:
        now += 0.001
        effects = turns.step(now, Tick())
        for lane in [lane for lane, at in to_begin.items() if at <= now]:
            del to_begin[lane]
            effects += turns.step(now, Ask(lane))
        line, count = 1 / line_s(now), len(left)
        if at_once is not None:
            at_once.append((now, count))
        for lane in sorted(left, key=lambda number: -lanes[number]):  # who is slow takes less than its part
            rate = min(1 / lanes[lane], line / count)
            line, count = line - rate, count - 1
            left[lane] -= rate * 0.001
            if left[lane] <= 0:
                del left[lane]
                sent.append((now, lane))
                effects += turns.step(now, Sent(lane, CHUNK, asks=True))
        left |= dict.fromkeys(granted(effects), 1.0)
    return sent


def count(sent: list[tuple[float, int]], *lanes: int, since: float = 0.0) -> int:
    return sum(lane in lanes and at >= since for at, lane in sent)


def test_few_send_at_once_where_the_line_is_slow_and_many_where_it_is_not() -> None:
    getters = [bytes([n]) * 32 for n in range(MANY + 4)]
    for slow, limit in ((True, FEW), (False, MANY)):
        turns = make(*getters, slow=slow)
        running = [lane for n in range(MANY + 4) for lane in granted(turns.step(1.0, Ask(n)))]
        assert len(running) == limit
        assert len(granted(turns.step(1.01, Sent(running[0], CHUNK)))) == 1


def test_each_getter_has_the_same_however_many_lanes_it_has() -> None:
    sent = serve(make(A, B, B, B), dict.fromkeys(range(4), LINE_S), until=11.0)
    assert abs(count(sent, 0) / count(sent, 1, 2, 3) - 1) < 0.05
    assert len(sent) > 0.95 * 10 / LINE_S


def test_who_is_slow_does_not_slow_down_the_others() -> None:
    sent = serve(make(A, B, C), {0: LINE_S, 1: LINE_S, 2: 3.0}, until=11.0)
    assert count(sent, 0, 1) > 0.9 * 10 / LINE_S
    assert abs(count(sent, 0) / count(sent, 1) - 1) < 0.05
    assert count(sent, 2) >= 2


def test_many_who_are_slow_and_one_who_is_not_each_have_what_they_can_take() -> None:
    """Nobody would have more by anybody else having less: the slow ones all that reaches them, who is not
    slow the rest of the line. Sharing the places they would leave a twentieth of it.
    """
    slow = range(1, 9)
    sent = serve(
        make(A, *[bytes([n]) * 32 for n in slow]), {0: LINE_S} | dict.fromkeys(slow, 1.0), until=21.0
    )
    assert min(count(sent, lane) for lane in slow) > 0.9 * 20 / 1.0
    assert count(sent, 0) > 0.8 * (20 / LINE_S - len(slow) * 20 / 1.0)


def test_who_comes_to_many_slow_ones_soon_has_the_rest_of_the_line() -> None:
    lanes = {0: LINE_S} | dict.fromkeys(range(1, 9), 1.0)
    sent = serve(make(*[bytes([n]) * 32 for n in lanes]), lanes, until=41.0, begins={0: 21.0})
    assert count(sent, 0, since=21.0) > 0.8 * (20 / LINE_S - 160)


def test_slow_ones_have_what_they_can_take_however_many_prompt_ones_wait() -> None:
    prompt, slow = range(12), range(12, 15)
    lanes = dict.fromkeys(prompt, LINE_S) | dict.fromkeys(slow, 1.0)
    sent = serve(make(*[bytes([n]) * 32 for n in lanes]), lanes, until=21.0)
    assert min(count(sent, lane) for lane in slow) > 0.9 * 20 / 1.0
    assert min(count(sent, lane) for lane in prompt) > 0.8 * (20 / LINE_S - 60) / len(prompt)


def test_a_lane_is_slow_after_two_late_turns_in_a_row_and_prompt_after_one_in_time() -> None:
    for took, is_slow in (
        ([0.4], False),
        ([0.4, 0.4], True),
        ([0.4, 0.1, 0.4], False),
        ([0.4, 0.4, 0.1], False),
    ):
        turns, now = make(A, B, C), 1.0
        for seconds in took:
            assert granted(turns.step(now, Ask(2))) == [2]
            turns.step(now + seconds, Sent(2, CHUNK))
            now += seconds
        assert granted(turns.step(now, Ask(0)) + turns.step(now, Ask(1))) == [0, 1]
        beside = granted(turns.step(now, Ask(2)))  # slow lanes have places of their own, a prompt one waits
        assert beside == ([2] if is_slow else [])


def test_where_the_line_is_slow_all_have_the_same_and_few_send_at_once_when_it_has_recovered() -> None:
    """The line of who sends is what everybody waits for, so everybody is slow."""
    at_once: list[tuple[float, int]] = []
    sent = serve(
        make(*[bytes([n]) * 32 for n in range(8)]),
        dict.fromkeys(range(8), LINE_S),
        until=81.0,
        line_s=lambda now: 0.5 if now < 61.0 else LINE_S,
        at_once=at_once,
    )
    shares = [sum(lane == n and at < 61.0 for at, lane in sent) for n in range(8)]
    assert sum(shares) > 0.9 * 60 / 0.5
    assert max(shares) - min(shares) <= 2
    assert count(sent, *range(8), since=61.0) > 0.95 * 20 / LINE_S
    assert max(n for at, n in at_once if at > 66.0) <= FEW


def test_the_turns_of_slow_lanes_do_not_tell_whether_chunks_leave_quickly() -> None:
    """Many slow ones beside one that takes a chunk in 5 ms: 16 of each kind may send at once."""
    getters = [bytes([n]) * 32 for n in range(MANY + 4)]
    turns, now = make(*getters, slow=False), 1.0
    for seconds in (0.4, 0.4, *[2.0] * 20):
        turns.step(now, Ask(1))
        turns.step(now + seconds, Sent(1, CHUNK))
        now += seconds
        for _ in range(20):
            turns.step(now, Ask(0))
            turns.step(now + 0.005, Sent(0, CHUNK))
            now += 0.005
    running = [lane for n in (0, *range(2, MANY + 4)) for lane in granted(turns.step(now, Ask(n)))]
    assert len(running) == MANY


def test_a_turn_that_is_given_back_goes_to_another_one_and_says_nothing_about_the_line() -> None:
    getters = [bytes([n]) * 32 for n in range(MANY + 1)]
    turns = make(*getters, slow=False)
    for number in range(MANY + 1):
        turns.step(1.0, Ask(number))
    assert granted(turns.step(1.0, Rest(0))) == [MANY]
    assert turns.step(1.0, Rest(0)) == []
    for number in range(1, MANY + 1):
        turns.step(1.005, Sent(number, CHUNK))
    assert granted(turns.step(31.0, Ask(0))) == [0]  # it waits for its turn as if it had not had one
    turns.step(31.005, Sent(0, CHUNK))
    assert sum(len(granted(turns.step(31.1, Ask(n)))) for n in range(MANY + 1)) == MANY


def test_who_rests_while_it_waits_is_not_given_a_turn() -> None:
    turns = make(A, B, C)
    for number in range(3):
        turns.step(1.0, Ask(number))
    turns.step(1.0, Rest(2))
    assert turns.step(1.1, Sent(0, CHUNK)) == []
    assert turns.step(1.1, Rest(7)) == []


def test_that_a_chunk_is_missing_says_nothing_about_the_line() -> None:
    turns = make(*[bytes([n]) * 32 for n in range(FEW + 1)])
    for step in range(100):
        turns.step(1.0 + step, Ask(0))
        turns.step(1.0 + step, Sent(0, 0))
    assert sum(len(granted(turns.step(200.0, Ask(n)))) for n in range(FEW + 1)) == FEW


def test_a_turn_that_lasts_lets_others_begin() -> None:
    turns = make(*[bytes([n]) * 32 for n in range(FEW + 1)])
    for number in range(FEW):
        assert granted(turns.step(1.0, Ask(number))) == [number]
    assert turns.step(1.0, Ask(FEW)) == [Wake(1.0 + LATE_S)]
    assert granted(turns.step(1.0 + LATE_S, Tick())) == [FEW]


def test_a_newcomer_has_its_turn_next_and_then_its_share() -> None:
    sent = serve(make(A, B, C), dict.fromkeys(range(3), LINE_S), until=16.0, begins={2: 6.0})
    first_at = min(at for at, lane in sent if lane == 2)
    assert first_at < 6.0 + 2 * FEW * LINE_S
    shares = [count(sent, lane, since=6.0) for lane in range(3)]
    assert (max(shares) - min(shares)) * CHUNK <= CREDIT_BYTES + CHUNK


def test_a_lane_that_ends_gives_its_turn_back() -> None:
    turns = make(A, B, C)
    turns.step(1.0, Ask(0))
    turns.step(1.0, Ask(1))
    turns.step(1.0, Ask(2))
    assert granted(turns.step(1.1, LaneDown(0))) == [2]
    assert turns.step(1.2, Sent(0, CHUNK)) == []
    assert turns.step(1.2, Ask(0)) == []


def test_the_lane_to_end_for_a_newcomer_is_idle_or_has_been_open_long() -> None:
    turns = make(A, B)
    assert turns.find_spare(1.0) is None
    turns.step(1.0, Ask(1))
    assert turns.find_spare(1.0 + IDLE_S) == 0
    turns.step(2.0, Ask(0))
    assert turns.find_spare(2.0 + IDLE_S) is None
    assert turns.find_spare(LONG_S) == 0


def test_a_tick_at_the_time_that_was_asked_for_is_enough() -> None:
    for step in range(200):
        now = 1.0 + step * 0.037  # as a binary fraction LATE_S later is not always LATE_S after it
        turns = make(A, B, C)
        effects = [effect for lane in range(3) for effect in turns.step(now, Ask(lane))]
        wakes = [effect.at for effect in effects if isinstance(effect, Wake)]
        assert granted(effects) == [0, 1]
        assert granted(turns.step(wakes[-1], Tick())) == [2]
