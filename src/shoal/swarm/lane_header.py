"""Lane header: the first 16 bytes of every record on a swarm lane.

offset  size  field
0       1     kind: 1 chunk, 2 object, 3 chunk missing, 4 object missing
1       1     0
2       2     0
4       4     version of the share, big endian; 0 for an object
8       4     ordinal of the chunk, or number of the object request
12      4     share number on this lane: 0
16      n     plaintext of the chunk, or the sealed object; nothing for the two missing kinds
"""

from __future__ import annotations

import struct
from enum import IntEnum

from shoal.core.errors import MalformedMessage

_HEADER = struct.Struct(">BBHIII")
LANE_HEADER_BYTES = _HEADER.size
LANE_PURPOSE = b"\x01"  # followed by the share id: what a getter opens a lane for


class LaneKind(IntEnum):
    """What a record carries."""

    CHUNK = 1
    OBJECT = 2
    CHUNK_MISSING = 3
    OBJECT_MISSING = 4


_KINDS = {int(kind): kind for kind in LaneKind}


def pack_header_into(buffer: memoryview, kind: LaneKind, version: int, ordinal: int) -> None:
    """Write the header to the start of `buffer`."""
    _HEADER.pack_into(buffer, 0, kind, 0, 0, version, ordinal, 0)


def parse_header(record: memoryview) -> tuple[LaneKind, int, int]:
    """Return kind, version and ordinal. Raises: MalformedMessage."""
    if len(record) < LANE_HEADER_BYTES:
        raise MalformedMessage("a swarm record shorter than its header")
    kind, zero, zeros, version, ordinal, share = _HEADER.unpack_from(record)
    found = _KINDS.get(kind)
    if zero or zeros or share or found is None:
        raise MalformedMessage("a swarm record of unknown kind")
    if kind >= LaneKind.CHUNK_MISSING and len(record) != LANE_HEADER_BYTES:
        raise MalformedMessage("a swarm record about a missing chunk that has a body")
    return found, version, ordinal


def make_purpose(share_id: bytes) -> bytes:
    """Return the purpose of a lane for chunks and objects of a share."""
    return LANE_PURPOSE + share_id


def parse_purpose(purpose: bytes) -> bytes | None:
    """Return the share id of a lane's purpose, or None."""
    if len(purpose) != 33 or purpose[:1] != LANE_PURPOSE:
        return None
    return purpose[1:]
