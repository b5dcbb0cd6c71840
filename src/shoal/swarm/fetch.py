"""Fetch: gets one share from all peers that have parts of it. Drives providers and the scheduler.

First only descriptions flow: entries of the feed, sealed manifest objects. Once the owner of the fetch knows
the manifest it gives a target, and chunks flow. The loop's part is the tick, the peers' notices and the
batches of reports; bytes are handled by the lanes' threads alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from shoal.content.feed import DRAFTS
from shoal.core.clock import Clock
from shoal.core.errors import Refused, RemoteFault, ShoalError, StorageFault, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.stages import add_seconds
from shoal.core.supervisor import Supervisor
from shoal.identity.ids import short_peer_id
from shoal.swarm.chunk_set import runs_to_set
from shoal.swarm.fetch_owner import FetchOwner
from shoal.swarm.messages import Changed, Have, Taken
from shoal.swarm.provider import LACKS_KEPT, RETRY_FIRST_S, RETRY_LAST_S, Provider, Standing
from shoal.swarm.receive import ChunkReport, ChunkTarget, EndReport, LaneReceiver, ObjectReport
from shoal.swarm.scheduler import Scheduler
from shoal.swarm.scheduler_events import (
    Arriving,
    Cancel,
    ChunkBad,
    ChunkMissing,
    ChunksDone,
    DropProvider,
    Effect,
    Finished,
    Input,
    Paced,
    ProviderDown,
    ProviderUp,
    Reached,
    Tick,
    Want,
)
from shoal.swarm.scheduler_events import Have as MoreChunks
from shoal.swarm.scheduler_events import Taken as TakenByOthers
from shoal.swarm.throttle import Throttle

if TYPE_CHECKING:
    from shoal.transport.session import Session

log = logging.getLogger("shoal.swarm")

TICK_S = 0.1
PROVIDERS = 256  # peers one fetch keeps; beyond it new ones are not taken
JOINS_AT_ONCE = 16
OBJECTS_AT_ONCE = 16
CLOSE_TIMEOUT_S = 2.0


class ShareFetch:
    """One share being got. `start`, then `add_peers` as they are found, then `set_target`; `close` ends it.

    What is not available now is tried again until `close`; whether to go on waiting is the owner's decision,
    by `is_stuck` and `describe_providers`.
    """

    def __init__(
        self,
        *,
        own_id: bytes,
        network_id: bytes,
        share_id: bytes,
        read_key: bytes,
        owner: FetchOwner,
        find_session: Callable[[bytes], Session | None],
        may_serve: Callable[[bytes], bool],
        downloads: Throttle,
        background: bool,
        supervisor: Supervisor,
        clock: Clock,
        observe: Observer,
        rng: random.Random,
    ) -> None:
        self.share_id = share_id
        self._own_id = own_id
        self._network_id = network_id
        self._read_key = read_key
        self._owner = owner
        self._find_session = find_session
        self._may_serve = may_serve
        self._downloads = downloads
        self._background = background
        self._supervisor = supervisor
        self._clock = clock
        self._observe = observe
        self._random = rng
        self._providers: dict[bytes, Provider] = {}
        self._target: ChunkTarget | None = None
        self._limit = 0  # what the chunks of the target can come to; of a version that is how many there are
        self._known = 0  # those that may be asked for: the set of all that are described
        self._scheduler: Scheduler | None = None
        self._inputs: deque[Input] = deque()
        self._stepping = False
        self._tick: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._receivers: dict[LaneReceiver, Provider] = {}  # also those whose provider was lost, to their end
        self._stages: dict[str, float] = {}
        self._joining = 0
        self._closed = False
        self._faulted = False
        self._changed = asyncio.Event()

    # For the owner

    def start(self) -> None:
        """Begin to ask peers."""
        self._tick = self._supervisor.spawn("fetch", self._run())

    def add_peers(self, peers: Iterable[bytes]) -> None:
        """Name peers that may have the share; known ones are tried again soon."""
        for peer in peers:
            provider = self._providers.get(peer)
            if provider is None:
                if peer == self._own_id or not self._may_serve(peer) or len(self._providers) >= PROVIDERS:
                    continue
                provider = Provider(peer, self.share_id)
                self._providers[peer] = provider
            if provider.joined is None and not provider.barred:
                provider.retry_at = min(provider.retry_at, self._clock.monotonic() + RETRY_FIRST_S)
        self._advance()

    def set_target(
        self,
        target: ChunkTarget,
        length_of: Callable[[int], int],
        done: int,
        ahead: int | None = None,
        limit: int | None = None,
    ) -> None:
        """Begin to fetch the chunks of a version that are not in `done`; with `ahead` in order, and only so
        many before what was `reached`. Of a draft, at most `limit` chunks come: see `grow`.
        """
        self._target = target
        self._limit = target.total if limit is None else limit
        self._known = (1 << target.total) - 1
        self._scheduler = Scheduler(self._limit, length_of, self._random, done, ahead)
        for provider in self._providers.values():
            provider.have = 0
            provider.lacks.clear()
            provider.retry_at = 0.0
        self._step(Tick())
        self._advance()

    def grow(self, done: Iterable[int] = ()) -> None:
        """Note that more chunks of a draft are described, as the target's `total` says; those of them that
        are `done` are there already.
        """
        target = self._target
        assert target is not None
        self._step(ChunksDone(b"", tuple(done)))
        self._known = (1 << target.total) - 1
        for provider in self._providers.values():
            if provider.active:
                self._step(MoreChunks(provider.peer, provider.have & self._known))

    def reached(self, ordinal: int) -> None:
        """Note that all chunks before `ordinal` were taken out of the target, by who reads in order."""
        self._step(Reached(ordinal))

    async def get_objects(self, ids: list[bytes]) -> dict[bytes, bytes]:
        """Return sealed objects from whoever has them, verified by id.

        Raises: Unavailable when no provider of now has one of them. Safe to cancel.
        """
        found: dict[bytes, bytes] = {}
        for start in range(0, len(ids), OBJECTS_AT_ONCE):
            await self._get_some(ids[start : start + OBJECTS_AT_ONCE], found)
        return found

    def is_stuck(self) -> bool:
        """Whether nobody of now can help: no provider, or none with a chunk that is needed."""
        if self._scheduler is not None:
            return self._scheduler.is_stuck()
        return not self.is_joined

    @property
    def is_joined(self) -> bool:
        """Whether somebody is connected who has the description."""
        return any(p.joined is not None for p in self._providers.values())

    @property
    def is_searching(self) -> bool:
        """Whether some peer was not asked yet or has not answered."""
        return any(p.busy or p.standing is Standing.UNASKED for p in self._providers.values())

    @property
    def is_reading(self) -> bool:
        """Whether a provider is just telling feed entries that are not known yet."""
        known = self._owner.entry_count
        return any(p.busy and p.joined is not None and p.entries > known for p in self._providers.values())

    @property
    def providers(self) -> list[Provider]:
        """All peers that were named, with what came of asking them."""
        return list(self._providers.values())

    def has_chunk(self, ordinal: int) -> bool:
        """Whether a chunk of the target is here."""
        target = self._target
        return target is not None and ordinal < len(target.written) and target.written[ordinal] > 0

    def describe_providers(self) -> dict[bytes, str]:
        """Return what came of asking each peer, in words."""
        return {p.peer: p.describe() for p in self._providers.values()}

    @property
    def arriving_bytes(self) -> int:
        """Bytes of chunks that came and were not reported to the owner yet, most of them incomplete ones."""
        return sum(r.arriving_bytes for r in self._receivers) if self._target is not None else 0

    def stage_seconds(self) -> dict[str, float]:
        """Return CPU seconds of the receiving threads by stage, ended ones included."""
        total = dict(self._stages)
        for receiver in self._receivers:
            add_seconds(total, receiver.stage_seconds())
        return total

    async def wait_change(self, timeout_s: float) -> bool:
        """Wait until a peer joined, left or has news; False after `timeout_s`. Safe to cancel."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    async def close(self) -> None:
        """End every lane and wait for their threads, at most CLOSE_TIMEOUT_S; idempotent.

        After it nothing is written any more.
        """
        self._closed = True
        tasks = list(self._tasks)
        if self._tick is not None:
            tasks.append(self._tick)
        for task in tasks:
            task.cancel()
        for provider in self._providers.values():
            provider.end(leave=True)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for receiver in list(self._receivers):
                    await receiver.ended.wait()
        except TimeoutError:
            log.error("a lane's thread did not end within %s s", CLOSE_TIMEOUT_S)
        for receiver in list(self._receivers):
            self._drain(receiver)
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)

    # From the service

    def on_session_up(self, peer: bytes) -> None:
        """A session to a peer is up: ask it now if it is one of ours."""
        provider = self._providers.get(peer)
        if provider is not None and not provider.barred:
            provider.retry_at = 0.0
            provider.pause_s = RETRY_FIRST_S
            self._advance()

    def on_session_down(self, session: Session) -> None:
        """A session ended, and its lane with it."""
        provider = self._providers.get(session.peer_id)
        if provider is not None and provider.joined is session:
            self._lose(provider, Standing.OFFLINE, "")

    def on_changed(self, peer: bytes, message: Changed) -> None:
        """A provider has more feed entries or serves a version now."""
        provider = self._providers.get(peer)
        if provider is None or provider.joined is None:
            self.add_peers([peer])
            return
        provider.entries = message.entries
        provider.version = message.version
        provider.retry_at = 0.0
        self._advance()

    def on_have(self, peer: bytes, message: Have) -> None:
        """A provider has more chunks. Raises: MalformedMessage."""
        provider = self._providers.get(peer)
        target = self._target
        if provider is None or target is None or message.version != target.version:
            return
        more = runs_to_set(message.runs, self._limit)
        provider.have |= more
        provider.lacks.difference_update(o for o in list(provider.lacks) if more >> o & 1)
        if provider.active:
            self._step(MoreChunks(peer, more & self._known))

    def on_taken(self, peer: bytes, message: Taken) -> None:
        """A provider gives chunks to others. Raises: MalformedMessage."""
        target, scheduler = self._target, self._scheduler
        if target is not None and scheduler is not None and message.version == target.version:
            self._step(TakenByOthers(peer, runs_to_set(message.runs, scheduler.total)))

    def on_gone(self, peer: bytes) -> None:
        """A provider does not serve the share any more."""
        provider = self._providers.get(peer)
        if provider is not None and provider.had_share:  # its lane may have ended before this came
            self._lose(provider, Standing.GONE, "")

    # Providers

    async def _run(self) -> None:
        while not self._closed:
            for receiver in list(self._receivers):
                self._drain(receiver)
            if self._scheduler is not None:
                self._look_at_lanes()
                self._step(Tick())
            self._advance()
            await asyncio.sleep(TICK_S)

    def _look_at_lanes(self) -> None:
        """Tell the scheduler from whom bytes come, and how many this end lets through."""
        for provider in self._providers.values():
            if provider.receiver is None or not provider.active:
                continue
            if provider.seen_bytes != provider.receiver.moved_bytes:
                provider.seen_bytes = provider.receiver.moved_bytes
                self._step(Arriving(provider.peer))
            pace = self._pace(provider.peer)
            if pace != provider.pace_bytes_s:
                provider.pace_bytes_s = pace
                self._step(Paced(provider.peer, pace))

    def _pace(self, peer: bytes) -> float | None:
        return self._downloads.share_bytes_s(peer, background=self._background)

    def _advance(self) -> None:
        """Start what is due: joins, feeds, lanes."""
        now = self._clock.monotonic()
        for provider in self._providers.values():
            if self._joining >= JOINS_AT_ONCE or self._closed or self._faulted:
                return
            if provider.busy or provider.barred or now < provider.retry_at or not self._has_work(provider):
                continue
            provider.busy = True
            self._joining += 1
            try:
                task = self._supervisor.spawn("provider", self._work(provider))
            except Unavailable:  # the node closes, or has too much to do: the next tick tries again
                provider.busy = False
                self._joining -= 1
                return
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _has_work(self, provider: Provider) -> bool:
        if provider.joined is None or provider.entries > self._owner.entry_count:
            return True
        if self._target is None:
            return False
        return not provider.active and provider.may_serve(self._target.version)

    async def _work(self, provider: Provider) -> None:
        """Bring one provider as far as it goes now: joined, feed read, followed, lane open."""
        try:
            await self._bring_up(provider)
            provider.pause_s = RETRY_FIRST_S
            provider.retry_at = 0.0
            if self._has_work(provider):  # asked again for what it said it has
                self._pause(provider)
        except Refused as error:
            self._on_refused(provider, error)
        except RemoteFault as error:
            self._on_remote_fault(provider, error)
        except ShoalError as error:
            standing = Standing.BUSY if error.code == "busy" else Standing.SILENT
            self._lose(provider, standing, error.cause or error.message)
        finally:
            provider.busy = False
            self._joining -= 1
            self._changed.set()

    async def _bring_up(self, provider: Provider) -> None:
        if provider.joined is None:
            session = self._find_session(provider.peer)
            if session is None or not self._may_serve(provider.peer):
                self._lose(provider, Standing.OFFLINE, "")
                return
            provider.standing = Standing.ASKING
            await provider.join(session, self._own_id, self._network_id, self._read_key)
            self.add_peers(provider.others)
        if provider.entries and self._owner.entry_count:
            # the last one that both have is compared: a feed with two histories shows itself there
            last = min(provider.entries, self._owner.entry_count) - 1
            compared, provider.compared = provider.compared, last
            if compared < last:
                self._owner.on_entries(provider.peer, (await provider.read_feed(last)).entries)
        more = True
        while more and provider.entries > self._owner.entry_count:
            first = self._owner.entry_count
            page = await provider.read_feed(first)
            already = self._owner.entry_count - first  # another provider was faster
            self._owner.on_entries(provider.peer, page.entries[already:])
            more = page.more and bool(page.entries)
        target = self._target
        if target is None or provider.active or not provider.may_serve(target.version):
            return
        receiver = await self._open_lane(provider)
        self._receivers[receiver] = provider
        if not await provider.follow(target.version, self._limit):
            provider.version = 0  # of a draft, which has no such number: it is asked again after a pause
            provider.why = "it has another version"
            return
        if self._target is target and provider.receiver is receiver:
            receiver.target = target
            provider.active = True
            provider.standing = Standing.SERVING
            provider.pace_bytes_s = self._pace(provider.peer)
            have = provider.have & self._known
            self._step(ProviderUp(provider.peer, have, provider.pace_bytes_s))

    async def _open_lane(self, provider: Provider) -> LaneReceiver:
        return await provider.open_lane(self._drain, self._downloads, background=self._background)

    def _pause(self, provider: Provider) -> None:
        provider.retry_at = self._clock.monotonic() + provider.pause_s
        provider.pause_s = min(RETRY_LAST_S, provider.pause_s * 2)

    def _lose(self, provider: Provider, standing: Standing, why: str) -> None:
        """End a provider for now; it is tried again after a pause unless its standing bars it."""
        if not provider.barred and not (standing is Standing.SILENT and provider.standing is Standing.GONE):
            provider.standing = standing
            provider.why = why
        provider.end(leave=standing is not Standing.OFFLINE)
        self._pause(provider)
        if provider.active:
            provider.active = False
            self._step(ProviderDown(provider.peer))
        self._changed.set()

    def _on_refused(self, provider: Provider, error: Refused) -> None:
        """A peer does not serve the share; if it did, that ended while we were not connected."""
        is_gone = provider.had_share and error.code == "not_served"
        self._lose(provider, Standing.GONE if is_gone else Standing.REFUSED, error.cause)

    def _on_remote_fault(self, provider: Provider, error: RemoteFault) -> None:
        """A peer broke the protocol. What a bad line can cause is forgiven; the rest bars it here."""
        if error.code.startswith("lane_"):
            self._lose(provider, Standing.SILENT, error.message)
            return
        self._observe(Observation("swarm_fault", short_peer_id(provider.peer), str(error)))
        self._lose(provider, Standing.FAULTY, error.message)

    # Reports and effects

    def _drain(self, receiver: LaneReceiver) -> None:
        """Take what a lane's thread reported."""
        provider = self._receivers.get(receiver)
        if provider is None:
            return
        ordinals: list[int] = []
        size = 0
        end: EndReport | None = None
        for report in receiver.take():
            match report:
                case ChunkReport(ordinal, size_bytes, valid=True, missing=False):
                    ordinals.append(ordinal)
                    size += size_bytes
                case ChunkReport(ordinal, missing=True):
                    provider.why = "a part of it changed or is gone there"
                    if len(provider.lacks) < LACKS_KEPT:
                        provider.lacks.add(ordinal)
                    self._step(ChunkMissing(provider.peer, ordinal))
                case ChunkReport(ordinal):
                    self._on_bad_chunk(provider, ordinal)
                case ObjectReport(number, data):
                    provider.on_object(number, data)
                case EndReport():
                    end = report
        if ordinals:
            provider.received_bytes += size
            self._owner.on_chunks(provider.peer, ordinals, size)
            self._step(ChunksDone(provider.peer, tuple(ordinals)))
        if end is not None:
            add_seconds(self._stages, receiver.stage_seconds())
            del self._receivers[receiver]
            self._on_lane_end(provider, receiver, end.error)

    def _on_bad_chunk(self, provider: Provider, ordinal: int) -> None:
        self._observe(Observation("wrong_chunk", short_peer_id(provider.peer), f"chunk {ordinal}"))
        provider.why = f"chunk {ordinal} was not what it should be"
        if self._target is not None and self._target.version >= DRAFTS:
            # no proof of a lie: its author may just have seen that the file was rewritten
            self._step(ChunkMissing(provider.peer, ordinal))
            return
        self._step(ChunkBad(provider.peer, ordinal))

    def _on_lane_end(self, provider: Provider, receiver: LaneReceiver, error: ShoalError | None) -> None:
        if isinstance(error, StorageFault) and not self._faulted:
            self._faulted = True
            self._owner.on_fault(error)
        if provider.receiver is not receiver:
            return  # this end was ours, or a newer lane is open
        provider.on_lane_end(error)
        if provider.active:
            provider.active = False
            self._step(ProviderDown(provider.peer))
        if isinstance(error, RemoteFault):
            self._on_remote_fault(provider, error)
        elif not provider.barred:
            provider.standing = Standing.JOINED if provider.joined is not None else Standing.OFFLINE
            self._pause(provider)
        self._changed.set()

    def _step(self, event: Input) -> None:
        """Give the scheduler an input and carry out its effects; inputs that arise meanwhile wait in line."""
        self._inputs.append(event)
        if self._stepping or self._closed:
            return
        self._stepping = True
        try:
            while self._inputs:
                following = self._inputs.popleft()
                if self._scheduler is None or self._faulted:
                    continue
                for effect in self._scheduler.step(self._clock.monotonic(), following):
                    self._apply(effect)
        finally:
            self._stepping = False

    def _apply(self, effect: Effect) -> None:
        assert self._target is not None
        assert self._scheduler is not None
        match effect:
            case Want(peer, ordinals):
                provider = self._providers[peer]
                if provider.receiver is not None and provider.want(self._target.version, ordinals):
                    provider.receiver.expected = provider.receiver.received + self._scheduler.owed(peer)
                else:
                    self._lose(provider, Standing.SILENT, "its session is full or closed")
            case Cancel(peer, ordinals):
                self._providers[peer].unwant(self._target.version, ordinals)
            case DropProvider(peer, why, blamed):
                provider = self._providers[peer]
                provider.active = False
                if blamed:
                    self._lose(provider, Standing.WRONG, provider.why or why)
                    self._owner.on_blamed(peer)
                else:
                    self._lose(provider, Standing.SILENT, why)
            case Finished():
                self._owner.on_finished()

    # Objects

    async def _get_some(self, ids: list[bytes], found: dict[bytes, bytes]) -> None:
        tried: set[bytes] = set()
        missing = ids
        while missing:
            provider = self._pick_for_objects(tried)
            if provider is None:
                raise Unavailable(
                    "The description of the share could not be fetched",
                    cause=f"{len(missing)} parts of it are with nobody who is connected",
                )
            tried.add(provider.peer)
            try:
                self._receivers[await self._open_lane(provider)] = provider
                answers = await provider.read_objects(missing)
            except Refused as error:
                self._on_refused(provider, error)
                continue
            except RemoteFault as error:
                self._on_remote_fault(provider, error)
                continue
            except Unavailable as error:
                self._lose(provider, Standing.SILENT, error.cause or error.message)
                continue
            found.update((i, data) for i, data in zip(missing, answers, strict=True) if data is not None)
            missing = [i for i in missing if i not in found]

    def _pick_for_objects(self, tried: set[bytes]) -> Provider | None:
        ready = [
            p
            for p in self._providers.values()
            if p.joined is not None and not p.busy and not p.barred and p.peer not in tried
        ]
        return self._random.choice(ready) if ready else None
