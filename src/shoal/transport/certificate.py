"""Certificate: the self-signed Ed25519 certificate that carries a peer id through TLS."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from shoal.core.errors import RemoteFault
from shoal.identity.keys import is_valid_peer_id

_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shoal")])
_NOT_BEFORE = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def make_certificate(key: Ed25519PrivateKey) -> x509.Certificate:
    """Return the certificate of a device key: the same bytes at each start, nothing in it but the key.

    Its dates mean nothing (no rule depends on a clock); membership decides how long a key is good.
    """
    return (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .sign(key, None)
    )


def parse_peer_id(certificate: x509.Certificate | None) -> bytes:
    """Return the peer id a certificate carries; TLS has proved that its sender holds the key.

    Raises: RemoteFault for anything but a valid Ed25519 key of prime order.
    """
    if certificate is None:
        raise RemoteFault("The peer showed no certificate", code="certificate")
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise RemoteFault("The peer's certificate holds no usable key", code="certificate") from error
    if not isinstance(key, Ed25519PublicKey):
        raise RemoteFault(
            "The peer's certificate is of the wrong kind",
            cause="only Ed25519 is accepted",
            code="certificate",
        )
    peer_id = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    if not is_valid_peer_id(peer_id):
        raise RemoteFault("The peer's key is not a valid Ed25519 key", code="certificate")
    return peer_id
