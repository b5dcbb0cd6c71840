"""Segment format: how sealed objects lie in the store's files; spec/store.md has the offset tables.

A file header of 32 bytes, then records: a header of 48 bytes and the sealed object, one after the other. What
is in a record is known by its id, so that a wrong place in the index is noticed by whoever reads there.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from shoal.content.seal import SEALED_BYTES
from shoal.core.units import MIB

SEGMENT_BYTES: Final = 128 * MIB  # one file; collection copies at most this much before it frees space
FILE_HEADER_BYTES: Final = 32
RECORD_HEADER_BYTES: Final = 48
KEY_BYTES: Final = 16  # of an id that the index keeps: nobody finds two objects with equal ones (2^64 work)
NUMBER_LIMIT: Final = 2**31 - 1
_FILE_MAGIC: Final = b"SHOALSEG"
_RECORD_MAGIC: Final = b"SREC"
_FORMAT: Final = 1
_FILE = struct.Struct(">8sII12x")
_RECORD = struct.Struct(">4sII32s")  # magic, length, 0, id; the CRC stands after the zero in the file
_CRC = struct.Struct(">I")


def segment_name(number: int) -> str:
    """Return the name of a segment's file."""
    return f"{number:08d}.seg"


def parse_segment_name(name: str) -> int | None:
    """Return the number of a segment by its name, None for another file."""
    stem, dot, end = name.partition(".")
    if dot and end == "seg" and 8 <= len(stem) <= 10 and stem.isascii() and stem.isdigit():
        number = int(stem)
        if 0 < number <= NUMBER_LIMIT and segment_name(number) == name:
            return number
    return None


def make_file_header(number: int) -> bytes:
    """Return the first bytes of segment `number`."""
    head = _FILE.pack(_FILE_MAGIC, _FORMAT, number)
    return head + _CRC.pack(crc32(head))


def is_file_header(data: bytes, number: int) -> bool:
    """Say whether a file that begins so is segment `number`, of a format that this release reads."""
    return data == make_file_header(number)


def make_record_header(object_id: bytes, length: int) -> bytes:
    """Return what stands before a sealed object."""
    head = _RECORD.pack(_RECORD_MAGIC, length, 0, object_id)
    return head[:12] + _CRC.pack(crc32(head)) + head[12:]


def parse_record_header(data: bytes) -> tuple[bytes, int] | None:
    """Return (id, length) of a record, None for bytes that are no record header."""
    if len(data) != RECORD_HEADER_BYTES:
        return None
    head = data[:12] + data[16:]
    magic, length, zero, object_id = _RECORD.unpack(head)
    fits = magic == _RECORD_MAGIC and zero == 0 and length <= SEALED_BYTES
    return (object_id, length) if fits and _CRC.unpack(data[12:16])[0] == crc32(head) else None


def make_place(number: int, offset: int) -> int:
    """Return the place of a record as the index keeps it: never 0, which stands for lost."""
    return number << 32 | offset


def parse_place(place: int) -> tuple[int, int]:
    """Return (segment number, offset) of a place."""
    return place >> 32, place & 0xFFFFFFFF
