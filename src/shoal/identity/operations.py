"""Operations: the payloads of the membership log.

A payload is the MessagePack array [parents, number, body]: the sorted ids of the entries it follows (none in
a genesis, else 1 to 16), the operation's number, and its own encoded fields as a byte string, so that an
operation this release does not know still has its place in the log.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import TypeAlias

from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.identity.entry import PAYLOAD_LIMIT_BYTES
from shoal.identity.ids import ID_BYTES, EntryId, NetworkId, PeerId
from shoal.identity.keys import (
    HPKE_PUBLIC_BYTES,
    SIGNATURE_BYTES,
    DeviceKeys,
    HpkeSuite,
    is_valid_peer_id,
    verify,
)
from shoal.identity.secrets import GENERATION_LIMIT, SECRET_BYTES, SPACE_BYTES, Secret, SecretKey
from shoal.wire.codec import Message, decode, encode
from shoal.wire.limits import NAME_BYTES

PARENTS_LIMIT = 16
COMMITMENTS_LIMIT = 256  # a genesis makes two or three, an epoch one or two a space
INVITE_ID_BYTES = 16
HPKE_KEY_LIMIT_BYTES = 4096  # of suites that this release does not know
REASON_BYTES = 256


class Role(IntEnum):
    """What a device may do. A lower number may do more. Numbers are never used again."""

    OWNER = 1
    ADMIN = 2
    MEMBER = 3
    STORAGE = 4  # keeps sealed bytes, reads nothing


class OperationNumber(IntEnum):
    """Which operation a payload is. Numbers are never used again."""

    GENESIS = 1
    ADMIT = 2
    REMOVE = 3
    LEAVE = 4
    EPOCH = 5


class Commitment(Message, frozen=True, array_like=True):
    """Commits to one secret: kind (SecretKind), space, generation, `secrets.commit` of its value."""

    kind: int
    space: bytes
    generation: int
    commitment: bytes

    @property
    def key(self) -> SecretKey:
        """What the membership state's commitments are keyed by."""
        return (self.kind, self.space, self.generation)


class Genesis(Message, frozen=True, array_like=True):
    """Founds a network; its entry id is the network id, its author the first owner.

    Invalid: as any entry but the first, with parents, or with network, log or seq other than zero.
    """

    recovery_commitment: bytes  # RecoveryKey.commitment
    network_name: str
    name: str  # of the author's device
    user: str  # of the person
    hpke_suite: int
    hpke_public: bytes
    commitments: tuple[Commitment, ...]
    descriptor: str = "hybrid"  # overlay type: pure | hybrid | structured


class Admit(Message, frozen=True, array_like=True):
    """Makes a device a member. By an owner: any role; by an admin: member and storage only.

    Invalid: a key that is not Ed25519 of prime order, one that was removed before, a joiner's signature that
    does not fit. A device that is admitted more than once has the strongest of its roles.
    """

    peer_id: bytes
    role: int
    user: str
    name: str
    hpke_suite: int
    hpke_public: bytes
    invite_id: bytes
    joiner_signature: bytes  # by peer_id over `joiner_statement`


class Remove(Message, frozen=True, array_like=True):
    """Ends a device's membership for ever. By an owner: anybody else; by an admin: anybody else but owners.

    Invalid: by a device about itself (that is `Leave`), or about a key that was never admitted.
    """

    peer_id: bytes
    reason: str = ""


class Leave(Message, frozen=True, array_like=True):
    """Ends the author's own membership for ever."""

    reason: str = ""


class Epoch(Message, frozen=True, array_like=True):
    """Introduces secrets of new generations. By an owner or admin. A key that is committed stays as it is."""

    number: int
    commitments: tuple[Commitment, ...]


Operation: TypeAlias = Genesis | Admit | Remove | Leave | Epoch

_KINDS: dict[int, type[Operation]] = {
    OperationNumber.GENESIS: Genesis,
    OperationNumber.ADMIT: Admit,
    OperationNumber.REMOVE: Remove,
    OperationNumber.LEAVE: Leave,
    OperationNumber.EPOCH: Epoch,
}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}


