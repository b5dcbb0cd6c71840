"""Playbooks of upload turns: input, time, expected effects."""

from __future__ import annotations

from shoal.core.units import KIB
from shoal.swarm.turns import CREDIT_BYTES, FEW, IDLE_S, LATE_S, LONG_S, MANY, Turns
from shoal.swarm.turns_events import Ask, Effect, LaneDown, LaneUp, Sent, Tick, Turn, Wake

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
CHUNK = 512 * KIB
LINE_S = 0.05  # 10 MiB/s


def make(*getters: bytes, slow: bool = True) -> Turns:
    """Return turns with lanes 0, 1, ... of these getters, after a turn that was slow or quick."""
    turns = Turns()
    for number, getter in enumerate(getters):
        turns.step(0.0, LaneUp(number, getter))
    turns.step(0.0, Ask(0))
    turns.step(0.24 if slow else 0.001, Sent(0, 0))
    return turns


def granted(effects: list[Effect]) -> list[int]:
    return [effect.lane for effect in effects if isinstance(effect, Turn)]


def serve(
    turns: Turns, lanes: dict[int, float], until: float, begins: dict[int, float] | None = None
) -> list[tuple[float, int]]:
    """Let lanes ask for ever on a line that moves a chunk in LINE_S; `lanes` gives the seconds that a chunk
    takes at least on each. Returns when each chunk was sent.
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
        line, count = 1 / LINE_S, len(left)
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
