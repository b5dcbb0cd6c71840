"""Text: ids and capabilities as people copy them.

    kind prefix | version (1 character) | lower-case base32 without padding of payload || checksum (4 bytes)

The checksum is the first 4 bytes of BLAKE3 in derive-key mode with the context "shoal v1 text <kind>", over
the version character and the payload: a text of one kind is never taken for another, and a typing error is
found before anything is dialled.
"""

from __future__ import annotations

import base64
import binascii
from enum import Enum

from blake3 import blake3

from shoal.core.errors import LocalMisuse

CHECKSUM_BYTES = 4
VERSION = "1"
TEXT_LIMIT = 4096  # characters; the longest we make is a ticket with eight addresses


class Kind(Enum):
    """What a text stands for; the value is its prefix."""

    PEER = "shp"
    NETWORK = "shn"
    SHARE = "shs"
    CONTENT = "shc"
    LINK = "shl"
    TICKET = "sht"
    OPERATION = "sho"
    RECOVERY = "shr"


_NAMES = {
    Kind.PEER: "peer id",
    Kind.NETWORK: "network id",
    Kind.SHARE: "share id",
    Kind.CONTENT: "content id",
    Kind.LINK: "link",
    Kind.TICKET: "ticket",
    Kind.OPERATION: "operation id",
    Kind.RECOVERY: "recovery key",
}


def format_text(kind: Kind, payload: bytes, version: str = VERSION) -> str:
    """Write `payload` as a text of `kind`."""
    body = payload + _checksum(kind, version, payload)
    return kind.value + version + base64.b32encode(body).decode().rstrip("=").lower()


def parse_text(kind: Kind, text: str) -> bytes:
    """Return the payload of a text; blanks around it and capitals are forgiven.

    Raises: LocalMisuse that says what the text is instead, where that can be told.
    """
    name = _NAMES[kind]
    cleaned = "".join(text.split()).lower()
    if not cleaned:
        raise LocalMisuse(
            f"No {name} was given",
            cause="it is empty",
            next_step=f"paste the whole {name}: it begins with {kind.value}",
        )
    if len(cleaned) > TEXT_LIMIT:
        raise LocalMisuse(f"This is not a {name}", cause=f"it is longer than {TEXT_LIMIT} characters")
    if not cleaned.startswith(kind.value):
        other = next((_NAMES[k] for k in Kind if cleaned.startswith(k.value)), None)
        cause = f"it is a {other}" if other else f"a {name} begins with {kind.value}"
        raise LocalMisuse(f"This is not a {name}", cause=cause, next_step=f"paste the whole {name}")
    version = cleaned[len(kind.value) : len(kind.value) + 1]
    if not version:
        raise LocalMisuse(
            f"This is not a {name}", cause="it ends too early", next_step=f"paste the whole {name}"
        )
    if version != VERSION:
        raise LocalMisuse(
            f"This {name} cannot be read",
            cause=f"it has format version {version}, this release reads {VERSION}",
            next_step="check that it was copied whole, or upgrade shoal",
        )
    encoded = cleaned[len(kind.value) + 1 :].upper()
    try:
        body = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
    except (binascii.Error, ValueError):
        body = b""
    payload, checksum = body[:-CHECKSUM_BYTES], body[-CHECKSUM_BYTES:]
    if len(body) <= CHECKSUM_BYTES or checksum != _checksum(kind, version, payload):
        raise LocalMisuse(
            f"This {name} is damaged",
            cause="its checksum does not fit: a character is missing or wrong",
            next_step=f"copy the whole {name} again",
        )
    # base32 has spare bits at the end; only one spelling is accepted
    if format_text(kind, payload, version) != cleaned:
        raise LocalMisuse(f"This {name} is damaged", cause="it has stray characters at its end")
    return payload


def _checksum(kind: Kind, version: str, payload: bytes) -> bytes:
    context = f"shoal v1 text {kind.name.lower()}"
    return blake3(version.encode() + payload, derive_key_context=context).digest(CHECKSUM_BYTES)
