"""Undo: takes back what a block began if it does not come to its end, whatever ends it; cancelling too.

    with undone_on_failure(sock.close):
        await shake_hands(sock)
    return sock

Nothing is caught: what ended the block goes on its way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager


@contextmanager
def undone_on_failure(undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo` unless the block ends by its last line, `return`, `break` or `continue`."""
    with ExitStack() as stack:
        stack.callback(undo)
        yield
        stack.pop_all()


@asynccontextmanager
async def async_undone_on_failure(undo: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """`undone_on_failure` for an `undo` that has to be awaited, also where the block was cancelled."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(undo)
        yield
        stack.pop_all()
