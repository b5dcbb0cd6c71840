"""Ticket: the text that lets one device join: whom to ask, where, over whom, and a secret to prove it with.

offset  size  field, integers big endian
0       32    network id
32      32    inviter, peer id
64      8     expires at, seconds since 1970
72      1     secret length, 16 .. 32
73      n     secret
73+n    1     number of addresses, 0 .. 8
...     1+m   each address: length, ASCII `host:port`
...     1     number of relays, 1 .. 2; a ticket without relays ends before
...           each relay: peer id (32), number of addresses (1 .. 2), the addresses as above

Joining never sends the secret: the invite id, the knock and the proof are derived from it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from blake3 import blake3

from shoal.core.errors import LocalMisuse
from shoal.identity.ids import NetworkId, PeerId
from shoal.identity.keys import is_valid_peer_id
from shoal.identity.operations import INVITE_ID_BYTES
from shoal.identity.record import is_valid_address
from shoal.identity.secrets import Context, derive
from shoal.wire.text import Kind, format_text, parse_text

SECRET_MIN_BYTES = 16
SECRET_MAX_BYTES = 32
ADDRESSES_LIMIT = 8
RELAYS_LIMIT = 2  # a ticket is a QR code too, which has to fit a terminal of 80 columns
RELAY_ADDRESSES_LIMIT = 2
_FIXED_BYTES = 73


@dataclass(frozen=True, slots=True)
class TicketRelay:
    """A member over whom the inviter can be reached by who cannot dial it (spec/guest.md)."""

    peer_id: PeerId
    addresses: tuple[str, ...]

    def __post_init__(self) -> None:
        if not is_valid_peer_id(self.peer_id):
            raise LocalMisuse("a ticket names its relays by their keys")
        _check_addresses(self.addresses, RELAY_ADDRESSES_LIMIT)
        if not self.addresses:
            raise LocalMisuse("a ticket says where its relays are")


@dataclass(frozen=True, slots=True)
class Ticket:
    """One invitation. Whether it is still open only the inviter knows."""

    network_id: NetworkId
    inviter: PeerId
    secret: bytes = field(repr=False)
    expires_at: int
    addresses: tuple[str, ...] = ()
    relays: tuple[TicketRelay, ...] = ()

    def __post_init__(self) -> None:
        if len(self.network_id) != 32 or not is_valid_peer_id(self.inviter):
            raise LocalMisuse("a ticket names a network and an inviter")
        if not SECRET_MIN_BYTES <= len(self.secret) <= SECRET_MAX_BYTES:
            raise LocalMisuse("a ticket's secret has 16 to 32 bytes")
        if not 0 <= self.expires_at < 2**63:
            raise LocalMisuse("a ticket's expiry is out of range")
        _check_addresses(self.addresses, ADDRESSES_LIMIT)
        if len(self.relays) > RELAYS_LIMIT or len({relay.peer_id for relay in self.relays}) < len(
            self.relays
        ):
            raise LocalMisuse(f"a ticket names at most {RELAYS_LIMIT} relays, each once")

    @staticmethod
    def make_secret() -> bytes:
        """Return a new ticket secret of 128 bits."""
        return os.urandom(SECRET_MIN_BYTES)

    @property
    def invite_id(self) -> bytes:
        """16 bytes that name the invite without giving its secret away."""
        return make_invite_id(self.secret)

    def to_text(self) -> str:
        """Write the ticket as people pass it on."""
        parts = [
            self.network_id,
            self.inviter,
            self.expires_at.to_bytes(8, "big"),
            bytes([len(self.secret)]),
            self.secret,
            _pack_addresses(self.addresses),
        ]
        if self.relays:
            parts.append(bytes([len(self.relays)]))
        for relay in self.relays:
            parts += [relay.peer_id, _pack_addresses(relay.addresses)]
        return format_text(Kind.TICKET, b"".join(parts))

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Read a ticket; expiry is not looked at. Raises: LocalMisuse that says what is wrong."""
        payload = parse_text(Kind.TICKET, text)
        try:
            return cls._unpack(payload)
        except (IndexError, UnicodeDecodeError, LocalMisuse) as error:
            raise LocalMisuse(
                "This ticket cannot be used",
                cause="its checksum fits, its content does not",
                next_step="ask for a new one: shoal invite",
            ) from error

    @classmethod
    def _unpack(cls, payload: bytes) -> Ticket:
        secret_end = _FIXED_BYTES + payload[_FIXED_BYTES - 1]
        secret = payload[_FIXED_BYTES:secret_end]
        addresses, at = _unpack_addresses(payload, secret_end)
        relays: list[TicketRelay] = []
        if at < len(payload):
            count = payload[at]
            at += 1
            if not 0 < count <= RELAYS_LIMIT:
                raise LocalMisuse("a ticket with a number of relays that none has")
            for _ in range(count):
                peer_id = payload[at : at + 32]
                places, at = _unpack_addresses(payload, at + 32)
                relays.append(TicketRelay(peer_id, places))
        if at != len(payload):
            raise LocalMisuse("a ticket of another length")
        expires_at = int.from_bytes(payload[64:72], "big")
        return cls(payload[:32], payload[32:64], secret, expires_at, addresses, tuple(relays))


def _check_addresses(addresses: tuple[str, ...], limit: int) -> None:
    if len(addresses) > limit or not all(map(is_valid_address, addresses)):
        raise LocalMisuse(f"at most {limit} addresses, each host:port")


def _pack_addresses(addresses: tuple[str, ...]) -> bytes:
    packed = [bytes([len(address)]) + address.encode("ascii") for address in addresses]
    return bytes([len(packed)]) + b"".join(packed)


def _unpack_addresses(payload: bytes, at: int) -> tuple[tuple[str, ...], int]:
    """Return the addresses whose number stands at an offset, and where they end. Raises: IndexError."""
    count = payload[at]
    at += 1
    addresses: list[str] = []
    for _ in range(count):
        end = at + 1 + payload[at]
        addresses.append(payload[at + 1 : end].decode("ascii"))
        at = end
    return tuple(addresses), at


def make_invite_id(secret: bytes) -> bytes:
    """Return the id of the invite that a ticket secret belongs to."""
    return derive(Context.INVITE, secret, INVITE_ID_BYTES)


def make_guest_pass(secret: bytes, network_id: NetworkId, inviter: PeerId, relay: PeerId) -> bytes:
    """Return the key with which the ticket's holder knocks at one relay, 32 bytes (spec/guest.md).

    The relay is given it by the inviter, and learns nothing of the secret or of other relays' passes by it.
    """
    return blake3(network_id + inviter + relay, key=derive(Context.GUEST, secret)).digest()
