"""Liars: providers that wait until another one has shown what it is."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.transport_nodes import wait_until

from shoal.testing.liar import LyingSource


async def release_when(held: LyingSource, is_time: Callable[[], bool]) -> None:
    """Let a silent source go on, honestly, as soon as something has happened."""
    await wait_until(is_time, 30.0)
    held.release()
