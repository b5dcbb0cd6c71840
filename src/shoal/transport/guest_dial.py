"""Guest dial: what who has a ticket says at a relay that the ticket names, to be led to its inviter.

No membership is needed, and none is shown: spec/guest.md. Whom the relay leads to is checked afterwards, by
the join's own TLS inside.
"""

from __future__ import annotations

import asyncio
import socket

from shoal.core.errors import MalformedMessage, Refused, Unavailable
from shoal.core.undo import undone_on_failure
from shoal.transport.address import Address
from shoal.transport.dialler import open_socket
from shoal.transport.join_channel import JoinChannel
from shoal.transport.reach.guest_messages import (
    GUEST_TABLE,
    TEXT_CHARACTERS,
    GuestAsk,
    GuestGrant,
    GuestRefused,
    make_guest_proof,
)
from shoal.transport.reach.messages import pack_preamble

ANSWER_TIMEOUT_S = 8.0  # the relay asks the inviter, which has 4 s


async def ask_at_door(door: JoinChannel, guest_pass: bytes) -> bytes:
    """Show the pass that was knocked with; return the token for a connection that leads to the inviter.

    Cancelling is safe. Raises: Unavailable (not now; with the relay's reason), Refused, MalformedMessage.
    """
    proof = make_guest_proof(door, guest_pass, door.own_id, door.peer_id)
    await door.send(GUEST_TABLE, GuestAsk(proof))
    answer = await door.receive(GUEST_TABLE, ANSWER_TIMEOUT_S)
    match answer:
        case GuestGrant():
            answer.check()
            return answer.token
        case GuestRefused():
            answer.check()
            cause = "".join(c if c.isprintable() else " " for c in answer.cause[:TEXT_CHARACTERS])
            kind = Unavailable if answer.later else Refused
            raise kind("The relay led nowhere", cause=cause, code="relay_refused")
        case _:
            raise MalformedMessage("A relay answered a guest with something else", peer=door.peer_id)


async def open_with_token(at: Address, token: bytes, timeout_s: float) -> socket.socket:
    """Connect to a relay with a token: what follows goes to the inviter. Cancelling closes it.

    Raises: Unavailable, Refused.
    """
    sock = await open_socket(at, timeout_s)
    try:
        with undone_on_failure(sock.close):
            await asyncio.get_running_loop().sock_sendall(sock, pack_preamble(token))
    except OSError as error:
        raise Unavailable("The relay hung up", cause=str(error), code="relay_gone") from error
    return sock
