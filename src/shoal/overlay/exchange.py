"""Exchange: anti-entropy of signed items between two peers; what a broadcast missed comes a round late.

Pure. An item is a peer record (slot 0) or a provision (slot 1 + page) of a subject, with its seq. Items lie
in 64 buckets by their subject. Who begins sends a hash of each bucket; the other answers with what it has in
those that differ; the first sends what is newer here and asks for what is newer there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

from blake3 import blake3

from shoal.overlay.messages import (
    BUCKETS,
    HASH_BYTES,
    SUMMARY_ITEMS,
    WANTED_ITEMS,
    Digest,
    Summary,
    Wanted,
    make_provision_pages,
    make_record_pages,
)
from shoal.overlay.steps import Effect, Send
from shoal.wire.codec import Message

ROUND_MESSAGES = 64  # to one peer in a round; what does not fit comes in the next one
Slot = tuple[bytes, int]  # subject, slot
_Row = tuple[bytes, int, int]  # subject, slot, seq


class Exchange:
    """Compares what is here with what a peer has.

    `list_items` gives the seq of every slot, `find_packed` the bytes of one and their age in seconds.
    """

    def __init__(
        self,
        list_items: Callable[[], Mapping[Slot, int]],
        find_packed: Callable[[float, Slot], tuple[bytes, int] | None],
    ) -> None:
        self._list_items = list_items
        self._find_packed = find_packed

    def begin(self, peer: bytes) -> list[Effect]:
        """Begin a round with a peer."""
        return [Send(peer, Digest(_hash_buckets(self._list_items())))]

    def on_digest(self, peer: bytes, message: Digest) -> list[Effect]:
        """Say what is here in the buckets that differ."""
        items = self._list_items()
        mine = _hash_buckets(items)
        rows: list[list[_Row]] = [[] for _ in range(BUCKETS)]
        for (subject, slot), seq in items.items():
            rows[bucket_of(subject)].append((subject, slot, seq))
        messages: list[Message] = []
        for bucket in range(BUCKETS):
            if mine[bucket] != message.hashes[bucket]:
                messages += _summarise(bucket, sorted(rows[bucket]))
        return [Send(peer, summary) for summary in messages[:ROUND_MESSAGES]]

    def on_summary(self, now: float, peer: bytes, message: Summary) -> list[Effect]:
        """Send what is newer here, ask for what is newer there."""
        theirs = {(subject, slot): seq for subject, slot, seq in message.items}
        items = {
            slot: seq
            for slot, seq in self._list_items().items()
            if bucket_of(slot[0]) == message.bucket and message.first <= slot[0] <= message.last
        }
        newer = [slot for slot, seq in sorted(items.items()) if theirs.get(slot, -1) < seq]
        wanted = [slot for slot, seq in sorted(theirs.items()) if items.get(slot, -1) < seq]
        effects = self._send(now, peer, newer)
        return [*effects, Send(peer, Wanted(wanted[:WANTED_ITEMS]))] if wanted else effects

    def on_wanted(self, now: float, peer: bytes, message: Wanted) -> list[Effect]:
        """Send what was asked for."""
        return self._send(now, peer, message.slots)

    def _send(self, now: float, peer: bytes, slots: Iterable[Slot]) -> list[Effect]:
        records: list[bytes] = []
        provisions: list[tuple[bytes, int]] = []
        for slot in slots:
            found = self._find_packed(now, slot)
            if found is not None and slot[1]:
                provisions.append(found)
            elif found is not None:
                records.append(found[0])
        pages: list[Message] = [*make_record_pages(records), *make_provision_pages(provisions)]
        return [Send(peer, page) for page in pages[:ROUND_MESSAGES]]


def bucket_of(subject: bytes) -> int:
    """Return the bucket of a subject's items."""
    return subject[0] * BUCKETS // 256


def _hash_buckets(items: Mapping[Slot, int]) -> list[bytes]:
    hashes = [0] * BUCKETS
    for (subject, slot), seq in items.items():
        data = subject + bytes([slot]) + seq.to_bytes(8, "big")
        hashes[bucket_of(subject)] ^= int.from_bytes(blake3(data).digest(HASH_BYTES), "big")
    return [value.to_bytes(HASH_BYTES, "big") for value in hashes]


def _summarise(bucket: int, rows: list[_Row]) -> list[Message]:
    """List the sorted rows of a bucket, cut between subjects; the pages cover all ids without a gap."""
    pages: list[Message] = []
    first = b"\0" * 32
    while len(rows) > SUMMARY_ITEMS:
        cut = bisect_left(rows, rows[SUMMARY_ITEMS][0], key=lambda row: row[0])
        page, rows = rows[:cut], rows[cut:]
        if not page:  # one subject with more than a page: it has at most 65 slots
            break
        pages.append(Summary(bucket, first, page[-1][0], page))
        first = rows[0][0]
    pages.append(Summary(bucket, first, b"\xff" * 32, rows))
    return pages
