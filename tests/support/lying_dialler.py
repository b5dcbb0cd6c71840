"""Lying dialler: a TLS client that does to a transport whatever a test wants; counts what it is shown."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from tests.support.transport_nodes import DOOR_KEY, NETWORK, TransportNode

from shoal.identity.keys import DeviceKeys
from shoal.transport.certificate import make_certificate
from shoal.transport.hello import LABEL, HelloRole, make_hello
from shoal.transport.knock import make_knock
from shoal.transport.messages import Hello
from shoal.wire.codec import encode
from shoal.wire.frames import Frame, FrameKind, FrameReader, pack_frame
from shoal.wire.registry import ServiceNumber

GONE = "gone"


def make_context(key=None, certificate=None, groups: str = "X25519MLKEM768") -> SSL.Context:
    """A client context without our restrictions: tickets, any signature algorithm, chosen groups."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    if key is not None:
        context.use_certificate(certificate or make_certificate(key))
        context.use_privatekey(key)
    assert SSL._lib.SSL_CTX_set1_curves_list(context._context, groups.encode()) == 1
    return context


def make_foreign_certificate(key, algorithm) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shoal")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 1, 1, tzinfo=UTC))
        .sign(key, algorithm)
    )


def make_alpn(node: TransportNode, door_key: bytes = DOOR_KEY, nonce: bytes | None = None) -> bytes:
    return make_knock(door_key, nonce or secrets.token_bytes(16), node.peer_id).name


class LyingDialler:
    """One connection. `shown` counts the bytes the node sent; `alive` is false once it closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: SSL.Connection):
        self.reader, self.writer, self.tls = reader, writer, tls
        self.shown = b""
        self.frames = FrameReader()
        self.waiting: list[Frame] = []

    @classmethod
    async def connect(cls, node: TransportNode, context: SSL.Context, alpn: list[bytes]) -> LyingDialler:
        reader, writer = await asyncio.open_connection(node.address.host, node.address.port)
        tls = SSL.Connection(context, None)
        if alpn:
            tls.set_alpn_protos(alpn)
        tls.set_connect_state()
        return cls(reader, writer, tls)

    @classmethod
    async def member(
        cls, node: TransportNode, keys: DeviceKeys, groups: str = "X25519MLKEM768"
    ) -> LyingDialler:
        """Connect with a right knock and finish TLS."""
        liar = await cls.connect(node, make_context(keys.tls_key(), groups=groups), [make_alpn(node)])
        assert await liar.handshake()
        return liar

    async def handshake(self) -> bool:
        """Run the handshake; return whether it was finished by our side."""
        while True:
            try:
                self.tls.do_handshake()
            except SSL.WantReadError:
                await self.flush()
                if not await self.pump():
                    return False
                continue
            except SSL.Error:
                await self.flush()
                return False
            await self.flush()
            return True

    def pending_output(self) -> bytes:
        try:
            return self.tls.bio_read(65536)
        except SSL.WantReadError:
            return b""

    async def flush(self) -> None:
        data = self.pending_output()
        if data:
            self.writer.write(data)
            try:
                await self.writer.drain()
            except OSError:
                pass

    async def pump(self, timeout_s: float = 5.0) -> bool:
        """Feed TLS with what comes; return False at the end of the connection."""
        try:
            data = await asyncio.wait_for(self.reader.read(65536), timeout_s)
        except OSError:
            data = b""
        self.shown += data
        if data:
            self.tls.bio_write(data)
        return bool(data)

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), 16384):
            self.tls.send(data[start : start + 16384])
        await self.flush()

    async def send_frame(
        self, kind: FrameKind, service: int, number: int, ident: int, payload: bytes
    ) -> None:
        await self.send(pack_frame(Frame(kind, service, number, ident, payload)))

    def make_hello(self, node: TransportNode, keys: DeviceKeys, **changes: object) -> Hello:
        exporter = changes.pop("exporter", None) or self.tls.export_keying_material(LABEL, 32, NETWORK)
        network = changes.pop("network", NETWORK)
        role = changes.pop("role", HelloRole.INITIATOR)
        return make_hello(
            keys, role, network, exporter, node.peer_id, b"\0" * 32, changes.pop("entries", []), b"i" * 16
        )

    async def say_hello(self, node: TransportNode, keys: DeviceKeys, **changes: object) -> None:
        hello = self.make_hello(node, keys, **changes)
        await self.send_frame(FrameKind.REQUEST, ServiceNumber.SESSION, 2, 1, encode(hello))

    async def next_frame(self, timeout_s: float = 5.0) -> Frame | str:
        """Return the next frame the node sends, or GONE."""
        while not self.waiting:
            try:
                self.waiting += self.frames.feed(self.tls.recv(65536))
            except SSL.WantReadError:
                await self.flush()
                if not await self.pump(timeout_s):
                    return GONE
            except SSL.Error:
                return GONE
        return self.waiting.pop(0)

    async def be_session(self, node: TransportNode, keys: DeviceKeys) -> None:
        """Say hello and read the answer and Settled."""
        await self.say_hello(node, keys)
        hello, settled = await self.next_frame(), await self.next_frame()
        assert isinstance(hello, Frame)
        assert isinstance(settled, Frame)
        assert (hello.kind, hello.message_type, settled.message_type) == (FrameKind.RESPONSE, 2, 4)

    async def wait_gone(self, timeout_s: float = 5.0) -> bool:
        """Read until the node closes; frames are dropped."""
        while isinstance(await self.next_frame(timeout_s), Frame):
            pass
        return True

    def close(self) -> None:
        self.writer.close()
