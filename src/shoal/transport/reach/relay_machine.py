"""Relay machine: which streams a relay splices, how fast, and how much. Pure (core.machine).

A stream is asked for, offered to the other peer, granted, and spliced once both ends have connected. The
owner sets the budget; every byte of every stream counts against one rate and one day's amount.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from shoal.core.errors import LocalMisuse
from shoal.core.units import GIB, MIB

DAY_S = 24 * 3600.0
BURST_S = 0.25  # of the rate may go at once: less would stall each of many streams for every message


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What the owner of a relay gives. None: no bound."""

    streams: int = 64  # at once; each takes two descriptors and 128 KiB
    streams_a_peer: int = 24  # of one member: sessions and lanes (8) with two others; wild guess
    rate_bytes_s: int | None = 10 * MIB  # both directions of all streams; wild guess
    day_bytes: int | None = 20 * GIB  # likewise
    idle_s: float = 60.0  # a session that nobody uses says something every 15 s
    token_s: float = 10.0  # from the grant until both ends have connected
    guests: int = 4  # streams of who is no member yet, at once; 0: nobody. Counted in `streams` as well


GUESTS_A_PASS = 2  # streams at once: a new try may come before the end of the last one was noticed
GUEST_S = 75.0  # from end to end: the inviter gives a join 60 s after its handshake, which has 8


# -- inputs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guest:
    """What somebody with a ticket gets: so many bytes both ways, for GUEST_S."""

    key: bytes  # the pass
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Ask:
    """`asker` wants a stream to `target`, or to itself. `has_target`: there is a direct session to it."""

    stream: int
    asker: bytes
    target: bytes
    has_target: bool
    guest: Guest | None = None  # the asker is no member


@dataclass(frozen=True, slots=True)
class Answered:
    """The target agreed, or did not."""

    stream: int
    agreed: bool


@dataclass(frozen=True, slots=True)
class Arrived:
    """An end has connected with its token; 0 is the asker's, 1 the target's."""

    stream: int
    end: int


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes went through."""

    stream: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Ended:
    """An end closed, or failed."""

    stream: int


@dataclass(frozen=True, slots=True)
class PeerGone:
    """A member is none any more: its streams end."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer that was set ran out."""

    token: tuple[Hashable, ...]


Input = Ask | Answered | Arrived | Moved | Ended | PeerGone | Timer


# -- effects -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offer:
    """Ask the target; answer with Answered."""

    stream: int
    asker: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class Grant:
    """Give the asker its token."""

    stream: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the asker no."""

    stream: int
    code: str
    cause: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Splice:
    """Both ends are there."""

    stream: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Close both ends and forget their tokens."""

    stream: int
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Read from this end of the stream only after so many seconds."""

    stream: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer with Timer(token) at a time."""

    at: float
    token: tuple[Hashable, ...]


Effect = Offer | Grant | Refuse | Splice | Drop | Hold | SetTimer


@dataclass(slots=True)
class _Stream:
    asker: bytes
    target: bytes
    granted: bool = False
    arrived: int = 0  # a bit an end
    guest: Guest | None = None
    moved_at: float = 0.0
    moved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """What a relay does now, for people."""

    streams: int
    limits: RelayLimits
    day_bytes: int  # moved since the day began
    refused: int
    guests: int = 0  # of the streams, those of who is no member


