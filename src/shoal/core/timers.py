"""Timers: carries out the SetTimer and Cancel of one machine on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Token = TypeVar("Token", bound=Hashable)


class Timers(Generic[Token]):
    """At most one timer a token; when it is due, `on_due` is called with the token, on the loop's thread.

    Expects a machine that has no more than `limit` things to wait for. After `close` nothing is called.
    """

    def __init__(self, monotonic: Callable[[], float], on_due: Callable[[Token], object], limit: int) -> None:
        self._monotonic = monotonic
        self._on_due = on_due
        self._limit = limit
        self._handles: dict[Token, asyncio.TimerHandle] = {}
        self._closed = False

    def __len__(self) -> int:
        """How many are set."""
        return len(self._handles)

    def set(self, at: float, token: Token) -> None:
        """Set a token's timer to a time of `monotonic`, in place of the one it had; a past one is due now."""
        self.cancel(token)
        if self._closed:
            return
        assert len(self._handles) < self._limit, f"more than {self._limit} timers, now {token!r}"
        wait_s = max(0.0, at - self._monotonic())
        self._handles[token] = asyncio.get_running_loop().call_later(wait_s, self._fire, token)

    def cancel(self, token: Token) -> None:
        """Take a token's timer away, if it has one."""
        handle = self._handles.pop(token, None)
        if handle is not None:
            handle.cancel()

    def close(self) -> None:
        """Take all away, and set none any more; idempotent."""
        self._closed = True
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()

    def _fire(self, token: Token) -> None:
        del self._handles[token]
        self._on_due(token)