class _Payload(Message, frozen=True, array_like=True):
    parents: tuple[bytes, ...]
    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Payload:
    """A decoded payload. `operation` is None if this release does not know the number (or the role in it)."""

    parents: tuple[EntryId, ...]
    number: int
    operation: Operation | None


def pack_operation(parents: tuple[EntryId, ...] | list[EntryId], operation: Operation) -> bytes:
    """Return the payload of an operation that follows `parents`; they are sorted here.

    Raises: LocalMisuse for what no log would accept.
    """
    ordered = tuple(sorted(set(parents)))
    try:
        _check(operation)
        _check_parents(ordered, is_genesis=isinstance(operation, Genesis))
    except MalformedMessage as error:
        raise LocalMisuse(f"A {type(operation).__name__} cannot be made", cause=str(error)) from error
    return encode(_Payload(ordered, _NUMBERS[type(operation)], encode(operation)), PAYLOAD_LIMIT_BYTES)


def parse_operation(payload: bytes) -> Payload:
    """Return a decoded payload. Raises: MalformedMessage for anything a known operation must not be."""
    outer = decode(_Payload, payload, PAYLOAD_LIMIT_BYTES)
    _check_parents(outer.parents, is_genesis=outer.number == OperationNumber.GENESIS)
    kind = _KINDS.get(outer.number)
    if kind is None:
        return Payload(outer.parents, outer.number, None)
    operation: Operation = decode(kind, outer.body, PAYLOAD_LIMIT_BYTES)
    if isinstance(operation, Admit) and operation.role not in set(Role):
        return Payload(outer.parents, outer.number, None)
    _check(operation)
    return Payload(outer.parents, outer.number, operation)


def parents_of(payload: bytes) -> tuple[EntryId, ...]:
    """Return the parents that a membership payload names; () if it is none. For ordering, not for judging."""
    try:
        return decode(_Payload, payload, PAYLOAD_LIMIT_BYTES).parents
    except (MalformedMessage, LimitExceeded):
        return ()


def commitments_of(secrets: list[Secret]) -> tuple[Commitment, ...]:
    """Return the commitments to new secrets, for a genesis or an epoch."""
    return tuple(Commitment(int(s.kind), s.space, s.generation, s.commitment) for s in secrets)


def joiner_statement(
    network_id: NetworkId, invite_id: bytes, peer_id: PeerId, name: str, hpke_suite: int, hpke_public: bytes
) -> bytes:
    """Return what a joiner signs: it wants into this network by this invite, under this name and keys."""
    text = name.encode()
    return (
        b"shoal/v1/admit\0"
        + network_id
        + invite_id
        + peer_id
        + len(text).to_bytes(2, "big")
        + text
        + hpke_suite.to_bytes(2, "big")
        + hpke_public
    )


def sign_joiner(keys: DeviceKeys, network_id: NetworkId, invite_id: bytes, name: str) -> bytes:
    """Return the joiner's signature that an `Admit` carries."""
    return keys.sign(
        joiner_statement(network_id, invite_id, keys.peer_id, name, keys.hpke_suite, keys.hpke_public)
    )


def verify_joiner(network_id: NetworkId, admit: Admit) -> bool:
    """Tell whether the admitted device signed that it wants to be."""
    statement = joiner_statement(
        network_id, admit.invite_id, admit.peer_id, admit.name, admit.hpke_suite, admit.hpke_public
    )
    return verify(admit.peer_id, admit.joiner_signature, statement)


def is_valid_name(name: str, *, empty: bool = False) -> bool:
    """Tell whether a device, user or network may be called so: up to 64 bytes of UTF-8, not blank, NFC,
    nothing that moves the cursor or hides (control, format, surrogate, private, line-separator characters).
    """
    return _is_plain(name, NAME_BYTES) if name else empty


