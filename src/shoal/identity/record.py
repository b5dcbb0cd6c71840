"""Record: where a device says it can be reached, signed by itself.

offset  size  field, integers big endian
0       1     version, 1
1       n     MessagePack array [peer id, seq, addresses, name, time, relays = false, via = []]
1+n     64    signature by peer id over "shoal/v1/record" || NUL || network id || bytes 0 .. n

Signer and subject are one field, so nobody can sign for another. Of two records of one device the higher seq
counts. At most 2 KiB, 8 addresses and 4 relays. A record that says nothing of relays ends after `time`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.identity.ids import ID_BYTES, NetworkId, PeerId
from shoal.identity.keys import SIGNATURE_BYTES, DeviceKeys, verify
from shoal.identity.operations import is_valid_name
from shoal.wire.codec import Message, decode, encode

RECORD_LIMIT_BYTES = 2048
ADDRESSES_LIMIT = 8
ADDRESS_CHARACTERS = 128
VIA_LIMIT = 4
_VERSION = b"\x01"


class _Fields(Message, frozen=True, array_like=True):
    peer_id: bytes
    seq: int
    addresses: tuple[str, ...]
    name: str
    time: int


class _RelayFields(_Fields, frozen=True, array_like=True):
    relays: bool = False
    via: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """A record whose signature was checked: only `sign_record` and `parse_record` make one."""

    peer_id: PeerId
    seq: int
    addresses: tuple[str, ...]
    name: str
    time: int  # seconds since 1970 at the signer, for display only
    packed: bytes = field(repr=False)
    relays: bool = False  # it splices streams for members
    via: tuple[PeerId, ...] = ()  # relays that it has sessions with

    def pack(self) -> bytes:
        """Return the signed bytes, as they are passed on and kept."""
        return self.packed


def is_valid_address(text: str) -> bool:
    """Tell whether a text looks like `host:port` or `[v6]:port`; whether to dial it is for transport."""
    host, colon, port = text.rpartition(":")
    return (
        len(text) <= ADDRESS_CHARACTERS
        and text.isascii()
        and text.isprintable()
        and " " not in text
        and bool(host and colon)
        and (_is_bracketed(host) or not set(host) & set("[]:"))
        and port.isdigit()
        and len(port) <= 5
        and 0 < int(port) < 2**16
    )


def sign_record(
    keys: DeviceKeys,
    network_id: NetworkId,
    seq: int,
    addresses: list[str] | tuple[str, ...],
    name: str,
    time: int,
    relays: bool = False,
    via: tuple[PeerId, ...] = (),
) -> PeerRecord:
    """Make this device's own record. Raises: LocalMisuse for what `parse_record` would refuse."""
    fields = (keys.peer_id, seq, tuple(addresses), name, time)
    made = _RelayFields(*fields, relays, via) if relays or via else _Fields(*fields)
    body = _VERSION + encode(made)
    packed = body + keys.sign(_signed(network_id, body))
    try:
        return parse_record(packed, network_id)
    except (MalformedMessage, LimitExceeded) as error:
        raise LocalMisuse("This device's record cannot be made", cause=str(error)) from error


def parse_record(data: bytes, network_id: NetworkId) -> PeerRecord:
    """Return the record in `data` if its subject signed it for this network; membership is not looked at.

    Raises: LimitExceeded by size or number of addresses, MalformedMessage for anything else.
    """
    if len(data) > RECORD_LIMIT_BYTES:
        raise LimitExceeded(f"a peer record of {len(data)} bytes", cause=f"at most {RECORD_LIMIT_BYTES}")
    if len(data) <= 1 + SIGNATURE_BYTES or data[:1] != _VERSION:
        raise MalformedMessage("not a peer record")
    body, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    fields = decode(_RelayFields, body[1:])
    if len(fields.peer_id) != ID_BYTES or not 0 <= fields.seq < 2**63 or not 0 <= fields.time < 2**63:
        raise MalformedMessage("not a peer record", cause="a field is out of range")
    if len(fields.addresses) > ADDRESSES_LIMIT:
        raise LimitExceeded("a peer record with too many addresses", cause=f"at most {ADDRESSES_LIMIT}")
    if not all(is_valid_address(a) for a in fields.addresses):
        raise MalformedMessage("a peer record with an address that is none")
    if len(fields.via) > VIA_LIMIT:
        raise LimitExceeded("a peer record with too many relays", cause=f"at most {VIA_LIMIT}")
    if any(len(relay) != ID_BYTES for relay in fields.via):
        raise MalformedMessage("a peer record with a relay that is none")
    if not is_valid_name(fields.name, empty=True):
        raise MalformedMessage("a peer record with a name that is none")
    if not verify(fields.peer_id, signature, _signed(network_id, body)):
        raise MalformedMessage("a peer record that its subject did not sign", code="bad_signature")
    return PeerRecord(
        fields.peer_id,
        fields.seq,
        fields.addresses,
        fields.name,
        fields.time,
        bytes(data),
        fields.relays,
        fields.via,
    )


def _is_bracketed(host: str) -> bool:
    return len(host) > 2 and host[0] == "[" and host[-1] == "]" and ":" in host


def _signed(network_id: NetworkId, body: bytes) -> bytes:
    return b"shoal/v1/record\0" + network_id + body
