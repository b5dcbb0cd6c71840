"""Scheduler: decides which chunk of one version is asked from whom. A machine; fetch.py drives it.

Every chunk is in exactly one of three places: *needed* (a bit in `_needed`), *asked* (a key of `_asked`, with
the peers it was asked from) or *done*. Sets of chunks are integers (chunk_set.py).

Rarest first, ties at random, in short runs of neighbours (disks and the reader's cache like them). A
chunk is asked from one peer at a time; only when nothing new can be asked from anybody, an idle provider may
duplicate what another one still owes (end game). A provider that is silent loses what others can deliver; one
that sends wrong bytes is not asked for that chunk again, and after BAD_LIMIT for nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from shoal.core.units import KIB, MIB
from shoal.swarm.scheduler_events import (
    Arriving,
    Cancel,
    ChunkBad,
    ChunkMissing,
    ChunksDone,
    DropProvider,
    Effect,
    Finished,
    Have,
    Input,
    Paced,
    Peer,
    ProviderDown,
    ProviderUp,
    Reached,
    Taken,
    Tick,
    Want,
)

RUN_CHUNKS = 16  # neighbours in one run: 8 MiB on average; wild guess
ORDERED_RUN_CHUNKS = 4  # where the order counts: several providers work on what is read next
RARITY_LEVELS = 4  # held by 1, 2, 3 providers, or more: beyond that rarity does not matter
RARITY_AGE_S = 0.5  # availability is counted again at most this often
WINDOW_FIRST_BYTES = 4 * MIB
WINDOW_MIN_CHUNKS = 4
WINDOW_SLOW_CHUNKS = 2  # where that many take WINDOW_SLOW_S: one is under way, one is asked for
WINDOW_SLOW_S = 1.0
WINDOW_MAX_CHUNKS = 64
WINDOW_MAX_BYTES = 32 * MIB  # 16 MiB keep a loopback lane full; the rest is for late reports
WINDOW_DELAY_S = 0.5  # round trip and report, with room to find a higher rate
RATE_WEIGHT = 0.3  # of a new measurement
RATE_INTERVAL_S = 0.02  # shortest time a rate is measured over
STALL_MIN_S = 5.0
STALL_FACTOR = 4.0  # times the expected time of one chunk
STALL_LAST_S = 60.0  # a provider this long silent is dropped; the driver may bring it again
RETURN_LIMIT = 64  # then what is missing stays so: a peer that offers and lacks for ever keeps nobody busy
BAD_LIMIT = 2
ENDGAME_AGE_S = 0.5  # younger asks are not duplicated
ENDGAME_PACED_FACTOR = 2.0  # nor, where this end holds them back, before all that is owed should have come
ENDGAME_CHUNKS = 4
ENDGAME_ASKERS = 2
AVERAGE_CHUNK_BYTES = 512 * KIB


@dataclass(slots=True)
class _Provider:
    """All we know of one provider. `owed` is in the order of asking."""

    peer: Peer
    usable: int
    progress_at: float
    measured_at: float
    owed: dict[int, float] = field(default_factory=dict)
    owed_bytes: int = 0
    window_bytes: int = WINDOW_FIRST_BYTES
    rate_bytes_s: float = 0.0
    unmeasured_bytes: int = 0
    stalls: int = 0
    retry_at: float = 0.0
    stalled: bool = False
    refused: int = 0
    returns: int = 0  # times that it offered again what it had told missing
    alive_at: float = 0.0  # when bytes of it came last
    pace_bytes_s: float | None = None  # what this end lets through


class Scheduler:
    """The plan of one transfer.

    Expects `length_of(ordinal)` to be cheap. `done` is the set of chunks that are there already. Inputs about
    unknown peers and ordinals out of range are ignored: they race with the peer's end.

    With `ahead` somebody reads the chunks in order, and tells by `Reached` how far: the first ones that are
    missing are asked for first, and none that is `ahead` or more before the reader.
    """

    def __init__(
        self,
        total: int,
        length_of: Callable[[int], int],
        rng: random.Random,
        done: int = 0,
        ahead: int | None = None,
    ) -> None:
        self.total = total
        self._length_of = length_of
        self._random = rng
        self._all = (1 << total) - 1
        self._needed = self._all & ~done
        self._ahead = ahead
        self._open = self._all  # what may be asked now
        self._move_window((self._needed & -self._needed).bit_length() - 1)
        self._asked: dict[int, list[Peer]] = {}
        self._providers: dict[Peer, _Provider] = {}
        self._blamed: set[Peer] = set()  # bounded by the members of the network
        self._bad: dict[Peer, int] = {}  # likewise; outlives a reconnection
        self._refused: dict[Peer, int] = {}  # chunks a peer sent wrong once; likewise
        self._levels: list[int] = []
        self._levels_at = 0.0
        self._levels_stale = True
        self._taken = 0  # what providers give to other getters
        self._left = self._needed.bit_count()
        self._finished = False
        self.duplicate_bytes = 0

    # What a driver or a person may want to know

    @property
    def left(self) -> int:
        """Chunks that are not done."""
        return self._left

    @property
    def blamed(self) -> frozenset[Peer]:
        """Peers that sent wrong bytes too often."""
        return frozenset(self._blamed)

    @property
    def providers(self) -> list[Peer]:
        """Peers that can be asked."""
        return list(self._providers)

    def owed(self, peer: Peer) -> int:
        """How many chunks a peer was asked for and did not send."""
        provider = self._providers.get(peer)
        return len(provider.owed) if provider else 0

    def is_stuck(self) -> bool:
        """Whether nobody owes a chunk and nobody has one that is needed: only a new provider can help."""
        needed = self._needed & self._open
        if self._asked or not self._left or not needed:  # none needed now: the reader is slow
            return False
        return not any(p.usable & needed for p in self._providers.values())

    def step(self, now: float, event: Input) -> list[Effect]:
        """Take one input, return what to do, in order."""
        effects: list[Effect] = []
        match event:
            case ProviderUp():
                self._on_up(now, event, effects)
            case Have(peer, more):
                if (provider := self._providers.get(peer)) is not None:
                    if provider.refused & more and provider.returns < RETURN_LIMIT:
                        provider.returns += 1  # what it told missing is there again, but not what was wrong
                        provider.refused &= self._refused.get(peer, 0) | ~more
                    provider.usable |= more & self._all & ~provider.refused
                    self._levels_stale = True
                    self._fill(now, provider, effects)
            case Taken(peer, ordinals):
                self._on_taken(now, peer, ordinals, effects)
            case ChunksDone():
                self._on_done(now, event, effects)
            case ChunkBad(peer, ordinal):
                self._on_bad(now, peer, ordinal, effects)
            case ChunkMissing(peer, ordinal):
                self._on_missing(now, peer, ordinal, effects)
            case ProviderDown(peer):
                if self._forget(peer):
                    self._fill_all(now, effects)
            case Arriving(peer):
                self._on_arriving(now, peer)
            case Paced(peer, rate_bytes_s):
                self._on_paced(now, peer, rate_bytes_s, effects)
            case Reached(ordinal):
                self._move_window(ordinal)
                self._fill_all(now, effects)
            case Tick():
                self._on_tick(now, effects)
        if not self._left and not self._finished:
            self._finished = True
            effects.append(Finished())
        return effects

    # Inputs

    def _on_up(self, now: float, event: ProviderUp, effects: list[Effect]) -> None:
        if event.peer in self._blamed:
            effects.append(DropProvider(event.peer, "it sent wrong data before", blamed=True))
            return
        self._forget(event.peer)
        refused = self._refused.get(event.peer, 0)
        have = self._all if event.have is None else event.have & self._all
        provider = _Provider(event.peer, have & ~refused, now, now, refused=refused, alive_at=now)
        self._providers[event.peer] = provider
        self._levels_stale = True
        self._on_paced(now, event.peer, event.pace_bytes_s, effects)

    def _on_taken(self, now: float, peer: Peer, ordinals: int, effects: list[Effect]) -> None:
        """Ask a provider for what nobody else gets from it; what is taken comes from who took it."""
        self._taken |= ordinals & self._all
        provider = self._providers.get(peer)
        if provider is None or self._ahead is not None:
            return
        free = (self._needed & provider.usable & ~self._taken).bit_count()
        released = [o for o in provider.owed if ordinals >> o & 1][:free]
        for ordinal in released:
            self._release(provider, ordinal)
        if released:
            effects.append(Cancel(peer, tuple(released)))
            self._fill(now, provider, effects)

    def _on_done(self, now: float, event: ChunksDone, effects: list[Effect]) -> None:
        provider = self._providers.get(event.peer)
        cancels: dict[Peer, list[int]] = {}
        for ordinal in event.ordinals:
            if not 0 <= ordinal < self.total:
                continue
            length = self._length_of(ordinal)
            if provider is not None:
                provider.unmeasured_bytes += length
            askers = self._asked.pop(ordinal, None)
            if askers is None and not self._needed >> ordinal & 1:
                self.duplicate_bytes += length
                continue
            self._needed &= ~(1 << ordinal)
            self._left -= 1
            for peer in askers or ():
                self._settle(self._providers[peer], ordinal)
                if peer != event.peer:
                    cancels.setdefault(peer, []).append(ordinal)
        effects.extend(Cancel(peer, tuple(ordinals)) for peer, ordinals in cancels.items())
        if provider is not None:
            provider.progress_at = provider.alive_at = now
            provider.stalled = False
            provider.stalls = 0
            self._measure(now, provider)
            self._fill(now, provider, effects)

    def _on_bad(self, now: float, peer: Peer, ordinal: int, effects: list[Effect]) -> None:
        self._bad[peer] = self._bad.get(peer, 0) + 1
        if 0 <= ordinal < self.total:
            self._refused[peer] = self._refused.get(peer, 0) | 1 << ordinal
        if self._bad[peer] >= BAD_LIMIT:
            self._blamed.add(peer)
            self._forget(peer)
            effects.append(DropProvider(peer, "it sent wrong data", blamed=True))
        else:
            self._refuse(peer, ordinal)
        self._fill_all(now, effects)

    def _on_missing(self, now: float, peer: Peer, ordinal: int, effects: list[Effect]) -> None:
        provider = self._providers.get(peer)
        if provider is not None:
            provider.progress_at = now  # an answer is a sign of life
        self._refuse(peer, ordinal)
        if provider is not None and not provider.owed:
            # where a whole file is gone each answer would cost a message, more than a peer may send
            provider.window_bytes = min(WINDOW_MAX_BYTES, 2 * provider.window_bytes)
        for other in list(self._providers.values()):  # the busy ones at the next tick
            if not other.owed:
                self._fill(now, other, effects)

    def _on_tick(self, now: float, effects: list[Effect]) -> None:
        for provider in list(self._providers.values()):
            if not provider.owed:
                continue
            silent_s = now - provider.progress_at
            if min(silent_s, now - provider.alive_at) > STALL_LAST_S:
                self._forget(provider.peer)
                effects.append(DropProvider(provider.peer, "it stopped answering", blamed=False))
            elif silent_s > self._patience_s(provider) and (not provider.stalled or now >= provider.retry_at):
                self._stall(now, provider, effects)
        self._fill_all(now, effects)

    def _on_arriving(self, now: float, peer: Peer) -> None:
        provider = self._providers.get(peer)
        if provider is not None:
            provider.alive_at = now
            if provider.rate_bytes_s <= 0:
                provider.progress_at = now  # how long a chunk takes is not known: so far it comes

    def _on_paced(self, now: float, peer: Peer, rate_bytes_s: float | None, effects: list[Effect]) -> None:
        provider = self._providers.get(peer)
        if provider is not None:
            provider.pace_bytes_s = rate_bytes_s
            if rate_bytes_s is not None:
                provider.window_bytes = min(provider.window_bytes, _window_bytes(rate_bytes_s))
            self._fill(now, provider, effects)

    # Providers

    def _patience_s(self, provider: _Provider) -> float:
        rates = [rate for rate in (provider.rate_bytes_s, provider.pace_bytes_s) if rate]
        if not rates:
            return STALL_MIN_S
        length = self._length_of(next(iter(provider.owed)))
        return max(STALL_MIN_S, STALL_FACTOR * length / min(rates))

    def _stall(self, now: float, provider: _Provider, effects: list[Effect]) -> None:
        """Take back what somebody else can deliver; leave the rest, since asking again would not help."""
        provider.stalled = True
        provider.stalls += 1
        provider.retry_at = now + min(STALL_LAST_S, STALL_MIN_S * 2**provider.stalls)
        elsewhere = 0
        for other in self._providers.values():
            if other is not provider and not other.stalled:
                elsewhere |= other.usable
        released = [ordinal for ordinal in provider.owed if elsewhere >> ordinal & 1]
        for ordinal in released:
            self._release(provider, ordinal)
        if released:
            effects.append(Cancel(provider.peer, tuple(released)))

    def _measure(self, now: float, provider: _Provider) -> None:
        """Update rate and window: what the peer delivers in WINDOW_DELAY_S, within the limits."""
        elapsed_s = now - provider.measured_at
        if elapsed_s < RATE_INTERVAL_S:
            return
        rate = provider.unmeasured_bytes / elapsed_s
        old = provider.rate_bytes_s
        provider.rate_bytes_s = rate if old <= 0 else old + RATE_WEIGHT * (rate - old)
        provider.unmeasured_bytes = 0
        provider.measured_at = now
        fastest = max(rate, provider.rate_bytes_s)
        if provider.pace_bytes_s is not None:
            fastest = min(fastest, provider.pace_bytes_s)  # what the kernel had kept is no rate
        provider.window_bytes = _window_bytes(fastest)

    def _refuse(self, peer: Peer, ordinal: int) -> None:
        """Do not ask a peer for a chunk again while it is connected, unless it offers that anew."""
        provider = self._providers.get(peer)
        if provider is None or not 0 <= ordinal < self.total:
            return
        provider.refused |= 1 << ordinal
        provider.usable &= ~(1 << ordinal)
        self._levels_stale = True
        if ordinal in provider.owed:
            self._release(provider, ordinal)

    def _forget(self, peer: Peer) -> bool:
        provider = self._providers.get(peer)
        if provider is None:
            return False
        for ordinal in list(provider.owed):
            self._release(provider, ordinal)
        del self._providers[peer]
        self._levels_stale = True
        return True

    def _settle(self, provider: _Provider, ordinal: int) -> None:
        del provider.owed[ordinal]
        provider.owed_bytes -= self._length_of(ordinal)

    def _release(self, provider: _Provider, ordinal: int) -> None:
        """Take a chunk back from one provider; it is needed again unless another one was asked too."""
        self._settle(provider, ordinal)
        askers = self._asked[ordinal]
        askers.remove(provider.peer)
        if not askers:
            del self._asked[ordinal]
            self._needed |= 1 << ordinal

    # Asking

    def _fill_all(self, now: float, effects: list[Effect]) -> None:
        providers = list(self._providers.values())
        self._random.shuffle(providers)
        for provider in providers:
            self._fill(now, provider, effects)

    def _fill(self, now: float, provider: _Provider, effects: list[Effect]) -> None:
        if provider.stalled and now < provider.retry_at:
            return
        if not provider.owed:
            provider.progress_at = now  # silence counts from the first thing that is owed
            if provider.alive_at < now:  # a pause; where all that was owed came just now there was none
                provider.measured_at = now
                provider.unmeasured_bytes = 0
        picked: list[int] = []
        while (room := self._room(provider)) > 0:
            run = self._pick_run(now, provider, room)
            if not run:
                break
            for ordinal in run:
                self._ask(now, provider, ordinal)
            picked += run
        if not picked and not provider.owed:
            picked = self._pick_endgame(now, provider)
        if picked:
            effects.append(Want(provider.peer, tuple(picked)))

    def _room(self, provider: _Provider) -> int:
        """How many chunks more may be asked."""
        owed = len(provider.owed)
        if provider.stalled:
            return 1 - owed  # one chunk as a question whether it lives
        if owed >= WINDOW_MAX_CHUNKS:
            return 0
        rate = provider.rate_bytes_s or provider.pace_bytes_s
        is_slow = rate is not None and 0 < rate * WINDOW_SLOW_S < WINDOW_MIN_CHUNKS * AVERAGE_CHUNK_BYTES
        least = WINDOW_SLOW_CHUNKS if is_slow else WINDOW_MIN_CHUNKS
        if owed < least:
            return least - owed
        if provider.owed_bytes >= provider.window_bytes:
            return 0
        missing = (provider.window_bytes - provider.owed_bytes) // AVERAGE_CHUNK_BYTES + 1
        return min(WINDOW_MAX_CHUNKS - owed, missing)

    def _ask(self, now: float, provider: _Provider, ordinal: int) -> None:
        self._needed &= ~(1 << ordinal)
        self._asked.setdefault(ordinal, []).append(provider.peer)
        provider.owed[ordinal] = now
        provider.owed_bytes += self._length_of(ordinal)

    def _pick_run(self, now: float, provider: _Provider, room: int) -> list[int]:
        """Return up to `room` neighbours, the rarest the provider has, from a random position on; the first
        ones where the order counts.
        """
        candidates = self._needed & self._open & provider.usable
        if not candidates:
            return []
        if self._ahead is not None:
            start, room = 0, min(room, ORDERED_RUN_CHUNKS)
        else:
            candidates = self._pick_rarest(now, candidates)
            start = self._random.randrange(self.total)
        tail = candidates >> start
        if not tail:
            start, tail = 0, candidates
        skip = (tail & -tail).bit_length() - 1
        first = start + skip
        mask = tail >> skip & (1 << min(room, RUN_CHUNKS)) - 1
        run = [first]
        while mask >> len(run) & 1:
            run.append(first + len(run))
        return run

    def _pick_rarest(self, now: float, candidates: int) -> int:
        self._count_rarity(now)
        for level in self._levels:
            if rare := candidates & level & ~self._taken:
                return rare
        for level in self._levels:
            if rare := candidates & level:
                return rare
        return candidates

    def _move_window(self, ordinal: int) -> None:
        if self._ahead is not None:
            self._open = (1 << min(self.total, max(0, ordinal) + self._ahead)) - 1

    def _pick_endgame(self, now: float, provider: _Provider) -> list[int]:
        """Ask for what others owe, oldest first, if nothing that is needed can be had from anybody."""
        needed = self._needed & self._open
        if any(p.usable & needed for p in self._providers.values() if not p.stalled):
            return []
        picked: list[int] = []
        for ordinal, askers in self._asked.items():
            if len(picked) >= ENDGAME_CHUNKS:
                break
            if len(askers) >= ENDGAME_ASKERS or not provider.usable >> ordinal & 1:
                continue
            asked = self._providers[askers[0]]
            age_s = ENDGAME_AGE_S
            if asked.pace_bytes_s is not None:
                age_s = max(age_s, ENDGAME_PACED_FACTOR * asked.owed_bytes / asked.pace_bytes_s)
            if now - asked.owed[ordinal] >= age_s:
                picked.append(ordinal)
        for ordinal in picked:
            self._ask(now, provider, ordinal)
        return picked

    def _count_rarity(self, now: float) -> None:
        """Make `_levels[k]`: chunks that exactly k + 1 providers have; the last level: that many or more."""
        if not self._levels_stale or (self._levels and now - self._levels_at < RARITY_AGE_S):
            return
        at_least = [0] * RARITY_LEVELS
        for provider in self._providers.values():
            for k in range(RARITY_LEVELS - 1, 0, -1):
                at_least[k] |= at_least[k - 1] & provider.usable
            at_least[0] |= provider.usable
        self._levels = [at_least[k] & ~at_least[k + 1] for k in range(RARITY_LEVELS - 1)] + [at_least[-1]]
        self._levels_at = now
        self._levels_stale = False


def _window_bytes(rate_bytes_s: float) -> int:
    """Return how much to have asked for of a peer that delivers at this rate."""
    return max(AVERAGE_CHUNK_BYTES, min(WINDOW_MAX_BYTES, int(rate_bytes_s * WINDOW_DELAY_S)))
