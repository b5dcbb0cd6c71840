"""Stages: CPU time lands where it was spent."""

from shoal.core.stages import StageClock, add_seconds


def test_time_is_charged_to_the_stage_that_ends() -> None:
    clock = StageClock()
    clock.mark("start")
    sum(range(200_000))
    clock.mark("work")
    clock.mark("nothing")
    seconds = clock.seconds()
    assert seconds["work"] > 10 * seconds["nothing"]


def test_threads_are_summed() -> None:
    total = {"read": 1.0}
    add_seconds(total, {"read": 0.5, "send": 2.0})
    assert total == {"read": 1.5, "send": 2.0}
