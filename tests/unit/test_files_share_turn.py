"""The turn of a share: order, giving way, cancelling."""

from __future__ import annotations

import asyncio

from shoal.apps.files.share_turn import Claim, ShareTurn


class Worker:
    """One claim that works until it is let go."""

    def __init__(self, turn: ShareTurn, name: str, *, background: bool = False, yields: bool = False) -> None:
        self.notes: list[str] = []
        self.runs = 0
        self.is_inside = False
        self.may_end = asyncio.Event()
        self.yields = yields
        self.claim = Claim(name, background, self.notes.append, lambda: self.yields)
        self.task = asyncio.ensure_future(turn.run(self.claim, self._work))

    async def _work(self) -> int:
        self.runs += 1
        self.is_inside = True
        try:
            await self.may_end.wait()
        finally:
            self.is_inside = False
        return self.runs


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_at_a_time_the_foreground_first_and_each_in_its_order() -> None:
    turn = ShareTurn()
    workers = [Worker(turn, "a"), Worker(turn, "b", background=True), Worker(turn, "c"), Worker(turn, "d")]
    order = []
    for _ in workers:
        await settle()
        (inside,) = [worker for worker in workers if worker.is_inside]
        order.append(inside.claim.what)
        inside.may_end.set()
        assert await inside.task == 1
    assert order == ["a", "c", "d", "b"]
    assert not turn.locked()
    assert workers[1].notes == [
        f"waits for another of the same share: {name}" for name in ("a", "a", "a", "c", "d")
    ] + [""]


async def test_who_may_gives_way_once_and_begins_again() -> None:
    turn = ShareTurn()
    behind = Worker(turn, "behind", background=True, yields=True)
    await settle()
    other = Worker(turn, "other", background=True)
    await settle()
    assert behind.is_inside  # who is in the background does not ask
    first, second = Worker(turn, "first"), Worker(turn, "second")
    await settle()
    assert [w.is_inside for w in (behind, other, first, second)] == [False, False, True, False]
    for worker in (first, second, other):
        assert not behind.is_inside
        worker.may_end.set()
        assert await worker.task == 1
    await settle()
    behind.may_end.set()
    assert await behind.task == 2


async def test_cancelled_claims_leave_nothing() -> None:
    turn = ShareTurn()
    first, second, third = (Worker(turn, name) for name in ("first", "second", "third"))
    await settle()
    second.task.cancel()
    await settle()
    first.may_end.set()
    third.task.cancel()  # it is given the turn in the same moment
    await settle()
    assert first.task.done()
    assert second.task.cancelled()
    assert third.task.cancelled()
    assert not turn.locked()


async def test_who_may_give_way_only_later_lets_those_go_on_that_wait() -> None:
    turn = ShareTurn()
    first = Worker(turn, "first")
    await settle()
    behind = Worker(turn, "behind", background=True)
    await settle()
    first.yields = True
    turn.look_again(first.claim)
    await settle()
    assert first.is_inside  # nobody in the foreground waits
    first.yields = False
    second = Worker(turn, "second")
    await settle()
    first.yields = True
    turn.look_again(second.claim)
    await settle()
    assert first.is_inside  # that is not who has it
    turn.look_again(first.claim)
    await settle()
    assert [w.is_inside for w in (first, behind, second)] == [False, False, True]
    second.yields = True
    turn.look_again(second.claim)
    await settle()
    assert second.is_inside  # the first had its chance: two that find nobody do not hand it round
    third = Worker(turn, "third")
    await settle()
    assert first.is_inside  # who waits longest, for the third's sake
    turn.look_again(first.claim)
    await settle()
    assert third.is_inside
    for worker in (third, second, first, behind):
        await settle()
        worker.may_end.set()
        await worker.task
    assert not turn.locked()