def _check(operation: Operation) -> None:
    """Raise MalformedMessage unless the fields are what they must be, whoever the author is."""
    match operation:
        case Genesis():
            _check_length("recovery commitment", operation.recovery_commitment, SECRET_BYTES)
            _check_name("network", operation.network_name)
            _check_device(operation.name, operation.user, operation.hpke_suite, operation.hpke_public)
            _check_commitments(operation.commitments)
            if not 0 < len(operation.descriptor) <= NAME_BYTES:
                raise MalformedMessage("a genesis without overlay type")
        case Admit():
            if not is_valid_peer_id(operation.peer_id):
                raise MalformedMessage("an admitted key is no Ed25519 key of prime order")
            if operation.role not in set(Role):
                raise MalformedMessage("an unknown role", cause=str(operation.role))
            _check_device(operation.name, operation.user, operation.hpke_suite, operation.hpke_public)
            _check_length("invite id", operation.invite_id, INVITE_ID_BYTES)
            _check_length("joiner's signature", operation.joiner_signature, SIGNATURE_BYTES)
        case Remove():
            _check_length("removed peer id", operation.peer_id, ID_BYTES)
            _check_reason(operation.reason)
        case Leave():
            _check_reason(operation.reason)
        case Epoch():
            if not 0 <= operation.number <= GENERATION_LIMIT:
                raise MalformedMessage("an epoch number out of range")
            _check_commitments(operation.commitments)


def _check_parents(parents: tuple[bytes, ...], *, is_genesis: bool) -> None:
    if is_genesis:
        if parents:
            raise MalformedMessage("a genesis with parents")
        return
    if not 1 <= len(parents) <= PARENTS_LIMIT:
        raise MalformedMessage("a membership operation has 1 to 16 parents", cause=str(len(parents)))
    if any(len(p) != ID_BYTES for p in parents):
        raise MalformedMessage("a parent id has 32 bytes")
    if any(a >= b for a, b in pairwise(parents)):
        raise MalformedMessage("parents are not sorted")


def _check_device(name: str, user: str, suite: int, hpke_public: bytes) -> None:
    _check_name("device", name)
    if not is_valid_name(user, empty=True):
        raise MalformedMessage("a user's name is not valid")
    if not 0 < suite < 2**16:
        raise MalformedMessage("an HPKE suite is an unsigned 16-bit number", cause=str(suite))
    if suite == HpkeSuite.MLKEM768_X25519_SHA256_AES256:
        _check_length("HPKE key", hpke_public, HPKE_PUBLIC_BYTES)
    elif not 0 < len(hpke_public) <= HPKE_KEY_LIMIT_BYTES:
        raise MalformedMessage("an HPKE key of impossible length", cause=f"{len(hpke_public)} bytes")


def _check_commitments(commitments: tuple[Commitment, ...]) -> None:
    if len(commitments) > COMMITMENTS_LIMIT:
        raise MalformedMessage("too many commitments", cause=str(len(commitments)))
    if len({c.key for c in commitments}) != len(commitments):
        raise MalformedMessage("two commitments to one secret")
    for commitment in commitments:
        if not 0 < commitment.kind < 2**16 or not 0 <= commitment.generation <= GENERATION_LIMIT:
            raise MalformedMessage("a commitment's kind or generation is out of range")
        _check_length("space", commitment.space, SPACE_BYTES)
        _check_length("commitment", commitment.commitment, SECRET_BYTES)


def _check_name(what: str, name: str) -> None:
    if not is_valid_name(name):
        raise MalformedMessage(f"a {what}'s name is not valid")


def _check_reason(reason: str) -> None:
    if reason and not _is_plain(reason, REASON_BYTES):
        raise MalformedMessage("a reason is not valid", cause=f"plain text of at most {REASON_BYTES} bytes")


def _is_plain(text: str, limit_bytes: int) -> bool:
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        return False
    if size_bytes > limit_bytes or text != text.strip():
        return False
    if any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} for c in text):
        return False
    return unicodedata.is_normalized("NFC", text)


def _check_length(what: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise MalformedMessage(f"{what} of {len(value)} bytes", cause=f"it has {length}")
