"""Primitives: what the steps of a transfer cost alone, in bare loops over kept buffers, CPU seconds a GiB.

Nothing of a node takes part: no protocol, no queue, no scheduling, one step at a time on a machine that is
otherwise idle. Sizes are those of real chunks: the source is cut as a share would be. Their sum is what no
engine that encrypts, verifies and copies as much as Shoal can go below; divided by what both daemons used in
the same round it is the efficiency.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shoal.content.cut import Cutter
from shoal.content.keys import ChunkKeys
from shoal.core.units import GIB, MIB
from shoal.storage.disk_space import reserve
from shoal.swarm.lane_header import LANE_HEADER_BYTES
from shoal.transport.lane import tune_socket
from shoal.transport.lane_record import HEADER_BYTES, RECORD_BYTES, TAG_BYTES
from tools.bench.measuring import MemoryReserve

PRIMITIVES = ("read", "protect", "send", "receive", "open", "verify", "write")  # named as the stages are
SAMPLE_BYTES = 64 * MIB  # what is cut to learn the sizes; they repeat after it
POLL_S = 5.0
_SEED = 0x1234_5678_9ABC_DEF1  # of the cut; any will do
_NONCE = struct.Struct(">IQ")
_HEAD = bytes(HEADER_BYTES)


def measure_primitives(source: Path, place: Path) -> dict[str, float]:
    """Return the CPU seconds a GiB of every step, for the bytes of `source`; files are made in `place`."""
    size = source.stat().st_size
    lengths = chunk_lengths(source)
    with _opened(source, os.O_RDONLY) as fd:
        found = {"read": _measure_read(fd, lengths)}
    found["protect"], found["open"] = _measure_cipher(lengths)
    found["send"], found["receive"] = _measure_socket(lengths)
    found["verify"] = _measure_hash(lengths)
    found["write"] = _measure_write(place / "primitive", size, lengths)
    return {name: found[name] * GIB / size for name in PRIMITIVES}


def chunk_lengths(source: Path) -> list[int]:
    """Return lengths of chunks as a share of `source` has them, together its size."""
    size = source.stat().st_size
    with source.open("rb") as file:
        sample = Cutter(_SEED).cut_whole(file.read(SAMPLE_BYTES))
    lengths: list[int] = []
    left = size
    while left:
        length = min(sample[len(lengths) % len(sample)], left)
        lengths.append(length)
        left -= length
    return lengths


def _measure_read(fd: int, lengths: list[int]) -> float:
    buffer = _make_buffer()

    def run() -> None:
        offset = 0
        for length in lengths:
            offset += os.preadv(fd, (buffer[:length],), offset)

    return _timed(run)


def _measure_cipher(lengths: list[int]) -> tuple[float, float]:
    """Return the seconds of AES-256-GCM, encrypting and decrypting records as a lane has them."""
    aead = AESGCM(os.urandom(32))
    plain, sealed = _make_buffer(), _make_buffer()
    protect_s = open_s = 0.0
    for number, length in enumerate(lengths):
        size, nonce = length + LANE_HEADER_BYTES, _NONCE.pack(0, number)
        began = time.thread_time()
        aead.encrypt_into(nonce, plain[:size], _HEAD, sealed[: size + TAG_BYTES])
        between = time.thread_time()
        aead.decrypt_into(nonce, sealed[: size + TAG_BYTES], _HEAD, plain[:size])
        open_s += time.thread_time() - between
        protect_s += between - began
    return protect_s, open_s


def _measure_socket(lengths: list[int]) -> tuple[float, float]:
    """Return the seconds of sending and of receiving plain bytes over loopback, one process each."""
    sizes = [length + LANE_HEADER_BYTES + TAG_BYTES for length in lengths]
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver, _ = server.accept()
    for end in (sender, receiver):
        tune_socket(end, POLL_S)
    tell, told = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            receiver.close()
            os.write(told, struct.pack("d", _timed(lambda: _send_all(sender, sizes))))
            status = 0
        finally:
            os._exit(status)
    sender.close()
    os.close(told)
    try:
        received_s = _timed(lambda: _receive_all(receiver, sizes))
        answer = os.read(tell, 8)
    finally:
        receiver.close()
        os.close(tell)
        os.waitpid(child, 0)
    if len(answer) != 8:
        raise RuntimeError("the sending process of the primitives failed")
    return struct.unpack("d", answer)[0], received_s


def _send_all(sender: socket.socket, sizes: list[int]) -> None:
    buffer = _make_buffer()
    for size in sizes:
        left = buffer[: HEADER_BYTES + size]
        while left:
            left = left[sender.send(left) :]


def _receive_all(receiver: socket.socket, sizes: list[int]) -> None:
    """A record is received as a lane does it: its head, then as much as the head says."""
    buffer = _make_buffer()
    for size in sizes:
        for part in (HEADER_BYTES, size):
            done = 0
            while done < part:
                count = receiver.recv_into(buffer[done:part], 0, socket.MSG_WAITALL)
                if not count:
                    raise RuntimeError("the sending process of the primitives ended early")
                done += count


def _measure_hash(lengths: list[int]) -> float:
    keys = ChunkKeys(os.urandom(32))
    buffer = _make_buffer()

    def run() -> None:
        for length in lengths:
            keys.key(buffer[:length])

    return _timed(run)


def _measure_write(path: Path, size: int, lengths: list[int]) -> float:
    """Return the seconds of reserving a fresh file as the writer does, and of filling it."""
    buffer = _make_buffer()

    def run() -> None:
        reserve(fd, size, [(0, size, 0)])
        offset = 0
        for length in lengths:
            offset += os.pwrite(fd, buffer[:length], offset)

    with _opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd, MemoryReserve(path.parent, size):
        path.unlink()
        return _timed(run)


def _make_buffer() -> memoryview:
    """Return a buffer with room for a record, filled, so that its memory is there."""
    return memoryview(bytearray(os.urandom(RECORD_BYTES)))


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _timed(run: Callable[[], None]) -> float:
    began = time.thread_time()
    run()
    return time.thread_time() - began
