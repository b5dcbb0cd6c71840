"""Machine: the contract of everything that decides.

A machine is a value. It gets an input and the time, and answers with effects; no socket, file, clock or
global random is inside it. The node drives it with asyncio, tests and the simulator drive the same object
with a virtual clock. A machine's seeded `random.Random` is given at construction.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

Input = TypeVar("Input", contravariant=True)
Effect = TypeVar("Effect")


class Machine(Protocol[Input, Effect]):
    """Anything with `step`. `now` is in seconds, never goes back, and has no meaning as a date."""

    def step(self, now: float, event: Input) -> list[Effect]:
        """Take one input, return what the driver must do, in order."""
        ...
