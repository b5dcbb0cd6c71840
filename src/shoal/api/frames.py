"""Frames: a stream of bytes, words on the way, and its end in one HTTP body; for `get LINK -`.

| offset | size | field |
|---|---|---|
| 0 | 1 | kind: `D` data, `N` what is waited for (empty: nothing, still alive), `Z` the end, `E` a failure |
| 1 | 4 | length, big endian, at most 2 MiB |
| 5 | n | data; text in UTF-8; JSON of a StreamResult; JSON of an ErrorReply |

`Z` or `E` comes last. A body that ends without one is cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from shoal.core.errors import RemoteFault
from shoal.core.units import MIB

_HEADER = struct.Struct(">cI")
FRAME_BYTES = 2 * MIB

DATA, NOTE, END, FAILURE = b"D", b"N", b"Z", b"E"


def make_frame(kind: bytes, payload: bytes) -> bytes:
    """Return one frame."""
    return _HEADER.pack(kind, len(payload)) + payload


def read_frames(parts: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, payload) of each frame that is complete. Raises: RemoteFault for what is no frame."""
    buffer = bytearray()
    for part in parts:
        buffer += part
        while len(buffer) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(buffer)
            if kind not in (DATA, NOTE, END, FAILURE) or length > FRAME_BYTES:
                raise RemoteFault(
                    "The stream cannot be read",
                    cause=f"a frame of kind {kind!r} with {length} bytes",
                    next_step="restart the node: shoal down, then shoal up --detach",
                )
            end = _HEADER.size + length
            if len(buffer) < end:
                break
            payload = bytes(buffer[_HEADER.size : end])
            del buffer[:end]
            yield kind, payload
