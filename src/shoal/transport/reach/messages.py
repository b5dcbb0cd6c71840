"""Messages: what members say to be reached by each other (service REACH). See spec/reach.md.

type  message      kind      who
2     RelayAsk     request   to a relay: connect me with that peer
4     RelayGrant   response  the token for the asker's connection to the relay
6     RelayOffer   request   relay to the other peer: somebody asks for you
8     RelayTaken   response  the other peer connects to the relay now
10    Observe      request   which address do you see, and may I ask again from another port
12    Observed     response
14    DialBack     request   dial my addresses and say which of them answered
16    DialedBack   response
18    Punch        request   let us connect to each other at one moment
20    PunchReady   response
22    GuestPasses  request   to a relay: let who knocks with one of these ask for me
24    GuestsKnown  response
26    GuestOffer   request   relay to an inviter: somebody with one of your tickets asks for you (answer: 8)
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.identity.operations import INVITE_ID_BYTES
from shoal.identity.record import is_valid_address
from shoal.wire.codec import Message
from shoal.wire.registry import MessageTable, ServiceNumber

TOKEN_BYTES = 16
PEER_BYTES = 32
CANDIDATES = 4  # addresses in one Punch
DIAL_BACKS = 4  # addresses in one DialBack
WAIT_LIMIT_MS = 2000
GUEST_PASSES = 16  # of one inviter
GUEST_PASS_BYTES = 32
GUEST_PASS_LIMIT_S = 30 * 86400  # an invite is open no longer

REACH_MAGIC = b"REACHSH1"  # its first byte is neither TLS's nor a lane's
PREAMBLE_BYTES = len(REACH_MAGIC) + TOKEN_BYTES


class RelayAsk(Message, frozen=True, array_like=True):
    """To a relay with a session: splice a byte stream between the sender and `peer`.

    Answered with RelayGrant once the peer has agreed; refused by who does not relay, beyond its limits, and
    where there is no session to that peer.
    """

    peer: bytes  # 32


class RelayGrant(Message, frozen=True, array_like=True):
    """Connect to the relay within 10 s and send REACH_MAGIC and this token: what follows is spliced."""

    token: bytes  # 16


class RelayOffer(Message, frozen=True, array_like=True):
    """From a relay: `peer` wants a stream. Who agrees connects to the relay with `token` and serves what
    comes as if it had been accepted.
    """

    peer: bytes  # 32, a member
    token: bytes  # 16


class RelayTaken(Message, frozen=True, array_like=True):
    """The receiver of an offer connects to the relay now."""


class Observe(Message, frozen=True, array_like=True):
    """Which address does this session come from? With `reflect` the answer brings a token for one look."""

    reflect: bool = False


class Observed(Message, frozen=True, array_like=True):
    """What the answerer sees: the other end of the session's socket.

    With the token the asker may connect once from another port: it is sent what is seen there.
    """

    address: str  # host:port; empty where the session is relayed
    token: bytes = b""  # 16 or 0


class DialBack(Message, frozen=True, array_like=True):
    """Dial these addresses of mine, send REACH_MAGIC and `token`, and look whether `proof` comes back.

    The receiver dials only the IP address that this session comes from.
    """

    addresses: list[str]  # 1-4
    token: bytes  # 16
    proof: bytes  # 16


class DialedBack(Message, frozen=True, array_like=True):
    """One word an address: `ok`, `other` (not dialled: another IP), `silent`, `refused` or `wrong`."""

    results: list[str]


class Punch(Message, frozen=True, array_like=True):
    """Connect to these addresses of mine `wait_ms` after you have answered; I do the same.

    The asker sends REACH_MAGIC and `token` over the connection that it keeps; the receiver serves that one.
    """

    addresses: list[str]  # 1-4
    token: bytes  # 16
    wait_ms: int


class PunchReady(Message, frozen=True, array_like=True):
    """Where the answerer can be connected to; it begins `wait_ms` after it has sent this."""

    addresses: list[str]  # 1-4


class GuestPass(Message, frozen=True, array_like=True):
    """One ticket's pass for one relay, see spec/guest.md."""

    invite_id: bytes  # 16
    key: bytes  # 32
    seconds: int  # from now on, 1 to 30 days


