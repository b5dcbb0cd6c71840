"""Closings: the closed versions of one feed, in columns: 104 bytes a version.

A watched share may close 65,536 of them; as objects they took 400 bytes each, in every share that was ever
watched for long, at whoever has it.
"""

from __future__ import annotations

from array import array
from typing import Final

from shoal.content.feed import Closing

_ID_BYTES: Final = 32
_NUMBERS: Final = 5  # of a row


class Closings:
    """Closed versions from number 1 on; each is made when it is asked for."""

    __slots__ = ("_content_ids", "_numbers", "_root_keys")

    def __init__(self) -> None:
        self._content_ids = bytearray()
        self._root_keys = bytearray()
        self._numbers = array("Q")

    def append(self, closing: Closing) -> None:
        """Take the next version. The caller has seen that it is the next one."""
        self._content_ids += closing.content_id
        self._root_keys += closing.root_key
        self._numbers.extend(
            (closing.root_bytes, closing.files, closing.total_bytes, closing.stream_bytes, closing.chunks)
        )

    def __len__(self) -> int:
        return len(self._content_ids) // _ID_BYTES

    def get(self, version: int) -> Closing:
        """Return a version by its number. Raises: IndexError."""
        if not 0 < version <= len(self):
            raise IndexError(version)
        ids = slice(_ID_BYTES * (version - 1), _ID_BYTES * version)
        numbers = self._numbers[_NUMBERS * (version - 1) : _NUMBERS * version]
        return Closing(version, bytes(self._content_ids[ids]), bytes(self._root_keys[ids]), *numbers)

    def find(self, content_id: bytes) -> Closing | None:
        """Return the last version with a content id, or None."""
        if len(content_id) != _ID_BYTES:
            return None
        end = len(self._content_ids)
        while (at := self._content_ids.rfind(content_id, 0, end)) >= 0:
            across = at % _ID_BYTES
            if not across:
                return self.get(at // _ID_BYTES + 1)
            end = at - across + _ID_BYTES  # it lies in two of them
        return None
