"""When a watched share is looked at: playbooks of notices and time."""

from __future__ import annotations

from itertools import pairwise

from shoal.apps.files.watch_pace import (
    BLIND_RESCAN_S,
    INTERVAL_S,
    RESCAN_S,
    SETTLE_LIMIT_S,
    SETTLE_S,
    VERSION_REFILL_S,
    VERSIONS_BURST,
    Looked,
    Noticed,
    Sight,
    StartLook,
    Tick,
    WatchPace,
)


def make_quiet_pace(took_s: float = 0.1) -> tuple[WatchPace, float]:
    """Return a pace after its first look, long ago, and the time."""
    pace = WatchPace()
    assert pace.step(0.0, Tick()) == [StartLook()]
    assert pace.step(took_s, Looked(False)) == []
    return pace, 100.0


def run_until_look(pace: WatchPace, now: float) -> float:
    """Tick when the machine wants it; return when it looks."""
    assert not pace.looking
    now = max(now, pace.next_at)
    assert pace.step(now, Tick()) == [StartLook()]
    return now


def test_the_first_look_is_at_once() -> None:
    assert WatchPace().step(5.0, Tick()) == [StartLook()]


def test_a_change_is_looked_at_once_it_settled() -> None:
    pace, now = make_quiet_pace()
    assert pace.step(now, Noticed()) == []
    assert pace.step(now + SETTLE_S - 0.01, Tick()) == []
    assert pace.step(now + SETTLE_S, Tick()) == [StartLook()]


def test_changes_that_do_not_end_are_looked_at_after_a_second() -> None:
    pace, now = make_quiet_pace()
    looked_at = None
    for tenth in range(30):
        if pace.step(now + tenth / 10, Noticed()):
            looked_at = tenth / 10
            break
    assert looked_at == SETTLE_LIMIT_S


def test_under_constant_change_looks_are_two_seconds_apart() -> None:
    pace, now = make_quiet_pace()
    starts = []
    for hundredth in range(2000):
        at = now + hundredth / 100
        if pace.step(at, Noticed()):
            starts.append(at)
            pace.step(at, Looked(True))
    gaps = [b - a for a, b in pairwise(starts)]
    assert min(gaps) >= INTERVAL_S
    assert max(gaps) < INTERVAL_S + 0.05


def test_a_slow_look_takes_at_most_a_third_of_the_time() -> None:
    pace, now = make_quiet_pace()
    pace.step(now, Noticed())
    start = run_until_look(pace, now)
    pace.step(start + 1, Noticed())
    pace.step(start + 10, Looked(True))
    assert run_until_look(pace, start + 10) == start + 30


def test_a_change_during_a_look_is_looked_at_afterwards() -> None:
    pace, now = make_quiet_pace()
    pace.step(now, Noticed())
    start = run_until_look(pace, now)
    assert pace.step(start + 0.1, Noticed()) == []
    assert pace.step(start + 0.2, Looked(True)) == []
    assert run_until_look(pace, start + 0.2) == start + INTERVAL_S


def test_without_notices_it_looks_now_and_then() -> None:
    pace, _ = make_quiet_pace(took_s=0.1)
    assert pace.next_at == 0.1 + RESCAN_S
    pace.step(1.0, Sight(blind=True))
    assert pace.next_at == 0.1 + BLIND_RESCAN_S
    slow, _ = make_quiet_pace(took_s=100.0)
    assert slow.next_at == 100.0 + 50 * 100.0


def test_versions_without_an_end_slow_down_and_recover() -> None:
    pace, now = make_quiet_pace()
    for _ in range(VERSIONS_BURST + 40):
        pace.step(now, Noticed())
        now = run_until_look(pace, now)
        now += 0.1
        pace.step(now, Looked(True))
    pace.step(now, Noticed())
    assert VERSION_REFILL_S * 0.9 <= run_until_look(pace, now) - now <= VERSION_REFILL_S
    now += 60
    pace.step(now, Looked(True))
    for _ in range(6):  # an hour without changes
        now = run_until_look(pace, now)
        pace.step(now, Looked(False))
    pace.step(now + 10, Noticed())
    assert run_until_look(pace, now + 10) == now + 10 + SETTLE_S


def test_looks_that_find_nothing_cost_no_versions() -> None:
    pace, now = make_quiet_pace()
    for _ in range(2 * VERSIONS_BURST):
        pace.step(now, Noticed())
        now = run_until_look(pace, now)
        pace.step(now, Looked(False))
    pace.step(now, Noticed())
    assert run_until_look(pace, now) == now + INTERVAL_S
