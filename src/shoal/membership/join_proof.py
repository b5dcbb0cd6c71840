"""Join proof: shows to the inviter that the joiner holds the ticket, without sending its secret."""

from __future__ import annotations

from typing import Protocol

from blake3 import blake3

from shoal.identity.secrets import Context, derive

EXPORTER_LABEL = b"EXPORTER-shoal-join/1"
EXPORTER_BYTES = 32


class HasExporter(Protocol):
    """A TLS channel's exporter."""

    def exporter(self, label: bytes, context: bytes, length: int) -> bytes:
        """Return keying material that only the two ends know."""
        ...


def export_for_join(channel: HasExporter, network_id: bytes) -> bytes:
    """Return the channel's exporter value that the proof covers; its context is the network id."""
    return channel.exporter(EXPORTER_LABEL, network_id, EXPORTER_BYTES)


def make_join_proof(
    ticket_secret: bytes, exported: bytes, joiner: bytes, inviter: bytes, invite_id: bytes
) -> bytes:
    """Return keyed BLAKE3(derive_key(join proof, ticket secret), exporter || joiner || inviter || invite id).

    Joiner and inviter stand in this order, never sorted: a proof cannot be sent back to who made it.
    """
    key = derive(Context.JOIN_PROOF, ticket_secret)
    return blake3(exported + joiner + inviter + invite_id, key=key).digest()
