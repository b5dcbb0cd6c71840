"""Provision: one page of the keys that a device provides, signed by itself, so that others can pass it on.

offset  size  field, integers big endian
0       1     version, 1
1       n     MessagePack array [peer id, page, seq, keys, entries]
1+n     64    signature by peer id over "shoal/v1/provision" || NUL || network id || bytes 0 .. n

Of two provisions of one device and page the higher seq counts (at one seq: the greater bytes). A page is
replaced as a whole: one without keys withdraws them. Entries are as many as keys, or none: how long the feed
is for which a key stands, where it is the device's own; 0 elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.identity.keys import SIGNATURE_BYTES, DeviceKeys, verify
from shoal.overlay.messages import KEY_BYTES, PEER_BYTES, PROVISION_BYTES
from shoal.wire.codec import Message, decode, encode

PAGE_KEYS = 128  # of 34 bytes each, and up to 5 of entries: 5,108 bytes with the rest
ENTRIES = 2**32 - 1
PAGES = 64  # together as many keys as a provider may have (provider_index.py)
_VERSION = b"\x01"


class _Fields(Message, frozen=True, array_like=True):
    peer_id: bytes
    page: int
    seq: int
    keys: list[bytes]
    entries: list[int] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Provision:
    """A provision whose signature was checked."""

    peer_id: bytes
    page: int
    seq: int
    keys: tuple[bytes, ...]
    packed: bytes = field(repr=False)
    heads: dict[bytes, int] = field(default_factory=dict)  # entries of the device's own feeds, by key

    def is_newer(self, other: Provision | None) -> bool:
        """Whether it replaces another one of its device and page."""
        return other is None or (self.seq, self.packed) > (other.seq, other.packed)


def sign_provision(
    keys: DeviceKeys,
    network_id: bytes,
    page: int,
    seq: int,
    provided: tuple[bytes, ...],
    entries: tuple[int, ...] = (),
) -> Provision:
    """Sign one page of what this device provides. `entries`: as many, or none."""
    told = list(entries) if any(entries) else []
    body = _VERSION + encode(_Fields(keys.peer_id, page, seq, list(provided), told))
    return parse_provision(body + keys.sign(_signed(network_id, body)), network_id)


def parse_provision(data: bytes, network_id: bytes) -> Provision:
    """Return the provision in `data` if its device signed it; membership is not looked at.

    Raises: LimitExceeded by size or number of keys, MalformedMessage for anything else.
    """
    if len(data) > PROVISION_BYTES:
        raise LimitExceeded("a provision over the limit", cause=f"at most {PROVISION_BYTES} bytes")
    if len(data) <= 1 + SIGNATURE_BYTES or data[:1] != _VERSION:
        raise MalformedMessage("not a provision")
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    fields = decode(_Fields, body[1:])
    if len(fields.peer_id) != PEER_BYTES or not 0 <= fields.page < PAGES or not 0 <= fields.seq < 2**63:
        raise MalformedMessage("not a provision", cause="a field is out of range")
    if len(fields.keys) > PAGE_KEYS:
        raise LimitExceeded("a provision of too many keys", cause=f"at most {PAGE_KEYS} are allowed")
    if any(len(key) != KEY_BYTES for key in fields.keys):
        raise MalformedMessage(f"a key of another length than {KEY_BYTES} bytes")
    if len(fields.entries) not in (0, len(fields.keys)) or any(not 0 <= n <= ENTRIES for n in fields.entries):
        raise MalformedMessage("not a provision", cause="its entries do not fit its keys")
    if not verify(fields.peer_id, signature, _signed(network_id, body)):
        raise MalformedMessage("a provision that its device did not sign", code="bad_signature")
    heads = {key: count for key, count in zip(fields.keys, fields.entries, strict=False) if count}
    return Provision(fields.peer_id, fields.page, fields.seq, tuple(fields.keys), bytes(data), heads)


def _signed(network_id: bytes, body: bytes) -> bytes:
    return b"shoal/v1/provision\0" + network_id + body
