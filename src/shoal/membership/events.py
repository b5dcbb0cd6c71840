"""Events: what membership tells the rest of the node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """Devices became members, or stopped being some (their sessions are closed already)."""

    added: frozenset[bytes]
    removed: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Blocked:
    """The log holds a critical operation this release does not understand: no sessions until an upgrade."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoLongerMember:
    """This device was removed, or has left: it serves nobody and asks nobody. `reason`: removed, left."""

    reason: str


@dataclass(frozen=True, slots=True)
class InviteUsed:
    """A device has joined with an invite of ours."""

    invite_id: bytes
    peer_id: bytes
    name: str


@dataclass(frozen=True, slots=True)
class JoinFailed:
    """Somebody who holds a ticket of ours was refused."""

    invite_id: bytes
    code: str


@dataclass(frozen=True, slots=True)
class CodeFailed:
    """Somebody at `address` tried wrong words for a code of ours; `left` 0: the code is burnt."""

    invite_id: bytes
    nameplate: int
    address: str
    left: int


@dataclass(frozen=True, slots=True)
class SecretsReceived:
    """Secrets arrived that this device was lacking."""

    count: int
