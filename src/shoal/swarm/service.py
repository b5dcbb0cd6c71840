"""Swarm service: answers getters, carries notices to fetches, owns the lanes' threads.

The transport calls it for service SWARM. Apps `offer` shares and make fetches. Everything of a peer ends with
its session; who is storage-only, or no member any more, gets nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from shoal.content.proof import EXPORTER_LABEL, check_fetch_proof, make_fetch_proof
from shoal.core.clock import Clock
from shoal.core.errors import LimitExceeded, Refused, StorageFault, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.stages import add_seconds
from shoal.core.supervisor import Supervisor
from shoal.core.units import KIB
from shoal.identity.ids import short_peer_id
from shoal.identity.operations import Role
from shoal.swarm.activity import Activity
from shoal.swarm.chunk_set import split
from shoal.swarm.fetch import ShareFetch
from shoal.swarm.fetch_owner import FetchOwner
from shoal.swarm.lane_header import make_purpose, parse_purpose
from shoal.swarm.messages import (
    PAGE_BYTES,
    SWARM_TABLE,
    Changed,
    FeedPage,
    FeedRequest,
    Follow,
    Followed,
    Gone,
    Have,
    Join,
    Joined,
    Leave,
    Taken,
    Unwant,
    Want,
    WantObjects,
)
from shoal.swarm.offer import Offer
from shoal.swarm.serve import LaneSender
from shoal.swarm.throttle import Throttle
from shoal.swarm.upload_turns import UploadTurns
from shoal.transport.lane import Lane
from shoal.transport.ports import BaseService, ServiceBudget
from shoal.wire.codec import Message
from shoal.wire.registry import ServiceNumber

if TYPE_CHECKING:
    from shoal.transport.session import Session

UPLOAD_SLOTS = 64  # lanes we serve at once, a thread and 2 MiB each; wild guess
FOLLOWERS = 256  # sessions that one share serves; wild guess
NEWS_S = 0.05  # how often followers hear of new chunks, and of what others were given
NEWS_MESSAGES_S = 400.0  # about that many at most a share and second: less often where many follow
OTHERS = 16  # peers named to a getter
CLOSE_TIMEOUT_S = 2.0


class SwarmService(BaseService):
    """Chunks in motion for one node. Loop thread only."""

    number = ServiceNumber.SWARM
    table = SWARM_TABLE
    budget = ServiceBudget(requests_in_flight=32, messages_per_s=400.0, burst=2000.0, message_bytes=64 * KIB)

    def __init__(
        self,
        *,
        own_id: bytes,
        network_id: bytes,
        find_session: Callable[[bytes], Session | None],
        role_of: Callable[[bytes], Role | None],
        supervisor: Supervisor,
        clock: Clock,
        observe: Observer,
        rng: random.Random,
    ) -> None:
        self._own_id = own_id
        self._network_id = network_id
        self._find_session = find_session
        self._role_of = role_of
        self._supervisor = supervisor
        self._clock = clock
        self._observe = observe
        self._random = rng
        self._offers: dict[bytes, Offer] = {}
        self._fetches: dict[bytes, ShareFetch] = {}
        self._senders: dict[tuple[Session, bytes], LaneSender] = {}
        self._stages: dict[str, float] = {}
        self._listeners: dict[tuple[bytes, str], Callable[[int], None]] = {}
        self._news: asyncio.TimerHandle | None = None
        self._closed = False
        self.uploads = Throttle(clock.monotonic)
        self._turns = UploadTurns(clock.monotonic)
        self.downloads = Throttle(clock.monotonic)
        self.activity = Activity(
            lambda: self.uploads.foreground_bytes + self.downloads.foreground_bytes, clock.monotonic
        )

    # For apps

    def offer(self, offer: Offer) -> None:
        """Serve a share from now on; replaces an earlier offer of it. Followers are kept."""
        earlier = self._offers.get(offer.share_id)
        if earlier is not None and earlier is not offer:
            offer.followers.update(earlier.followers)
        self._offers[offer.share_id] = offer
        self.announce(offer)

    def find_offer(self, share_id: bytes) -> Offer | None:
        """Return what is served of a share, or None."""
        return self._offers.get(share_id)

    def announce(self, offer: Offer) -> None:
        """Tell who proved the link that there are more feed entries or another version."""
        message = Changed(offer.share_id, offer.entries, offer.newest)
        for session in offer.followers:
            session.notify(self.number, message)

    def add_chunks(self, share_id: bytes, version: int, ordinals: list[int], total: int = 0) -> None:
        """Note chunks that can be served from now on; followers hear of them within NEWS_S. Of a draft
        `total` are known now.
        """
        offer = self._offers.get(share_id)
        if offer is None:
            return
        offer.add_chunks(version, ordinals, total)
        self._plan_news(offer)

    def withdraw(self, share_id: bytes) -> None:
        """Stop serving a share, at once; idempotent."""
        offer = self._offers.pop(share_id, None)
        if offer is None:
            return
        for session in offer.followers:
            session.notify(self.number, Gone(share_id))
        for (session, shared), sender in list(self._senders.items()):
            if shared == share_id:
                self._end_sender(session, shared, sender)

    def withdraw_version(self, share_id: bytes, version: int) -> None:
        """Stop serving one version, and the whole share if it was the only one; idempotent."""
        offer = self._offers.get(share_id)
        if offer is None:
            return
        offer.versions.pop(version, None)
        if offer.versions:
            self.announce(offer)
        else:
            self.withdraw(share_id)

    def make_fetch(
        self, share_id: bytes, read_key: bytes, owner: FetchOwner, *, background: bool = False
    ) -> ShareFetch:
        """Return a fetch of a share that was not started. One a share at a time.

        In the `background` it moves what other fetches leave.

        Raises: Refused (`busy`) while another one of the same share is there.
        """
        if share_id in self._fetches:
            raise Refused("The share is being fetched already", code="busy")
        fetch = ShareFetch(
            own_id=self._own_id,
            network_id=self._network_id,
            share_id=share_id,
            read_key=read_key,
            owner=owner,
            find_session=self._find_session,
            may_serve=self._may_read,
            downloads=self.downloads,
            background=background,
            supervisor=self._supervisor,
            clock=self._clock,
            observe=self._observe,
            rng=self._random,
        )
        self._fetches[share_id] = fetch
        return fetch

    def listen(self, share_id: bytes, on_news: Callable[[int], None] | None, who: str = "") -> None:
        """Call `on_news(entries)` when a peer that we fetched a share from has other entries, and with 0 when
        any session comes up; None ends it. One listener a share for each `who`.
        """
        if on_news is None:
            self._listeners.pop((share_id, who), None)
        else:
            self._listeners[share_id, who] = on_news

    async def close_fetch(self, fetch: ShareFetch) -> None:
        """End a fetch: after it nothing is written any more. Idempotent; at most 4 s."""
        await fetch.close()
        if self._fetches.get(fetch.share_id) is fetch:
            del self._fetches[fetch.share_id]
            add_seconds(self._stages, fetch.stage_seconds())

    def stage_seconds(self) -> dict[str, float]:
        """Return CPU seconds of all lane threads by stage since the start."""
        total = dict(self._stages)
        for sender in self._senders.values():
            add_seconds(total, sender.stage_seconds())
        for fetch in self._fetches.values():
            add_seconds(total, fetch.stage_seconds())
        return total

    async def close(self) -> None:
        """End all fetches and lanes, wait for their threads, at most CLOSE_TIMEOUT_S a kind; idempotent."""
        self._closed = True
        if self._news is not None:
            self._news.cancel()
        for fetch in list(self._fetches.values()):
            await self.close_fetch(fetch)
        senders = list(self._senders.values())
        for sender in senders:
            sender.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for sender in senders:
                    await sender.ended.wait()
        except TimeoutError:
            pass  # daemon threads; their lanes are closed
        self._offers.clear()

    # Requests

    async def on_request(self, session: Session, message: Message) -> Message:
        match message:
            case Join():
                message.check()
                return self._on_join(session, message)
            case FeedRequest():
                message.check()
                return await self._on_feed_request(session, message)
            case Follow():
                message.check()
                return self._on_follow(session, message)
        return await super().on_request(session, message)

    def _on_join(self, session: Session, message: Join) -> Joined:
        offer = self._offers.get(message.share_id)
        peer = session.peer_id
        if offer is None or not self._may_read(peer):
            raise _not_served()
        exporter = session.exporter(EXPORTER_LABEL.encode(), self._network_id, 32)
        key = offer.read_key
        if not check_fetch_proof(message.proof, key, exporter, offer.share_id, peer, self._own_id):
            self._observe(Observation("wrong_fetch_proof", short_peer_id(peer)))
            raise _not_served()
        if session not in offer.followers and len(offer.followers) >= FOLLOWERS:
            raise Unavailable("The share is not served now", cause="too many peers fetch it", code="busy")
        offer.followers.setdefault(session, set())
        fetch = self._fetches.get(offer.share_id)
        if fetch is not None:
            fetch.add_peers([peer])  # who fetches what we fetch may soon have parts of it
        proof = make_fetch_proof(key, exporter, offer.share_id, self._own_id, peer)
        others = tuple(s.peer_id for s in offer.followers if s is not session)[:OTHERS]
        return Joined(proof, offer.entries, offer.newest, others)

    async def _on_feed_request(self, session: Session, message: FeedRequest) -> FeedPage:
        offer = self._get_offer(session, message.share_id)
        entries: list[bytes] = []
        size = 0
        more = False
        for entry in await offer.read_feed(message.first):
            if entries and size + len(entry) > PAGE_BYTES:
                more = True
                break
            entries.append(entry)
            size += len(entry) + 8
        more = more or message.first + len(entries) < offer.entries
        return FeedPage(entries, more and bool(entries))

    def _on_follow(self, session: Session, message: Follow) -> Followed:
        offer = self._get_offer(session, message.share_id)
        version = offer.versions.get(message.version)
        if version is None:
            return Followed(False, False, 0, b"")
        offer.followers[session].add(message.version)
        if message.version in offer.claims:
            offer.claims[message.version].greet(session)
            self._plan_news(offer)
        return version.page(message.page)

    def _get_offer(self, session: Session, share_id: bytes) -> Offer:
        """Return the offer that a session proved the link of. Raises: Refused."""
        offer = self._offers.get(share_id)
        if offer is None or session not in offer.followers or not self._may_read(session.peer_id):
            raise _not_served()
        return offer

    # Notices

    def on_notice(self, session: Session, message: Message) -> None:
        match message:
            case Want():
                message.check()
                self._on_want(session, message)
            case Unwant():
                message.check()
                sender = self._senders.get((session, message.share_id))
                if sender is not None:
                    sender.unwant(message.version, message.ordinals)
            case WantObjects():
                message.check()
                self._on_want_objects(session, message)
            case Leave():
                message.check()
                self._on_leave(session, message.share_id)
            case Have():
                message.check()
                if (fetch := self._fetches.get(message.share_id)) is not None:
                    fetch.on_have(session.peer_id, message)
            case Taken():
                message.check()
                if (fetch := self._fetches.get(message.share_id)) is not None:
                    fetch.on_taken(session.peer_id, message)
            case Changed():
                message.check()
                for (share_id, _), listener in list(self._listeners.items()):
                    if share_id == message.share_id:
                        listener(message.entries)
                if (fetch := self._fetches.get(message.share_id)) is not None:
                    fetch.on_changed(session.peer_id, message)
            case Gone():
                message.check()
                if (fetch := self._fetches.get(message.share_id)) is not None:
                    fetch.on_gone(session.peer_id)

    def _on_want(self, session: Session, message: Want) -> None:
        offer = self._offers.get(message.share_id)
        sender = self._senders.get((session, message.share_id))
        if offer is None or sender is None:
            return  # the lane just ended; the getter hears of that
        version = offer.versions.get(message.version)
        there, absent = split(message.ordinals, version.have if version is not None else 0)
        try:
            if version is not None and there:
                sender.want(message.version, there, version.source)
                if offer.claim(session, message.version, there):
                    self._plan_news(offer)
            if absent:
                sender.want(message.version, absent, None)
        except LimitExceeded as error:
            self._on_flood(session, message.share_id, sender, error)

    def _on_want_objects(self, session: Session, message: WantObjects) -> None:
        offer = self._offers.get(message.share_id)
        sender = self._senders.get((session, message.share_id))
        if offer is None or sender is None:
            return
        try:
            sender.want_objects(message.first, message.ids, offer.find_object)
        except LimitExceeded as error:
            self._on_flood(session, message.share_id, sender, error)

    def _on_flood(self, session: Session, share_id: bytes, sender: LaneSender, error: LimitExceeded) -> None:
        self._observe(Observation("want_flood", short_peer_id(session.peer_id), str(error)))
        self._end_sender(session, share_id, sender)

    def _on_leave(self, session: Session, share_id: bytes) -> None:
        sender = self._senders.get((session, share_id))
        if sender is not None:
            sender.finish()
        offer = self._offers.get(share_id)
        if offer is not None and session in offer.followers:
            offer.followers[session].clear()

    # Sessions and lanes

    def on_session_up(self, session: Session) -> None:
        for listener in list(self._listeners.values()):
            listener(0)
        for fetch in self._fetches.values():
            fetch.on_session_up(session.peer_id)

    def on_session_down(self, session: Session, reason: str) -> None:
        for fetch in self._fetches.values():
            fetch.on_session_down(session)
        for offer in self._offers.values():
            offer.followers.pop(session, None)
        for (owner, share_id), sender in list(self._senders.items()):
            if owner is session:
                self._end_sender(owner, share_id, sender)

    def may_open_lane(self, session: Session, purpose: bytes) -> bool:
        share_id = parse_purpose(purpose)
        offer = None if share_id is None else self._offers.get(share_id)
        return (
            offer is not None
            and not self._closed
            and session in offer.followers
            and self._may_read(session.peer_id)
            and ((session, share_id) in self._senders or self._has_slot(session.peer_id))
        )

    def on_lane(self, session: Session, lane: Lane, purpose: bytes) -> None:
        share_id = parse_purpose(purpose)
        if share_id is None or not self.may_open_lane(session, make_purpose(share_id)):
            lane.close()
            return
        earlier = self._senders.get((session, share_id))
        if earlier is not None:  # the getter lost it; it has one lane a share
            self._end_sender(session, share_id, earlier)
        elif len(self._senders) >= UPLOAD_SLOTS:
            self._free_slot()

        def on_end(sender: LaneSender) -> None:
            add_seconds(self._stages, sender.stage_seconds())
            if self._senders.get((session, share_id)) is sender:
                del self._senders[session, share_id]
            self.rest(share_id)

        def on_fault(version: int, ordinal: int, error: StorageFault) -> None:
            offer = self._offers.get(share_id)
            if offer is not None:
                offer.on_fault(version, ordinal, error)

        offer = self._offers[share_id]
        self.uploads.join(lane, session.peer_id, background=offer.background)
        loop = asyncio.get_running_loop()
        turn = None if offer.background else self._turns.join(session.peer_id)  # background yields anyhow
        sender = LaneSender(lane, loop, on_end, on_fault, turn=turn, background=offer.background)
        self._senders[session, share_id] = sender
        sender.start()

    def _end_sender(self, session: Session, share_id: bytes, sender: LaneSender) -> None:
        if self._senders.get((session, share_id)) is sender:
            del self._senders[session, share_id]
        sender.close()

    def rest(self, share_id: bytes) -> None:
        """Let the sources of a share go of what they hold, if no lane reads them now."""
        offer = self._offers.get(share_id)
        if offer is not None and not any(shared == share_id for _, shared in self._senders):
            for version in offer.versions.values():
                version.source.rest()

    def _has_slot(self, peer: bytes) -> bool:
        is_free = len(self._senders) < UPLOAD_SLOTS or self._turns.find_spare() is not None
        return is_free and self.uploads.has_room(peer)

    def _free_slot(self) -> None:
        """End the lane that can best be spared; its getter opens another one when it can."""
        spare = self._turns.find_spare()
        for (session, share_id), sender in list(self._senders.items()):
            if sender.turn is not None and sender.turn.number == spare:
                del self._senders[session, share_id]
                sender.finish()

    def _plan_news(self, offer: Offer) -> None:
        if self._news is None and not self._closed:
            delay_s = max(NEWS_S, len(offer.followers) / NEWS_MESSAGES_S)
            self._news = asyncio.get_running_loop().call_later(delay_s, self._tell_news)

    def _tell_news(self) -> None:
        self._news = None
        for offer in self._offers.values():
            for have in offer.take_news():
                for session, versions in offer.followers.items():
                    if have.version in versions:
                        session.notify(self.number, have)
            for session, taken in offer.take_claims():
                session.notify(self.number, taken)

    def _may_read(self, peer: bytes) -> bool:
        role = self._role_of(peer)
        return role is not None and role is not Role.STORAGE


def _not_served() -> Refused:
    return Refused("The share is not served here", code="not_served")
