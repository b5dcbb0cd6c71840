"""Live packets: counts what passes through a bridge for a while: all of it, ACKs, and sessions that begin.

    python -m tools.live_packets SECONDS      (root, in the namespace of the bridge; live_overlay runs it)

Prints one object of bytes. Each packet counts once, as it enters the bridge; on interfaces it counts twice.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator

ETHERTYPE_IPV4, PROTOCOL_TCP = 0x0800, 6
SYN = 2
PACKET_BYTES = 65_536  # the kernel joins segments before they are cut
BUFFER_BYTES = 16 * 2**20
SO_RCVBUFFORCE = 33
ALL_PROTOCOLS = 3
WAIT_S = 0.2

Flow = tuple[bytes, bytes]  # address and port of both ends, in order


def read_tcp(packet: bytes) -> tuple[Flow, int, int] | None:
    """Return the connection, flags and bytes of payload of a TCP packet with its Ethernet header, or None."""
    if len(packet) < 54 or struct.unpack_from("!H", packet, 12)[0] != ETHERTYPE_IPV4:
        return None
    header = (packet[14] & 15) * 4
    tcp = 14 + header
    if packet[23] != PROTOCOL_TCP or len(packet) < tcp + 20:
        return None
    ends = sorted((packet[26:30] + packet[tcp : tcp + 2], packet[30:34] + packet[tcp + 2 : tcp + 4]))
    total = struct.unpack_from("!H", packet, 16)[0]
    return (ends[0], ends[1]), packet[tcp + 13], total - header - (packet[tcp + 12] >> 4) * 4


def count(packets: Iterable[bytes]) -> dict[str, int]:
    """Return bytes of `all`, `acks` (TCP that carries nothing), and `begun` (connections that began here)."""
    found = {"all": 0, "acks": 0, "begun": 0}
    begun: set[Flow] = set()  # as many as connections begin in the time that is watched
    for packet in packets:
        found["all"] += len(packet)
        tcp = read_tcp(packet)
        if tcp is None:
            continue
        flow, flags, payload = tcp
        if flags & SYN:
            begun.add(flow)
        if flow in begun:
            found["begun"] += len(packet)
        elif payload == 0:
            found["acks"] += len(packet)
    return found


def capture(seconds: float) -> Iterator[bytes]:
    """Yield every packet that enters an interface of this namespace. Raises: OSError."""
    until = time.monotonic() + seconds
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        sock.settimeout(WAIT_S)
        while time.monotonic() < until:
            try:
                packet, address = sock.recvfrom(PACKET_BYTES)
            except TimeoutError:
                continue
            if address[2] != socket.PACKET_OUTGOING:
                yield packet


if __name__ == "__main__":
    print(json.dumps(count(capture(float(sys.argv[1])))))
