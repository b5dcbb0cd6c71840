"""Heartbeat: judges one peer by its silence. Pure: the time and what was received are given.

    nothing received for heartbeat_s        -> ping; who pinged last lets the other begin
    no ping either way for heads_s          -> ping, whatever else was received
    nothing received for silence_s          -> ping, and from then on the peer is being probed
    probed, nothing received for probe_s    -> dead

Any byte counts as a sign of life. While a session rests the first three are resting_s: nobody waits for what
comes over it, and to watch it as closely as one that is used would soon cost more than its handshake did.
When our own loop stalled, or the machine slept, silence proves nothing: what came meanwhile is still in the
kernel. Then the peer is probed first and has probe_s from now.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto

from shoal.core.errors import Unavailable
from shoal.transport.config import SessionTiming

PINGS_WAITING = 8
TURN = 1.2  # of the wait, for the end that pinged last: one ping serves both, and each learns the round trip
RTT_WEIGHT = 0.125  # RFC 6298's alpha


class Beat(Enum):
    """What is to be done now."""

    NOTHING = auto()
    PING = auto()
    DEAD = auto()


class Heartbeat:
    """Pings of one session and what they tell."""

    def __init__(self, timing: SessionTiming, now: float) -> None:
        self.rtt_ms: float | None = None  # smoothed; None until the first answer
        self._timing = timing
        self._pinged_at = now  # by either end
        self._is_our_turn = True
        self._probed_at: float | None = None
        self._waiting: dict[int, tuple[float, asyncio.Future[float] | None]] = {}  # at most PINGS_WAITING

    def judge(self, now: float, received_at: float, probe: bool, resting: bool = False) -> Beat:
        """Look at the peer, once a tick; `probe` after a stall or a sleep of our own."""
        timing = self._timing
        if probe:
            self._probed_at = now
            return Beat.PING
        if self._probed_at is not None:
            if received_at >= self._probed_at:
                self._probed_at = None
            elif now - self._probed_at >= timing.probe_s:
                return Beat.DEAD
        turn = 1.0 if self._is_our_turn else TURN
        quiet_s, heads_s, silence_s = timing.heartbeat_s * turn, timing.heads_s * turn, timing.silence_s
        if resting:
            quiet_s = heads_s = silence_s = timing.resting_s * turn
        if self._probed_at is None and now - received_at >= silence_s:
            self._probed_at = now
            return Beat.PING
        is_quiet = now - max(received_at, self._pinged_at) >= quiet_s
        return Beat.PING if is_quiet or now - self._pinged_at >= heads_s else Beat.NOTHING

    def on_sent(self, ping_id: int, now: float, waiter: asyncio.Future[float] | None) -> None:
        """A ping was sent. Too many without an answer: the oldest is given up."""
        if len(self._waiting) >= PINGS_WAITING:
            _, stale = self._waiting.pop(next(iter(self._waiting)))
            _fail(stale, Unavailable("The peer did not answer", cause="too many pings wait", code="timeout"))
        self._pinged_at, self._is_our_turn = now, False
        self._waiting[ping_id] = (now, waiter)

    def on_asked(self, now: float) -> None:
        """The peer pinged us."""
        self._pinged_at, self._is_our_turn = now, True

    def is_waiting(self, ping_id: int) -> bool:
        """Whether a ping with this id has no answer yet."""
        return ping_id in self._waiting

    def on_answer(self, ping_id: int, now: float) -> None:
        """The answer to a ping came."""
        sent_at, waiter = self._waiting.pop(ping_id)
        rtt_ms = (now - sent_at) * 1000.0
        self.rtt_ms = rtt_ms if self.rtt_ms is None else self.rtt_ms + RTT_WEIGHT * (rtt_ms - self.rtt_ms)
        if waiter is not None and not waiter.done():
            waiter.set_result(rtt_ms)

    def close(self, error: Unavailable) -> None:
        """Fail whoever waits for an answer."""
        for _, waiter in self._waiting.values():
            _fail(waiter, error)
        self._waiting.clear()


def _fail(waiter: asyncio.Future[float] | None, error: Unavailable) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_exception(error)
        waiter.exception()  # marked as seen: nobody may be waiting any more
