"""One timer a token: set again it moves, cancelled or closed it is silent, and its call may set it anew."""

from __future__ import annotations

import asyncio

import pytest

from shoal.core.timers import Timers

LATER_S = 3600.0


class Due:
    """Holds what came due, by a clock that stands still."""

    def __init__(self, limit: int = 4) -> None:
        self.now = 50.0
        self.tokens: list[str] = []
        self.timers = Timers[str](lambda: self.now, self.tokens.append, limit)

    async def wait(self, *tokens: str) -> None:
        async with asyncio.timeout(30.0):
            while len(self.tokens) < len(tokens):
                await asyncio.sleep(0)
        assert self.tokens == list(tokens)
        self.tokens.clear()


async def test_the_sooner_is_due_first_and_is_gone_then() -> None:
    due = Due()
    due.timers.set(due.now + 0.02, "second")
    due.timers.set(due.now - LATER_S, "first")
    assert due.tokens == []  # never from within `set`
    await due.wait("first", "second")
    assert len(due.timers) == 0


async def test_setting_again_moves_it() -> None:
    due = Due()
    due.timers.set(due.now + LATER_S, "a")
    due.timers.set(due.now, "a")
    assert len(due.timers) == 1
    await due.wait("a")
    due.timers.set(due.now, "a")
    due.timers.set(due.now + LATER_S, "a")
    due.timers.set(due.now, "b")
    await due.wait("b")
    due.timers.close()


async def test_cancelled_and_closed_ones_are_silent() -> None:
    due = Due()
    due.timers.set(due.now, "a")
    due.timers.cancel("a")
    due.timers.cancel("a")
    due.timers.set(due.now, "b")
    await due.wait("b")
    due.timers.set(due.now, "c")
    due.timers.close()
    due.timers.close()
    due.timers.set(due.now, "d")
    assert len(due.timers) == 0
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert due.tokens == []


async def test_its_call_may_set_it_anew() -> None:
    times: list[int] = []
    done = asyncio.Event()

    def again(token: int) -> None:
        times.append(token)
        if len(times) < 3:
            timers.set(0.0, token)
        else:
            done.set()

    timers = Timers[int](lambda: 0.0, again, 1)
    timers.set(0.0, 7)
    async with asyncio.timeout(30.0):
        await done.wait()
    assert times == [7, 7, 7]


async def test_more_than_the_limit_is_a_fault_of_the_machine() -> None:
    due = Due(limit=2)
    for token in ("a", "b", "a"):
        due.timers.set(due.now + LATER_S, token)
    with pytest.raises(AssertionError, match="more than 2 timers"):
        due.timers.set(due.now, "c")
    due.timers.close()
