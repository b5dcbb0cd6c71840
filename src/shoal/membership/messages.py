"""Messages: what the MEMBERSHIP service sends over sessions (spec/join.md has those of a join).

number  message         way
3       RemovalAck      notice: a removal is carried out here
5       LastWord        notice: the removal of its receiver
2       VectorPage      request, answered by Page
4       Page            response
6       Fetch           request, answered by Page
8       SecretsWanted   request, answered by SecretsGiven
10      SecretsGiven    response

1 is reserved: it was a notice of new entries, which are broadcast now (spec/substrate.md, topics 3 and 4).
"""

from __future__ import annotations

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.core.units import KIB
from shoal.wire.codec import Message
from shoal.wire.limits import OPERATIONS
from shoal.wire.registry import MessageTable, ServiceNumber

ID_BYTES = 32
VECTOR_PAGE_ROWS = 512  # 78 bytes a row: 39 KiB, well inside one control message
VECTOR_ROWS = OPERATIONS  # no more authors than operations
PAGE_BYTES = 60 * KIB  # packed entries in one Page; leaves room for the rest of the message
LAST_WORD_BYTES = 15 * KIB
MEMBERSHIP_ENTRY_BYTES = PAGE_BYTES  # a larger entry could not travel, so it is none of this log
PAGE_ENTRIES = 1024
FETCH_IDS = 64
PAGE_TIPS = 64
SECRETS_WANTED = 64
SECRETS_GIVEN = 32  # a wrapped secret takes about 1.3 KiB: 42 KiB

VectorRow = tuple[bytes, int, bytes]  # author, highest seq known here, id of that entry


class RemovalAck(Message, frozen=True, array_like=True):
    """Sent to the author of a removal after every session of the removed device was closed here.

    The receiver counts the sender as confirmed. Invalid: an id that is not 32 bytes.
    """

    operation: bytes

    def check(self) -> None:
        """Raises: MalformedMessage."""
        check_ids([self.operation])


class LastWord(Message, frozen=True, array_like=True):
    """Sent to a device that is out by this entry, before its session is closed.

    The receiver takes the entry into its log. Invalid: over 15 KiB.
    """

    entry: bytes

    def check(self) -> None:
        """Raises: LimitExceeded."""
        if len(self.entry) > LAST_WORD_BYTES:
            raise LimitExceeded("A last word is too long", cause=f"{len(self.entry)} bytes")


class VectorPage(Message, frozen=True, array_like=True):
    """Part of {author: (seq, id)} of what the sender has, authors ascending over all pages.

    The receiver keeps the rows until the page with `last`, which it answers with the entries that the sender
    lacks; it answers the others with an empty page. `first` starts over. Invalid: rows out of order, more
    than 512 in a page or 4,096 in all.
    """

    rows: list[VectorRow]
    first: bool
    last: bool

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        if len(self.rows) > VECTOR_PAGE_ROWS:
            raise LimitExceeded(
                "A vector page is too long", cause=f"{len(self.rows)} rows, at most {VECTOR_PAGE_ROWS}"
            )
        check_ids([author for author, _, _ in self.rows])
        check_ids([entry_id for _, _, entry_id in self.rows])
        if any(not 0 <= seq < 2**63 for _, seq, _ in self.rows):
            raise MalformedMessage("A vector row has an impossible sequence number")
        if any(a[0] >= b[0] for a, b in zip(self.rows, self.rows[1:], strict=False)):
            raise MalformedMessage("A vector page is not in the order of its authors")


class Page(Message, frozen=True, array_like=True):
    """Entries in an order in which they can be added one by one; `more` says that the page was full.

    `tips` are the sender's (at most 64), so that the receiver finds what a vector cannot name (both branches
    of an author who signed two entries with one number). Invalid: over 60 KiB of entries.
    """

    entries: list[bytes]
    more: bool
    tips: list[bytes]

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        check_entries(self.entries, PAGE_ENTRIES)
        if len(self.tips) > PAGE_TIPS:
            raise LimitExceeded("A page names too many tips")
        check_ids(self.tips)


class Fetch(Message, frozen=True, array_like=True):
    """Asks for entries by id. The receiver answers with those it has. Invalid: more than 64 ids."""

    ids: list[bytes]

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        if len(self.ids) > FETCH_IDS:
            raise LimitExceeded("Too many entries were asked for at once")
        check_ids(self.ids)


class SecretRef(Message, frozen=True, array_like=True):
    """Names a secret: kind (1 door, 2 content, 3 epoch), space, generation."""

    kind: int
    space: bytes
    generation: int


class WrappedSecret(Message, frozen=True, array_like=True):
    """A secret, sealed to the HPKE key with which its receiver was admitted."""

    kind: int
    space: bytes
    generation: int
    sealed: bytes


class SecretsWanted(Message, frozen=True, array_like=True):
    """Asks for secrets that the log commits and the sender lacks.

    The receiver gives those that the sender's role may read. Invalid: more than 64.
    """

    refs: list[SecretRef]

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        if len(self.refs) > SECRETS_WANTED:
            raise LimitExceeded("Too many secrets were asked for at once")
        check_ids([ref.space for ref in self.refs])


class SecretsGiven(Message, frozen=True, array_like=True):
    """The answer: at most 32 wrapped secrets; who lacks more asks again.

    The receiver keeps one only if it fits the log's commitment.
    """

    secrets: list[WrappedSecret]

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        if len(self.secrets) > SECRETS_GIVEN:
            raise LimitExceeded("Too many secrets were sent at once")
        check_ids([secret.space for secret in self.secrets])


MEMBERSHIP_TABLE = MessageTable(
    ServiceNumber.MEMBERSHIP,
    {
        2: VectorPage,
        3: RemovalAck,
        4: Page,
        5: LastWord,
        6: Fetch,
        8: SecretsWanted,
        10: SecretsGiven,
    },
)


def check_ids(ids: list[bytes]) -> None:
    """Raises: MalformedMessage unless every id has 32 bytes."""
    if any(len(value) != ID_BYTES for value in ids):
        raise MalformedMessage("An id has the wrong length", cause=f"every id has {ID_BYTES} bytes")


def check_entries(entries: list[bytes], limit: int) -> None:
    """Raises: LimitExceeded for too many entries or one that is too long."""
    if len(entries) > limit:
        raise LimitExceeded("Too many entries in one message", cause=f"{len(entries)}, at most {limit}")
    longest = max(map(len, entries), default=0)
    if longest > MEMBERSHIP_ENTRY_BYTES:
        raise LimitExceeded("A membership entry is too long", cause=f"{longest} bytes")
