"""Live packets: what is an ACK, and what belongs to a connection that began."""

from __future__ import annotations

import struct

from tools.live_packets import count, read_tcp

SYN, ACK, FIN = 2, 16, 1
HERE, THERE = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])


def packet(flags: int, payload: bytes, port: int = 1000, back: bool = False) -> bytes:
    """Return a TCP packet with time stamps in its Ethernet frame, of 66 bytes and the payload."""
    ends = [(HERE, port), (THERE, 443)]
    source, target = reversed(ends) if back else ends
    tcp = struct.pack("!HHIIBBHHH", source[1], target[1], 0, 0, 8 << 4, flags, 0, 0, 0) + bytes(12)
    ip = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(tcp) + len(payload), 0, 64, 6, 0) + source[0] + target[0]
    return bytes(12) + b"\x08\x00" + ip + tcp + payload


def test_acks_are_counted_where_no_connection_began() -> None:
    old = [packet(ACK, b"x" * 50), packet(ACK, b"", back=True), packet(ACK | FIN, b"")]
    new = [packet(SYN, b"", 2000), packet(SYN | ACK, b"", 2000, back=True), packet(ACK, b"y" * 9, 2000)]
    noise = [bytes(12) + b"\x08\x06" + bytes(46), b"short"]
    assert count([*old, *new, *noise]) == {"all": 6 * 66 + 50 + 9 + 60 + 5, "acks": 132, "begun": 3 * 66 + 9}


def test_both_directions_are_one_connection() -> None:
    there, back = read_tcp(packet(ACK, b"abc")), read_tcp(packet(ACK, b"abc", back=True))
    assert there is not None
    assert there == back
    assert there[2] == 3
