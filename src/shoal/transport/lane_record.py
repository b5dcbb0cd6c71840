"""Lane records: how bytes are protected on a lane. Pure: no socket, no clock. See spec/lane.md.

A lane is plain TCP. Its opener sends a preamble in the clear, then both directions are records:

    preamble   offset  size  field
               0       8     magic "SHOALLN1"; its first byte is never 0x16, which begins TLS
               8       16    lane id: the one-time token

    record     offset  size  field
               0       1     type: 0 OPEN, 1 DATA, 2 END
               1       4     n, length of what follows, big endian: 16 .. 16 + 1 MiB + 4 KiB
               5       n     AES-256-GCM ciphertext and 16-byte tag; the header is the associated data

The nonce is 4 zero bytes and a u64 counter of records, from 0, a direction. Record 0 of each direction is
OPEN, and only that one; OPEN and END have no plaintext; nothing follows END.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage, Unavailable
from shoal.wire.limits import LANE_BYTES, LANE_RECORD_PLAINTEXT_BYTES, LANE_RECORDS

LANE_MAGIC = b"SHOALLN1"
LANE_ID_BYTES = 16
PREAMBLE_BYTES = len(LANE_MAGIC) + LANE_ID_BYTES
EXPORTER_LABEL = b"EXPORTER-shoal-lane/1"  # formats.md, Lane; the context is the network id
SECRET_BYTES = 32

TAG_BYTES = 16
_HEADER = struct.Struct(">BI")
_NONCE = struct.Struct(">IQ")
HEADER_BYTES = _HEADER.size
RECORD_BYTES = HEADER_BYTES + LANE_RECORD_PLAINTEXT_BYTES + TAG_BYTES  # the longest record on the wire
BARE_RECORD_BYTES = HEADER_BYTES + TAG_BYTES  # OPEN and END


class RecordType(IntEnum):
    """What a record is for."""

    OPEN = 0
    DATA = 1
    END = 2


_TYPES = {int(kind): kind for kind in RecordType}  # a tenth of what calling the class costs


class LaneRole(IntEnum):
    """Which end sends a direction. The opener is the session's TLS client: the end that dialled."""

    OPENER = 0
    ACCEPTOR = 1


def pack_preamble(lane_id: bytes) -> bytes:
    """Return the bytes an opener sends first."""
    if len(lane_id) != LANE_ID_BYTES:
        raise LocalMisuse(f"a lane id has {LANE_ID_BYTES} bytes, not {len(lane_id)}")
    return LANE_MAGIC + lane_id


def parse_preamble(data: bytes) -> bytes:
    """Return the lane id of a preamble. Raises: MalformedMessage for anything else."""
    if len(data) != PREAMBLE_BYTES or not data.startswith(LANE_MAGIC):
        raise MalformedMessage("not the preamble of a lane")
    return bytes(data[len(LANE_MAGIC) :])


def derive_lane_key(
    lane_secret: bytes, lane_id: bytes, opener: bytes, acceptor: bytes, sender: LaneRole
) -> bytes:
    """Return the key of one direction: HKDF-Expand(lane secret, lane id || opener || acceptor || sender).

    `lane_secret` comes from the session's TLS exporter, 32 bytes; opener and acceptor are peer ids.
    """
    if (len(lane_secret), len(lane_id), len(opener), len(acceptor)) != (SECRET_BYTES, LANE_ID_BYTES, 32, 32):
        raise LocalMisuse("a lane key needs a secret of 32, an id of 16 and two peer ids of 32 bytes")
    info = lane_id + opener + acceptor + bytes([sender])
    return HKDFExpand(SHA256(), 32, info).derive(lane_secret)


def parse_header(header: bytes | bytearray | memoryview) -> tuple[RecordType, int]:
    """Return type and length of what follows, before anything is read or kept for it.

    Raises: LimitExceeded for a length over the limit, MalformedMessage for an unknown type or a length
    that does not fit its type.
    """
    try:
        number, length = _HEADER.unpack(header)
        kind = _TYPES[number]
    except (struct.error, KeyError) as error:
        raise MalformedMessage("not the header of a lane record", cause=str(error)) from error
    if length > LANE_RECORD_PLAINTEXT_BYTES + TAG_BYTES:
        raise LimitExceeded("a lane record over the limit", cause=f"declared {length} bytes")
    if (kind is RecordType.DATA and length <= TAG_BYTES) or (
        kind is not RecordType.DATA and length != TAG_BYTES
    ):
        raise MalformedMessage("a lane record of impossible length", cause=f"{kind.name} of {length} bytes")
    return kind, length