class GuestPasses(Message, frozen=True, array_like=True):
    """To a relay with a session: who knocks with one of these passes may be led to the sender.

    All that there are: what it said before is over. They end with the session, too.
    """

    passes: list[GuestPass]  # at most 16


class GuestsKnown(Message, frozen=True, array_like=True):
    """The relay lets in who has one of these passes, as long as the session lasts."""


class GuestOffer(Message, frozen=True, array_like=True):
    """From a relay: somebody knocked with the pass of this invite. Who takes it connects to the relay with
    `token` and serves what comes as if it had been accepted; answered with RelayTaken.
    """

    invite_id: bytes  # 16
    token: bytes  # 16


REACH_TABLE = MessageTable(
    ServiceNumber.REACH,
    {
        2: RelayAsk,
        4: RelayGrant,
        6: RelayOffer,
        8: RelayTaken,
        10: Observe,
        12: Observed,
        14: DialBack,
        16: DialedBack,
        18: Punch,
        20: PunchReady,
        22: GuestPasses,
        24: GuestsKnown,
        26: GuestOffer,
    },
)


def pack_preamble(token: bytes) -> bytes:
    """Return what is sent first on a connection that a token was given for."""
    return REACH_MAGIC + token


def parse_preamble(data: bytes) -> bytes:
    """Return the token of a preamble. Raises: MalformedMessage."""
    if len(data) != PREAMBLE_BYTES or not data.startswith(REACH_MAGIC):
        raise MalformedMessage("not a preamble of reach")
    return bytes(data[len(REACH_MAGIC) :])


def check(message: Message) -> None:
    """Check what the codec cannot. Raises: MalformedMessage, LimitExceeded."""
    match message:
        case RelayAsk(peer):
            _length("peer id", peer, PEER_BYTES)
        case RelayGrant(token):
            _length("token", token, TOKEN_BYTES)
        case RelayOffer(peer, token):
            _length("peer id", peer, PEER_BYTES)
            _length("token", token, TOKEN_BYTES)
        case Observed(address, token):
            if address:
                _addresses([address], 1)
            if token:
                _length("token", token, TOKEN_BYTES)
        case DialBack(addresses, token, proof):
            _addresses(addresses, DIAL_BACKS)
            _length("token", token, TOKEN_BYTES)
            _length("proof", proof, TOKEN_BYTES)
        case DialedBack(results):
            if len(results) > DIAL_BACKS:
                raise LimitExceeded(f"{len(results)} results of a dial back")
        case Punch(addresses, token, wait_ms):
            _addresses(addresses, CANDIDATES)
            _length("token", token, TOKEN_BYTES)
            if not 0 <= wait_ms <= WAIT_LIMIT_MS:
                raise MalformedMessage("a wait out of range", cause=f"{wait_ms} ms")
        case PunchReady(addresses):
            _addresses(addresses, CANDIDATES)
        case GuestPasses(passes):
            if len(passes) > GUEST_PASSES:
                raise LimitExceeded(
                    f"{len(passes)} guest passes", cause=f"at most {GUEST_PASSES} are allowed"
                )
            for row in passes:
                _length("invite id", row.invite_id, INVITE_ID_BYTES)
                _length("guest pass", row.key, GUEST_PASS_BYTES)
                if not 0 < row.seconds <= GUEST_PASS_LIMIT_S:
                    raise MalformedMessage("a guest pass for a time out of range", cause=f"{row.seconds} s")
        case GuestOffer(invite_id, token):
            _length("invite id", invite_id, INVITE_ID_BYTES)
            _length("token", token, TOKEN_BYTES)
        case _:
            pass


def _addresses(addresses: Sequence[str], limit: int) -> None:
    if not addresses:
        raise MalformedMessage("no address")
    if len(addresses) > limit:
        raise LimitExceeded(f"{len(addresses)} addresses", cause=f"at most {limit} are allowed")
    if not all(map(is_valid_address, addresses)):
        raise MalformedMessage("an address that is none")


def _length(name: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise MalformedMessage(f"a {name} of {len(value)} bytes", cause=f"{length} are expected")
