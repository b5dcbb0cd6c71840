"""Messages: what members say to each other of records and keys (service OVERLAY). All are notices.

See spec/overlay.md and spec/substrate.md. 4 and 6 are reserved: they told keys to every session.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.core.units import KIB
from shoal.identity.record import RECORD_LIMIT_BYTES
from shoal.overlay.substrate import messages as substrate
from shoal.wire.codec import Message
from shoal.wire.limits import GOSSIP_BYTES
from shoal.wire.registry import MessageTable, ServiceNumber

KEY_BYTES = 32
PEER_BYTES = 32
RECORDS = 64  # in one message
PROVIDERS = 64  # of one key
PROVISIONS = 16  # in one message
PROVISION_BYTES = 5 * KIB
BUCKETS = 64
HASH_BYTES = 8
SUMMARY_ITEMS = 256
WANTED_ITEMS = 256
SLOTS = 65  # of a subject: its record and the pages of its provisions
_OVERHEAD_BYTES = 16  # array headers of a message
_ITEM_OVERHEAD_BYTES = 3  # MessagePack header of a byte string
_AGE_BYTES = 5  # the longest u32


class Records(Message, frozen=True, array_like=True):
    """Signed peer records: when a session is up the sender's and the receiver's; others in an exchange.

    The receiver keeps those of active members that are newer than what it has. A record
    that does not verify is the sender's fault; one of a stranger is not, the sender may know more of the log.
    """

    records: list[bytes]  # 1-64, each at most 2 KiB


class Query(Message, frozen=True, array_like=True):
    """Who provides `key`? The receiver answers with Answer and the same `query`."""

    query: int  # u32, the asker's own counting
    key: bytes  # 32


class Answer(Message, frozen=True, array_like=True):
    """Providers of a key that the answerer knows of, itself included; none is an answer too."""

    query: int  # u32
    providers: list[bytes]  # at most 64 of 32 bytes


class Provisions(Message, frozen=True, array_like=True):
    """Signed provisions of anybody (overlay/provision.py), in answer to Summary or Wanted.

    Ages say how long ago each was signed, as far as the sender knows: without them what a device provided
    would live in exchanges for ever after it went away.
    """

    provisions: list[bytes]  # 1-16, each at most 5 KiB
    ages: list[int] = msgspec.field(default_factory=list)  # seconds, u32; as many, or none: they are new


class Digest(Message, frozen=True, array_like=True):
    """Begins a round of anti-entropy: a hash of each bucket. Answered by Summary for those that differ."""

    hashes: list[bytes]  # 64 of 8 bytes


class Summary(Message, frozen=True, array_like=True):
    """All that the sender has of a bucket, of the subjects from `first` to `last`: subject, slot, seq.

    The receiver sends Records and Provisions that are newer here, and Wanted for what is newer there.
    """

    bucket: int
    first: bytes  # 32
    last: bytes  # 32
    items: list[tuple[bytes, int, int]]  # at most 256, ascending


class Wanted(Message, frozen=True, array_like=True):
    """Send these: subject and slot (0: record, n: provision of page n - 1)."""

    slots: list[tuple[bytes, int]]  # 1-256


EXCHANGE: dict[int, type[Message]] = {54: Provisions, 56: Digest, 58: Summary, 60: Wanted}
OVERLAY_TABLE = MessageTable(
    ServiceNumber.OVERLAY,
    {2: Records, 8: Query, 10: Answer, **substrate.NUMBERS, **EXCHANGE},
)


def check(message: Message) -> None:
    """Check what the codec cannot. Raises: MalformedMessage, LimitExceeded."""
    match message:
        case Records(records):
            _count("records", records, RECORDS)
            if any(len(record) > RECORD_LIMIT_BYTES for record in records):
                raise LimitExceeded("a peer record over the limit")
        case Query(query, key):
            _number(query)
            _lengths("key", [key], KEY_BYTES)
        case Answer(query, providers):
            _number(query)
            _count("providers", providers, PROVIDERS)
            _lengths("peer id", providers, PEER_BYTES)
        case Provisions(provisions, ages):
            _count("provisions", provisions, PROVISIONS)
            if len(ages) not in (0, len(provisions)) or any(not 0 <= age < 2**32 for age in ages):
                raise MalformedMessage("ages that do not fit their provisions")
            if any(len(provision) > PROVISION_BYTES for provision in provisions):
                raise LimitExceeded("a provision over the limit")
        case Digest(hashes):
            if len(hashes) != BUCKETS:
                raise MalformedMessage(f"a digest of another number of buckets than {BUCKETS}")
            _lengths("hash", hashes, HASH_BYTES)
        case Summary(bucket, first, last, items):
            if not 0 <= bucket < BUCKETS:
                raise MalformedMessage("a bucket out of range")
            _count("items", [subject for subject, _, _ in items], SUMMARY_ITEMS)
            _lengths("peer id", [first, last, *(subject for subject, _, _ in items)], PEER_BYTES)
            if any(not 0 <= slot < SLOTS or not 0 <= seq < 2**63 for _, slot, seq in items):
                raise MalformedMessage("an item out of range")
        case Wanted(slots):
            _count("slots", [subject for subject, _ in slots], WANTED_ITEMS)
            _lengths("peer id", [subject for subject, _ in slots], PEER_BYTES)
            if any(not 0 <= slot < SLOTS for _, slot in slots):
                raise MalformedMessage("a slot out of range")
        case _:
            substrate.check(message)


def make_record_pages(records: Iterable[bytes]) -> list[Records]:
    """Put records into as few messages of at most 16 KiB as their order allows."""
    pages: list[Records] = []
    page: list[bytes] = []
    size = _OVERHEAD_BYTES
    for record in records:
        more = len(record) + _ITEM_OVERHEAD_BYTES
        if page and (size + more > GOSSIP_BYTES or len(page) == RECORDS):
            pages.append(Records(page))
            page, size = [], _OVERHEAD_BYTES
        page.append(record)
        size += more
    return [*pages, Records(page)] if page else pages


def make_provision_pages(provisions: Iterable[tuple[bytes, int]]) -> list[Provisions]:
    """Put provisions and their ages into as few messages of at most 16 KiB as their order allows."""
    pages: list[list[tuple[bytes, int]]] = []
    size = 0
    for packed, age in provisions:
        more = len(packed) + _ITEM_OVERHEAD_BYTES + _AGE_BYTES
        if not pages or size + more > GOSSIP_BYTES or len(pages[-1]) == PROVISIONS:
            pages.append([])
            size = _OVERHEAD_BYTES
        pages[-1].append((packed, age))
        size += more
    return [Provisions([packed for packed, _ in page], [age for _, age in page]) for page in pages]


def _count(name: str, items: Sequence[bytes], limit: int) -> None:
    if len(items) > limit:
        raise LimitExceeded(f"{len(items)} {name} in one message", cause=f"at most {limit} are allowed")


def _lengths(name: str, items: Sequence[bytes], length: int) -> None:
    if any(len(item) != length for item in items):
        raise MalformedMessage(f"a {name} of another length than {length} bytes")


def _number(value: int) -> None:
    if not 0 <= value < 2**32:
        raise MalformedMessage("a query number out of range")
