"""Paths: how a path of this machine travels in the API, whatever bytes its name has.

A path that is UTF-8 is a JSON string; any other is `{"base64": "..."}`. Clients resolve paths against their
own directory before they send them: the node refuses relative ones.
"""

from __future__ import annotations

import base64
import binascii
import os

import msgspec

from shoal.core.errors import LocalMisuse
from shoal.wire.limits import PATH_BYTES


class BytesPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A path that is not UTF-8."""

    base64: str


PathValue = str | BytesPath
AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def encode_path(path: AnyPath) -> PathValue:
    """Write a path for the API."""
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return BytesPath(base64.b64encode(raw).decode())


def decode_path(value: PathValue) -> bytes:
    """Read an absolute path from the API. Raises: LocalMisuse for anything else."""
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogateescape")
    else:
        raw = _decode_base64(value)
    if not raw.startswith(b"/") or b"\0" in raw:
        raise LocalMisuse(
            "The path cannot be used",
            cause="the node takes absolute paths without NUL",
            next_step="resolve the path against your own directory first",
        )
    if len(raw) > PATH_BYTES:
        raise LocalMisuse("The path cannot be used", cause=f"it is longer than {PATH_BYTES} bytes")
    return os.path.normpath(raw)


def decode_name(value: PathValue) -> bytes:
    """Read a path inside a share, or a pattern for some, as any bytes without NUL. Raises: LocalMisuse."""
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else _decode_base64(value)
    if b"\0" in raw or len(raw) > PATH_BYTES:
        raise LocalMisuse(
            "The path cannot be used", cause=f"it has a NUL byte, or more than {PATH_BYTES} bytes"
        )
    return raw


def resolve_path(path: AnyPath) -> PathValue:
    """Resolve a path of the caller against the caller's directory, for the API. Symlinks stay.

    Raises: LocalMisuse for an empty one, which would mean the directory itself.
    """
    raw = os.fsencode(path)
    if not raw:
        raise LocalMisuse(
            "The path cannot be used", cause="it is empty", next_step="write . for this directory"
        )
    if raw.startswith(b"~"):
        raw = os.path.expanduser(raw)
    return encode_path(os.path.normpath(os.path.join(os.getcwdb(), raw)))


def _decode_base64(value: BytesPath) -> bytes:
    try:
        return base64.b64decode(value.base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise LocalMisuse("The path cannot be read", cause="its base64 is damaged") from error


def default_home() -> str:
    """Return the home that is used when nobody names one: SHOAL_HOME, else the XDG data directory."""
    named = os.environ.get("SHOAL_HOME")
    if named:
        return os.path.abspath(os.path.expanduser(named))
    data = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):
        data = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "shoal")
