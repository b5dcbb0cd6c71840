"""Feed log: reads and writes the chain of entries of one share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shoal.content.closings import Closings
from shoal.content.feed import (
    NONCE_BYTES,
    REFERENCES_PER_ENTRY,
    SALT_BYTES,
    SEAL_OVERHEAD_BYTES,
    Closing,
    Draft,
    FeedPayload,
    Opening,
    SegmentReference,
    Segments,
    decode_payload,
    draft_number,
    encode_payload,
    make_share_id,
    open_payload,
    seal_payload,
)
from shoal.content.manifest_segments import KIND_CHUNKS, KIND_ENTRIES
from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage, RemoteFault
from shoal.identity.entry import ZERO_ID, Domain, Entry, EntryFlags, pack_header, parse_entry, sign_entry
from shoal.identity.keys import DeviceKeys

ENTRY_LIMIT: Final = 65_536  # entries of one feed; 136 bytes each are kept at most
ANNOUNCED_LIMIT: Final = 65_536  # segments announced for one version; more are ignored, the root has them all
DRAFTS_KEPT: Final = 4  # drafts that a reader remembers: of one that was begun the chunks may be used later


@dataclass(slots=True)
class AnnouncedDraft:
    """What a feed says of one draft. The segments are complete for `entries` once there is one of chunks."""

    number: int
    said: Draft
    entries: list[SegmentReference] = field(default_factory=list)
    chunks: list[SegmentReference] = field(default_factory=list)

    def add(self, references: Sequence[SegmentReference]) -> None:
        """Take what another Segments entry announces."""
        for reference in references[: ANNOUNCED_LIMIT - len(self.entries) - len(self.chunks)]:
            if reference.kind == KIND_CHUNKS:
                self.chunks.append(reference)
            elif reference.kind == KIND_ENTRIES and not self.chunks:
                self.entries.append(reference)


class FeedReader:
    """Verifies entries of one feed in order and says what is known: opening, closed versions, announcements.

    Give it entries from any source, from seq 0 on. Known ones are recognised; the author needs not be known
    beforehand, the share id stands for it. Nothing of an entry counts before all checks have passed.
    """

    def __init__(self, network_id: bytes, share_id: bytes, read_key: bytes) -> None:
        self.network_id = network_id
        self.share_id = share_id
        self.read_key = read_key
        self.opening: Opening | None = None
        self.author: bytes | None = None
        self.closings = Closings()
        self.announced: list[SegmentReference] = []  # of the version after the last closed one
        self.draft: AnnouncedDraft | None = None  # of that version, the last one that was begun
        self.closed_at = 0  # display time of the last closing entry, seconds since 1970
        self._drafts: dict[int, AnnouncedDraft] = {}  # the last DRAFTS_KEPT, by number, also of closed ones
        self._ids = bytearray()  # of the entries 0, 1, 2, ...

    @property
    def next_seq(self) -> int:
        """The seq of the entry that is expected next."""
        return len(self._ids) // 32

    @property
    def head(self) -> bytes:
        """The id of the last entry, zeros if there is none."""
        return bytes(self._ids[-32:]) or ZERO_ID

    @property
    def latest(self) -> Closing | None:
        """The last closed version, None before the first is complete."""
        return self.find_version(len(self.closings))

    def find_closing(self, content_id: bytes | None = None) -> Closing | None:
        """Return the version that a link means: the one with `content_id`, or without it the latest."""
        if content_id is None:
            return self.latest
        return self.closings.find(content_id)

    def find_version(self, version: int) -> Closing | None:
        """Return a closed version by its number."""
        return self.closings.get(version) if 0 < version <= len(self.closings) else None

    def find_draft(self, number: int) -> AnnouncedDraft | None:
        """Return one of the last drafts by its number, whether its version is closed by now or not."""
        return self._drafts.get(number)

    def add(self, data: bytes | Entry) -> bool:
        """Take an entry; return whether it was new.

        Raises: MalformedMessage (not of this feed, not next, wrong signature or payload), LimitExceeded,
        RemoteFault with code "equivocation" if the author signed two entries with one seq.
        """
        entry = data if isinstance(data, Entry) else parse_entry(data)
        self._check_header(entry)
        if entry.seq < self.next_seq:
            if self._ids[32 * entry.seq : 32 * (entry.seq + 1)] == entry.id:
                return False
            if not entry.verify():
                raise MalformedMessage("a feed entry with a wrong signature")
            raise RemoteFault(
                "A share has two different histories",
                peer=entry.author,
                cause=f"its author signed two entries with number {entry.seq}",
                next_step="ask its author to share it again",
                code="equivocation",
            )
        if entry.seq > self.next_seq or entry.prev != self.head:
            raise MalformedMessage("a feed entry that does not follow the one before", peer=entry.author)
        if entry.seq >= ENTRY_LIMIT:
            raise LimitExceeded(f"a feed with more than {ENTRY_LIMIT} entries", peer=entry.author)
        if not entry.verify():
            raise MalformedMessage("a feed entry with a wrong signature")
        self._apply(entry, decode_payload(open_payload(self.read_key, entry)))
        self._ids += entry.id
        return True

    def _check_header(self, entry: Entry) -> None:
        if (entry.domain, entry.network, entry.log) != (Domain.FEED, self.network_id, self.share_id):
            raise MalformedMessage("an entry of another feed")
        if self.author is not None and entry.author != self.author:
            raise MalformedMessage("a feed entry by another author")

    def _apply(self, entry: Entry, payload: FeedPayload | None) -> None:
        version = len(self.closings) + 1
        match payload:
            case Opening():
                if entry.seq or make_share_id(entry.author, payload.salt) != self.share_id:
                    raise MalformedMessage("an opening that is not this share's", peer=entry.author)
                self.opening, self.author = payload, entry.author
            case _ if entry.seq == 0:
                raise MalformedMessage("a feed that does not begin with its opening", peer=entry.author)
            case Segments():
                if payload.version != version:
                    raise MalformedMessage("a feed entry for another version", peer=entry.author)
                self.announced += payload.references[: ANNOUNCED_LIMIT - len(self.announced)]
                if self.draft is not None:
                    self.draft.add(payload.references)
            case Draft():
                if payload.version != version:
                    raise MalformedMessage("a feed entry for another version", peer=entry.author)
                self.announced = []
                self.draft = AnnouncedDraft(draft_number(entry.seq), payload)
                self._drafts[self.draft.number] = self.draft
                while len(self._drafts) > DRAFTS_KEPT:
                    del self._drafts[min(self._drafts)]
            case Closing():
                if payload.version != version:
                    raise MalformedMessage("a feed entry for another version", peer=entry.author)
                self.closings.append(payload)
                self.closed_at = entry.time
                self.announced = []
                self.draft = None
            case None:
                pass


class FeedWriter:
    """Authors a feed. Every entry returned must be durable before anybody else sees it.

    A seq that was used must never be used again: after a restart make the writer from the stored entries.
    """

    def __init__(
        self, keys: DeviceKeys, reader: FeedReader, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        """Continue the feed that `reader` has read to its end. Raises: LocalMisuse if it is another's."""
        if reader.author not in (None, keys.peer_id):
            raise LocalMisuse("Only its author appends to a feed")
        self.reader = reader
        self._keys = keys
        self._random_bytes = random_bytes

    @classmethod
    def create(
        cls,
        keys: DeviceKeys,
        network_id: bytes,
        read_key: bytes,
        *,
        cut_seed: int,
        space: bytes,
        generation: int,
        name: bytes,
        time: int,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> tuple[FeedWriter, Entry]:
        """Begin a feed; return its writer and the opening entry. Only tests give `random_bytes`."""
        salt = random_bytes(SALT_BYTES)
        reader = FeedReader(network_id, make_share_id(keys.peer_id, salt), read_key)
        writer = cls(keys, reader, random_bytes)
        return writer, writer._append(Opening(salt, cut_seed, space, generation, name), time)

    @property
    def share_id(self) -> bytes:
        return self.reader.share_id

    @property
    def next_version(self) -> int:
        """The number of the version that the next closing entry closes."""
        return len(self.reader.closings) + 1

    def begin_draft(
        self, *, entries: int, files: int, total_bytes: int, stream_bytes: int, time: int
    ) -> Entry:
        """Return the entry that begins a draft of the next version; its segments are announced after it."""
        return self._append(Draft(self.next_version, entries, files, total_bytes, stream_bytes), time)

    def announce(self, references: Sequence[SegmentReference], time: int) -> list[Entry]:
        """Return entries that announce segments of the next version."""
        return [
            self._append(
                Segments(self.next_version, list(references[first : first + REFERENCES_PER_ENTRY])), time
            )
            for first in range(0, len(references), REFERENCES_PER_ENTRY)
        ]

    def close_version(
        self,
        *,
        content_id: bytes,
        root_key: bytes,
        root_bytes: int,
        files: int,
        total_bytes: int,
        stream_bytes: int,
        chunks: int,
        time: int,
    ) -> Entry:
        """Return the entry that closes the next version."""
        return self._append(
            Closing(
                self.next_version, content_id, root_key, root_bytes, files, total_bytes, stream_bytes, chunks
            ),
            time,
        )

    def check_room(self) -> None:
        """See that one more entry fits, before anything is stored for it. Raises: LocalMisuse."""
        if self.reader.next_seq >= ENTRY_LIMIT:
            raise LocalMisuse(
                "The share cannot have another version",
                cause=f"its feed has {ENTRY_LIMIT} entries",
                next_step="unshare it and share it again",
            )

    def _append(self, payload: FeedPayload, time: int) -> Entry:
        reader = self.reader
        self.check_room()
        plaintext = encode_payload(payload)
        header = pack_header(
            Domain.FEED,
            reader.network_id,
            reader.share_id,
            self._keys.peer_id,
            reader.next_seq,
            reader.head,
            time,
            EntryFlags.NONE,
            len(plaintext) + SEAL_OVERHEAD_BYTES,
        )
        entry = sign_entry(
            self._keys,
            Domain.FEED,
            reader.network_id,
            reader.share_id,
            reader.next_seq,
            reader.head,
            time,
            EntryFlags.NONE,
            seal_payload(reader.read_key, header, plaintext, self._random_bytes(NONCE_BYTES)),
        )
        reader.add(entry)
        return entry
