"""Rows: small helpers to turn table rows into typed values and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from shoal.core.decoders import get_msgpack_decoder
from shoal.core.errors import LocalMisuse, StorageFault

T = TypeVar("T")


def pack(value: Any) -> bytes:
    """Return a value as MessagePack, for a column."""
    return msgspec.msgpack.encode(value)


def unpack(kind: type[T], data: bytes, column: str) -> T:
    """Return the value of a MessagePack column. Raises: StorageFault where it is damaged."""
    try:
        return get_msgpack_decoder(kind).decode(data)
    except msgspec.MsgspecError as error:
        raise StorageFault(
            "The database was not read",
            cause=f"{column} is damaged: {error}",
            next_step="run `shoal doctor`",
            code="corrupt",
        ) from error


def update_statement(
    table: str, key: str, columns: frozenset[str], changes: Mapping[str, Any]
) -> tuple[str, list[Any]]:
    """Return an UPDATE of one row and its values; the row's key is to be appended to them.

    Only names of `columns` reach the statement. Raises: LocalMisuse for another, or for no change at all.
    """
    strange = changes.keys() - columns
    if strange or not changes:
        raise LocalMisuse(f"{table}: cannot change {sorted(strange) or 'nothing'}")
    names = sorted(changes)
    assignments = ", ".join(f"{name} = ?" for name in names)
    return f"UPDATE {table} SET {assignments} WHERE {key} = ?", [changes[name] for name in names]  # noqa: S608
