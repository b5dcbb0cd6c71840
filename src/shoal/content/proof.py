"""Proof: shows a peer that we hold a share's link, without showing the link.

proof = keyed BLAKE3(derive_key("shoal v1 proof", read key), exporter || share id || prover key || verifier
key)

The exporter (32 bytes, label EXPORTER_LABEL, context = network id) binds it to one session, the order of
the two keys to one direction: a proof that was received cannot be sent back. Both ends prove before open
chunks flow.
"""

from __future__ import annotations

import hmac
from typing import Final

from blake3 import blake3

from shoal.core.errors import LocalMisuse
from shoal.identity.secrets import Context, derive

EXPORTER_LABEL: Final = "EXPORTER-shoal-fetch/1"
PROOF_BYTES: Final = 32


def make_fetch_proof(
    read_key: bytes, exporter: bytes, share_id: bytes, prover: bytes, verifier: bytes
) -> bytes:
    """Return what `prover` sends to `verifier`. All arguments have 32 bytes."""
    parts = (exporter, share_id, prover, verifier)
    if any(len(part) != 32 for part in (read_key, *parts)):
        raise LocalMisuse("a fetch proof is made of values of 32 bytes")
    return blake3(b"".join(parts), key=derive(Context.PROOF, read_key)).digest()


def check_fetch_proof(
    proof: bytes, read_key: bytes, exporter: bytes, share_id: bytes, prover: bytes, verifier: bytes
) -> bool:
    """Tell whether `proof` is the one that `prover` must send to `verifier`; takes the same time for all."""
    expected = make_fetch_proof(read_key, exporter, share_id, prover, verifier)
    return hmac.compare_digest(proof, expected)
