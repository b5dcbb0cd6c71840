"""Knock: the ALPN names that say "I belong here" before anything is shown. spec/knock.md has the bytes.

    shoal/1.<nonce>.<mac>        mac = HMAC-SHA256(door key, "knock" || nonce || responder peer id)
    shoal-join/1.<nonce>.<mac>   mac made from a ticket secret by membership
    shoal-join/1.<nameplate>     by typed code, 1 .. 999: shows nothing, so it is charged like no knock
    shoal-guest/1.<nonce>.<mac>  at a relay, to be led to an inviter; mac = HMAC-SHA256(guest pass,
                                 "guest" || nonce || relay peer id); charged like no knock too

Nonce (16 bytes) and mac (32) are lower-case hex. The knock is a filter, never authorisation.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from shoal.core.budget import BoundedMap
from shoal.transport.ports import DOOR_KEYS, MembershipView

NONCE_BYTES = 16
_CODE_NAME = re.compile(rb"shoal-join/1\.([1-9][0-9]{0,2})")
_NAME = re.compile(rb"(shoal|shoal-join|shoal-guest)/1\.([0-9a-f]{32})\.([0-9a-f]{64})")


class KnockKind(Enum):
    """What the knocker wants; the value is the protocol name."""

    SESSION = b"shoal"
    JOIN = b"shoal-join"
    GUEST = b"shoal-guest"


@dataclass(frozen=True, slots=True)
class Knock:
    """A parsed ALPN name."""

    kind: KnockKind
    nonce: bytes
    mac: bytes

    @property
    def name(self) -> bytes:
        """The ALPN name."""
        return b"%s/1.%s.%s" % (self.kind.value, self.nonce.hex().encode(), self.mac.hex().encode())


@dataclass(frozen=True, slots=True)
class KnockVerdict:
    """A knock that was right. `newest` is false for what is accepted but charged like none: an older door
    key, a nameplate, a guest.
    """

    kind: KnockKind
    newest: bool
    invite_id: bytes | None = None
    nameplate: int = 0  # of a typed code: then nothing was shown yet
    guest_pass: bytes = b""  # that a guest knocked with


class KnockRefused(Exception):
    """The knock is wrong, missing or was seen before. Raised inside the ALPN callback: TLS ends there."""


def make_mac(door_key: bytes, nonce: bytes, responder: bytes) -> bytes:
    """Return the mac of a session knock at `responder` (its peer id)."""
    return hmac.digest(door_key, b"knock" + nonce + responder, "sha256")


def make_knock(door_key: bytes, nonce: bytes, responder: bytes) -> Knock:
    """Return the session knock of a member."""
    return Knock(KnockKind.SESSION, nonce, make_mac(door_key, nonce, responder))


def make_guest_mac(guest_pass: bytes, nonce: bytes, relay: bytes) -> bytes:
    """Return the mac of a guest's knock at `relay` (its peer id)."""
    return hmac.digest(guest_pass, b"guest" + nonce + relay, "sha256")


def make_guest_knock(guest_pass: bytes, nonce: bytes, relay: bytes) -> Knock:
    """Return the knock of somebody with a ticket at a relay that the ticket names."""
    return Knock(KnockKind.GUEST, nonce, make_guest_mac(guest_pass, nonce, relay))


def parse_name(name: bytes) -> Knock | None:
    """Return the knock in an ALPN name, or None."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return Knock(KnockKind(match[1]), bytes.fromhex(match[2].decode()), bytes.fromhex(match[3].decode()))


def make_code_name(nameplate: int) -> bytes:
    """Return the ALPN name of who wants to join by a typed code."""
    return b"shoal-join/1.%d" % nameplate


def parse_code_name(name: bytes) -> int:
    """Return the nameplate in an ALPN name, or 0."""
    match = _CODE_NAME.fullmatch(name)
    return 0 if match is None else int(match[1])


class KnockGate:
    """Judges the knocks of those who connect; remembers seen nonces, only of right knocks.

    `match_guest` returns the pass that made a guest's knock, or None; a relay sets it.
    """

    def __init__(self, own_id: bytes, view: MembershipView, nonces: int) -> None:
        self._own_id = own_id
        self._view = view
        self._seen: BoundedMap[bytes, None] = BoundedMap(nonces)
        self.match_guest: Callable[[bytes, bytes], bytes | None] = lambda nonce, mac: None

    def check(self, names: Sequence[bytes]) -> tuple[bytes, KnockVerdict]:
        """Return the chosen ALPN name and what it means. Raises: KnockRefused for everything else."""
        nameplate = parse_code_name(names[0]) if len(names) == 1 else 0
        if nameplate:
            return names[0], self._find_invite(nameplate)
        knock = parse_name(names[0]) if len(names) == 1 else None
        if knock is None:
            raise KnockRefused("no knock")
        verdict = self._judge(knock)
        if verdict is None:
            raise KnockRefused("wrong knock")
        if knock.nonce in self._seen:
            raise KnockRefused("replayed knock")
        self._seen.put(knock.nonce, None)
        return names[0], verdict

    def _find_invite(self, nameplate: int) -> KnockVerdict:
        """Raises: KnockRefused where no invite has this nameplate now."""
        invite_id = self._view.match_nameplate(nameplate) if self._view.open_invites() else None
        if invite_id is None:
            raise KnockRefused("no such nameplate")
        return KnockVerdict(KnockKind.JOIN, False, invite_id, nameplate)

    def _judge(self, knock: Knock) -> KnockVerdict | None:
        if knock.kind is KnockKind.JOIN:
            if not self._view.open_invites():
                return None
            invite_id = self._view.match_join_knock(knock.nonce, knock.mac)
            return None if invite_id is None else KnockVerdict(KnockKind.JOIN, True, invite_id)
        if knock.kind is KnockKind.GUEST:
            found_pass = self.match_guest(knock.nonce, knock.mac)
            return None if found_pass is None else KnockVerdict(knock.kind, False, guest_pass=found_pass)
        found: KnockVerdict | None = None
        for index, key in enumerate(self._view.door_keys()[:DOOR_KEYS]):
            if hmac.compare_digest(make_mac(key, knock.nonce, self._own_id), knock.mac) and found is None:
                found = KnockVerdict(KnockKind.SESSION, index == 0)
        return found
