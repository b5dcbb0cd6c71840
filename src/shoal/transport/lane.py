"""Lane: one authenticated bulk connection, driven by one thread with fixed buffers.

The thread that owns a lane runs to completion: fill `plaintext`, `send`, again; or `receive`, use the view,
again. Nothing is allocated for a record. `close` may be called by any other thread and wakes this one.

Measured by `.venv/bin/python -m tools.measure_lane` (one lane, both ends in one process on 2 cores, loopback,
AES-256-GCM and sockets only, no disk, no hashing): 512 KiB records 4235 MiB/s at 0.42 CPU seconds a GiB for
both ends on a quiet machine, 907 at 0.62 beside other work (load 3.9). More in spec/lane.md.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from shoal.core.errors import LocalMisuse, RemoteFault, Unavailable
from shoal.core.stages import StageClock
from shoal.transport.lane_record import (
    HEADER_BYTES,
    RECORD_BYTES,
    TAG_BYTES,
    RecordOpener,
    RecordSealer,
    RecordType,
    parse_header,
)
from shoal.wire.limits import LANE_RECORD_PLAINTEXT_BYTES

PROGRESS_WINDOW_S = (
    30.0  # a record under way has to advance by PROGRESS_BYTES in each such window, or be complete
)
PROGRESS_BYTES = 32 * 1024  # about 1 KiB/s: slower than any line on which a lane makes sense
POLL_S = 5.0  # longest single system call; how late a window's end may be noticed
SLOW_BYTES_S = 4 * 1024 * 1024  # after a record that came slower the next one is received in pieces
SLOW_PIECE_BYTES = 64 * 1024  # so that its progress shows: where a limit is set, a record may take a minute
BUFFER_BYTES = RECORD_BYTES + LANE_RECORD_PLAINTEXT_BYTES  # kept for one direction in use, at most

SQUEEZED_BYTES = 128 * 1024  # what a receiving socket has at first on Linux: two segments of loopback
AMPLE_BYTES = 8 * 1024 * 1024  # asked for when a lane is not held back any more; the kernel gives what it may

_EMPTY = memoryview(b"")
_TCP_NOTSENT_LOWAT = 25  # of Linux; the socket module names it from 3.12 on
_UNSENT_BYTES = 256 * 1024  # more leaves the cache before it is read: 10 % of the rate (docs/pipeline.md)
_ROUND_TRIP_S = 0.15  # where the system does not tell; a long way over land
_TCP_INFO_RTT = struct.Struct("=68xI")  # struct tcp_info of Linux up to tcpi_rtt, microseconds


class Pace(Protocol):
    """How fast a lane's bytes may move. Read and called by the lane's thread; `close` by any."""

    is_open: bool  # nothing holds the lane back: it need not ask
    slow_bytes_s: float  # what it can expect while it has to ask, if that is little; else 0

    def take(self, wanted_bytes: int) -> int:
        """Wait until some of `wanted_bytes` may move; return how many, 0 once closed."""
        ...

    def close(self) -> None:
        """Let a waiting `take` return 0, and every later one; idempotent, must be short."""
        ...


class _Window:
    """The minimum progress rule for the record under way; `restart` for each."""

    __slots__ = ("_bytes", "_limit_s", "_until")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._until = 0.0
        self._bytes = 0

    def restart(self) -> None:
        """Begin with another record."""
        self._until = time.monotonic() + self._limit_s
        self._bytes = 0

    def advance(self, count: int) -> bool:
        """Count bytes that moved; return False when a window ended with too few."""
        self._bytes += count
        now = time.monotonic()
        if now < self._until:
            return True
        if self._bytes < PROGRESS_BYTES:
            return False
        self._until = now + self._limit_s
        self._bytes = 0
        return True

    def excuse(self, seconds: float) -> None:
        """Leave out time in which this end did not let the peer advance."""
        self._until += seconds


class Lane:
    """A blocking, encrypted byte-record channel to one peer, for one thread at a time.

    Expects a connected TCP socket on which both OPEN records have passed, and the two directions' sealer and
    opener. It owns the socket from then on. A lane usually carries data one way; the other direction
    stays open for its END. Buffers (2.1 MiB a direction) are made at the first use of a direction.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        lane_id: bytes,
        session_peer: bytes,
        sealer: RecordSealer,
        opener: RecordOpener,
        sends: bool,
        on_closed: Callable[[Lane], None] | None = None,
        window_s: float = PROGRESS_WINDOW_S,
    ) -> None:
        self.lane_id = lane_id
        self.session_peer = session_peer
        self.sends = sends  # whether this end sends the bulk data: what both ends agreed on
        self._sock = sock
        self._sealer = sealer
        self._opener = opener
        self._on_closed = on_closed
        self._window = _Window(window_s)
        self._lock = threading.Lock()
        self._in_call = False
        self.stages: StageClock | None = None  # set by the thread that wants to know where its time goes
        self.pace: Pace | None = None  # set before the first record by who wants to limit it
        self.moved_bytes = 0  # of records on the wire, both ways, those under way included
        self._slow = False
        self._squeezed_to = 0.0
        self._closed = False
        self._fd_closed = False
        self._out = _EMPTY
        self._plaintext = _EMPTY
        self._sealed = _EMPTY
        self._opened = _EMPTY
        self._header = memoryview(bytearray(HEADER_BYTES))
        tune_socket(sock, min(POLL_S, window_s))

    @property
    def plaintext(self) -> memoryview:
        """The kept send buffer of 1 MiB + 4 KiB: fill its start, then `send(length)`."""
        if not self._plaintext:
            self._plaintext = memoryview(bytearray(LANE_RECORD_PLAINTEXT_BYTES))
            self._out = memoryview(bytearray(RECORD_BYTES))
        return self._plaintext

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called, here or by the end of the session."""
        return self._closed

    @property
    def is_spent(self) -> bool:
        """Whether the sender should `finish` and open a new lane (64 GiB or 2^32 records)."""
        return self._sealer.is_spent

    @property
    def sent_bytes(self) -> int:
        """Plaintext bytes sealed so far."""
        return self._sealer.plaintext_bytes

    @property
    def received_bytes(self) -> int:
        """Plaintext bytes verified so far."""
        return self._opener.plaintext_bytes

    @property
    def buffer_bytes(self) -> int:
        """Memory held by the buffers of both directions now."""
        return sum(map(len, (self._out, self._plaintext, self._sealed, self._opened)))

    def send(self, length: int) -> None:
        """Seal and send the first `length` bytes of `plaintext` (1 .. 1 MiB + 4 KiB); may block.

        Raises: RemoteFault (`lane_slow`, `lane_reset`) when the peer takes too little or is gone,
        Unavailable (`lane_closed`) when this side closed it: the lane is closed after each. Unavailable
        (`lane_spent`) beyond 64 GiB: `finish` it and open a new one.
        """
        plaintext = self.plaintext[:length]
        if len(plaintext) != length:
            raise LocalMisuse(f"a lane record of {length} bytes is over the limit")
        self._send_record(RecordType.DATA, plaintext)

    def send_record(self, *parts: bytes | bytearray | memoryview) -> None:
        """Copy `parts` together and send them as one record; for what is small or not in one place."""
        buffer, end = self.plaintext, 0
        for part in parts:
            size = memoryview(part).nbytes
            if end + size > len(buffer):
                raise LocalMisuse("a lane record over the limit")
            buffer[end : end + size] = part
            end += size
        self.send(end)

    def finish(self) -> None:
        """Send END: the peer's `receive` returns None after what was sent before. Raises: as `send`."""
        if not self._out:
            self._out = memoryview(bytearray(HEADER_BYTES + TAG_BYTES))
            self._send_record(RecordType.END, _EMPTY)
            self._out = _EMPTY
        else:
            self._send_record(RecordType.END, _EMPTY)

    def receive(self) -> memoryview | None:
        """Return the next record's plaintext, valid until the next call, or None after the peer's END.

        Waits without a limit for a record to begin: who has nothing to say is not at fault, and a dead peer
        ends the session, which closes its lanes. Once begun a record has to advance.
        Raises: RemoteFault (`lane_truncated` for an end without END, `lane_slow`, `lane_tag`, `malformed`,
        `limit_exceeded`), Unavailable (`lane_closed`). The lane is closed after each of them.
        """
        if not self._sealed:
            self._sealed = memoryview(bytearray(LANE_RECORD_PLAINTEXT_BYTES + TAG_BYTES))
            self._opened = memoryview(bytearray(LANE_RECORD_PLAINTEXT_BYTES))
        if self._opener.ended:
            return None
        self._enter()
        try:
            self._receive_exactly(self._header, may_idle=True)
            _, length = parse_header(self._header)
            sealed = self._sealed[:length]
            began = time.monotonic()
            self._receive_exactly(sealed, may_idle=False)
            self._slow = (time.monotonic() - began) * SLOW_BYTES_S > length
            self._mark("receive")
            kind = self._opener.open_into(self._header, sealed, self._opened)
            self._mark("open")
        except (RemoteFault, OSError) as error:
            self._fail(error)
        finally:
            self._leave()
        return None if kind is RecordType.END else self._opened[: length - TAG_BYTES]

    def limit_unsent(self, size_bytes: int) -> None:
        """Let no more than about this wait in the kernel before it is sent; 0: as usual.

        For the lane's thread. On Linux; elsewhere nothing changes.
        """
        if not self._closed and sys.platform.startswith("linux"):
            with contextlib.suppress(OSError):  # the lane was closed meanwhile
                self._sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, size_bytes or _UNSENT_BYTES)

    def close(self) -> None:
        """End the lane now; idempotent, any thread. A thread blocked in `send` or `receive` gets Unavailable.

        What `send` and `finish` returned for is still delivered by the kernel where the peer reads.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that is blocked in it
            except OSError:
                pass  # the peer was faster
        if self.pace is not None:
            self.pace.close()
        self._release()
        if self._on_closed is not None:
            self._on_closed(self)

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send_record(self, kind: RecordType, plaintext: memoryview) -> None:
        self._enter()
        try:
            end = self._sealer.seal_into(kind, plaintext, self._out)
            self._mark("protect")
            self._send_all(self._out[:end])
            self._mark("send")
        except (RemoteFault, OSError) as error:
            self._fail(error)
        finally:
            self._leave()

    def _send_all(self, data: memoryview) -> None:
        window, granted = self._window, 0
        window.restart()
        while data:
            granted = granted or self._wait_turn(len(data), window)
            try:
                count = self._sock.send(data[:granted])
            except BlockingIOError:  # SO_SNDTIMEO passed and nothing moved
                count = 0
            data = data[count:]
            granted -= count
            self.moved_bytes += count
            if data and not window.advance(count):
                raise RemoteFault(
                    "A lane was given up",
                    cause="the peer takes too little",
                    code="lane_slow",
                    peer=self.session_peer,
                )

    def _receive_exactly(self, into: memoryview, *, may_idle: bool) -> None:
        done, granted = 0, len(into) if may_idle else 0
        window = self._window
        if not may_idle:
            window.restart()
        while done < len(into):
            granted = granted or self._wait_turn(len(into) - done, window)
            piece = min(granted, SLOW_PIECE_BYTES) if self._slow else granted
            try:
                count = self._sock.recv_into(into[done : done + piece], 0, socket.MSG_WAITALL)
                if count == 0:
                    raise RemoteFault(
                        "A lane ended early",
                        cause="the stream ended without its END record",
                        code="lane_truncated",
                        peer=self.session_peer,
                    )
            except BlockingIOError:  # SO_RCVTIMEO passed and nothing came
                count = 0
                if may_idle and done == 0:
                    continue
            if may_idle and done == 0:
                window.restart()  # before, nothing was under way
            done += count
            granted -= count
            self.moved_bytes += count
            if done < len(into) and not window.advance(count):
                raise RemoteFault(
                    "A lane was given up",
                    cause="the peer sends too little",
                    code="lane_slow",
                    peer=self.session_peer,
                )

    def _wait_turn(self, wanted_bytes: int, window: _Window) -> int:
        """Return how many bytes may move now. Raises: Unavailable when the lane was closed meanwhile."""
        pace = self.pace
        if pace is None or pace.is_open:
            if self._squeezed_to:
                self._squeeze(0.0)
            return wanted_bytes
        if not self.sends:
            self._squeeze(pace.slow_bytes_s)
        began = time.monotonic()
        granted = pace.take(wanted_bytes)
        window.excuse(time.monotonic() - began)
        if not granted:
            raise _closed_here()
        return granted

    def _squeeze(self, rate_bytes_s: float) -> None:
        """Let no more wait in the kernel to be received than a slow rate needs; 0: as much as it may.

        A limit holds without it as well, but what comes over the line may be a megabyte ahead or behind. The
        kernel does not tune this lane's buffer any more then, also once it is released.
        """
        if rate_bytes_s == self._squeezed_to:
            return
        self._squeezed_to = rate_bytes_s
        size_bytes = AMPLE_BYTES
        if rate_bytes_s:
            size_bytes = SQUEEZED_BYTES + int(2 * rate_bytes_s * _find_round_trip_s(self._sock))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes // 2)  # the kernel doubles it

    def _mark(self, stage: str) -> None:
        if self.stages is not None:
            self.stages.mark(stage)

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise _closed_here()
            if self._in_call:
                raise LocalMisuse("a lane is for one thread")
            self._in_call = True

    def _leave(self) -> None:
        with self._lock:
            self._in_call = False
            if not self._closed:
                return
        self._release()

    def _release(self) -> None:
        """Close the descriptor once nobody is inside a system call on it: its number is used again."""
        with self._lock:
            if not self._closed or self._in_call or self._fd_closed:
                return
            self._fd_closed = True
        self._sock.close()

    def _fail(self, error: RemoteFault | OSError) -> NoReturn:
        """Close the lane and raise what its thread has to know."""
        closed_here = self._closed
        self.close()
        if closed_here:
            raise _closed_here() from None
        if isinstance(error, OSError):
            raise RemoteFault(
                "A lane broke", cause=error.strerror or str(error), code="lane_reset", peer=self.session_peer
            ) from error
        error.peer = self.session_peer
        raise error


def _closed_here() -> Unavailable:
    return Unavailable("The lane is closed", cause="it or its session was closed here", code="lane_closed")


def _find_round_trip_s(sock: socket.socket) -> float:
    """Return what the kernel has measured."""
    if not sys.platform.startswith("linux"):
        return _ROUND_TRIP_S
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_RTT.size)
    return float(_TCP_INFO_RTT.unpack(info)[0]) / 1e6


def tune_socket(sock: socket.socket, poll_s: float) -> None:
    """Make system calls block, each for `poll_s` at most, without Python's own (non-blocking) time-outs.

    Those would make MSG_WAITALL useless. Buffer sizes are left to the kernel: setting them switches its
    tuning off, and ordinary limits (net.core.rmem_max, 208 KiB) are below what it finds by itself.
    """
    seconds = int(poll_s)
    timeout = struct.pack("@ll", seconds, int((poll_s - seconds) * 1_000_000))
    sock.setblocking(True)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform.startswith("linux"):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
