"""Link: the capability to read a share, as people copy it.

offset  size  field
0       1     flags: bit 0 a content id follows, bit 1 a space follows; others must be 0
1       32    network id
33      32    share id
65      32    read key
97      4     generation of the content secret whose lookup key finds the share, big endian
101     32    space, only with bit 1; without it the default space
..      32    content id, only with bit 0: the link is permanent and means that version alone

The text form is that of wire.text with the kind LINK (`shl1...`). Who has the link and is a member of the
space can read the share; a link alone opens no session.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Final

from shoal.core.errors import LocalMisuse
from shoal.identity.secrets import DEFAULT_SPACE
from shoal.wire.text import Kind, format_text, parse_text

FLAG_CONTENT_ID: Final = 1
FLAG_SPACE: Final = 2
_FIXED = struct.Struct(">B32s32s32sI")


@dataclass(frozen=True, slots=True)
class Link:
    """What a link says. The read key is a secret: it is not in `repr`."""

    network_id: bytes
    share_id: bytes
    read_key: bytes = field(repr=False)
    generation: int
    content_id: bytes | None = None
    space: bytes = DEFAULT_SPACE

    def __post_init__(self) -> None:
        ids = (self.network_id, self.share_id, self.read_key, self.space)
        if any(len(part) != 32 for part in ids) or (
            self.content_id is not None and len(self.content_id) != 32
        ):
            raise LocalMisuse("ids and keys of a link have 32 bytes each")
        if not 0 <= self.generation < 2**32:
            raise LocalMisuse("a generation is an unsigned 32-bit number")

    @property
    def is_permanent(self) -> bool:
        """Whether it means one version for ever, not the latest."""
        return self.content_id is not None

    def pinned(self, content_id: bytes | None) -> Link:
        """Return the link to one version, or with None the link to the latest."""
        return replace(self, content_id=content_id)

    def pack(self) -> bytes:
        """Return the bytes of a link."""
        flags = FLAG_CONTENT_ID * (self.content_id is not None) + FLAG_SPACE * (self.space != DEFAULT_SPACE)
        packed = _FIXED.pack(flags, self.network_id, self.share_id, self.read_key, self.generation)
        return packed + (self.space if flags & FLAG_SPACE else b"") + (self.content_id or b"")

    def to_text(self) -> str:
        """Write the link as people copy it."""
        return format_text(Kind.LINK, self.pack())

    @classmethod
    def unpack(cls, data: bytes) -> Link:
        """Read the bytes of a link. Raises: LocalMisuse; people paste links, peers do not send them."""
        flags = data[0] if data else 0
        if flags & ~(FLAG_CONTENT_ID | FLAG_SPACE):
            raise LocalMisuse(
                "This link cannot be read",
                cause="it uses something that this release does not know",
                next_step="upgrade shoal",
            )
        expected = _FIXED.size + 32 * bool(flags & FLAG_SPACE) + 32 * bool(flags & FLAG_CONTENT_ID)
        if len(data) != expected:
            raise LocalMisuse(
                "This link cannot be used",
                cause=f"it holds {len(data)} bytes instead of {expected}",
                next_step="copy the whole link again",
            )
        _, network_id, share_id, read_key, generation = _FIXED.unpack_from(data)
        rest = data[_FIXED.size :]
        space = rest[:32] if flags & FLAG_SPACE else DEFAULT_SPACE
        if flags & FLAG_SPACE and space == DEFAULT_SPACE:
            raise LocalMisuse("This link cannot be used", cause="it names the default space needlessly")
        content_id = rest[-32:] if flags & FLAG_CONTENT_ID else None
        return cls(network_id, share_id, read_key, generation, content_id, space)

    @classmethod
    def parse(cls, text: str) -> Link:
        """Read a link as people paste it. Raises: LocalMisuse that says what is wrong with the text."""
        return cls.unpack(parse_text(Kind.LINK, text))
