"""Join: the joining device's side. A ticket in, membership out.

The ticket pins the inviter's key and the network id, so that whoever answers at one of its addresses is
either the inviter or nobody, and the log that comes back begins with that network's genesis or is refused.
Joining again with the same ticket and the same keys is safe at any point: the invite belongs to this key.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace

from shoal.core.errors import (
    LimitExceeded,
    LocalMisuse,
    MalformedMessage,
    Refused,
    RemoteFault,
    ShoalError,
    Unavailable,
)
from shoal.core.units import MIB, format_time
from shoal.identity.entry import parse_entry
from shoal.identity.log import Added, Duplicate, MembershipLog
from shoal.identity.operations import Admit, is_valid_name, parse_operation, sign_joiner
from shoal.identity.ticket import Ticket, TicketRelay
from shoal.membership.join_messages import (
    JOIN_TABLE,
    JoinAccepted,
    JoinEntries,
    JoinReceived,
    JoinRefused,
    JoinRequest,
)
from shoal.membership.join_proof import export_for_join, make_join_proof
from shoal.membership.join_ways import JoinDialler, JoinWays
from shoal.membership.network import Network
from shoal.transport.address import Address
from shoal.transport.interfaces import list_interface_addresses
from shoal.transport.join_channel import JoinChannel
from shoal.wire.limits import OPERATIONS

ANSWER_TIMEOUT_S = 30.0  # the inviter writes to its disk and to its log before it answers
LATER = {"too_often", "try_later"}  # refusals that are about now, not about the ticket
NAME_TRIES = 3  # with a proposed name; somebody else may take it in between
LOG_BYTES_LIMIT = 64 * MIB  # 4,096 admissions take 7


@dataclass(frozen=True, slots=True)
class Joined:
    """What a joiner starts with: where the inviter answered, over which relay if it was not reached
    directly, and signed peer records of others.
    """

    inviter: bytes
    address: Address
    contacts: list[bytes]
    relay: TicketRelay | None = None


class NameIsTaken(Refused):
    """The inviter refused a name and proposes another."""

    free_name = ""


async def join_network(
    network: Network, transport: JoinDialler, ticket: Ticket, *, name: str, user: str = ""
) -> Joined:
    """Join by a ticket; on return everything is durable and `network` is that of a member.

    Where another device has the name already, the one that the inviter proposes is taken ("vm-2").
    `network` has the ticket's id, and is empty or has what a join left that did not come to its end. The
    caller marks the home afterwards. Cancelling is safe: the same ticket works again from this home. Tries
    the ticket's addresses and relays one after the other, 4 s for each that is silent.
    Raises: LocalMisuse, Refused (by the inviter, with its reason), Unavailable, RemoteFault, StorageFault.
    """
    for _ in range(NAME_TRIES):
        try:
            return await _join_as(network, transport, ticket, name, user)
        except NameIsTaken as taken:
            if not is_valid_name(taken.free_name):
                raise
            name = taken.free_name
    return await _join_as(network, transport, ticket, name, user)


async def _join_as(network: Network, transport: JoinDialler, ticket: Ticket, name: str, user: str) -> Joined:
    _check(network, ticket, name)
    own = [str(Address(address.ip, 1)) for address in list_interface_addresses()]
    ways = JoinWays(transport, ticket, own)
    async with aclosing(ways.channels()) as channels:
        async for channel, relay in channels:
            async with channel:
                try:
                    joined = await _join_over(channel, network, ticket, name, user)
                    return replace(joined, relay=relay)
                except Unavailable as error:
                    if error.code in LATER:
                        raise
                    place = channel.address if relay is None else f"over relay {relay.addresses[0]}"
                    ways.failures.append(f"{place}: {error.cause or error.message}")
    raise _not_joined(network, ticket, ways)


def _check(network: Network, ticket: Ticket, name: str) -> None:
    if network.network_id != ticket.network_id:
        raise LocalMisuse("This home cannot join by the ticket", cause="it is for another network")
    if network.may_meet and network.door_keys() and not _was_begun(network, ticket):
        raise Refused(
            "This home cannot join",
            cause="it has a network already",
            next_step="use another home: --home or SHOAL_HOME",
            code="has_network",
        )
    if not is_valid_name(name):
        raise LocalMisuse(
            "This device cannot join",
            cause=f"{name[:80]!r} cannot be a device's name",
            next_step="give another with --name",
        )
    if ticket.inviter == network.own_id:
        raise Refused("This device cannot join", cause="the ticket is its own", code="own_ticket")


def _was_begun(network: Network, ticket: Ticket) -> bool:
    """Whether this device was admitted by the ticket already, and a crash kept its home from being marked."""
    member = network.state.members[network.own_id]
    operation = parse_operation(network.log.entry(member.admitted_by_op).payload).operation
    return isinstance(operation, Admit) and operation.invite_id == ticket.invite_id


async def _join_over(channel: JoinChannel, network: Network, ticket: Ticket, name: str, user: str) -> Joined:
    keys = network.keys
    if channel.peer_id != ticket.inviter:
        raise RemoteFault("Another device answered than the inviter", peer=channel.peer_id, code="wrong_peer")
    exported = export_for_join(channel, network.network_id)
    proof = make_join_proof(ticket.secret, exported, keys.peer_id, ticket.inviter, ticket.invite_id)
    signature = sign_joiner(keys, network.network_id, ticket.invite_id, name)
    request = JoinRequest(
        network=network.network_id,
        invite_id=ticket.invite_id,
        peer_id=keys.peer_id,
        name=name,
        user=user,
        hpke_suite=int(keys.hpke_suite),
        hpke_public=keys.hpke_public,
        proof=proof,
        signature=signature,
    )
    await channel.send(JOIN_TABLE, request)
    accepted = await channel.receive(JOIN_TABLE, ANSWER_TIMEOUT_S)
    if isinstance(accepted, JoinRefused):
        raise _make_refusal(accepted)
    if not isinstance(accepted, JoinAccepted):
        raise MalformedMessage("The inviter gave no answer to the request", peer=channel.peer_id)
    accepted.check()
    received = await _receive_log(channel, network.network_id, accepted.pages)
    await _adopt(network, ticket, received, accepted)
    try:
        await channel.send(JOIN_TABLE, JoinReceived())
    except Unavailable:
        pass  # the inviter only waits for it out of courtesy
    return Joined(ticket.inviter, channel.address, accepted.contacts)


async def _receive_log(channel: JoinChannel, network_id: bytes, pages: int) -> MembershipLog:
    """Receive all pages into a log of its own. Raises: RemoteFault for anything a log would not take."""
    scratch = MembershipLog(network_id)
    size_bytes = 0
    for _ in range(pages):
        page = await channel.receive(JOIN_TABLE, ANSWER_TIMEOUT_S)
        if not isinstance(page, JoinEntries):
            raise MalformedMessage("The inviter did not send the log it promised", peer=channel.peer_id)
        page.check()
        size_bytes += sum(map(len, page.entries))
        if size_bytes > LOG_BYTES_LIMIT or len(scratch) + len(page.entries) > OPERATIONS:
            raise LimitExceeded("The inviter's membership log is too long", peer=channel.peer_id)
        for data in page.entries:
            result = scratch.add(parse_entry(data))
            if not isinstance(result, Added | Duplicate):
                raise RemoteFault(
                    "The inviter's membership log is not valid",
                    peer=channel.peer_id,
                    cause=type(result).__name__,
                    next_step="ask somebody else of that network for a ticket",
                    code="bad_log",
                )
    return scratch


async def _adopt(network: Network, ticket: Ticket, received: MembershipLog, accepted: JoinAccepted) -> None:
    """Check that the answer makes this device a member, then make it durable and load it."""
    state = received.state
    member = state.members.get(network.own_id)
    if state.blocked is not None:
        raise Refused(
            "This device cannot join", cause=state.blocked, next_step="upgrade shoal", code="blocked"
        )
    if member is None or not state.is_active(network.own_id):
        raise RemoteFault("The inviter's log does not admit this device", peer=ticket.inviter, code="bad_log")
    if member.hpke_public != network.keys.hpke_public:
        raise RemoteFault("The inviter admitted this device under another key", peer=ticket.inviter)
    await network.journal.append(received.entries())
    await network.secrets.clear()
    await network.secrets.accept(state, accepted.secrets)
    if not network.door_keys():
        raise RemoteFault("The inviter gave no door key", peer=ticket.inviter, code="bad_log")
    await network.load()


def clean_text(text: str) -> str:
    """Return what another device says in a form that may be shown."""
    return "".join(c if c.isprintable() else " " for c in text[:300])


def _make_refusal(refused: JoinRefused) -> ShoalError:
    """Return the inviter's no as our error; its texts are shown, so they are cut and cleaned."""
    code = clean_text(refused.code)[:40]
    kind = NameIsTaken if code == "name_taken" else Unavailable if code in LATER else Refused
    error = kind(
        clean_text(refused.message),
        cause=clean_text(refused.cause),
        next_step=clean_text(refused.next_step),
        code=code,
    )
    if isinstance(error, NameIsTaken):
        error.free_name = refused.free_name
    return error


def _not_joined(network: Network, ticket: Ticket, ways: JoinWays) -> ShoalError:
    now = network.clock.wall()
    if now >= ticket.expires_at:
        return Refused(
            "This device has not joined",
            cause=f"the ticket expired at {format_time(ticket.expires_at)}, here it is {format_time(now)}",
            next_step="ask for a new one (`shoal invite`), or correct this machine's clock",
            code="expired",
        )
    told = "; ".join(ways.failures)
    if ways.knock_refused:
        return Refused(
            "This device has not joined",
            cause=f"the inviter does not answer this ticket: {told}",
            next_step="ask for a new one: `shoal invite`",
            code="invite_unknown",
        )
    step = "check that the inviting device runs and can be reached from here, then try again"
    if ways.relay_failed:
        step = "check that the inviting device and a relay of its network run, then try again"
    elif not ticket.relays:
        step += "; where nobody can dial it, its network needs a relay: shoal up --relay"
    return Unavailable(
        "This device has not joined",
        cause=f"the inviter was not reached: {told or 'the ticket names no address'}",
        next_step=step,
        code="inviter_unreachable",
    )
