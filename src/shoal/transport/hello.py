"""Hello: how two ends bind keys, network and log head to this one TLS channel; bytes in spec/session.md.

The exporter alone does not cover the client's key, and TLS knows nothing of networks: so both ends sign
"shoal/v1/hello" NUL role || network || exporter || initiator key || responder key || log head || versions.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from enum import IntEnum

from shoal.core.errors import LimitExceeded, MalformedMessage, RemoteFault
from shoal.identity.keys import DeviceKeys, verify
from shoal.transport.messages import VERSIONS, VERSIONS_LIMIT, Hello, check_length
from shoal.transport.ports import HELLO_ENTRIES, HELLO_ENTRIES_BYTES

LABEL = b"EXPORTER-shoal-hello/1"
INSTANCE_BYTES = 16
_PREFIX = b"shoal/v1/hello\0"


class HelloRole(IntEnum):
    """Which end signs; a hello can not be reflected."""

    INITIATOR = 1
    RESPONDER = 2


def make_signed_bytes(
    role: HelloRole,
    network_id: bytes,
    exporter: bytes,
    initiator: bytes,
    responder: bytes,
    head: bytes,
    versions: Sequence[int],
) -> bytes:
    """Return what a hello's signature covers; every part has a fixed length or is counted."""
    listed = bytes([len(versions)]) + b"".join(v.to_bytes(2, "big") for v in versions)
    return _PREFIX + bytes([role]) + network_id + exporter + initiator + responder + head + listed


def make_hello(
    keys: DeviceKeys,
    role: HelloRole,
    network_id: bytes,
    exporter: bytes,
    peer_id: bytes,
    head: bytes,
    entries: Sequence[bytes],
    instance: bytes,
    replaces: bool = False,
) -> Hello:
    """Return our hello. `entries` that are over the limits are left out: the peer then has to synchronise."""
    initiator, responder = (keys.peer_id, peer_id) if role is HelloRole.INITIATOR else (peer_id, keys.peer_id)
    signed = make_signed_bytes(role, network_id, exporter, initiator, responder, head, VERSIONS)
    fits = len(entries) <= HELLO_ENTRIES and sum(map(len, entries)) <= HELLO_ENTRIES_BYTES
    return Hello(
        network=network_id,
        head=head,
        versions=list(VERSIONS),
        entries=list(entries) if fits else [],
        signature=keys.sign(signed),
        instance=instance,
        replaces=replaces,
    )


def check_hello(
    hello: Hello, role: HelloRole, network_id: bytes, exporter: bytes, own_id: bytes, peer_id: bytes
) -> int:
    """Check what can be checked without membership; return the session version to speak.

    Raises: MalformedMessage, LimitExceeded, or RemoteFault with code `network`, `version` or
    `channel_binding`.
    """
    check_length("network", hello.network, 32)
    check_length("head", hello.head, 32)
    check_length("signature", hello.signature, 64)
    check_length("instance", hello.instance, INSTANCE_BYTES)
    if not 1 <= len(hello.versions) <= VERSIONS_LIMIT or not all(0 < v < 65536 for v in hello.versions):
        raise MalformedMessage("a hello with an impossible list of versions")
    if len(hello.entries) > HELLO_ENTRIES or sum(map(len, hello.entries)) > HELLO_ENTRIES_BYTES:
        raise LimitExceeded("a hello with too many entries")
    if not hmac.compare_digest(hello.network, network_id):
        raise RemoteFault("The peer is in another network", peer=peer_id, code="network")
    initiator, responder = (peer_id, own_id) if role is HelloRole.INITIATOR else (own_id, peer_id)
    signed = make_signed_bytes(role, network_id, exporter, initiator, responder, hello.head, hello.versions)
    if not verify(peer_id, hello.signature, signed):
        raise RemoteFault(
            "The peer's hello is not for this connection",
            peer=peer_id,
            cause="its signature does not cover this channel: somebody may sit in between",
            code="channel_binding",
        )
    common = set(hello.versions) & set(VERSIONS)
    if not common:
        raise RemoteFault(
            "The peer speaks no session version we know",
            peer=peer_id,
            cause=f"it speaks {hello.versions}, we speak {list(VERSIONS)}",
            next_step="upgrade the older of the two",
            code="version",
        )
    return max(common)
