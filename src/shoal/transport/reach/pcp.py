"""PCP: what is said to a router to have a TCP port opened: PCP MAP (RFC 6887) and NAT-PMP (RFC 6886). Pure.

All integers are big endian. A request and an answer of PCP have 60 bytes here:

offset  size  request                       answer
0       1     version, 2                    2
1       1     opcode, MAP = 1               129
2       2     0                             0, result code
4       4     lifetime, seconds             lifetime
8       16    our address                   epoch (4), 0 (12)
24      12    nonce                         nonce
36      4     protocol, TCP = 6; 0          the same
40      2     our port                      our port
42      2     outer port that is wished     outer port
44      16    outer address, none           outer address

NAT-PMP: version 0, opcode (0 address, 2 map TCP; answers 128 more); in an answer result (2) and epoch (4).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from shoal.core.errors import MalformedMessage

PORT = 5351
NONCE_BYTES = 12
ANSWER_BYTES = 1100  # of PCP, RFC 6887 section 7
_VERSION, _MAP, _TCP, _ANSWER = 2, 1, 6, 128
_PCP_BYTES = 60
_PMP_ADDRESS, _PMP_MAP_TCP = 0, 2
UNSUPPORTED_VERSION = 1  # the same number in both

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_PCP_WORDS = {
    1: "it speaks another version",
    2: "it does not allow it (not authorised)",
    3: "it found the request malformed",
    4: "it opens no ports",
    5: "it lacks an option",
    7: "it has a network failure, perhaps no connection outside",
    8: "it has no ports left",
    9: "it opens no TCP ports",
    10: "this machine has as many ports as it may",
    11: "it cannot give that outer port",
    12: "there is another NAT between this machine and it",
    13: "it has too many peers",
}
_PMP_WORDS = {
    1: "it speaks another version",
    2: "it does not allow it (not authorised, or switched off)",
    3: "it has a network failure, perhaps no connection outside",
    4: "it has no ports left",
    5: "it opens no ports",
}


@dataclass(frozen=True, slots=True)
class PcpAnswer:
    """An answer to a MAP request that fits it. The addresses mean something where `result` is 0."""

    result: int
    lifetime_s: int
    epoch: int
    port: int
    ip: IpAddress

    @property
    def words(self) -> str:
        """The result for people."""
        return _PCP_WORDS.get(self.result, f"it said {self.result}")


@dataclass(frozen=True, slots=True)
class PmpAddress:
    """NAT-PMP's answer with the router's address outside."""

    result: int
    epoch: int
    ip: IpAddress

    @property
    def words(self) -> str:
        """The result for people."""
        return _PMP_WORDS.get(self.result, f"it said {self.result}")


@dataclass(frozen=True, slots=True)
class PmpMapped:
    """NAT-PMP's answer to a mapping."""

    result: int
    epoch: int
    port: int
    lifetime_s: int

    @property
    def words(self) -> str:
        """The result for people."""
        return _PMP_WORDS.get(self.result, f"it said {self.result}")


def pack_pcp(own: IpAddress, nonce: bytes, port: int, wished: int, lifetime_s: int) -> bytes:
    """Return a MAP request for TCP; a lifetime of 0 takes the mapping away."""
    none = ipaddress.IPv6Address("::ffff:0.0.0.0") if own.version == 4 else ipaddress.IPv6Address("::")
    head = bytes([_VERSION, _MAP, 0, 0]) + lifetime_s.to_bytes(4, "big") + _widen(own).packed
    ports = port.to_bytes(2, "big") + wished.to_bytes(2, "big")
    return head + nonce + bytes([_TCP, 0, 0, 0]) + ports + none.packed


def parse_pcp(data: bytes, nonce: bytes, port: int) -> PcpAnswer | None:
    """Read an answer; None: the router speaks NAT-PMP only.

    Raises: MalformedMessage for anything else, also an answer to somebody else's request.
    """
    if len(data) >= 4 and data[0] == 0 and data[1] >= _ANSWER:
        if int.from_bytes(data[2:4], "big") == UNSUPPORTED_VERSION:
            return None
        raise MalformedMessage("an answer of NAT-PMP to PCP")
    if not _PCP_BYTES <= len(data) <= ANSWER_BYTES or data[0] != _VERSION or data[1] != _ANSWER | _MAP:
        if len(data) >= 4 and data[0] == _VERSION and data[1] == _ANSWER | _MAP and data[3]:
            return PcpAnswer(data[3], 0, 0, 0, ipaddress.IPv4Address(0))  # errors may be short
        raise MalformedMessage("not an answer of PCP")
    if data[24:36] != nonce or data[36] != _TCP or int.from_bytes(data[40:42], "big") != port:
        raise MalformedMessage("an answer to another request")
    lifetime_s, epoch = int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big")
    ip = _narrow(ipaddress.IPv6Address(data[44:60]))
    return PcpAnswer(data[3], lifetime_s, epoch, int.from_bytes(data[42:44], "big"), ip)


def pack_pmp_address() -> bytes:
    """Return NAT-PMP's question for the address outside."""
    return bytes([0, _PMP_ADDRESS])


def pack_pmp_map(port: int, wished: int, lifetime_s: int) -> bytes:
    """Return NAT-PMP's request for TCP; a lifetime of 0 takes the mapping away."""
    return (
        bytes([0, _PMP_MAP_TCP, 0, 0])
        + port.to_bytes(2, "big")
        + wished.to_bytes(2, "big")
        + lifetime_s.to_bytes(4, "big")
    )


def parse_pmp_address(data: bytes) -> PmpAddress:
    """Read the answer to `pack_pmp_address`. Raises: MalformedMessage."""
    result, epoch = _parse_pmp(data, _PMP_ADDRESS, 12)
    ip = ipaddress.IPv4Address(data[8:12]) if len(data) == 12 else ipaddress.IPv4Address(0)
    return PmpAddress(result, epoch, ip)


def parse_pmp_map(data: bytes, port: int) -> PmpMapped:
    """Read the answer to `pack_pmp_map` of that port. Raises: MalformedMessage."""
    result, epoch = _parse_pmp(data, _PMP_MAP_TCP, 16)
    if len(data) != 16:
        return PmpMapped(result, epoch, 0, 0)
    if int.from_bytes(data[8:10], "big") != port:
        raise MalformedMessage("an answer to another request")
    return PmpMapped(result, epoch, int.from_bytes(data[10:12], "big"), int.from_bytes(data[12:16], "big"))


def _parse_pmp(data: bytes, opcode: int, size: int) -> tuple[int, int]:
    """Return result and epoch; errors may be short."""
    if len(data) < 4 or data[0] != 0 or data[1] != _ANSWER | opcode:
        raise MalformedMessage("not an answer of NAT-PMP")
    result = int.from_bytes(data[2:4], "big")
    if len(data) != size and (result == 0 or len(data) > size):
        raise MalformedMessage("an answer of NAT-PMP of another length")
    return result, int.from_bytes(data[4:8], "big")


def _widen(ip: IpAddress) -> ipaddress.IPv6Address:
    return ip if isinstance(ip, ipaddress.IPv6Address) else ipaddress.IPv6Address(f"::ffff:{ip}")


def _narrow(ip: ipaddress.IPv6Address) -> IpAddress:
    return ip.ipv4_mapped or ip
