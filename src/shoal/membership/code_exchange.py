"""Code exchange: SPAKE2 over three words, with the key confirmations that the library leaves out. Pure.

SPAKE2 gives both ends the same key if they have the same words, and gives somebody who has others one guess
for each exchange and nothing to work on afterwards. The confirmations cover everything that an attacker in
between could swap: the TLS channel (its exporter), both devices' keys, nameplate, network, both SPAKE2
messages, and who speaks. spec/code.md has the bytes.
"""

from __future__ import annotations

import hmac
import os
from typing import NamedTuple

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from spake2 import SPAKE2_A, SPAKE2_B, SPAKEError
from spake2.ed25519_basic import NotOnCurve

from shoal.core.errors import LocalMisuse, MalformedMessage, RemoteFault
from shoal.identity.code import TypedCode
from shoal.identity.secrets import Context, derive
from shoal.identity.ticket import Ticket
from shoal.membership.code_messages import BLIND_BYTES, SPAKE_BYTES
from shoal.membership.join_proof import HasExporter

EXPORTER_LABEL = b"EXPORTER-shoal-code/1"
EXPORTER_BYTES = 32
JOINER, INVITER = b"\x01", b"\x02"  # who made a confirmation
_ONE_TIME_NONCE = bytes(12)  # the key seals one ticket: it is derived from the transcript of one channel
_FIELD = 2**255 - 19


class Transcript(NamedTuple):
    """All that both confirmations cover, each field of fixed length."""

    exporter: bytes
    joiner: bytes
    inviter: bytes
    nameplate: int
    commitment: bytes
    joiner_spake: bytes
    inviter_spake: bytes

    def pack(self) -> bytes:
        """Return its bytes."""
        plate = self.nameplate.to_bytes(2, "big")
        return b"".join([*self[:3], plate, *self[4:]])


class JoinerExchange:
    """The joiner's end of one exchange on one channel: `start`, `confirm`, `verify`, `open_grant`."""

    def __init__(self, code: TypedCode, channel: HasExporter, joiner: bytes, inviter: bytes) -> None:
        self._spake = SPAKE2_A(code.text.encode(), idA=joiner, idB=inviter)
        self._fixed = (export_for_code(channel), joiner, inviter, code.nameplate)
        self._transcript: Transcript | None = None
        self._key = b""
        self._own_spake = b""

    def start(self) -> bytes:
        """Return the SPAKE2 message to send."""
        self._own_spake = self._spake.start()
        return self._own_spake

    def confirm(self, spake: bytes, commitment: bytes) -> bytes:
        """Take the inviter's answer and return the joiner's confirmation. Raises: MalformedMessage."""
        self._key = _finish(self._spake, spake, b"B")
        self._transcript = Transcript(*self._fixed, commitment, self._own_spake, spake)
        return make_confirmation(self._key, JOINER, self._transcript)

    def verify(self, confirmation: bytes) -> bool:
        """Whether the inviter knows the words too, and nothing was swapped."""
        assert self._transcript is not None
        expected = make_confirmation(self._key, INVITER, self._transcript)
        return hmac.compare_digest(expected, confirmation)

    def open_grant(self, blind: bytes, sealed: bytes) -> Ticket:
        """Return the ticket, once `verify` was true. Raises: RemoteFault."""
        transcript = self._transcript
        assert transcript is not None
        try:
            text = AESGCM(_grant_key(self._key, transcript)).decrypt(_ONE_TIME_NONCE, sealed, None)
            ticket = Ticket.parse(text.decode("ascii"))
        except (InvalidTag, UnicodeDecodeError, LocalMisuse) as error:
            raise _bad_grant("it cannot be read") from error
        if ticket.inviter != transcript.inviter:
            raise _bad_grant("it is another device's")
        if not hmac.compare_digest(commit_network(blind, ticket.network_id), transcript.commitment):
            raise _bad_grant("it is for another network than was agreed on")
        return ticket


