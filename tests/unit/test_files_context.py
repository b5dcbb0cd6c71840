"""The context of file sharing: what long work leaves behind is given back."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from shoal.apps.files.context import FilesContext

NOBODY = cast("Any", None)


async def test_memory_is_given_back_after_long_work_only(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = threading.Event()
    scheduled: list[float] = []
    loop = asyncio.get_running_loop()
    later = loop.call_later
    monkeypatch.setattr("shoal.apps.files.context.return_memory", given_back.set)

    def note(delay_s: float, callback: Any) -> asyncio.TimerHandle:
        scheduled.append(delay_s)
        return later(0.0, callback)

    context = FilesContext(NOBODY, NOBODY, NOBODY, NOBODY, b"", NOBODY, NOBODY, NOBODY)
    try:
        monkeypatch.setattr(loop, "call_later", note)
        monkeypatch.setattr("shoal.apps.files.context.LONG_WORK_S", 60.0)
        assert await context.run(lambda _: 1) == 1
        assert not scheduled
        monkeypatch.setattr("shoal.apps.files.context.LONG_WORK_S", -1.0)
        assert await context.run(lambda _: 2) == 2
        assert len(scheduled) == 1
        assert await asyncio.to_thread(given_back.wait, 5.0)
    finally:
        context.close()


async def test_memory_is_given_back_once_for_many_calls_and_once_after_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduled: list[Any] = []
    given_back = threading.Semaphore(0)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr("shoal.apps.files.context.return_memory", given_back.release)
    context = FilesContext(NOBODY, NOBODY, NOBODY, NOBODY, b"", NOBODY, NOBODY, NOBODY)
    try:
        monkeypatch.setattr(loop, "call_later", lambda _, callback: scheduled.append(callback))
        context.choose(background=True).tidy_soon()
        context.tidy_soon()
        context.tidy_soon()
        assert len(scheduled) == 1  # the first call decided when
        scheduled.pop()()
        assert len(scheduled) == 1  # the others came after it: what they ended may not have been over
        scheduled.pop()()
        assert not scheduled
        context.tidy_soon()
        assert len(scheduled) == 1
        for _ in range(2):
            assert await asyncio.to_thread(given_back.acquire, timeout=5.0)
    finally:
        context.close()


async def test_a_context_that_was_closed_has_nothing_to_give_back() -> None:
    context = FilesContext(NOBODY, NOBODY, NOBODY, NOBODY, b"", NOBODY, NOBODY, NOBODY)
    context.close()
    context._tidy()
    with pytest.raises(RuntimeError):
        context.pool.submit(int)
