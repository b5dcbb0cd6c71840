"""Channel: TLS over a memory BIO on the node's loop: bytes in, bytes out, one Connection on one thread.

Writes of one turn of the loop travel in as few TLS records as possible. Nothing is shown to who connects
before the knock was right: what OpenSSL would send until then is thrown away, except its 7-byte alert.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from OpenSSL import SSL

from shoal.core.errors import LimitExceeded, LocalMisuse, Refused, RemoteFault, ShoalError, Unavailable
from shoal.transport.address import Address
from shoal.transport.config import AdmissionLimits
from shoal.transport.knock import KnockRefused, KnockVerdict
from shoal.transport.tls import ALERT_NO_PROTOCOL, check_handshake

RECORD_BYTES = 16 * 1024  # plaintext of one TLS record
WRITE_HIGH_BYTES = 256 * 1024  # beyond it `drain` waits
LAST_WORDS_S = 1.0  # what was written before the channel was lost (an alert) may take this long
EARLY_BYTES = 192 * 1024  # received before anybody reads: two hellos' worth and some frames


class TlsChannel(asyncio.Protocol):
    """One TLS connection. Expects `wait_open` to be awaited once, then `start` to be called.

    `on_data` gets decrypted bytes; `on_lost` is called once when the connection ends by the other end, the
    network or a fault, never after our own `close` or `abort`.
    """

    def __init__(
        self,
        make_tls: Callable[[TlsChannel], SSL.Connection],
        is_server: bool,
        monotonic: Callable[[], float],
        limits: AdmissionLimits,
    ) -> None:
        self.is_server = is_server
        self.verdict: KnockVerdict | None = None  # set by the ALPN callback of the accepting end
        self.peer_id = b""  # known once open
        self.records_sent = 0
        self.records_received = 0
        self.bytes_received = 0
        self.last_received_at = monotonic()
        self.closed = False
        self._monotonic = monotonic
        self._limits = limits
        self._tls = make_tls(self)
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._is_open = False
        self._transport: asyncio.Transport | None = None
        self._sent_bytes = 0
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._flush_due = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._early = bytearray()
        self._on_data: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[ShoalError], None] | None = None
        self._lost: ShoalError | None = None

    # -- for the owner ---------------------------------------------------------------------------------

    async def wait_open(self) -> bytes:
        """Wait for the handshake and return the peer id. Cancelling leaves the channel as it is: abort it.

        Raises: Refused (knock), RemoteFault (what the peer did), Unavailable (the connection ended).
        """
        await asyncio.shield(self._opened)
        return self.peer_id

    def start(self, on_data: Callable[[bytes], None], on_lost: Callable[[ShoalError], None]) -> None:
        """Hand over what arrives from now on and what arrived already; again to change hands."""
        self._on_data, self._on_lost = on_data, on_lost
        if self._early:
            early, self._early = bytes(self._early), bytearray()
            on_data(early)
        if self._lost is not None and not self.closed:
            self.closed = True
            on_lost(self._lost)

    def exporter(self, label: bytes, context: bytes, length: int) -> bytes:
        """Return keying material that only the two ends of this channel know (RFC 8446, 7.5)."""
        if not self._is_open:
            raise LocalMisuse("the exporter was asked before the handshake had ended")
        return bytes(self._tls.export_keying_material(label, length, context))

    @property
    def own_host(self) -> str:
        """Our address on this connection, without scope; empty before it is made."""
        name = None if self._transport is None else self._transport.get_extra_info("sockname")
        return "" if not name else Address.from_socket(name).host.partition("%")[0]

    @property
    def far_end(self) -> Address | None:
        """The other end of this connection, as this machine sees it; None before it is made."""
        name = None if self._transport is None else self._transport.get_extra_info("peername")
        return Address.from_socket(name) if name else None

    @property
    def alpn(self) -> bytes:
        """The protocol name that was agreed on."""
        return bytes(self._tls.get_alpn_proto_negotiated())

    @property
    def buffered_bytes(self) -> int:
        """What was written here and not yet taken by the network."""
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._queued_bytes + waiting

    def write(self, data: bytes) -> None:
        """Send bytes, in order, at the end of this turn of the loop; dropped when closed."""
        if self.closed or self._lost is not None:
            return
        self._queue.append(data)
        self._queued_bytes += len(data)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    async def drain(self) -> None:
        """Wait until less than WRITE_HIGH_BYTES wait to be sent, or the channel ended. Cancelling is safe."""
        await self._writable.wait()

    def close(self, timeout_s: float) -> None:
        """Send what is queued and the TLS end, then close; what is not taken in `timeout_s` is lost."""
        if self.closed:
            return
        self._flush()
        self.closed = True
        self._writable.set()
        if self._transport is None:
            return
        if self._is_open and self._lost is None:
            try:
                self._tls.shutdown()
            except SSL.Error:
                pass  # the other end is gone already
            self._send_ciphertext()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(timeout_s, self._transport.abort)

    def abort(self) -> None:
        """Close at once; what is queued is lost. Idempotent."""
        self.closed = True
        self._writable.set()
        if self._transport is not None:
            self._transport.abort()
        self._settle_opened(Unavailable("The connection was closed", code="closed"))

    # -- asyncio.Protocol ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = tcp = cast(asyncio.Transport, transport)
        tcp.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        if self.closed:
            tcp.abort()
        elif not self.is_server:
            self._handshake()

    def data_received(self, data: bytes) -> None:
        if self.closed or self._lost is not None:
            return
        self.last_received_at = self._monotonic()
        self.bytes_received += len(data)
        self._tls.bio_write(data)
        if not self._is_open:
            if self.bytes_received > self._limits.handshake_bytes and not self._may_hold_early_data():
                self._fail(LimitExceeded("too many bytes before the peer is known"))
                return
            self._handshake()
        if self._is_open:
            self._read()

    def eof_received(self) -> bool:
        return False  # close; connection_lost follows

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        cause = str(exc) if exc else "the other end closed the connection"
        self._end(Unavailable("The connection ended", cause=cause, code="reset"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- inside ----------------------------------------------------------------------------------------

    def _may_hold_early_data(self) -> bool:
        # a read may bring the last flight of the handshake and the first messages of a quick peer at once
        return self.verdict is not None and self.bytes_received <= self._limits.handshake_bytes + EARLY_BYTES

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._send_handshake()
            return
        except KnockRefused as error:
            self._send_ciphertext()
            self._fail(RemoteFault("The knock was refused", cause=str(error), code="knock"))
            return
        except SSL.Error as error:
            self._send_ciphertext()
            self._fail(self._judge_tls_error(error))
            return
        self._send_handshake()
        if self._lost is not None:
            return
        try:
            self.peer_id = check_handshake(self._tls)
        except RemoteFault as error:
            self._fail(error)
            return
        self._is_open = True
        if not self._opened.done():
            self._opened.set_result(None)

    def _send_handshake(self) -> None:
        if self.is_server and self.verdict is None:
            # OpenSSL wants to answer a ClientHello without ALPN, or ask for another key share: we do not
            if self._take_ciphertext() and self._transport is not None:
                self._transport.write(ALERT_NO_PROTOCOL)
                self._fail(RemoteFault("The knock was refused", cause="no knock", code="knock"))
            return
        self._send_ciphertext()
        if self.is_server and self._sent_bytes > self._limits.sent_before_certificate_bytes:
            self._fail(LimitExceeded("the handshake asked for more than is sent to a stranger"))

    def _read(self) -> None:
        while not self.closed:
            try:
                data = self._tls.recv(RECORD_BYTES)
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self._end(Unavailable("The peer closed the connection", code="reset"))
                return
            except SSL.Error as error:
                self._send_ciphertext()
                self._fail(self._judge_tls_error(error))
                return
            self.records_received += 1
            if self._on_data is not None:
                self._on_data(data)
            elif len(self._early) + len(data) > EARLY_BYTES:
                self._fail(LimitExceeded("too many bytes before the hello"))
                return
            else:
                self._early += data
        if not self.closed:
            self._send_ciphertext()  # answers to post-handshake messages

    def _flush(self) -> None:
        self._flush_due = False
        if not self._queue or self.closed or self._lost is not None or not self._is_open:
            self._queue.clear()
            self._queued_bytes = 0
            return
        data = self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        view = memoryview(data)
        try:
            for start in range(0, len(data), RECORD_BYTES):
                self._tls.send(view[start : start + RECORD_BYTES])
                self.records_sent += 1
        except SSL.Error as error:
            self._fail(self._judge_tls_error(error))
            return
        self._send_ciphertext()

    def _take_ciphertext(self) -> bytes:
        parts: list[bytes] = []
        while True:
            try:
                parts.append(self._tls.bio_read(2 * RECORD_BYTES))
            except SSL.WantReadError:
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _send_ciphertext(self) -> None:
        data = self._take_ciphertext()
        if data and self._transport is not None:
            self._sent_bytes += len(data)
            self._transport.write(data)

    def _judge_tls_error(self, error: SSL.Error) -> ShoalError:
        reasons = ", ".join(str(part[-1]) for part in error.args[0]) if _has_reasons(error) else str(error)
        if not self.is_server and not self._is_open and "no application protocol" in reasons:
            return Refused(
                "The peer did not let us in",
                cause="it does not know our network's door key, or another device has its address now",
                code="knock",
            )
        if not self.is_server and "certificate verify failed" in reasons:
            cause = "its key is not the one that was dialled"
            return RemoteFault("Another device answered", cause=cause, code="wrong_peer")
        return RemoteFault("The peer broke TLS", cause=reasons[:200], code="tls")

    def _fail(self, error: ShoalError) -> None:
        """End by a fault: what was sent so far (an alert) goes out, then the connection closes."""
        self._end(error)

    def _end(self, error: ShoalError) -> None:
        if self.closed or self._lost is not None:
            return
        self._lost = error
        self._writable.set()
        self._settle_opened(error)
        if self._transport is not None:
            self._transport.close()
            if self._transport.get_write_buffer_size():  # or who never reads would keep the socket for ever
                self._loop.call_later(LAST_WORDS_S, self._transport.abort)
        if self._on_lost is not None:
            self.closed = True
            self._on_lost(error)

    def _settle_opened(self, error: ShoalError) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # marked as seen: whoever waits gets it anyway


def _has_reasons(error: SSL.Error) -> bool:
    return bool(error.args) and isinstance(error.args[0], list)
