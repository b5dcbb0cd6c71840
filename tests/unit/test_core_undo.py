"""What a block began is taken back if it fails or is cancelled, and kept if it comes to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shoal.core.undo import async_undone_on_failure, undone_on_failure


class Undone:
    """Counts how often something was taken back."""

    def __init__(self) -> None:
        self.times = 0

    def undo(self) -> None:
        self.times += 1

    async def wait_undone(self) -> None:
        await asyncio.sleep(0)  # an undo may have to wait itself
        self.undo()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_a_failure_is_undone_and_goes_on_its_way(kind: type[BaseException]) -> None:
    undone, error = Undone(), kind()
    with pytest.raises(kind) as caught, undone_on_failure(undone.undo):
        raise error
    assert caught.value is error
    assert undone.times == 1


def test_success_is_kept() -> None:
    undone = Undone()
    with undone_on_failure(undone.undo):
        pass
    assert undone.times == 0


def _return(undo: Callable[[], None]) -> int:
    with undone_on_failure(undo):
        return 7


def test_return_break_and_continue_are_success() -> None:
    undone = Undone()
    assert _return(undone.undo) == 7
    for turn in range(3):
        with undone_on_failure(undone.undo):
            if turn:
                break
            continue
    assert undone.times == 0


def test_the_inner_is_undone_first() -> None:
    order: list[str] = []
    with (
        pytest.raises(OSError),
        undone_on_failure(lambda: order.append("outer")),
        undone_on_failure(lambda: order.append("inner")),
    ):
        raise OSError
    assert order == ["inner", "outer"]


def test_an_undo_that_fails_still_tells_of_the_first_failure() -> None:
    def undo() -> None:
        raise OSError("closing failed")

    with pytest.raises(OSError, match="closing failed") as caught, undone_on_failure(undo):
        raise ValueError("first")
    assert isinstance(caught.value.__context__, ValueError)


async def test_a_cancelled_block_is_undone() -> None:
    undone, started = Undone(), asyncio.Event()

    async def work() -> None:
        async with async_undone_on_failure(undone.wait_undone):
            with undone_on_failure(undone.undo):
                started.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone.times == 2


async def test_an_awaited_undo_runs_on_failure_only() -> None:
    undone = Undone()

    async def work() -> int:
        async with async_undone_on_failure(undone.wait_undone):
            return 7

    assert await work() == 7
    assert undone.times == 0
    with pytest.raises(ValueError, match="first"):
        async with async_undone_on_failure(undone.wait_undone):
            raise ValueError("first")
    assert undone.times == 1