class RelayMachine:
    """The streams of one relay and its budget. A day begins with the first byte after the last one."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self._streams: dict[int, _Stream] = {}  # at most limits.streams
        self._free_at = float("-inf")  # when the rate has caught up with what was moved
        self._day_ends = float("-inf")
        self._day_bytes = 0
        self._refused = 0

    def status(self) -> RelayStatus:
        """Return a snapshot."""
        guests = sum(stream.guest is not None for stream in self._streams.values())
        return RelayStatus(len(self._streams), self.limits, self._day_bytes, self._refused, guests)

    def step(self, now: float, event: Input) -> list[Effect]:
        """Take one input, return what the driver must do, in order."""
        match event:
            case Moved(stream, size_bytes):
                return self._on_moved(now, stream, size_bytes)
            case Ask():
                return self._on_ask(now, event)
            case Answered(stream, agreed):
                return self._on_answered(now, stream, agreed)
            case Arrived(stream, end):
                return self._on_arrived(now, stream, end)
            case Ended(stream):
                return self._drop(stream, "an end closed")
            case PeerGone(peer):
                mine = [s for s, stream in self._streams.items() if peer in (stream.asker, stream.target)]
                return [effect for s in mine for effect in self._drop(s, "a peer is gone")]
            case Timer(("token", int(stream))):
                found = self._streams.get(stream)
                return self._drop(stream, "nobody came") if found is not None and found.arrived != 3 else []
            case Timer(("guest", int(stream))):
                return self._drop(stream, "a guest had its time")
            case Timer(("idle", int(stream))):
                return self._on_idle(now, stream)
            case Timer(token):
                raise LocalMisuse(f"no timer has the token {token!r}")

    def _on_ask(self, now: float, ask: Ask) -> list[Effect]:
        limits = self.limits
        if ask.stream in self._streams:
            raise LocalMisuse(f"stream {ask.stream} was asked for before")
        if not ask.has_target:
            return self._refuse(ask.stream, "relay_no_session", "this relay has no session to that peer")
        left_s = self._exhausted_s(now)
        if left_s is not None:
            return self._refuse(ask.stream, "relay_day", "this relay has moved what it gives a day", left_s)
        if len(self._streams) >= limits.streams:
            return self._refuse(ask.stream, "relay_full", "this relay has all the streams it allows", 5.0)
        for peer in (ask.asker, ask.target):
            taken = sum(peer in (s.asker, s.target) for s in self._streams.values())
            if taken >= limits.streams_a_peer:
                cause = "this relay has all the streams that it allows one member"
                return self._refuse(ask.stream, "relay_full", cause, 5.0)
        if ask.guest is not None:
            guests = [s.guest for s in self._streams.values() if s.guest is not None]
            of_pass = sum(guest.key == ask.guest.key for guest in guests)
            if len(guests) >= limits.guests or of_pass >= GUESTS_A_PASS:
                cause = "this relay leads as many newcomers as it allows at once"
                return self._refuse(ask.stream, "relay_full", cause, 30.0)
        self._streams[ask.stream] = _Stream(ask.asker, ask.target, guest=ask.guest)
        return [
            SetTimer(now + limits.token_s, ("token", ask.stream)),
            Offer(ask.stream, ask.asker, ask.target),
        ]

    def _on_answered(self, now: float, stream: int, agreed: bool) -> list[Effect]:
        found = self._streams.get(stream)
        if found is None:  # it took too long
            return [Refuse(stream, "relay_timeout", "the peer did not answer the relay in time")]
        if not agreed:
            del self._streams[stream]
            return [*self._refuse(stream, "relay_declined", "the peer did not take the relay's offer")]
        found.granted = True
        return [Grant(stream), SetTimer(now + self.limits.token_s, ("token", stream))]

    def _on_arrived(self, now: float, stream: int, end: int) -> list[Effect]:
        found = self._streams.get(stream)
        if found is None:
            return []
        found.arrived |= 1 << end
        if found.arrived != 3:
            return []
        found.moved_at = now
        effects: list[Effect] = [Splice(stream), SetTimer(now + self.limits.idle_s, ("idle", stream))]
        if found.guest is not None:
            effects.append(SetTimer(now + GUEST_S, ("guest", stream)))
        return effects

    def _on_moved(self, now: float, stream: int, size_bytes: int) -> list[Effect]:
        found = self._streams.get(stream)
        if found is None:
            return []
        found.moved_at = now
        found.moved_bytes += size_bytes
        if now >= self._day_ends:
            self._day_ends, self._day_bytes = now + DAY_S, 0
        self._day_bytes += size_bytes
        if self._exhausted_s(now) is not None:
            reason = "the relay has moved what it gives a day"
            return [effect for s in list(self._streams) for effect in self._drop(s, reason)]
        if found.guest is not None and found.moved_bytes > found.guest.size_bytes:
            return self._drop(stream, "a guest had its bytes")
        rate = self.limits.rate_bytes_s
        if rate is None:
            return []
        self._free_at = max(self._free_at, now - BURST_S) + size_bytes / rate
        return [Hold(stream, self._free_at - now)] if self._free_at > now else []

    def _on_idle(self, now: float, stream: int) -> list[Effect]:
        found = self._streams.get(stream)
        if found is None:
            return []
        until = found.moved_at + self.limits.idle_s
        return [SetTimer(until, ("idle", stream))] if until > now else self._drop(stream, "it was idle")

    def _exhausted_s(self, now: float) -> float | None:
        """Return how long nothing is relayed any more, or None."""
        day = self.limits.day_bytes
        if day is None or self._day_bytes < day or now >= self._day_ends:
            return None
        return self._day_ends - now

    def _refuse(self, stream: int, code: str, cause: str, retry_s: float | None = None) -> list[Effect]:
        self._refused += 1
        return [Refuse(stream, code, cause, retry_s)]

    def _drop(self, stream: int, reason: str) -> list[Effect]:
        return [] if self._streams.pop(stream, None) is None else [Drop(stream, reason)]