class InviterExchange:
    """The inviter's end of one exchange on one channel: `answer`, `verify`, `confirm`, `seal`."""

    def __init__(
        self, code: TypedCode, channel: HasExporter, joiner: bytes, inviter: bytes, network_id: bytes
    ) -> None:
        self._spake = SPAKE2_B(code.text.encode(), idA=joiner, idB=inviter)
        self._fixed = (export_for_code(channel), joiner, inviter, code.nameplate)
        self.blind = os.urandom(BLIND_BYTES)
        self.commitment = commit_network(self.blind, network_id)
        self._transcript: Transcript | None = None
        self._key = b""

    def answer(self, spake: bytes) -> bytes:
        """Take the joiner's SPAKE2 message and return ours. Raises: MalformedMessage."""
        own = bytes(self._spake.start())
        self._key = _finish(self._spake, spake, b"A")
        self._transcript = Transcript(*self._fixed, self.commitment, spake, own)
        return own

    def verify(self, confirmation: bytes) -> bool:
        """Whether the joiner knows the words, and nothing was swapped."""
        assert self._transcript is not None
        return hmac.compare_digest(make_confirmation(self._key, JOINER, self._transcript), confirmation)

    def confirm(self) -> bytes:
        """Return the inviter's confirmation. It tells whether a guess was right: verify and count before."""
        assert self._transcript is not None
        return make_confirmation(self._key, INVITER, self._transcript)

    def seal(self, ticket: Ticket) -> bytes:
        """Return the ticket for the one who confirmed."""
        assert self._transcript is not None
        return seal_ticket(self._key, self._transcript, ticket)


def export_for_code(channel: HasExporter) -> bytes:
    """Return the channel's exporter value that the confirmations cover; its context is empty."""
    return channel.exporter(EXPORTER_LABEL, b"", EXPORTER_BYTES)


def commit_network(blind: bytes, network_id: bytes) -> bytes:
    """Return keyed BLAKE3(blind, network id): shows nothing of the network until the blind is told."""
    return blake3(network_id, key=blind).digest()


def make_confirmation(key: bytes, role: bytes, transcript: Transcript) -> bytes:
    """Return keyed BLAKE3(derive_key(code confirm, SPAKE2 key), role || transcript)."""
    return blake3(role + transcript.pack(), key=derive(Context.CODE_CONFIRM, key)).digest()


def seal_ticket(key: bytes, transcript: Transcript, ticket: Ticket) -> bytes:
    """Return a ticket under AES-256-GCM with derive_key(code grant, SPAKE2 key || transcript)."""
    return AESGCM(_grant_key(key, transcript)).encrypt(_ONE_TIME_NONCE, ticket.to_text().encode(), None)


def check_spake(message: bytes, side: bytes) -> None:
    """Refuse what the library would take or name unclearly: another side, a point in a second encoding.

    It compares the identity by its bytes, so that its other encodings (y = p + 1, or the sign of x = 0) would
    pass. Raises: MalformedMessage.
    """
    y = int.from_bytes(message[1:], "little") % 2**255
    if len(message) != SPAKE_BYTES or message[:1] != side or y >= _FIELD or y in (1, _FIELD - 1):
        raise MalformedMessage("A SPAKE2 message is none of the other side")


def _finish(spake: SPAKE2_A | SPAKE2_B, message: bytes, side: bytes) -> bytes:
    check_spake(message, side)
    try:
        return bytes(spake.finish(message))
    except (SPAKEError, ValueError, NotOnCurve) as error:
        cause = type(error).__name__
        raise MalformedMessage("A SPAKE2 message is no point of its group", cause=cause) from error


def _grant_key(key: bytes, transcript: Transcript) -> bytes:
    return derive(Context.CODE_GRANT, key + transcript.pack())


def _bad_grant(cause: str) -> RemoteFault:
    return RemoteFault(
        "The inviter's ticket cannot be used",
        cause=cause,
        next_step="ask for a new code: `shoal invite`",
        code="bad_grant",
    )
