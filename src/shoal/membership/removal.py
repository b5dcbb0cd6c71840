"""Removal: everything that ends when a device is no member any more, in one place.

When a removal (or a leave) takes effect on this node, in this order and at once:

 1. its session is closed, and with it every lane, every request in flight and everything queued for it
    (`SessionCloser.close_peer`); from now on `MembershipView.is_active` is False, so its key is refused in
    every hello, and a session that was just being made does not survive its hello;
 2. whoever keeps something for a peer drops it: overlay its contact, provider records and dials, reach what
    is relayed for it, swarm its wants and its place among providers, storage nothing (each registers with
    `on_ended`);
 3. if the device is this one: its open invites are revoked, every session is closed, none is opened or
    accepted, and `status` says so;
 4. the author of the removal gets a RemovalAck, now or when it is next connected.

What the device had already decrypted stays with it, and the door key is not replaced in this release: it
still gets past the knock, then a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shoal.core.budget import BoundedMap
from shoal.core.errors import LocalMisuse, Refused, Unavailable
from shoal.identity.operations import Leave, Remove, Role

if TYPE_CHECKING:
    from shoal.membership.network import Network

CONFIRM_S = 10.0  # `remove` waits this long for acknowledgements
WAITED_REMOVALS = 64
ACKS_OF_A_REMOVAL = 10_000  # no more members


class SessionCloser(Protocol):
    """The part of transport that a removal needs."""

    def close_peer(self, peer_id: bytes, reason: str) -> None:
        """End every session, lane and request of a peer at once."""
        ...

    def close_all(self, reason: str) -> None:
        """End every session, lane and request at once."""
        ...


@dataclass(frozen=True, slots=True)
class RemovalStatus:
    """How far a removal got: who carried it out, who was not heard of yet."""

    operation: bytes
    confirmed: list[bytes]
    pending: list[bytes]


class Enforcer:
    """Carries removals out on this node. Synchronous: when `end` returns, the device is out."""

    def __init__(self, sessions: SessionCloser) -> None:
        self._sessions = sessions
        self._listeners: list[Callable[[bytes], None]] = []

    def on_ended(self, listener: Callable[[bytes], None]) -> None:
        """Call `listener(peer_id)` for every device that stops being a member; it must be short."""
        self._listeners.append(listener)

    def end(self, peer_id: bytes, reason: str) -> None:
        """End everything of one device. `reason` is `removed` or `left`."""
        self._sessions.close_peer(peer_id, reason)
        for listener in self._listeners:
            listener(peer_id)

    def end_all(self, reason: str) -> None:
        """Close all sessions: this node is blocked (`blocked`) or no member itself (`left`, `removed`)."""
        self._sessions.close_all(reason)


class Confirmations:
    """Counts who acknowledged a removal of ours. Remembers the last 64 removals."""

    def __init__(self) -> None:
        self._acks: BoundedMap[bytes, set[bytes]] = BoundedMap(WAITED_REMOVALS)
        self._changed: dict[bytes, asyncio.Event] = {}

    def expect(self, operation: bytes) -> None:
        """Start to count for a removal that this node authored."""
        if operation not in self._acks:
            forgotten = self._acks.put(operation, set())
            if forgotten is not None:
                self._changed.pop(forgotten[0], None)
            self._changed[operation] = asyncio.Event()

    def on_ack(self, operation: bytes, peer_id: bytes) -> bool:
        """Count a peer; return False for an operation that nobody waits for."""
        acks = self._acks.find(operation)
        if acks is None or len(acks) >= ACKS_OF_A_REMOVAL:
            return False
        acks.add(peer_id)
        self._changed[operation].set()
        return True

    def wake(self) -> None:
        """Look again: who is expected has changed."""
        for event in self._changed.values():
            event.set()

    def confirmed(self, operation: bytes) -> set[bytes]:
        """Return who acknowledged."""
        return set(self._acks.find(operation) or ())

    async def wait(
        self, operation: bytes, expected: Callable[[], set[bytes]], timeout_s: float = CONFIRM_S
    ) -> set[bytes]:
        """Wait until all of `expected()` (asked again at each change) acknowledged, at most `timeout_s`.

        Returns who did. Cancelling is safe: acknowledgements are counted all the same.
        """
        event = self._changed[operation]
        try:
            async with asyncio.timeout(timeout_s):
                while not expected() <= self.confirmed(operation):
                    event.clear()
                    await event.wait()
        except TimeoutError:
            pass
        return self.confirmed(operation)


async def remove_device(network: Network, peer_id: bytes, reason: str) -> RemovalStatus:
    """Write a removal, carry it out here, tell everybody, wait for who is connected; `Network.remove`."""
    if peer_id == network.own_id:
        raise LocalMisuse("The device was not removed", cause="it is this one", next_step="run `shoal leave`")
    member = network.state.members.get(peer_id)
    if member is None:
        raise LocalMisuse(
            "The device was not removed",
            cause="it never was a member of this network",
            next_step="look it up with `shoal members`",
        )
    if member.state != "active":
        raise Refused(
            "The device was not removed",
            cause="it is no member any more",
            next_step="nothing is left to do; see: shoal members",
            code="already_removed",
        )
    entry = await network.author(Remove(peer_id, reason))
    await network.confirmations.wait(entry.id, lambda: _connected_others(network, peer_id))
    return _status(network, entry.id, peer_id)


async def leave_network(network: Network, reason: str) -> RemovalStatus:
    """Write this device's leave and tell who is connected; `Network.leave`.

    Somebody else has to know, or the others would go on counting this device as a member for ever.
    """
    if network.is_out:
        raise Refused(
            "This device has not left",
            cause="it is no member any more",
            next_step="nothing is left to do: its home can be deleted",
            code="already_removed",
        )
    others = network.active_members() - {network.own_id}
    if others and not network.connected() & others:
        raise Unavailable(
            "This device has not left",
            cause="none of the other members is connected, so nobody would know",
            next_step="try again when one is, or let an owner run `shoal remove`",
            code="nobody_connected",
        )
    owners = {member.peer_id for member in network.state.active_members() if member.role is Role.OWNER}
    if others and owners == {network.own_id}:
        raise Refused(
            "This device has not left",
            cause="it is the only owner: nobody could admit owners or remove admins any more",
            next_step="make another owner first: `shoal invite --role owner`",
            code="last_owner",
        )
    entry = await network.author(Leave(reason))
    return RemovalStatus(entry.id, [], sorted(others))


def _connected_others(network: Network, target: bytes) -> set[bytes]:
    return network.connected() & (network.active_members() - {network.own_id, target})


def _status(network: Network, operation: bytes, target: bytes) -> RemovalStatus:
    others = network.active_members() - {network.own_id, target}
    confirmed = network.confirmations.confirmed(operation) & others
    return RemovalStatus(operation, sorted(confirmed), sorted(others - confirmed))