class RecordSealer:
    """Protects one direction. Every record takes the next counter, so a key must have one sealer only."""

    __slots__ = ("_aead", "_ended", "plaintext_bytes", "records")

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._ended = False
        self.records = 0
        self.plaintext_bytes = 0

    @property
    def is_spent(self) -> bool:
        """Whether a full record and END may no longer fit under this key: open a new lane then."""
        return (
            self.plaintext_bytes + LANE_RECORD_PLAINTEXT_BYTES > LANE_BYTES or self.records + 2 > LANE_RECORDS
        )

    def seal_into(self, kind: RecordType, plaintext: memoryview, out: memoryview) -> int:
        """Write the record for `plaintext` to the start of `out`; return its length.

        `out` needs 21 bytes more than the plaintext and must not overlap it. Releases the interpreter lock.
        Raises: LocalMisuse for a wrong order or size, Unavailable (`lane_spent`) beyond the key's limits.
        """
        size = len(plaintext)
        if self._ended or (kind is RecordType.OPEN) != (self.records == 0):
            raise LocalMisuse(f"{kind.name} cannot be record {self.records} of this lane")
        if size > LANE_RECORD_PLAINTEXT_BYTES or (kind is RecordType.DATA) != (size > 0):
            raise LocalMisuse(f"a lane record of {kind.name} cannot carry {size} bytes")
        if self.records >= LANE_RECORDS or self.plaintext_bytes + size > LANE_BYTES:
            raise Unavailable("This lane has carried all it may", code="lane_spent", retry_after_s=0.0)
        end = HEADER_BYTES + size + TAG_BYTES
        header = _HEADER.pack(kind, size + TAG_BYTES)
        nonce = _NONCE.pack(0, self.records)
        self.records += 1  # before the call: whatever happens in it, this counter is never used again
        self.plaintext_bytes += size
        self._ended = kind is RecordType.END
        out[:HEADER_BYTES] = header
        self._aead.encrypt_into(nonce, plaintext, header, out[HEADER_BYTES:end])
        return end

    def seal(self, kind: RecordType, plaintext: bytes = b"") -> bytes:
        """Return a record as new bytes: for OPEN, END and tests."""
        out = bytearray(HEADER_BYTES + len(plaintext) + TAG_BYTES)
        self.seal_into(kind, memoryview(plaintext), memoryview(out))
        return bytes(out)


class RecordOpener:
    """Verifies one direction. After its first error it refuses everything: a lane has no way back."""

    __slots__ = ("_aead", "_broken", "ended", "plaintext_bytes", "records")

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._broken = False
        self.ended = False
        self.records = 0
        self.plaintext_bytes = 0

    def open_into(
        self, header: bytes | bytearray | memoryview, sealed: memoryview, out: memoryview
    ) -> RecordType:
        """Verify a record and write its plaintext, len(sealed) - 16 bytes, to the start of `out`.

        Releases the interpreter lock. What stands in `out` after an error is not to be used.
        Raises: MalformedMessage (`lane_tag` where the tag is wrong: forged, reordered, replayed or damaged;
        it proves nobody's fault), LimitExceeded.
        """
        if self._broken:
            raise LocalMisuse("this lane has failed before")
        self._broken = True
        kind, length = parse_header(header)
        if length != len(sealed):
            raise LocalMisuse(f"a record of {length} bytes was given as {len(sealed)}")
        if self.ended:
            raise MalformedMessage("a lane record after the end")
        if (kind is RecordType.OPEN) != (self.records == 0):
            raise MalformedMessage(
                "a lane record out of order", cause=f"{kind.name} as record {self.records}"
            )
        size = length - TAG_BYTES
        if self.records >= LANE_RECORDS or self.plaintext_bytes + size > LANE_BYTES:
            raise LimitExceeded("more than one lane may carry")
        try:
            self._aead.decrypt_into(_NONCE.pack(0, self.records), sealed, bytes(header), out[:size])
        except InvalidTag:
            raise MalformedMessage("a lane record that does not verify", code="lane_tag") from None
        self.records += 1
        self.plaintext_bytes += size
        self.ended = kind is RecordType.END
        self._broken = False
        return kind

    def open(self, record: bytes) -> tuple[RecordType, bytes]:
        """Return type and plaintext of one whole record: for OPEN and tests."""
        if len(record) < BARE_RECORD_BYTES:
            raise MalformedMessage("a lane record that is cut off")
        out = bytearray(len(record) - BARE_RECORD_BYTES)
        view = memoryview(record)
        _, length = parse_header(view[:HEADER_BYTES])
        if length != len(record) - HEADER_BYTES:
            raise MalformedMessage("a lane record that is cut off", cause=f"{len(record)} bytes")
        return self.open_into(view[:HEADER_BYTES], view[HEADER_BYTES:], memoryview(out)), bytes(out)
