"""TLS: the two OpenSSL contexts of a node, and what every finished handshake must look like.

TLS 1.3 only, mutual Ed25519 certificates, X25519MLKEM768 required, no resumption of any kind: a resumed
handshake would skip the verify callback and the certificate. Membership is decided after the handshake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509

from shoal.core.errors import ConfigFault, RemoteFault
from shoal.identity.keys import DeviceKeys
from shoal.transport.certificate import make_certificate, parse_peer_id

GROUP = "X25519MLKEM768"
SIGNATURE_ALGORITHM = "ed25519"
ALERT_NO_PROTOCOL = bytes.fromhex("15030300020278")  # fatal no_application_protocol: 7 bytes, in the clear

AlpnCallback = Callable[[SSL.Connection, list[bytes]], bytes]


class TlsContexts:
    """One context for accepting and one for dialling, with the same certificate."""

    def __init__(self, keys: DeviceKeys, on_alpn: AlpnCallback) -> None:
        self.verify_calls = 0  # how often a certificate was looked at; tests compare it with handshakes
        self._server = self._make(keys, self._on_certificate)
        self._server.set_alpn_select_callback(on_alpn)
        self._client = self._make(keys, self._on_server_certificate)

    def accept(self, app_data: object) -> SSL.Connection:
        """Return a connection that waits for a ClientHello; the ALPN callback finds `app_data` on it."""
        connection = SSL.Connection(self._server, None)
        connection.set_app_data(app_data)
        connection.set_accept_state()
        return connection

    def dial(self, expected: bytes | None, alpn: bytes) -> SSL.Connection:
        """Return a connection that will offer `alpn` and nothing else, and show itself to `expected` only.

        None: to whoever answers, which only a joiner by typed code wants.
        """
        connection = SSL.Connection(self._client, None)
        connection.set_app_data(expected)
        connection.set_alpn_protos([alpn])
        connection.set_connect_state()
        return connection

    def _make(self, keys: DeviceKeys, on_certificate: Callable[..., bool]) -> SSL.Context:
        key = keys.tls_key()
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        # both, or a second handshake resumes (architecture.md section 3); and no session id context
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.use_certificate(make_certificate(key))
        context.use_privatekey(key)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, on_certificate)
        _restrict(context)
        return context

    def _on_certificate(self, *_: Any) -> bool:
        self.verify_calls += 1
        return True  # self-signed by design; check_handshake and the hello decide

    def _on_server_certificate(self, connection: SSL.Connection, certificate: X509, *_: Any) -> bool:
        """Refuse any key but the one that was dialled before our own certificate says who dialled."""
        self.verify_calls += 1
        try:
            found = parse_peer_id(certificate.to_cryptography())
        except (RemoteFault, ValueError):
            return False
        expected = connection.get_app_data()
        return expected is None or bool(found == expected)


def check_handshake(connection: SSL.Connection) -> bytes:
    """Return the peer id at the other end of a finished handshake.

    Raises: RemoteFault for another version or group, a resumed session, or a key that is not Ed25519.
    """
    if connection.get_protocol_version_name() != "TLSv1.3":
        raise RemoteFault("The peer did not speak TLS 1.3", code="tls_version")
    group = connection.get_group_name()
    if group != GROUP:
        raise RemoteFault(
            "The peer did not agree on the hybrid key exchange", cause=f"it chose {group}", code="tls_group"
        )
    if _library().SSL_session_reused(connection._ssl):
        raise RemoteFault("The handshake resumed an old session", code="tls_resumed")
    try:
        certificate = connection.get_peer_certificate(as_cryptography=True)
    except ValueError as error:
        raise RemoteFault("The peer's certificate cannot be read", code="certificate") from error
    if certificate is not None and not isinstance(certificate, x509.Certificate):
        raise RemoteFault("The peer's certificate cannot be read", code="certificate")
    return parse_peer_id(certificate)


def _restrict(context: SSL.Context) -> None:
    """Offer and accept one group and one signature algorithm.

    pyOpenSSL has no method for either; `check_handshake` would find out too, but later and after RSA-16384
    or P-521 had cost us their verification.
    """
    library = _library()
    if library.SSL_CTX_set1_curves_list(context._context, GROUP.encode()) != 1:
        raise _lacks(GROUP)
    if library.SSL_CTX_set1_sigalgs_list(context._context, SIGNATURE_ALGORITHM.encode()) != 1:
        raise _lacks(SIGNATURE_ALGORITHM)


def _library() -> Any:
    return SSL._lib  # type: ignore[attr-defined]  # pyOpenSSL is pinned; the functions have no public names


def _lacks(name: str) -> ConfigFault:
    return ConfigFault(
        "Sessions cannot be protected",
        cause=f"the installed OpenSSL has no {name}",
        next_step="install the pinned requirements",
    )
