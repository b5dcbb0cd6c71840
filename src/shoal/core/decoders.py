"""Decoders: made one at a time, kept, and used by any thread.

msgspec works out how a struct is decoded when it is first needed. Two threads that need one at the same time
end the process: one sees half of what the other has worked out (a segmentation fault; the test shows it). So
every decoder of the program comes from here. Using one needs no lock.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")

KEPT = 512  # types; more than the program has
_making = threading.Lock()


def get_json_decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """Return the decoder of a type from JSON."""
    return cast("msgspec.json.Decoder[T]", _make_json(cast("Hashable", kind)))


def get_msgpack_decoder(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    """Return the decoder of a type from MessagePack; strict."""
    return cast("msgspec.msgpack.Decoder[T]", _make_msgpack(cast("Hashable", kind)))


@lru_cache(maxsize=KEPT)
def _make_json(kind: Hashable) -> msgspec.json.Decoder[Any]:
    with _making:
        return msgspec.json.Decoder(kind)


@lru_cache(maxsize=KEPT)
def _make_msgpack(kind: Hashable) -> msgspec.msgpack.Decoder[Any]:
    with _making:
        return msgspec.msgpack.Decoder(kind, strict=True)
