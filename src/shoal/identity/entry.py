"""Entry: the one signed thing. Membership operations and feeds are logs of entries.

offset  size  field, integers big endian
0       1     version, 1
1       1     domain: 1 membership, 2 feed
2       32    network id; zero in a genesis
34      32    log id; zero in a genesis
66      32    author, Ed25519 public key
98      8     seq, counts the author's entries in this log from 0
106     32    prev, id of the author's entry before; zero for seq 0
138     8     time, seconds since 1970, for display only
146     2     flags: bit 0 critical; other bits are sent as 0 and ignored
148     4     payload length
152     n     payload
152+n   64    signature over "shoal/v1/" || domain name || NUL || header || payload

id = BLAKE3(header || payload). The bytes received are the canonical bytes; they are never encoded again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from blake3 import blake3

from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.identity.ids import EntryId, NetworkId, PeerId
from shoal.identity.keys import SIGNATURE_BYTES, DeviceKeys, verify
from shoal.wire.limits import ENTRY_BYTES

VERSION = 1
ZERO_ID = bytes(32)
HEADER = struct.Struct(">BB32s32s32sQ32sQHI")
HEADER_BYTES = HEADER.size
PAYLOAD_LIMIT_BYTES = ENTRY_BYTES - HEADER_BYTES - SIGNATURE_BYTES


class Domain(IntEnum):
    """Which kind of log an entry is for; a signature never counts in another. Numbers stay for ever."""

    MEMBERSHIP = 1
    FEED = 2


class EntryFlags(IntFlag):
    """CRITICAL: who does not understand the payload must not go on as if it were not there."""

    NONE = 0
    CRITICAL = 1


_SIGNED_PREFIX = {
    Domain.MEMBERSHIP: b"shoal/v1/membership\0",
    Domain.FEED: b"shoal/v1/feed\0",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A parsed header with its payload. Being parsed says nothing about the signature: call `verify`."""

    data: bytes  # all of it, as received
    id: EntryId
    domain: Domain
    network: NetworkId
    log: bytes
    author: PeerId
    seq: int
    prev: EntryId
    time: int
    flags: int
    payload: bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and other.data == self.data

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def signature(self) -> bytes:
        """The last 64 bytes. Not covered by the id: two signatures over one entry are one entry."""
        return self.data[-SIGNATURE_BYTES:]

    @property
    def header(self) -> bytes:
        """The first 152 bytes; feeds use them as associated data."""
        return self.data[:HEADER_BYTES]

    @property
    def is_critical(self) -> bool:
        """Whether the critical flag is set."""
        return bool(self.flags & EntryFlags.CRITICAL)

    def verify(self) -> bool:
        """Tell whether the author signed it. Says nothing about whether the author may."""
        signed = _SIGNED_PREFIX[self.domain] + self.data[:-SIGNATURE_BYTES]
        return verify(self.author, self.signature, signed)


def parse_entry(data: bytes | memoryview) -> Entry:
    """Return the entry in `data`: size first, then the header; neither payload nor signature are looked at.

    Raises: LimitExceeded beyond ENTRY_BYTES, MalformedMessage for any other bytes that are no entry.
    """
    if len(data) > ENTRY_BYTES:
        raise LimitExceeded(f"an entry of {len(data)} bytes", cause=f"at most {ENTRY_BYTES} are allowed")
    if len(data) < HEADER_BYTES + SIGNATURE_BYTES:
        raise MalformedMessage("not an entry", cause=f"only {len(data)} bytes")
    raw = bytes(data)
    version, domain, network, log, author, seq, prev, time, flags, length = HEADER.unpack_from(raw)
    if version != VERSION:
        raise MalformedMessage("an entry of another format", cause=f"version {version}")
    if HEADER_BYTES + length + SIGNATURE_BYTES != len(raw):
        raise MalformedMessage(
            "not an entry", cause=f"a payload of {length} bytes is declared in {len(raw)} bytes"
        )
    try:
        known = Domain(domain)
    except ValueError as error:
        raise MalformedMessage("an entry of unknown domain", cause=f"domain {domain}") from error
    if (seq == 0) != (prev == ZERO_ID):
        raise MalformedMessage("an entry with a broken chain", cause="only the first one has no predecessor")
    return Entry(
        data=raw,
        id=blake3(raw[:-SIGNATURE_BYTES]).digest(),
        domain=known,
        network=network,
        log=log,
        author=author,
        seq=seq,
        prev=prev,
        time=time,
        flags=flags,
        payload=raw[HEADER_BYTES:-SIGNATURE_BYTES],
    )


def pack_header(
    domain: Domain,
    network: NetworkId,
    log: bytes,
    author: PeerId,
    seq: int,
    prev: EntryId,
    time: int,
    flags: int,
    payload_length: int,
) -> bytes:
    """Return the 152 header bytes of an entry to come; a feed seals its payload with them as associated data.

    Raises: LocalMisuse for a payload over PAYLOAD_LIMIT_BYTES or a field out of range.
    """
    if payload_length > PAYLOAD_LIMIT_BYTES:
        raise LocalMisuse(f"a payload of {payload_length} bytes is over the limit of {PAYLOAD_LIMIT_BYTES}")
    if any(len(field) != 32 for field in (network, log, author, prev)):
        raise LocalMisuse("network, log, author and prev of an entry have 32 bytes each")
    try:
        return HEADER.pack(VERSION, domain, network, log, author, seq, prev, time, flags, payload_length)
    except struct.error as error:
        raise LocalMisuse("an entry's seq, time or flags are out of range", cause=str(error)) from error


def sign_entry(
    keys: DeviceKeys,
    domain: Domain,
    network: NetworkId,
    log: bytes,
    seq: int,
    prev: EntryId,
    time: int,
    flags: int,
    payload: bytes,
) -> Entry:
    """Make and sign an entry. The caller persists it before anybody else sees it, and never signs another
    with the same (log, seq): that is a proof of equivocation.

    Raises: LocalMisuse for a payload over PAYLOAD_LIMIT_BYTES or a field out of range.
    """
    header = pack_header(domain, network, log, keys.peer_id, seq, prev, time, flags, len(payload))
    body = header + payload
    return parse_entry(body + keys.sign(_SIGNED_PREFIX[domain] + body))
