"""Messages: what providers and getters of a share say to each other (service SWARM).

After both sides proved that they hold the link, chunks are named by (share id, version, ordinal), never by
key.
Even numbers have to be understood, odd ones may be ignored. Layouts: spec/swarm.md.
"""

from __future__ import annotations

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.wire.codec import Message
from shoal.wire.limits import LIST_ITEMS
from shoal.wire.registry import MessageTable, ServiceNumber

ID_BYTES = 32
PAGE_CHUNKS = 32 * 1024 * 8  # chunks in one page of a have-map: 32 KiB
PAGE_BYTES = 60 * 1024  # of feed entries in one page, so that it fits one control message
WANT_ORDINALS = 256  # in one notice
WANT_OBJECTS = 64  # in one notice
RUNS = LIST_ITEMS
CHUNKS = 2**32 - 1  # ordinals are u32 on a lane


class Join(Message, frozen=True):
    """Request: the getter proves the link to a peer that may have the share. `proof`: formats.md, Link.

    The receiver checks role and proof and answers Joined, or Refused (`not_served`) in the same words for an
    unknown share and for a wrong proof.
    """

    share_id: bytes
    proof: bytes

    def check(self) -> None:
        """Raises: MalformedMessage for fields of the wrong size."""
        _check_sizes(self, self.share_id, self.proof)


class Joined(Message, frozen=True):
    """Response: the provider's proof, how many feed entries it has, the newest version it has chunks of (0 =
    none) and other peers that proved this link to it. Invalid with a wrong proof: the getter must not use
    this peer.
    """

    proof: bytes
    entries: int
    version: int
    others: tuple[bytes, ...] = ()

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        _check_sizes(self, self.proof, *self.others)
        _check_count(self, len(self.others), WANT_OBJECTS)
        _check_range(self, self.entries, self.version)


class FeedRequest(Message, frozen=True):
    """Request: signed entries of the share's feed from sequence number `first` on."""

    share_id: bytes
    first: int

    def check(self) -> None:
        """Raises: MalformedMessage."""
        _check_sizes(self, self.share_id)
        _check_range(self, self.first)


class FeedPage(Message, frozen=True):
    """Response: entries in order, at most PAGE_BYTES; `more` says whether there are further ones."""

    entries: list[bytes]
    more: bool

    def check(self) -> None:
        """Raises: LimitExceeded."""
        _check_count(self, len(self.entries), LIST_ITEMS)


class Follow(Message, frozen=True):
    """Request: the have-map of a version, one page; from then on Have notices are sent for what comes."""

    share_id: bytes
    version: int
    page: int

    def check(self) -> None:
        """Raises: MalformedMessage."""
        _check_sizes(self, self.share_id)
        _check_range(self, self.version, self.page)


class Followed(Message, frozen=True):
    """Response: one page of PAGE_CHUNKS bits, bit i % 8 of byte i / 8 for ordinal page * PAGE_CHUNKS + i.

    `complete`: everything, `bits` is empty. `served` false: this version is not served here (any more).
    """

    served: bool
    complete: bool
    total: int
    bits: bytes

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        _check_range(self, self.total)
        _check_count(self, len(self.bits), PAGE_CHUNKS // 8)


class Want(Message, frozen=True):
    """Notice: send these chunks over the lane of this share, in this order."""

    share_id: bytes
    version: int
    ordinals: list[int]

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        _check_sizes(self, self.share_id)
        _check_count(self, len(self.ordinals), WANT_ORDINALS)
        _check_range(self, self.version, *self.ordinals)


class Unwant(Message, frozen=True):
    """Notice: do not send these chunks any more; those on their way are not at fault."""

    share_id: bytes
    version: int
    ordinals: list[int]

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        _check_sizes(self, self.share_id)
        _check_count(self, len(self.ordinals), WANT_ORDINALS)
        _check_range(self, self.version, *self.ordinals)


class WantObjects(Message, frozen=True):
    """Notice: send these sealed objects over the lane; the record of ids[i] has ordinal `first` + i."""

    share_id: bytes
    first: int
    ids: list[bytes]

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        _check_sizes(self, self.share_id, *self.ids)
        _check_count(self, len(self.ids), WANT_OBJECTS)
        _check_range(self, self.first + len(self.ids))


class Have(Message, frozen=True):
    """Notice to followers: more chunks can be asked here, as (first, count) runs."""

    share_id: bytes
    version: int
    runs: list[tuple[int, int]]

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        _check_runs(self, self.share_id, self.version, self.runs)


class Taken(Message, frozen=True):
    """Notice to followers: these chunks go to other getters now, as (first, count) runs. Who can use others
    should ask for those, and get these from who took them. It forbids nothing.
    """

    share_id: bytes
    version: int
    runs: list[tuple[int, int]]

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        _check_runs(self, self.share_id, self.version, self.runs)


class Changed(Message, frozen=True):
    """Notice to whoever joined: the feed has `entries` entries now, chunks of `version` can be followed."""

    share_id: bytes
    entries: int
    version: int

    def check(self) -> None:
        """Raises: MalformedMessage."""
        _check_sizes(self, self.share_id)
        _check_range(self, self.entries, self.version)


class Gone(Message, frozen=True):
    """Notice to whoever joined: this share is no longer served here."""

    share_id: bytes

    def check(self) -> None:
        """Raises: MalformedMessage."""
        _check_sizes(self, self.share_id)


class Leave(Message, frozen=True):
    """Notice: the getter needs nothing more of this share; the provider ends its lane."""

    share_id: bytes

    def check(self) -> None:
        """Raises: MalformedMessage."""
        _check_sizes(self, self.share_id)


SWARM_TABLE = MessageTable(
    ServiceNumber.SWARM,
    {
        2: Join,
        4: Joined,
        6: FeedRequest,
        8: FeedPage,
        10: Follow,
        12: Followed,
        14: Want,
        16: WantObjects,
        17: Unwant,
        19: Have,
        21: Changed,
        23: Gone,
        25: Leave,
        27: Taken,
    },
)


def _check_sizes(message: Message, *ids: bytes) -> None:
    if any(len(value) != ID_BYTES for value in ids):
        raise MalformedMessage(f"{type(message).__name__} with an id that is not {ID_BYTES} bytes")


def _check_count(message: Message, count: int, limit: int) -> None:
    if count > limit:
        raise LimitExceeded(f"{type(message).__name__} with {count} items", cause=f"at most {limit}")


def _check_range(message: Message, *numbers: int) -> None:
    if any(not 0 <= number <= CHUNKS for number in numbers):
        raise MalformedMessage(f"{type(message).__name__} with a number out of range")


def _check_runs(message: Message, share_id: bytes, version: int, runs: list[tuple[int, int]]) -> None:
    _check_sizes(message, share_id)
    _check_count(message, len(runs), RUNS)
    _check_range(message, version)
    for first, count in runs:
        _check_range(message, first, count, first + count)
