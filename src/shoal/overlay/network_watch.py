"""Network watch: notices that this machine's network is another one, or that the machine slept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shoal.core.clock import Clock
from shoal.transport.interfaces import POLL_S, describe_network

SLEPT_S = 10.0  # the wall clock moved this much more than a poll should take: the machine slept


class NetworkWatch:
    """Looks every `poll_s`. Expects `run` to be started as a service.

    `on_polled` is called each time, `on_changed` with what happened, in words.
    """

    def __init__(
        self,
        clock: Clock,
        on_polled: Callable[[], bool],
        on_changed: Callable[[str], None],
        poll_s: float = POLL_S,
    ) -> None:
        """`on_polled` returns whether our own addresses are others than before."""
        self._clock = clock
        self._on_polled = on_polled
        self._on_changed = on_changed
        self._poll_s = poll_s

    async def run(self) -> None:
        """Look for ever. Cancelling is safe."""
        seen = describe_network()
        while True:
            wall = self._clock.wall()
            await asyncio.sleep(self._poll_s)
            before, seen = seen, describe_network()
            changed = self._on_polled()
            if self._clock.wall() - wall > self._poll_s + SLEPT_S:
                self._on_changed("this machine slept")
            elif changed or seen.addresses != before.addresses:
                self._on_changed("the addresses of this machine changed")
            elif seen != before:
                self._on_changed("the way out of this machine changed")
