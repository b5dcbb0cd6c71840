"""Pins: the copies that this node keeps and serves, whatever becomes of the files they came from.

What the store loses of a pin is fetched again, and a new version of its share (pin_news.py) is pinned beside
it, in the background: what both hold is not fetched, and the old one is let go of once the new one is
complete. What is offered is looked after every OFFER_S: a share that ends takes its offer along, and the
pin's takes its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from shoal.apps.files.context import FilesContext
from shoal.apps.files.finding import check_may_fetch, find_location
from shoal.apps.files.keeping import find_objects
from shoal.apps.files.pin_news import PinNews
from shoal.apps.files.pin_quota import PinQuota
from shoal.apps.files.pin_run import PinRun, description_holder
from shoal.apps.files.pin_source import PinSource
from shoal.apps.files.share_turn import Claim, ShareTurn
from shoal.content.link import Link
from shoal.core.errors import LocalMisuse, ShoalError, StorageFault, Unavailable
from shoal.identity.secrets import DEFAULT_SPACE
from shoal.storage import pins as table
from shoal.storage.pins import PinRow, PinState
from shoal.storage.store import Store
from shoal.swarm.offer import Offer, OfferedVersion

log = logging.getLogger("shoal.files")

ACTIVE_PINS = 4  # fetched at once; others wait
OFFER_S = 1.0
PUBLISH_TURNS = 3  # an announcement that was withdrawn at the same moment is made again
AGAIN_S = 300.0  # until a new version is tried again that could not be kept, as for the quota
RETRY_S = 3.0  # between two runs while nobody can help; others may fetch the share meanwhile
REPAIR_S = 30.0  # between two looks whether something of a complete pin is missing
KIND = "copy"
CLOSE_TIMEOUT_S = 2.5


@dataclass(frozen=True, slots=True)
class PinStatus:
    """A pin for people and scripts. `done` of `chunks` are in the store; `note` says what it waits for."""

    number: int
    share_id: bytes
    link: Link
    name: str
    state: str
    version: int
    chunks: int
    done: int
    size_bytes: int
    done_bytes: int
    lease: float | None
    revision: int
    note: str
    error: ShoalError | None


class PinKeeper:
    """All pins of one node. Loop thread only; `start` after Files, `close` before it."""

    def __init__(
        self,
        context: FilesContext,
        store: Store,
        pins: table.Pins,
        turn_of: Callable[[bytes], ShareTurn],
    ) -> None:
        self._context = context
        self._store = store
        self._table = pins
        self._turn_of = turn_of
        self._quota = PinQuota(store)
        self._pins: dict[int, PinRun] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(ACTIVE_PINS)
        self._changing = asyncio.Lock()
        self._publish: dict[bytes, int] = {}
        self._news = PinNews(context, turn_of)
        self._again_at: dict[int, float] = {}
        self._watch: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._passed_over: set[int] = set()  # pins that ran when something was lost

    async def start(self) -> None:
        """Serve what is complete, go on with the rest. Raises: StorageFault."""
        loop = asyncio.get_running_loop()

        def on_lost(keys: list[bytes]) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._lost.set)

        self._store.segments.on_lost = on_lost
        for row in await self._table.load():
            if row.state is PinState.ENDED:
                await self._let_go(row)
                continue
            pin = self._pins[row.number] = PinRun(self._context, self._store, self._table, row, self._quota)
            try:
                await pin.load()
            except ShoalError as error:
                log.warning("pin %s is not served: %s", row.name, error)
                pin.error = error
                continue
        for pin in self._pins.values():
            self._place_after_older(pin)
            if pin.row.state is PinState.FETCHING and pin.error is None:
                self._start(pin)
        self._lost.set()  # look at once
        self._watch = self._context.supervisor.spawn("pins", self._look_after())

    async def close(self) -> None:
        """Stop; idempotent. What was fetched is kept."""
        tasks = [*self._running.values(), *([self._watch] if self._watch is not None else [])]
        tasks += self._news.cancel()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)

    async def pin(self, link: Link, lease_s: float | None = None, wait_s: float | None = 0.0) -> PinStatus:
        """Keep a copy of the latest version of what a link names, or attach to who does so already.

        A complete pin of an older version is replaced once the new one is complete.
        Raises: Refused, StorageFault. What fails later is in the pin's status.
        """
        check_may_fetch(self._context, link)
        now = self._context.clock.wall()
        lease = None if lease_s is None else now + lease_s
        async with self._changing:
            mine = [pin for pin in self._pins.values() if pin.link.share_id == link.share_id]
            pin = next((p for p in mine if not p.is_complete), None)
            if pin is None:
                pin = await self._add(link, lease, mine)
            else:
                pin.background = False
                pin.row = pin.row._replace(lease=lease)
                await self._table.update(pin.row.number, lease=lease)
            pin.patience_s = wait_s
            pin.wanted_at = pin.asked_at = self._context.clock.monotonic()
            self._start(pin)
        return self._status(pin)

    async def _add(self, link: Link, lease: float | None, mine: list[PinRun]) -> PinRun:
        """Begin a pin of what a link means now, beside those of earlier versions; it is not started."""
        now = self._context.clock.wall()
        row = PinRow(
            0,
            link.share_id,
            KIND,
            DEFAULT_SPACE,
            lease,
            0,
            PinState.FETCHING,
            link.to_text(),
            mine[0].row.name if mine else "",
            0,
            0,
            now,
            now,
        )
        own = [p for p in mine if p.reader.author == self._context.network.own_id]
        # another's newest version is only known once its feed was read again
        row = row._replace(number=await self._table.add(row), feed=own[0].row.feed if own else ())
        pin = self._pins[row.number] = PinRun(self._context, self._store, self._table, row, self._quota)
        self._place_after_older(pin)
        pin.background = False
        await pin.load()  # what is known of the feed already
        return pin

    def _place_after_older(self, pin: PinRun) -> None:
        """Tell an unfinished pin what it can take over; one that has an earlier version can take its time."""
        if pin.is_complete:
            return
        complete = [p for p in self._pins.values() if p.link.share_id == pin.link.share_id and p.is_complete]
        pin.older = max(complete, key=lambda p: p.row.version, default=None)
        pin.background = pin.older is not None

    def pins(self) -> list[PinStatus]:
        """Return all pins, oldest first."""
        return [self._status(pin) for pin in self._pins.values()]

    async def wait(self, number: int, revision: int | None, wait_s: float) -> PinStatus:
        """Return a pin once its revision differs or it is settled, at the latest after `wait_s`.

        Raises: LocalMisuse for an unknown pin. Safe to cancel.
        """
        pin = self._pins.get(number)
        if pin is None:
            raise LocalMisuse("There is no such pin", next_step="see `shoal pins`", code="unknown_pin")
        if pin.signal.revision == revision and number in self._running:
            await pin.signal.wait(wait_s)
        return self._status(pin)

    async def unpin(self, share_id: bytes) -> list[PinStatus]:
        """Keep no copy of a share any longer; its chunks go with the next collection.

        Raises: LocalMisuse if it is not pinned, StorageFault.
        """
        async with self._changing:
            mine = [pin for pin in self._pins.values() if pin.link.share_id == share_id]
            if not mine:
                raise LocalMisuse("Nothing was changed", cause="it is not pinned", code="unknown_pin")
            for pin in mine:
                await self._end(pin)
        return [self._status(pin) for pin in mine]

    # Inside

    def _status(self, pin: PinRun) -> PinStatus:
        row = pin.row
        state = row.state.value
        if pin.is_complete and len(pin.done) < row.chunks:
            state = "repairing" if row.number in self._running else "damaged"
        return PinStatus(
            number=row.number,
            share_id=row.id,
            link=pin.link,
            name=row.name,
            state=state,
            version=row.version,
            chunks=row.chunks,
            done=len(pin.done),
            size_bytes=row.size_bytes,
            done_bytes=pin.done_bytes,
            lease=row.lease,
            revision=pin.signal.revision,
            note=pin.note,
            error=pin.error,
        )

    def _start(self, pin: PinRun) -> None:
        number = pin.row.number
        if number in self._running:
            return
        pin.error = None
        if not pin.is_complete:
            pin.row = pin.row._replace(state=PinState.FETCHING)
        task = self._context.supervisor.spawn("pin", self._run(pin))
        self._running[number] = task

        def ended(_: asyncio.Task[None]) -> None:
            self._running.pop(number, None)
            if number in self._passed_over:
                self._passed_over.discard(number)
                self._lost.set()
            pin.signal.touch()
            self._context.tidy_soon()

        task.add_done_callback(ended)

    async def _run(self, pin: PinRun) -> None:
        was_complete = pin.is_complete
        try:
            while not await self._try_run(pin):
                pin.say("waiting for somebody who has it")
                await asyncio.sleep(RETRY_S)
            await self._replace_older(pin)
        except ShoalError as error:
            log.warning("a pin stopped: %s", error)
            if was_complete:  # it goes on serving what it has
                pin.error = error
                pin.row = pin.row._replace(state=PinState.COMPLETE)
                with suppress(StorageFault):
                    await self._table.update(pin.row.number, state=PinState.COMPLETE)
                return
            try:
                await pin.fail(error)
            except StorageFault as fault:
                log.warning("the end of a pin is not recorded: %s", fault)

    async def _try_run(self, pin: PinRun) -> bool:
        """Run a pin; False if nobody could help now and it may wait. Raises: as `PinRun.run`."""
        clock = self._context.clock
        claim = Claim("its pin is fetched", pin.background, pin.say, lambda: pin.background)

        async def work() -> None:
            pin.asked_at = clock.monotonic()
            await pin.run()

        try:
            async with self._places:
                await self._turn_of(pin.link.share_id).run(claim, work)
        except Unavailable:
            if pin.patience_s is not None and clock.monotonic() >= pin.wanted_at + pin.patience_s:
                raise
            return False
        return True

    async def _replace_older(self, pin: PinRun) -> None:
        """Let go of complete pins of the same share that are not newer, without those it shares with this."""
        self._serve(pin)
        async with self._changing:
            for other in list(self._pins.values()):
                same = other is not pin and other.link.share_id == pin.link.share_id and other.is_complete
                if same and other.row.version <= pin.row.version:
                    await self._end(other, keep_share=True)
            pin.older = None
            await self._drop_descriptions(pin.link.share_id)

    async def _drop_descriptions(self, share_id: bytes) -> None:
        """Keep the descriptions of those versions alone that are pinned."""
        mine = [pin for pin in self._pins.values() if pin.link.share_id == share_id]
        if any(pin.closing is None for pin in mine):
            return  # what is just being fetched is not known by name
        keep = await find_objects(self._context, [pin.closing for pin in mine if pin.closing is not None])
        await self._context.stores.objects.drop_share(description_holder(share_id), keep, durable=False)

    async def _end(self, pin: PinRun, *, keep_share: bool = False) -> None:
        number = pin.row.number
        task = self._running.get(number)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._table.update(number, state=PinState.ENDED)
        pin.row = pin.row._replace(state=PinState.ENDED)
        self._pins.pop(number, None)
        offer = self._context.swarm.find_offer(pin.link.share_id)
        if offer is not None:
            version = offer.versions.get(pin.row.version)
            if version is not None and isinstance(version.source, PinSource):
                self._context.swarm.withdraw_version(pin.link.share_id, pin.row.version)
            if not keep_share and self._context.swarm.find_offer(pin.link.share_id) is None:
                await self._context.overlay.withdraw(find_location(self._context, pin.link))
        await self._let_go(pin.row, keep_share=keep_share)
        pin.signal.touch()

    async def _let_go(self, row: PinRow, *, keep_share: bool = False) -> None:
        """End a pin's holds, then its row; safe to be cut anywhere, and then done again at a start."""
        await asyncio.to_thread(self._store.release_blocking, row.number)
        if not keep_share and not any(pin.link.share_id == row.id for pin in self._pins.values()):
            await self._context.stores.objects.drop_share(description_holder(row.id))
        await self._table.drop(row.number)

    async def _look_after(self) -> None:
        """Keep what is complete offered, end leases, repair what was lost."""
        repair_at = 0.0
        while True:
            clock = self._context.clock
            try:
                for pin in list(self._pins.values()):
                    lease = pin.row.lease
                    if lease is not None and lease <= clock.wall():
                        log.info("the lease of pin %s is over", pin.row.name)
                        async with self._changing:
                            await self._end(pin)
                    elif pin.is_complete and pin.manifest is not None:
                        self._serve(pin)
                await self._keep_up()
                for share_id in list(self._publish):
                    await self._announce(share_id)
                if self._lost.is_set() or clock.monotonic() >= repair_at:
                    self._lost.clear()
                    repair_at = clock.monotonic() + REPAIR_S
                    await self._repair()
            except ShoalError as error:
                log.warning("looking after pins: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(OFFER_S):
                    await self._lost.wait()

    async def _keep_up(self) -> None:
        """Pin the newest version of what is pinned, beside the one of now, unless the link names one."""
        now = self._context.clock.monotonic()
        newest: dict[bytes, PinRun] = {}
        unfinished: dict[bytes, PinRun] = {}
        for pin in self._pins.values():
            (newest if pin.is_complete else unfinished)[pin.link.share_id] = pin
        self._news.listen(pin for pin in newest.values() if not pin.link.is_permanent)
        for share_id in self._news.take():
            kept = newest.get(share_id)
            if kept is None or share_id in unfinished:
                continue
            async with self._changing:
                if kept.row.number in self._pins:
                    log.info("pin %s: a new version is fetched", kept.row.name)
                    mine = [p for p in self._pins.values() if p.link.share_id == share_id]
                    later = await self._add(kept.link, kept.row.lease, mine)
                    later.background, later.patience_s = True, None
                    self._start(later)
        for share_id, later in unfinished.items():
            number = later.row.number
            if share_id not in newest or number in self._running or later.row.state is not PinState.FAILED:
                continue
            if now >= self._again_at.setdefault(number, now + AGAIN_S):
                del self._again_at[number]
                later.patience_s = None
                self._start(later)

    async def _repair(self) -> None:
        """Fetch again what the store lost of complete pins."""
        for pin in list(self._pins.values()):
            if pin.row.number in self._running:
                self._passed_over.add(pin.row.number)
                continue
            if not pin.is_complete or pin.manifest is None:
                continue
            await pin.look()
            if len(pin.done) < pin.manifest.chunk_count:
                missing = pin.manifest.chunk_count - len(pin.done)
                log.warning("%s chunks of pin %s are lost and fetched again", missing, pin.row.name)
                pin.patience_s = 0.0
                self._start(pin)

    def _serve(self, pin: PinRun) -> None:
        """Offer a complete pin unless its share is served from files; those of an own share may vanish."""
        manifest, swarm, link = pin.manifest, self._context.swarm, pin.link
        if manifest is None:
            return
        offer = swarm.find_offer(link.share_id)
        is_new = offer is None
        if offer is None:
            offer = self._make_offer(pin)
        served = offer.versions.get(pin.row.version)
        is_own = pin.reader.author == self._context.network.own_id
        if served is not None and (
            isinstance(served.source, PinSource) or (served.is_complete and not is_own)
        ):
            return
        if offer.versions and offer.newest > pin.row.version and served is None:
            return  # a newer one lies in files; who wants the older one is few
        source = PinSource(self._store, pin.row.number, manifest)
        everything = (1 << manifest.chunk_count) - 1
        offer.put_version(OfferedVersion(pin.row.version, manifest.chunk_count, source, everything))
        offer.entries = max(offer.entries, pin.reader.next_seq)
        if is_new:
            swarm.offer(offer)
            self._publish[link.share_id] = PUBLISH_TURNS
        else:
            swarm.announce(offer)

    def _make_offer(self, pin: PinRun) -> Offer:
        async def read_feed(first: int) -> list[bytes]:
            return pin.entries[first : first + 256]

        def on_fault(version: int, ordinal: int, error: StorageFault) -> None:
            log.warning("chunk %s of pin %s was not served: %s", ordinal, pin.row.name, error)

        return Offer(
            share_id=pin.link.share_id,
            read_key=pin.link.read_key,
            read_feed=read_feed,
            find_object=self._context.stores.objects.find_blocking,
            on_fault=on_fault,
            entries=pin.reader.next_seq,
        )

    async def _announce(self, share_id: bytes) -> None:
        left = self._publish.pop(share_id) - 1
        pin = next((p for p in self._pins.values() if p.link.share_id == share_id), None)
        if pin is None or self._context.swarm.find_offer(share_id) is None:
            return
        await self._context.overlay.publish(find_location(self._context, pin.link))
        if left:
            self._publish[share_id] = left


def find_pin(pins: list[PinStatus], matches: Callable[[PinStatus], bool]) -> bytes:
    """Return the one share that matches. Raises: LocalMisuse if none or several do."""
    found = {pin.share_id for pin in pins if matches(pin)}
    if len(found) == 1:
        return found.pop()
    raise LocalMisuse(
        "Nothing was changed",
        cause="several pins match" if found else "no pin matches",
        next_step="see them: shoal pins",
        code="ambiguous_pin" if found else "not_pinned",
    )
