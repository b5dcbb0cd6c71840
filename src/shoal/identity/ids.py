"""Ids: what names a peer, a network, a share, an entry; bytes inside, text at the edges.

Inside the program every id is plain `bytes` of a fixed length. The text forms (spec/text.md) exist only where
people see them: the command line, the API, configuration files.
"""

from __future__ import annotations

from typing import TypeAlias

from shoal.core.errors import LocalMisuse
from shoal.wire.text import Kind, format_text, parse_text

PeerId: TypeAlias = bytes  # 32: Ed25519 public key of a device
NetworkId: TypeAlias = bytes  # 32: id of the genesis entry
EntryId: TypeAlias = bytes  # 32: BLAKE3 of an entry's header and payload
ShareId: TypeAlias = bytes  # 32: BLAKE3 of author key and 16 random bytes
ContentId: TypeAlias = bytes  # 32: BLAKE3 of a sealed manifest root

ID_BYTES = 32
SHORT_CHARACTERS = 12


def format_peer_id(peer_id: PeerId) -> str:
    """Write a peer id as people copy it: `shp1...`."""
    return _format(Kind.PEER, peer_id)


def parse_peer_id(text: str) -> PeerId:
    """Read a peer id. Raises: LocalMisuse that says what is wrong with the text."""
    return _parse(Kind.PEER, "peer id", text)


def format_network_id(network_id: NetworkId) -> str:
    """Write a network id: `shn1...`."""
    return _format(Kind.NETWORK, network_id)


def format_share_id(share_id: ShareId) -> str:
    """Write a share id: `shs1...`."""
    return _format(Kind.SHARE, share_id)


def parse_share_id(text: str) -> ShareId:
    """Read a share id. Raises: LocalMisuse that says what is wrong with the text."""
    return _parse(Kind.SHARE, "share id", text)


def format_content_id(content_id: ContentId) -> str:
    """Write a content id: `shc1...`."""
    return _format(Kind.CONTENT, content_id)


def format_operation_id(entry_id: EntryId) -> str:
    """Write the id of a membership operation: `sho1...`."""
    return _format(Kind.OPERATION, entry_id)


def short_peer_id(peer_id: PeerId) -> str:
    """Write the first characters of a peer id, for people's eyes and logs; it identifies nothing."""
    return format_peer_id(peer_id)[:SHORT_CHARACTERS]


def _format(kind: Kind, value: bytes) -> str:
    if len(value) != ID_BYTES:
        raise LocalMisuse(f"an id of {len(value)} bytes cannot be written", cause=f"it has {ID_BYTES}")
    return format_text(kind, value)


def _parse(kind: Kind, name: str, text: str) -> bytes:
    value = parse_text(kind, text)
    if len(value) != ID_BYTES:
        raise LocalMisuse(
            f"This {name} cannot be used",
            cause=f"it holds {len(value)} bytes instead of {ID_BYTES}",
            next_step=f"copy the whole {name} again",
        )
    return value
