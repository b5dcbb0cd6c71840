"""Joiners by typed code, honest and not, over real TLS on loopback; and an inviter that lies."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from tests.support.membership_nodes import MembershipNode

from shoal.identity.code import TypedCode
from shoal.identity.keys import DeviceKeys
from shoal.identity.operations import Role
from shoal.identity.ticket import Ticket
from shoal.membership.code_exchange import JoinerExchange
from shoal.membership.code_join import find_ticket
from shoal.membership.code_messages import CODE_TABLE, CodeConfirm, CodeReply, CodeStart
from shoal.membership.events import CodeFailed
from shoal.membership.join_messages import JoinRefused
from shoal.transport.address import Address
from shoal.transport.code_dial import CodeDialler
from shoal.transport.join_channel import JoinChannel
from shoal.wire.codec import Message


class Guest:
    """One device that wants in, with a key of its own."""

    def __init__(self, keys: DeviceKeys | None = None) -> None:
        self.keys = keys or DeviceKeys.generate()

    async def dial(self, code: TypedCode, node: MembershipNode) -> JoinChannel:
        """Return a channel on which nothing was said."""
        dialler = CodeDialler(self.keys, time.monotonic)
        return await dialler.dial_code(code.nameplate, node.address, 5.0)

    async def find(self, code: TypedCode, *nodes: MembershipNode) -> Ticket:
        """Do all of it, as `shoal join CODE` does."""
        dialler = CodeDialler(self.keys, time.monotonic)
        return await find_ticket(dialler, code, self.keys.peer_id, iterate([n.address for n in nodes]))

    def exchange(self, code: TypedCode, channel: JoinChannel) -> JoinerExchange:
        """Return an honest exchange on a channel."""
        return JoinerExchange(code, channel, self.keys.peer_id, channel.peer_id)

    async def confirm(self, code: TypedCode, channel: JoinChannel) -> Message:
        """Go as far as the confirmation; returns what the inviter says to it."""
        exchange = self.exchange(code, channel)
        reply = await ask(channel, CodeStart(exchange.start()))
        assert isinstance(reply, CodeReply)
        return await ask(channel, CodeConfirm(exchange.confirm(reply.spake, reply.commitment)))


async def ask(channel: JoinChannel, message: Message) -> Message:
    """Send one message and return the next."""
    await channel.send(CODE_TABLE, message)
    return await channel.receive(CODE_TABLE, 5.0)


async def iterate(addresses: list[Address]) -> AsyncIterator[Address]:
    """Yield addresses, as a search does."""
    for address in addresses:
        yield address


async def make_code(node: MembershipNode, expires_s: float = 3600.0) -> tuple[TypedCode, Ticket]:
    """Make an invite and return both of its secrets."""
    ticket, row = await node.network.invites.make(
        node.network.network_id, Role.MEMBER, "", expires_s, [str(node.address)]
    )
    return TypedCode(row.nameplate, tuple(row.words.split("-"))), ticket


def wrong_words(code: TypedCode) -> TypedCode:
    """Return a code with the same nameplate and other words."""
    return TypedCode(code.nameplate, ("acorn", "acorn", "zigzag" if code.words[2] != "zigzag" else "zebra"))


def failures(node: MembershipNode, ticket: Ticket) -> int:
    """How many tries are counted."""
    return {row.id: row.code_failures for row in node.network.invites.all()}[ticket.invite_id]


def tries_left(node: MembershipNode) -> list[int]:
    """What was told to the inviter, in order."""
    return [event.left for event in node.events if isinstance(event, CodeFailed)]


def refusal(message: Message) -> str:
    """The code of a refusal; fails for anything else."""
    assert isinstance(message, JoinRefused), message
    return message.code
