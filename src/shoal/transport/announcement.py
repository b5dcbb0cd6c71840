"""Announcement: what a member says of itself on the local network, and how members recognise it.

    nonce, HMAC-SHA256(door key, nonce || port || advertiser's peer id)

Who does not hold a door key sees random bytes; who does tries the ids it knows. spec/discovery.md has the
bytes.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SERVICE_TYPE = "_shoal._tcp.local."
NAME_BYTES = 8  # random, in hex before the type
VERSION = b"1"
NONCE_BYTES = 16
TEXT_BYTES = 512  # a longer TXT is not ours; version 1 has 107 bytes
_NAME = re.compile(rf"[0-9a-f]{{{2 * NAME_BYTES}}}\.{re.escape(SERVICE_TYPE)}")
_NONCE = re.compile(rb"[0-9a-f]{32}")
_MAC = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What stands in TXT and SRV of one announcement; a value without any check of the mac."""

    nonce: bytes
    mac: bytes
    port: int

    @property
    def text(self) -> bytes:
        """The data of the TXT record."""
        fields = (b"v=" + VERSION, b"n=" + self.nonce.hex().encode(), b"m=" + self.mac.hex().encode())
        return b"".join(bytes([len(field)]) + field for field in fields)

    def is_by(self, door_key: bytes, peer_id: bytes) -> bool:
        """Whether `peer_id` made this announcement with this door key."""
        return hmac.compare_digest(make_mac(door_key, self.nonce, self.port, peer_id), self.mac)


def is_instance_name(name: str) -> bool:
    """Whether a name is one that we make: others are not ours, and might not fit into a question of ours."""
    return _NAME.fullmatch(name) is not None


def make_mac(door_key: bytes, nonce: bytes, port: int, peer_id: bytes) -> bytes:
    """Return the mac of an announcement. Its input has 50 bytes, a knock's 53: neither can stand in."""
    return hmac.digest(door_key, nonce + port.to_bytes(2, "big") + peer_id, "sha256")


def make_announcement(door_key: bytes, nonce: bytes, port: int, peer_id: bytes) -> Announcement:
    """Return what `peer_id`, listening on `port`, announces; `nonce` is random and used on one link once."""
    return Announcement(nonce, make_mac(door_key, nonce, port, peer_id), port)


def parse_announcement(text: bytes, port: int) -> Announcement | None:
    """Return what TXT data and SRV port announce, or None for any bytes that are not version 1."""
    if len(text) > TEXT_BYTES or not 0 < port < 65536:
        return None
    fields = dict(_split(text))
    nonce, mac = fields.get(b"n", b""), fields.get(b"m", b"")
    if fields.get(b"v") != VERSION or not _NONCE.fullmatch(nonce) or not _MAC.fullmatch(mac):
        return None
    return Announcement(bytes.fromhex(nonce.decode()), bytes.fromhex(mac.decode()), port)


class Search:
    """One announcement being tried against the ids we know, newest door key first, some tries at a time."""

    def __init__(
        self, announcement: Announcement, door_keys: Sequence[bytes], members: Sequence[bytes]
    ) -> None:
        self._announcement = announcement
        self._door_keys = door_keys
        self._members = members
        self._at = 0

    @property
    def left(self) -> int:
        """How many tries are left; each costs one HMAC."""
        return len(self._door_keys) * len(self._members) - self._at

    def advance(self, tries: int) -> bytes | None:
        """Make at most `tries` tries; return the id that made the announcement, if it was among them."""
        count = len(self._members)
        for _ in range(min(tries, self.left)):
            key, member = divmod(self._at, count)
            self._at += 1
            if self._announcement.is_by(self._door_keys[key], self._members[member]):
                return self._members[member]
        return None


def _split(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of TXT data, the last first: the first of a key counts (RFC 6763, 6.4)."""
    strings: list[bytes] = []
    at = 0
    while at < len(text):
        end = at + 1 + text[at]
        strings.append(text[at + 1 : end])
        at = end
    for string in reversed(strings):
        key, equals, value = string.partition(b"=")
        if equals:
            yield key, value
