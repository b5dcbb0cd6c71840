"""Self calls: finds out whether a relay brings this node its callers, by calling itself over it.

Who calls learns that a relay does not splice, and takes another; who is called would never know. A relay that
passes on what a node sends itself, and nothing else, is not found out here.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable

from shoal.core.errors import ShoalError, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.transport.session import Session
from shoal.transport.sockets import read_exactly

CALL_S = 10.0  # both ends over a slow relay
NONCE_BYTES = 32

Ask = Callable[[], Awaitable[bytes]]
Connect = Callable[[bytes], Awaitable[socket.socket]]


class SelfCalls:
    """The calls that go on, one a relay; as many as relays that a node keeps."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._offers: dict[bytes, asyncio.Future[bytes]] = {}  # relay -> the token for the far end
        self._checks: dict[bytes, asyncio.Task[None]] = {}  # relay -> the check that goes on

    def take_offer(self, relay: bytes, token: bytes) -> bool:
        """Take a relay's offer of a call of our own; False: there is none that waits for it."""
        waiting = self._offers.get(relay)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(token)
        return True

    async def check(
        self, session: Session, ask: Ask, connect: Connect, on_done: Callable[[bytes, bool], None]
    ) -> None:
        """Call ourselves over a relay, and tell its id and whether that came back; see `call`.

        An earlier check of that relay ends: its session was replaced, and it would say nothing of this one.
        """
        relay = session.peer_id
        earlier, mine = self._checks.get(relay), asyncio.current_task()
        assert mine is not None
        if earlier is not None:
            earlier.cancel()
        self._checks[relay] = mine
        try:
            await self.call(relay, ask, connect)
            on_done(relay, True)
        except* (ShoalError, TimeoutError, OSError) as errors:
            if not session.closed:  # otherwise that says nothing of its relaying
                self._observe(Observation("relay_useless", session.subject, repr(errors.exceptions[0])[:200]))
                on_done(relay, False)
        finally:
            if self._checks.get(relay) is mine:
                del self._checks[relay]

    async def call(self, relay: bytes, ask: Ask, connect: Connect) -> None:
        """Let bytes go both ways between two ends of our own.

        `ask` returns the token of the near end; `connect` opens a connection to the relay with one.
        Cancelling is safe. Raises: what these raise, also in a group, Unavailable, TimeoutError, OSError.
        """
        offer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._offers[relay] = offer
        ends: list[socket.socket] = []

        async def open_far() -> None:
            ends.append(await connect(await offer))

        try:
            async with asyncio.timeout(CALL_S):
                async with asyncio.TaskGroup() as group:
                    group.create_task(open_far())
                    ends.append(await connect(await ask()))
                for one, other in (ends, ends[::-1]):
                    await _pass(one, other)
        finally:
            if self._offers.get(relay) is offer:
                del self._offers[relay]
            for end in ends:
                end.close()


async def _pass(one: socket.socket, other: socket.socket) -> None:
    """Send from one end to the other. Raises: Unavailable when something else arrives."""
    sent = secrets.token_bytes(NONCE_BYTES)
    await asyncio.get_running_loop().sock_sendall(one, sent)
    if await read_exactly(other, NONCE_BYTES) != sent:
        raise Unavailable("The relay changed what it passed on", code="relay_changes")
