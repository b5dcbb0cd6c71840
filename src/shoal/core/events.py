"""Events: facts come up. Publishers do not know who listens; slow listeners lose the oldest, counted."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

log = logging.getLogger("shoal.events")

E = TypeVar("E")

QUEUE_LIMIT = 1024  # events a slow subscriber may lag behind; wild guess


class Subscription(Generic[E]):
    """An async iterator over events of some types; `close` (or leaving the `with`) ends it."""

    def __init__(self, bus: EventBus, types: tuple[type[E], ...]) -> None:
        self._bus = bus
        self._types = types
        self._queue: deque[E] = deque(maxlen=QUEUE_LIMIT)
        self._wake = asyncio.Event()
        self._closed = False
        self.lost = 0

    def offer(self, event: object) -> None:
        """Queue an event if it is of a subscribed type."""
        if isinstance(event, self._types):
            self.lost += len(self._queue) == QUEUE_LIMIT
            self._queue.append(event)
            self._wake.set()

    def close(self) -> None:
        """End the iteration; idempotent."""
        self._closed = True
        self._bus.drop(self)
        self._wake.set()

    def __enter__(self) -> Subscription[E]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aiter__(self) -> AsyncIterator[E]:
        while True:
            while self._queue:
                yield self._queue.popleft()
            if self._closed:
                return
            self._wake.clear()
            await self._wake.wait()


class EventBus:
    """One a node. Events are frozen dataclasses; handlers run at once and must be short."""

    def __init__(self) -> None:
        self._handlers: list[tuple[type, Callable[[object], None]]] = []
        self._subscriptions: list[Subscription[object]] = []

    def publish(self, event: object) -> None:
        """Tell every handler of the event's type, then every subscription. Loop thread only."""
        for kind, handler in list(self._handlers):
            if isinstance(event, kind):
                handler(event)
        for subscription in list(self._subscriptions):
            subscription.offer(event)

    def on(self, kind: type[E], handler: Callable[[E], None]) -> Callable[[], None]:
        """Call `handler` for every event of a type; returns a function that stops it."""
        pair: tuple[type, Callable[[object], None]] = (kind, handler)  # type: ignore[assignment]
        self._handlers.append(pair)
        return lambda: self._handlers.remove(pair) if pair in self._handlers else None

    def subscribe(self, *types: type[E]) -> Subscription[E]:
        """Return an iterator over coming events of these types."""
        subscription = Subscription(self, types)
        self._subscriptions.append(subscription)  # type: ignore[arg-type]
        return subscription

    def drop(self, subscription: Subscription[E]) -> None:
        """Forget a subscription; called by its `close`."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)  # type: ignore[arg-type]
