"""Provider: one peer as a source of one share, seen from the getter.

Says hello once a session (both ends prove the link), reads the feed, follows the have-map of a version, opens
the lane and keeps the receiving thread. It decides nothing: fetch.py does, and the scheduler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from blake3 import blake3

from shoal.content.feed import DRAFTS
from shoal.content.proof import EXPORTER_LABEL, check_fetch_proof, make_fetch_proof
from shoal.core.errors import MalformedMessage, RemoteFault, ShoalError, Unavailable
from shoal.swarm.lane_header import make_purpose
from shoal.swarm.messages import (
    PAGE_CHUNKS,
    WANT_ORDINALS,
    FeedPage,
    FeedRequest,
    Follow,
    Followed,
    Join,
    Joined,
    Leave,
    Unwant,
    Want,
    WantObjects,
)
from shoal.swarm.receive import LaneReceiver
from shoal.swarm.throttle import Throttle
from shoal.wire.codec import Message
from shoal.wire.registry import ServiceNumber

if TYPE_CHECKING:
    from shoal.transport.session import Session

REQUEST_TIMEOUT_S = 10.0
OBJECT_TIMEOUT_S = 30.0  # without a byte
OBJECTS_LIMIT_S = 300.0  # for all that is asked at once, up to 16 MiB; then another peer is asked
LACKS_KEPT = 4096
RETRY_FIRST_S = 1.0
RETRY_LAST_S = 30.0

R = TypeVar("R", bound=Message)


class Standing(Enum):
    """What came of asking a peer; the words are for people."""

    UNASKED = "not asked yet"
    OFFLINE = "not connected"
    ASKING = "being asked"
    REFUSED = "does not have it"
    GONE = "shares it no longer"
    BUSY = "is busy"
    SILENT = "did not answer"
    JOINED = "has the description"
    SERVING = "sends"
    WRONG = "sent wrong data"
    FAULTY = "broke the protocol"


@dataclass(slots=True)
class Provider:
    """Everything a fetch keeps of one peer. `joined` is the session on which both ends proved the link."""

    peer: bytes
    share_id: bytes
    standing: Standing = Standing.UNASKED
    why: str = ""
    joined: Session | None = None
    entries: int = 0
    compared: int = -1  # the last entry that was found to be the same at both ends
    version: int = 0
    others: tuple[bytes, ...] = ()
    have: int = 0
    lacks: set[int] = field(default_factory=set)  # chunks told missing, LACKS_KEPT of them: they name files
    had_share: bool = False  # it proved the link once
    receiver: LaneReceiver | None = None
    active: bool = False  # known to the scheduler
    busy: bool = False  # a task of the fetch works on it
    retry_at: float = 0.0
    pause_s: float = RETRY_FIRST_S
    received_bytes: int = 0
    seen_bytes: int = 0  # of its lane, when it was looked at last
    pace_bytes_s: float | None = None  # what the scheduler was told that this end takes from it
    objects: dict[int, asyncio.Future[bytes | None]] = field(default_factory=dict)
    next_object: int = 0

    @property
    def barred(self) -> bool:
        """Whether this peer must not be used in this transfer any more."""
        return self.standing in (Standing.WRONG, Standing.FAULTY)

    def may_serve(self, version: int) -> bool:
        """Whether the peer can have chunks of a version, or of a draft, by what it said."""
        if version >= DRAFTS:
            return self.entries > version - DRAFTS
        return self.version >= version

    def describe(self) -> str:
        """Say what came of asking this peer."""
        return f"{self.standing.value}: {self.why}" if self.why else self.standing.value

    async def join(self, session: Session, own_id: bytes, network_id: bytes, read_key: bytes) -> None:
        """Prove the link to each other. Raises: Refused, Unavailable, RemoteFault for a wrong proof.

        Safe to cancel.
        """
        exporter = session.exporter(EXPORTER_LABEL.encode(), network_id, 32)
        proof = make_fetch_proof(read_key, exporter, self.share_id, own_id, self.peer)
        joined = await self._request(session, Join(self.share_id, proof), Joined)
        joined.check()
        if not check_fetch_proof(joined.proof, read_key, exporter, self.share_id, self.peer, own_id):
            raise RemoteFault("A peer does not hold the link it claims to serve", peer=self.peer)
        self.joined = session
        self.entries = joined.entries
        self.version = joined.version
        self.others = joined.others
        self.standing = Standing.JOINED
        self.had_share = True
        self.why = ""

    async def read_feed(self, first: int) -> FeedPage:
        """Return some feed entries from `first` on, to be verified before more of them are read.

        Raises: Refused, Unavailable, RemoteFault. Safe to cancel.
        """
        page = await self._request(self._session(), FeedRequest(self.share_id, first), FeedPage)
        page.check()
        return page

    async def follow(self, version: int, total: int) -> bool:
        """Learn which chunks of a version the peer has; False if it serves none of that version. Of a draft
        `total` is the most that can come.

        Raises: Refused, Unavailable, RemoteFault. Safe to cancel.
        """
        have = page = 0
        pages = 1
        while page < pages:
            answer = await self._request(self._session(), Follow(self.share_id, version, page), Followed)
            answer.check()
            if not answer.served:
                return False
            if answer.total > total or (answer.total < total and version < DRAFTS):
                raise RemoteFault("A peer counts the chunks of a version differently", peer=self.peer)
            if answer.complete:
                have = (1 << answer.total) - 1
                break
            have |= int.from_bytes(answer.bits, "little") << page * PAGE_CHUNKS
            pages = -(-answer.total // PAGE_CHUNKS)
            page += 1
        self.have |= have & (1 << total) - 1
        return True

    async def open_lane(
        self, on_reports: Callable[[LaneReceiver], None], downloads: Throttle, *, background: bool
    ) -> LaneReceiver:
        """Return the receiver of this peer's lane; a new one, under the limits of `downloads`, if there is
        none.

        Raises: Unavailable, Refused, RemoteFault. Cancelling may leave a lane that ends with the session.
        """
        if self.receiver is not None:
            return self.receiver
        session = self._session()
        lane = await session.open_lane(ServiceNumber.SWARM, make_purpose(self.share_id), send=False)
        receiver = LaneReceiver(lane, asyncio.get_running_loop(), on_reports, background=background)
        if self.joined is not session:
            lane.close()
            raise Unavailable("The session ended while a lane was opened")
        downloads.join(lane, self.peer, background=background)
        self.receiver = receiver
        receiver.start()
        return receiver

    async def read_objects(self, ids: list[bytes]) -> list[bytes | None]:
        """Return sealed objects by id, verified; None for each that the peer does not have.

        Raises: Unavailable without a lane or answer, RemoteFault for other bytes. Safe to cancel.
        """
        session, loop = self._session(), asyncio.get_running_loop()
        if self.receiver is None:
            raise Unavailable("The lane of a provider ended")
        first = self.next_object
        self.next_object += len(ids)
        futures = [loop.create_future() for _ in ids]
        self.objects.update(zip(range(first, self.next_object), futures, strict=True))
        self.receiver.expected += len(ids)
        self.receiver.allow(len(ids))
        try:
            if not session.notify(ServiceNumber.SWARM, WantObjects(self.share_id, first, ids)):
                raise Unavailable("A provider's session is full or closed")
            await self._wait_objects(futures)
            answers = [await future for future in futures]
        finally:
            for number in range(first, first + len(ids)):
                self.objects.pop(number, None)
        for object_id, data in zip(ids, answers, strict=True):
            if data is not None and blake3(data).digest() != object_id:
                raise MalformedMessage("A peer sent another object than the one asked for", peer=self.peer)
        return answers

    async def _wait_objects(self, futures: list[asyncio.Future[bytes | None]]) -> None:
        """Wait until all are answered. Slow is no fault where a limit is set, but it has an end.

        Raises: Unavailable.
        """
        pending = set(futures)
        turns = int(OBJECTS_LIMIT_S / OBJECT_TIMEOUT_S)
        while pending and self.receiver is not None:
            before = self.receiver.moved_bytes
            _, pending = await asyncio.wait(pending, timeout=OBJECT_TIMEOUT_S)
            turns -= 1
            if pending and (self.receiver is None or self.receiver.moved_bytes == before or not turns):
                raise Unavailable("A provider did not send the description", cause="it sends too little")

    def want(self, version: int, ordinals: tuple[int, ...]) -> bool:
        """Ask for chunks; False when the session cannot take it."""
        session = self.joined
        if self.receiver is not None:
            self.receiver.allow(len(ordinals))
        return session is not None and all(
            session.notify(ServiceNumber.SWARM, Want(self.share_id, version, list(part)))
            for part in _parts(ordinals)
        )

    def unwant(self, version: int, ordinals: tuple[int, ...]) -> None:
        """Say that chunks are not wanted any more; losing this costs bandwidth only."""
        if self.joined is not None:
            for part in _parts(ordinals):
                self.joined.notify(ServiceNumber.SWARM, Unwant(self.share_id, version, list(part)))

    def on_object(self, number: int, data: bytes | None) -> None:
        """Take the answer to an object request."""
        future = self.objects.get(number)
        if future is not None and not future.done():
            future.set_result(data)

    def on_lane_end(self, error: ShoalError | None) -> None:
        """Forget the lane and fail what waits for it."""
        self.receiver = None
        for future in self.objects.values():
            if not future.done():
                future.set_exception(error or Unavailable("A provider ended its lane"))
                future.exception()  # whoever waits gets it; nobody may be waiting

    def end(self, leave: bool) -> None:
        """Close the lane and forget the session; tell the peer with `leave`. What the lane's thread still
        reports is to be taken from its receiver.
        """
        if leave and self.joined is not None:
            self.joined.notify(ServiceNumber.SWARM, Leave(self.share_id))
        if self.receiver is not None:
            self.receiver.close()
            self.on_lane_end(None)
        self.joined = None
        self.have = 0

    def _session(self) -> Session:
        if self.joined is None:
            raise Unavailable("A provider is not connected any more")
        return self.joined

    async def _request(self, session: Session, message: Message, kind: type[R]) -> R:
        answer = await session.request(ServiceNumber.SWARM, message, timeout_s=REQUEST_TIMEOUT_S)
        if not isinstance(answer, kind):
            raise MalformedMessage(f"an answer that is no {kind.__name__}", peer=self.peer)
        return answer


def _parts(ordinals: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [ordinals[i : i + WANT_ORDINALS] for i in range(0, len(ordinals), WANT_ORDINALS)]
