"""Guests: leaves passes for newcomers with relays, and as a relay leads who knocks with one to its inviter.

A newcomer is no member: all that it can do here is to be spliced with one inviter that expects it, within
small limits (spec/guest.md). Whether it is admitted only that inviter decides.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.core.errors import MalformedMessage, Refused, RemoteFault, ShoalError, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.core.units import KIB
from shoal.identity.ids import short_peer_id
from shoal.transport.join_channel import JoinChannel
from shoal.transport.reach.guest_book import GuestBook
from shoal.transport.reach.guest_messages import (
    GUEST_TABLE,
    GuestAsk,
    GuestGrant,
    GuestRefused,
    make_guest_proof,
)
from shoal.transport.reach.messages import PEER_BYTES, GuestOffer, GuestPass, GuestPasses, GuestsKnown
from shoal.transport.reach.relay import Relay
from shoal.transport.reach.relay_machine import Guest
from shoal.transport.session import Session
from shoal.wire.limits import MEMBERS
from shoal.wire.registry import ServiceNumber

DOORS = 8  # guests that are being answered
DOORS_A_PASS = 2  # of them with one pass, or who has a ticket could stand in everybody's way
DOOR_TIMEOUT_S = 15.0  # for one of them, from its knock to its token
ASK_TIMEOUT_S = 5.0
GUEST_BYTES = 256 * KIB  # of one stream, both ways, and what it takes to bring the membership log
RELAYS_LEFT_WITH = 16
LOOK_S = 5.0
GIVE_TIMEOUT_S = 5.0
RETRY_S = 60.0  # a relay that will not take the passes; who only cannot now is asked after LOOK_S
OFFERS_S = 0.5  # from one relay: each makes us connect to it
OFFERS_BURST = 12.0


class GuestsHost(Protocol):
    """What is needed of the transport."""

    def find_session(self, peer_id: bytes) -> Session | None: ...


@dataclass(frozen=True, slots=True)
class GuestPort:
    """What is asked of membership and overlay. Set once by the composition root, before anything runs."""

    may_invite: Callable[[bytes], bool]  # whether a member may let others in
    log_bytes: Callable[[], int]  # of the membership log, which a newcomer is sent
    passes_for: Callable[[bytes], list[GuestPass]]  # of our invites, for one relay
    find_relays: Callable[[], list[bytes]]  # over whom this node can be reached


NO_GUESTS = GuestPort(lambda _: False, lambda: 0, lambda _: [], list)


@dataclass(slots=True)
class _Left:
    session: Session
    invites: tuple[bytes, ...]
    taken: bool
    retry_at: float


class Guests:
    """One a node; the relay's half does nothing where `relay` is None."""

    def __init__(
        self,
        host: GuestsHost,
        port: GuestPort,
        *,
        own_id: bytes,
        relay: Relay | None,
        supervisor: Supervisor,
        monotonic: Callable[[], float],
        observe: Observer,
    ) -> None:
        self._host = host
        self._port = port
        self._relay = relay
        self._supervisor = supervisor
        self._monotonic = monotonic
        self._observe = observe
        self._book = GuestBook(own_id)
        self._doors: Counter[bytes] = Counter()  # by pass; at most DOORS in all
        self._left: dict[bytes, _Left] = {}  # with which relay; at most RELAYS_LEFT_WITH
        self._giving = asyncio.Lock()
        self._changed = asyncio.Event()
        self._offers: BoundedMap[bytes, TokenBucket] = BoundedMap(MEMBERS)

    # -- the inviter's half ----------------------------------------------------------------------------

    def invites_changed(self) -> None:
        """An invite was made, used or taken back, or a session came up."""
        self._changed.set()

    async def run(self) -> None:
        """Keep the relays' passes those of our open invites. Runs until cancelled."""
        while True:
            self._changed.clear()  # first: what changes meanwhile is looked at again
            await self.leave_passes()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass  # an invite may have expired

    async def leave_passes(self) -> list[bytes]:
        """Leave passes with the relays that lack some; return the relays that hold them all now."""
        async with self._giving:
            if not self._left and not self._port.passes_for(bytes(PEER_BYTES)):
                return []  # no invite is open: who relays need not be looked up
            relays = self._port.find_relays()[:RELAYS_LEFT_WITH]
            for gone in self._left.keys() - set(relays):
                if self._find_direct(gone) is not self._left[gone].session:
                    del self._left[gone]
            known = [*relays, *(relay for relay in self._left if relay not in relays)][:RELAYS_LEFT_WITH]
            await asyncio.gather(*(self._give(relay) for relay in known))
            return [relay for relay in relays if relay in self._left and self._left[relay].taken]

    def take_offer(self, session: Session, offer: GuestOffer) -> None:
        """Check that a relay may bring us somebody. Raises: Refused, Unavailable (too often)."""
        left = self._left.get(session.peer_id)
        invites = {row.invite_id for row in self._port.passes_for(session.peer_id)}
        if left is None or not left.taken or offer.invite_id not in invites.intersection(left.invites):
            raise Refused("The offer was not taken", cause="no such guest is expected", code="stranger")
        now = self._monotonic()
        bucket = self._offers.find(session.peer_id)
        if bucket is None:
            bucket = TokenBucket(OFFERS_S, OFFERS_BURST, now)
            self._offers.put(session.peer_id, bucket)
        if not bucket.try_take(now):
            raise Unavailable("The offer was not taken", cause="too many guests", code="busy")

    async def _give(self, relay: bytes) -> None:
        session = self._find_direct(relay)
        if session is None:
            self._left.pop(relay, None)
            return
        passes = self._port.passes_for(relay)
        invites = tuple(row.invite_id for row in passes)
        before = self._left.get(relay)
        if before is None and not passes:
            return
        is_same = before is not None and before.session is session and before.invites == invites
        if before is not None and is_same and (before.taken or self._monotonic() < before.retry_at):
            return
        taken, retry_s = False, 0.0
        try:
            message = GuestPasses(passes)
            answer = await session.request(ServiceNumber.REACH, message, GIVE_TIMEOUT_S)
            taken = isinstance(answer, GuestsKnown)
        except (Unavailable, Refused, RemoteFault) as error:
            self._observe(Observation("passes_not_taken", short_peer_id(relay), str(error)))
            retry_s = LOOK_S if isinstance(error, Unavailable) else RETRY_S
        self._left[relay] = _Left(session, invites, taken, self._monotonic() + retry_s)

    def _find_direct(self, relay: bytes) -> Session | None:
        session = self._host.find_session(relay)
        return session if session is not None and session.relay is None else None

    # -- the relay's half ------------------------------------------------------------------------------

    def take_passes(self, session: Session, passes: Sequence[GuestPass]) -> GuestsKnown:
        """Know the passes of a member. Raises: Refused, Unavailable."""
        if self._relay is None or not self._relay.status().limits.guests:
            cause = "this device does not relay newcomers"
            raise Refused("The passes were not taken", cause=cause, code="not_a_relay")
        if session.relay is not None:
            raise Refused("The passes were not taken", cause="the session is relayed", code="relayed")
        if not self._port.may_invite(session.peer_id):
            cause = "that member may let nobody in"
            raise Refused("The passes were not taken", cause=cause, code="not_allowed")
        self._book.put(self._monotonic(), session.peer_id, passes)
        return GuestsKnown()

    def session_ended(self, peer_id: bytes) -> None:
        """A member's session ended: it can be led to no more, and a next session brings its passes again."""
        self._book.drop(peer_id)

    def match_knock(self, nonce: bytes, mac: bytes) -> bytes | None:
        """Return the pass that made a guest's knock, or None."""
        return self._book.match(self._monotonic(), nonce, mac)

    def take(self, channel: JoinChannel, guest_pass: bytes) -> bool:
        """Answer a guest at the door; False: too many are, or the node stops."""
        if self._relay is None or self._doors.total() >= DOORS or self._doors[guest_pass] >= DOORS_A_PASS:
            return False
        try:
            task = self._supervisor.spawn(
                "guest", self._serve(self._relay, channel, guest_pass), for_peer=True
            )
        except Unavailable:
            return False
        self._doors[guest_pass] += 1
        task.add_done_callback(lambda _: self._on_door_done(channel, guest_pass))
        return True

    def _on_door_done(self, channel: JoinChannel, guest_pass: bytes) -> None:
        self._doors -= Counter([guest_pass])  # drops what is 0
        channel.close()  # also of a task that was cancelled before it ran

    async def _serve(self, relay: Relay, channel: JoinChannel, guest_pass: bytes) -> None:
        group = channel.address.budget_group
        try:
            async with asyncio.timeout(DOOR_TIMEOUT_S):
                ask = await channel.receive(GUEST_TABLE, ASK_TIMEOUT_S)
                if not isinstance(ask, GuestAsk):
                    raise MalformedMessage("A guest begins with its question", peer=channel.peer_id)
                ask.check()
                try:
                    _check_proof(channel, guest_pass, ask.proof)
                    token = await self._lead(relay, channel, guest_pass, group)
                except (Refused, Unavailable) as error:
                    self._observe(Observation("guest_refused", group, f"{error.code}: {error.cause}"))
                    later = isinstance(error, Unavailable)
                    answer = GuestRefused(error.code, error.cause or error.message, later)
                    await channel.send(GUEST_TABLE, answer)
                else:
                    await channel.send(GUEST_TABLE, GuestGrant(token))
        except TimeoutError:
            self._observe(Observation("guest_timeout", group))
        except ShoalError as error:  # the guest's fault or the network's: nothing to explain to it
            self._observe(Observation("guest_failed", group, str(error)))

    async def _lead(self, relay: Relay, channel: JoinChannel, guest_pass: bytes, group: str) -> bytes:
        """Raises: Refused, Unavailable."""
        inviter, invite_id = self._book.enter(self._monotonic(), guest_pass, group)
        if not self._port.may_invite(inviter):
            raise Refused("Nobody was led", cause="the inviter may let nobody in any more", code="pass_over")
        # the log travels once, inside of TLS and with frames around its entries: an eighth more is plenty
        size_bytes = GUEST_BYTES + self._port.log_bytes() * 9 // 8
        guest = Guest(guest_pass, size_bytes)
        grant = await relay.grant_guest(channel.peer_id, inviter, guest, invite_id)
        return grant.token


def _check_proof(channel: JoinChannel, guest_pass: bytes, proof: bytes) -> None:
    """Raises: Refused. Costs the pass no try: whoever saw the knock could use them up."""
    right = make_guest_proof(channel, guest_pass, channel.peer_id, channel.own_id)
    if not hmac.compare_digest(right, proof):
        raise Refused("Nobody was led", cause="the proof does not fit the pass", code="wrong_proof")
