"""Share turn: who fetches a share now. One at a time, for two would fetch the same bytes twice.

Who stands in the foreground comes before who stands in the background. Whoever has the turn and loses little
by it (it is in the background, or waits for a device that is not there) gives way to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def _never() -> bool:
    return False


def _nothing(*_: object) -> None:
    pass


def _cut_off(scope: asyncio.Timeout) -> None:
    if scope.when() is None:  # else it was asked before
        scope.reschedule(asyncio.get_running_loop().time())


@dataclass(slots=True, eq=False)
class Claim:
    """Somebody who wants the turn. `what` they do with it is for people; `say` hears what is waited for.

    Once they have it by `ShareTurn.run`, `may_give_way` is asked when somebody in the foreground comes, and
    when they say by `ShareTurn.look_again` that its answer is another one now.
    """

    what: str
    background: bool = False
    say: Callable[[str], None] = _nothing
    may_give_way: Callable[[], bool] = _never
    give_way: Callable[[], None] = field(default=_nothing, init=False)
    granted: asyncio.Future[None] = field(init=False)
    had_turn: bool = field(default=False, init=False)

    @property
    def is_waiting(self) -> bool:
        """Whether it was neither given the turn nor cancelled."""
        return not self.granted.done()


class ShareTurn:
    """The turn of one share. Loop thread only."""

    def __init__(self) -> None:
        self._holder: Claim | None = None
        self._waiting: list[Claim] = []

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._holder is not None

    async def take(self, claim: Claim) -> None:
        """Wait for the turn; `leave` has to follow. Safe to cancel."""
        claim.granted = asyncio.get_running_loop().create_future()
        self._waiting.append(claim)
        self._hand_on()
        if claim.is_waiting and not claim.background:
            self._ask_holder()
        try:
            await claim.granted
        except asyncio.CancelledError:
            if claim in self._waiting:
                self._waiting.remove(claim)
            self.leave(claim)  # it may have been granted meanwhile
            raise

    def leave(self, claim: Claim) -> None:
        """Let others have it; idempotent."""
        if self._holder is claim:
            self._holder = None
            self._hand_on()

    @asynccontextmanager
    async def hold(self, claim: Claim) -> AsyncIterator[None]:
        """Have the turn inside of the block."""
        await self.take(claim)
        try:
            yield
        finally:
            self.leave(claim)

    async def run(self, claim: Claim, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` when it has the turn, and return its result; again from its beginning, when others were
        done, if it was cancelled to give way. Safe to cancel if `work` is.
        """
        while True:
            async with self.hold(claim):
                try:
                    async with asyncio.timeout(None) as scope:
                        claim.give_way = partial(_cut_off, scope)
                        return await work()
                except TimeoutError:
                    if not scope.expired():
                        raise
                finally:
                    claim.give_way = _nothing

    def look_again(self, claim: Claim) -> None:
        """`claim` may give way from now on: it is asked for those in the foreground who came before that.

        Not for those who had the turn and gave way themselves: who all wait for the same device would hand it
        round for ever, and begin again each time.
        """
        if self._holder is claim and any(
            c.is_waiting and not c.background and not c.had_turn for c in self._waiting
        ):
            self._ask_holder()

    def _ask_holder(self) -> None:
        holder = self._holder
        if holder is not None and holder.may_give_way():
            holder.give_way()

    def _hand_on(self) -> None:
        """Give the turn to who is next if nobody has it, and tell the others who has it."""
        self._waiting = [claim for claim in self._waiting if claim.is_waiting]
        if self._holder is None and self._waiting:
            chosen = next((claim for claim in self._waiting if not claim.background), self._waiting[0])
            self._waiting.remove(chosen)
            self._holder = chosen
            chosen.had_turn = True
            chosen.say("")
            chosen.granted.set_result(None)
        if self._holder is not None:
            for claim in self._waiting:
                claim.say(f"waits for another of the same share: {self._holder.what}")
