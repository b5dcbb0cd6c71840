"""Code join: the joiner's side of a typed code. A code in, a ticket out; joining then goes by the ticket.

Whoever answers first need not be the inviter. SPAKE2 gives such a one a single guess; then the words did not
fit there, and the next address is asked: five times at most, so that all of a LAN's liars together get five
guesses out of 16.7 million.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable
from dataclasses import replace
from typing import Protocol, TypeVar

from shoal.core.errors import MalformedMessage, Refused, RemoteFault, ShoalError, Unavailable
from shoal.identity.code import TypedCode
from shoal.identity.ticket import Ticket
from shoal.membership.code_exchange import JoinerExchange
from shoal.membership.code_messages import (
    CODE_TABLE,
    CodeConfirm,
    CodeGrant,
    CodeReady,
    CodeReply,
    CodeStart,
)
from shoal.membership.join import LATER, clean_text
from shoal.membership.join_messages import JoinRefused
from shoal.storage.invites import CODE_TRIES
from shoal.transport.address import Address
from shoal.transport.join_channel import JoinChannel

log = logging.getLogger("shoal.membership")

_M = TypeVar("_M", CodeReply, CodeConfirm, CodeGrant)

DIAL_TIMEOUT_S = 4.0
ANSWER_TIMEOUT_S = 10.0  # the inviter writes to its disk before it answers
FAILURES_TOLD = 4  # of those in an error


class CodeDialling(Protocol):
    """The part of transport that this needs."""

    async def dial_code(self, nameplate: int, address: Address, timeout_s: float) -> JoinChannel:
        """Return a channel to who answers for a nameplate at an address."""
        ...


async def find_ticket(
    dialler: CodeDialling, code: TypedCode, own_id: bytes, addresses: AsyncIterable[Address]
) -> Ticket:
    """Ask at each address in turn for the ticket behind a code; it comes with the address that gave it.

    Raises: Refused (wrong words, a code that is over), Unavailable (nobody answers for the nameplate).
    """
    asked = 0
    wrong: list[str] = []
    told: list[tuple[str, ShoalError]] = []
    reached = False
    async for address in addresses:
        asked += 1
        try:
            channel = await dialler.dial_code(code.nameplate, address, DIAL_TIMEOUT_S)
            async with channel:
                ticket = await redeem(channel, code, own_id)
        except (Refused, Unavailable, RemoteFault) as error:
            reached = reached or error.code == "knock"
            if error.code == "wrong_words":
                wrong.append(str(address))
                log.warning("the words did not fit at %s", address)
            if error.code != "knock":
                told.append((str(address), error))
            if len(wrong) >= CODE_TRIES:
                break
            continue
        return replace(ticket, addresses=(str(address),))
    raise _not_found(code, asked, wrong, told, reached)


async def redeem(channel: JoinChannel, code: TypedCode, own_id: bytes) -> Ticket:
    """Exchange a code for its ticket over one channel.

    Raises: Refused (code `wrong_words` where either end's words did not fit), Unavailable, RemoteFault.
    """
    exchange = JoinerExchange(code, channel, own_id, channel.peer_id)
    await channel.send(CODE_TABLE, CodeStart(exchange.start()))
    reply = await _receive(channel, CodeReply)
    await channel.send(CODE_TABLE, CodeConfirm(exchange.confirm(reply.spake, reply.commitment)))
    confirm = await _receive(channel, CodeConfirm)
    if not exchange.verify(confirm.confirmation):
        raise Refused(
            "The code was not accepted", cause="who answered does not know its words", code="wrong_words"
        )
    await channel.send(CODE_TABLE, CodeReady())
    grant = await _receive(channel, CodeGrant)
    return exchange.open_grant(grant.blind, grant.sealed)


async def _receive(channel: JoinChannel, kind: type[_M]) -> _M:
    message = await channel.receive(CODE_TABLE, ANSWER_TIMEOUT_S)
    if isinstance(message, JoinRefused):
        code = clean_text(message.code)[:40]
        text, cause = clean_text(message.message), clean_text(message.cause)
        raise Refused(text, cause=cause, next_step=clean_text(message.next_step), code=code)
    if not isinstance(message, kind):
        raise MalformedMessage("An answer to a typed code came out of order", peer=channel.peer_id)
    message.check()
    return message


def _not_found(
    code: TypedCode, asked: int, wrong: list[str], told: list[tuple[str, ShoalError]], reached: bool
) -> ShoalError:
    refusals = [(at, error) for at, error in told if isinstance(error, Refused)]
    chosen = [(at, error) for at, error in refusals if error.code != "wrong_words"] or refusals
    details = "; ".join(
        f"{at}: {error.cause or error.message}" for at, error in (chosen or told)[:FAILURES_TOLD]
    )
    if chosen:
        error = chosen[0][1]
        message = "This device has not joined"
        if wrong and error.code == "wrong_words":
            step = (
                "compare the words with what the other device shows; if they are right, this was another "
                "device: the right one's address goes behind --at"
            )
            return Refused(message, cause=details, next_step=step, code="wrong_words")
        step = error.next_step or "ask for a new code: `shoal invite`"
        if error.code in LATER:
            return Unavailable(message, cause=details, next_step=step, code=error.code)
        return Refused(message, cause=details, next_step=step, code=error.code)
    if told and not reached:
        cause = f"nobody was reached: {details}"
    elif asked:
        who = "1 address was" if asked == 1 else f"{asked} addresses were"
        cause = f"{who} asked, none answers for number {code.nameplate}" + (f"; {details}" if told else "")
    else:
        cause = "no device of any network was seen on this one"
    return Unavailable(
        "This device has not joined",
        cause=cause,
        next_step="check number and network, or name the other device (--at HOST:PORT), or use its ticket",
        code="inviter_not_found",
    )
