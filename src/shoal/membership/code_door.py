"""Code door: the inviter's side of a typed code. It gives the invite's ticket to who knows the words.

What is told is written before it is told: wrong words are counted, and right ones bound to the one key that
knew them, durably and before the answer, so that neither a crash nor many channels at once give a sixth try.
Joining itself goes by the ticket, as ever: an invite has two secrets and one way in.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from shoal.core.budget import TokenBucket
from shoal.core.clock import Clock
from shoal.core.errors import LocalMisuse, MalformedMessage, Refused, ShoalError, StorageFault, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.identity.code import TypedCode
from shoal.identity.ids import short_peer_id
from shoal.identity.ticket import Ticket
from shoal.membership.code_exchange import InviterExchange
from shoal.membership.code_messages import (
    CODE_TABLE,
    CodeConfirm,
    CodeGrant,
    CodeReady,
    CodeReply,
    CodeStart,
)
from shoal.membership.events import CodeFailed
from shoal.membership.inviter import Inviter
from shoal.membership.join_messages import JoinRefused
from shoal.membership.network import Network
from shoal.storage.invites import CODE_TRIES, InviteRow
from shoal.transport.join_channel import JoinChannel

EXCHANGES = 4  # at once: fewer than the acceptor's joins, so that tickets are answered meanwhile
EXCHANGES_A_GROUP = 2  # of them from one address or /64
EXCHANGES_S = 5.0  # begun a second; 10 ms of CPU each
EXCHANGES_BURST = 20.0
EXCHANGE_TIMEOUT_S = 15.0  # only machines speak, three round trips
MESSAGE_TIMEOUT_S = 5.0
_MESSAGE = "The code was not accepted"
_NEW_CODE = "use the ticket, or let the inviter make a new code: `shoal invite`"


class WrongWords(Refused):
    """A try that was counted."""


class CodeDoor:
    """Answers join channels that named a nameplate."""

    def __init__(self, network: Network, clock: Clock, observe: Observer) -> None:
        self._network = network
        self._clock = clock
        self._observe = observe
        self._running: Counter[str] = Counter()  # at most EXCHANGES of them
        self._rate = TokenBucket(EXCHANGES_S, EXCHANGES_BURST, clock.monotonic())

    async def on_join(self, channel: JoinChannel) -> None:
        """Take one exchange from start to end; closes the channel."""
        group = channel.address.budget_group
        async with channel:
            if self._running.total() >= EXCHANGES or self._running[group] >= EXCHANGES_A_GROUP:
                self._observe(Observation("joins_full", group))
                return
            self._running[group] += 1
            try:
                async with asyncio.timeout(EXCHANGE_TIMEOUT_S):
                    await self._serve(channel)
            except TimeoutError:
                self._observe(Observation("join_timeout", group))
            except (Refused, LocalMisuse) as error:
                self._note(channel, error)
                await _refuse(channel, error)
            except ShoalError as error:  # the peer's fault or the network's: nothing to explain to it
                self._note(channel, error)
            finally:
                self._running -= Counter([group])  # drops what is 0

    async def _serve(self, channel: JoinChannel) -> None:
        network = self._network
        invite_id = channel.invite_id or b""
        if not self._rate.try_take(self._clock.monotonic()):
            raise _refused("too_often", "codes were tried too often in the last seconds", "try again soon")
        row = network.invites.get_code(invite_id, channel.peer_id)
        code = TypedCode(row.nameplate, tuple(row.words.split("-")))
        exchange = InviterExchange(code, channel, channel.peer_id, network.own_id, network.network_id)
        start = await channel.receive(CODE_TABLE, MESSAGE_TIMEOUT_S)
        if not isinstance(start, CodeStart):
            raise _out_of_order(channel)
        start.check()
        await channel.send(CODE_TABLE, CodeReply(exchange.answer(start.spake), exchange.commitment))
        confirm = await channel.receive(CODE_TABLE, MESSAGE_TIMEOUT_S)
        if not isinstance(confirm, CodeConfirm):
            raise _out_of_order(channel)
        confirm.check()
        row = await self._judge(channel, exchange.verify(confirm.confirmation), invite_id)
        await channel.send(CODE_TABLE, CodeConfirm(exchange.confirm()))
        if not isinstance(await channel.receive(CODE_TABLE, MESSAGE_TIMEOUT_S), CodeReady):
            raise _out_of_order(channel)
        # no addresses: the joiner has just found one that answers
        ticket = Ticket(network.network_id, network.own_id, row.secret, int(row.expires_at))
        await channel.send(CODE_TABLE, CodeGrant(exchange.blind, exchange.seal(ticket)))

    async def _judge(self, channel: JoinChannel, is_right: bool, invite_id: bytes) -> InviteRow:
        """Write down what the words were. Raises: Refused for wrong ones, or where that cannot be written:
        then nobody learns whether they were right.
        """
        invites = self._network.invites
        try:
            if is_right:
                return await invites.take_code(invite_id, channel.peer_id)
            row = await invites.fail_code(invite_id)
        except (StorageFault, Unavailable) as error:
            self._note(channel, error)
            raise _refused(
                "try_later", "the inviting device could not write the try down", "try again in a minute"
            ) from error
        left = CODE_TRIES - row.code_failures
        address = channel.address.host
        self._network.events.publish(CodeFailed(invite_id, row.nameplate, address, left))
        cause = f"the words do not fit; {left} {'try is' if left == 1 else 'tries are'} left"
        if left:
            step = "compare them with what the other device shows"
            raise WrongWords(_MESSAGE, cause=cause, next_step=step, code="wrong_words")
        cause = f"these were wrong words for the {CODE_TRIES}th time: it is burnt"
        raise WrongWords(_MESSAGE, cause=cause, next_step=_NEW_CODE, code="code_burnt")

    def _note(self, channel: JoinChannel, error: ShoalError) -> None:
        rule = "code_failed" if isinstance(error, WrongWords) else "join_refused"
        detail = f"{short_peer_id(channel.peer_id)} {error.code}: {error}"
        self._observe(Observation(rule, channel.address.budget_group, detail))


def answer_joins(inviter: Inviter, door: CodeDoor) -> Callable[[JoinChannel], Awaitable[None]]:
    """Return what the transport calls: a nameplate leads to the door, a ticket to the inviter."""

    async def on_join(channel: JoinChannel) -> None:
        await (door.on_join(channel) if channel.nameplate else inviter.on_join(channel))

    return on_join


async def _refuse(channel: JoinChannel, error: ShoalError) -> None:
    refused = JoinRefused(error.code, error.message, error.cause, error.next_step)
    try:
        await channel.send(CODE_TABLE, refused)
    except Unavailable:
        pass  # it did not wait for the answer


def _out_of_order(channel: JoinChannel) -> MalformedMessage:
    return MalformedMessage("A message of a typed code came out of order", peer=channel.peer_id)


def _refused(code: str, cause: str, next_step: str) -> Refused:
    return Refused(_MESSAGE, cause=cause, next_step=next_step, code=code)
