"""Join messages: what a joiner and an inviter say over a join channel (spec/join.md).

number  message        way
2       JoinRequest    joiner, first
4       JoinRefused    inviter, last
6       JoinAccepted   inviter
8       JoinEntries    inviter, as many as JoinAccepted says
10      JoinReceived   joiner, last
"""

from __future__ import annotations

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.identity.keys import SIGNATURE_BYTES
from shoal.identity.operations import HPKE_KEY_LIMIT_BYTES, INVITE_ID_BYTES, is_valid_name
from shoal.membership.messages import PAGE_ENTRIES, SECRETS_GIVEN, WrappedSecret, check_entries, check_ids
from shoal.wire.codec import Message
from shoal.wire.limits import MEMBERS
from shoal.wire.registry import MessageTable, ServiceNumber

PROOF_BYTES = 32
CONTACTS = 8  # peer records in an answer; overlay's exchange brings the others
CONTACT_BYTES = 2048
JOIN_ENTRY_PAGES = MEMBERS  # far more than 4,096 operations of any size fill


class JoinRequest(Message, frozen=True, array_like=True):
    """The joiner's whole request. The inviter checks in this order: lengths, the key of the TLS channel, the
    network, the proof, the joiner's signature, the invite. Only the last step uses the invite up.
    """

    network: bytes
    invite_id: bytes
    peer_id: bytes
    name: str
    user: str
    hpke_suite: int
    hpke_public: bytes
    proof: bytes
    signature: bytes

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        check_ids([self.network, self.peer_id])
        if len(self.invite_id) != INVITE_ID_BYTES or len(self.proof) != PROOF_BYTES:
            raise MalformedMessage("A join request has an id or proof of the wrong length")
        if len(self.signature) != SIGNATURE_BYTES:
            raise MalformedMessage("A join request has a signature of the wrong length")
        if len(self.hpke_public) > HPKE_KEY_LIMIT_BYTES:
            raise LimitExceeded("A join request has too long a key")
        if not 0 <= self.hpke_suite < 2**16:
            raise MalformedMessage("A join request names an impossible suite")
        if not is_valid_name(self.name) or not is_valid_name(self.user, empty=True):
            raise MalformedMessage("A join request has a name that is none")


class JoinRefused(Message, frozen=True, array_like=True):
    """The inviter's no. `code` is a stable word, texts are for people.

    With the code `name_taken` comes a `free_name`: the joiner may ask again with it, on a new connection.
    """

    code: str
    message: str
    cause: str
    next_step: str
    free_name: str = ""


class JoinAccepted(Message, frozen=True, array_like=True):
    """The joiner is a member: its admission is durable at the inviter.

    `secrets` are those that the joiner's role may read (at most 32; a session brings others);
    `contacts` are signed peer records, the inviter's first; `pages` JoinEntries follow.
    """

    pages: int
    secrets: list[WrappedSecret]
    contacts: list[bytes]

    def check(self) -> None:
        """Raises: MalformedMessage, LimitExceeded."""
        if not 0 <= self.pages <= JOIN_ENTRY_PAGES:
            raise LimitExceeded("A join reply declares too many pages", cause=f"{self.pages}")
        if len(self.secrets) > SECRETS_GIVEN or len(self.contacts) > CONTACTS:
            raise LimitExceeded("A join reply is too long")
        if any(len(contact) > CONTACT_BYTES for contact in self.contacts):
            raise LimitExceeded("A join reply has too long a peer record")
        check_ids([secret.space for secret in self.secrets])


class JoinEntries(Message, frozen=True, array_like=True):
    """Part of the membership log, from the genesis on, parents first."""

    entries: list[bytes]

    def check(self) -> None:
        """Raises: LimitExceeded."""
        check_entries(self.entries, PAGE_ENTRIES)


class JoinReceived(Message, frozen=True, array_like=True):
    """The joiner has made everything durable. Without it the same joiner may ask again."""


JOIN_TABLE = MessageTable(
    ServiceNumber.MEMBERSHIP,
    {2: JoinRequest, 4: JoinRefused, 6: JoinAccepted, 8: JoinEntries, 10: JoinReceived},
)
