"""Inviter: the inviting device's side of a join. It admits whoever proves an invite of its own, once.

The invite is used up only after the proof, the joiner's signature and this device's right to admit were
checked, so that nobody can burn it who does not hold it. From then on it belongs to one key for good: that
joiner may come again and gets the same answer, because the first one may have been lost.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable

from shoal.core.budget import BoundedMap, TokenBucket
from shoal.core.clock import Clock
from shoal.core.errors import LocalMisuse, MalformedMessage, Refused, ShoalError, StorageFault, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.identity.ids import short_peer_id
from shoal.identity.keys import HpkeSuite, is_valid_hpke_public
from shoal.identity.operations import Admit, Role, parse_operation, verify_joiner
from shoal.membership.events import InviteUsed, JoinFailed
from shoal.membership.join_messages import (
    CONTACT_BYTES,
    CONTACTS,
    JOIN_TABLE,
    JoinAccepted,
    JoinEntries,
    JoinReceived,
    JoinRefused,
    JoinRequest,
)
from shoal.membership.join_proof import export_for_join, make_join_proof
from shoal.membership.messages import PAGE_BYTES, PAGE_ENTRIES
from shoal.membership.network import Network
from shoal.membership.sync import cut_batches
from shoal.storage.invites import InviteRow
from shoal.transport.join_channel import JoinChannel
from shoal.wire.limits import NAME_BYTES

REQUEST_TIMEOUT_S = 10.0
RECEIVED_TIMEOUT_S = 30.0  # the joiner makes everything durable before it says so
# each try has shown a knock made from a ticket; a ticket is rate-limited and never burnt by wrong proofs
TRIES_A_MINUTE = 10.0
INVITES_WATCHED = 512


class Inviter:
    """Answers join channels; give its `on_join` to the transport."""

    def __init__(
        self,
        network: Network,
        clock: Clock,
        observe: Observer,
        contacts: Callable[[], list[bytes]] = list,
    ) -> None:
        self._network = network
        self._clock = clock
        self._observe = observe
        self._contacts = contacts  # signed peer records for the joiner, the own one first
        self._tries: BoundedMap[bytes, TokenBucket] = BoundedMap(INVITES_WATCHED)
        self._lock = asyncio.Lock()

    async def on_join(self, channel: JoinChannel) -> None:
        """Take one join from request to end; closes the channel. Cancelling leaves no half admission."""
        async with channel:
            try:
                await self._serve(channel)
            except (Refused, LocalMisuse) as error:
                self._note(channel, error)
                free_name = error.free_name if isinstance(error, NameTaken) else ""
                refused = JoinRefused(error.code, error.message, error.cause, error.next_step, free_name)
                await self._send_last(channel, refused)
            except ShoalError as error:  # the peer's fault or the network's: nothing to explain to it
                self._note(channel, error)

    async def _serve(self, channel: JoinChannel) -> None:
        request = await channel.receive(JOIN_TABLE, REQUEST_TIMEOUT_S)
        if not isinstance(request, JoinRequest):
            raise MalformedMessage("A join begins with a request", peer=channel.peer_id)
        request.check()
        row = self._check(channel, request)
        try:
            async with self._lock:  # two channels of one joiner must not admit it twice
                await self._admit(request, row)
            await self._network.flush()
        except (StorageFault, Unavailable) as error:
            self._note(channel, error)
            raise _refused(
                "try_later", "the inviting device could not write the admission", "try again in a minute"
            ) from error
        await self._answer(channel, request.peer_id)

    def _check(self, channel: JoinChannel, request: JoinRequest) -> InviteRow:
        """Return the invite that was proved. Raises: Refused. Changes nothing but the rate."""
        network = self._network
        invite_id = channel.invite_id or b""
        if not self._try(invite_id):
            raise _refused("too_often", "this ticket was tried too often in the last minute", "try later")
        if request.peer_id != channel.peer_id:
            raise _refused("wrong_key", "the request names another key than the connection")
        if request.network != network.network_id:
            raise _refused("wrong_network", "the ticket is for another network")
        known = {row.id: row for row in network.invites.all()}
        row = known.get(request.invite_id)
        if row is None or request.invite_id != invite_id:
            raise _refused("invite_unknown", "this device made no such invite")
        exported = export_for_join(channel, network.network_id)
        proof = make_join_proof(row.secret, exported, request.peer_id, network.own_id, row.id)
        if not hmac.compare_digest(proof, request.proof):
            raise _refused("wrong_proof", "the proof does not fit the ticket")
        if request.hpke_suite != HpkeSuite.MLKEM768_X25519_SHA256_AES256:
            raise _refused("unknown_suite", "the joiner's key is of a kind this release does not know")
        if not is_valid_hpke_public(request.hpke_public):
            raise _refused("unknown_suite", "secrets cannot be wrapped to the joiner's key: it is none")
        if not verify_joiner(network.network_id, self._make_admit(request, row)):
            raise _refused("wrong_signature", "the joiner's signature does not fit its keys and name")
        return network.invites.get(row.id, request.peer_id)

    async def _admit(self, request: JoinRequest, row: InviteRow) -> None:
        network = self._network
        member = network.state.members.get(request.peer_id)
        if member is not None and member.removed_by_op is not None:
            raise _removed()
        if member is not None and member.state == "active":
            return  # the reply was lost, or it has joined by another invite
        network.check_may_admit(Role(row.role))
        self._check_name(request.name)
        await network.wait_current()  # a restored backup has forgotten what it admitted
        if self._is_used_in_log(row.id):
            raise _refused("invite_used", "another device has joined with it")
        row = await network.invites.use(row.id, request.peer_id)
        try:
            await network.author(self._make_admit(request, row))
        except (Refused, LocalMisuse, StorageFault, Unavailable):
            await network.invites.release(row.id, request.peer_id)
            raise
        network.events.publish(InviteUsed(row.id, request.peer_id, request.name))

    def _check_name(self, name: str) -> None:
        """Raises: NameTaken if another active device has this name: people could not tell them apart."""
        taken = {m.name for m in self._network.state.members.values() if m.state == "active"}
        if name in taken:
            raise NameTaken(name, find_free_name(name, taken))

    def _is_used_in_log(self, invite_id: bytes) -> bool:
        own = self._network.own_id
        written = [entry for entry in self._network.log.entries() if entry.author == own]
        operations = [parse_operation(entry.payload).operation for entry in written]
        return any(isinstance(op, Admit) and op.invite_id == invite_id for op in operations)

    async def _answer(self, channel: JoinChannel, joiner: bytes) -> None:
        network = self._network
        member = network.state.members[joiner]
        if not network.is_active(joiner):  # removed while the admission became durable
            raise _removed()
        pages = cut_batches(network.log.entries(), PAGE_BYTES, PAGE_ENTRIES)
        contacts = [record for record in self._contacts() if len(record) <= CONTACT_BYTES][:CONTACTS]
        secrets = network.secrets.wrap_for(member)
        await channel.send(JOIN_TABLE, JoinAccepted(len(pages), secrets, contacts))
        for page in pages:
            await channel.send(JOIN_TABLE, JoinEntries(page))
        last = await channel.receive(JOIN_TABLE, RECEIVED_TIMEOUT_S)
        if not isinstance(last, JoinReceived):
            raise MalformedMessage("A join ends with its receipt", peer=joiner)

    def _make_admit(self, request: JoinRequest, row: InviteRow) -> Admit:
        return Admit(
            peer_id=request.peer_id,
            role=row.role,
            user=row.user or request.user,
            name=request.name,
            hpke_suite=request.hpke_suite,
            hpke_public=request.hpke_public,
            invite_id=row.id,
            joiner_signature=request.signature,
        )

    def _try(self, invite_id: bytes) -> bool:
        now = self._clock.monotonic()
        bucket = self._tries.find(invite_id)
        if bucket is None:
            bucket = TokenBucket(TRIES_A_MINUTE / 60.0, TRIES_A_MINUTE, now)
            self._tries.put(invite_id, bucket)
        return bucket.try_take(now)

    def _note(self, channel: JoinChannel, error: ShoalError) -> None:
        # neither port nor key is the subject: both are new for every try of who floods
        detail = f"{short_peer_id(channel.peer_id)} {error.code}: {error}"
        self._observe(Observation("join_refused", channel.address.budget_group, detail))
        if channel.invite_id is not None and isinstance(error, Refused):
            self._network.events.publish(JoinFailed(channel.invite_id, error.code))

    async def _send_last(self, channel: JoinChannel, message: JoinRefused) -> None:
        try:
            await channel.send(JOIN_TABLE, message)
        except Unavailable:
            pass  # it did not wait for the answer


class NameTaken(Refused):
    """Another device has the name. `free_name` is one that nobody has now."""

    def __init__(self, name: str, free_name: str) -> None:
        super().__init__(
            "The device was not admitted",
            cause=f"another device of this network is called {name}",
            next_step="join again with another name: --name",
            code="name_taken",
        )
        self.free_name = free_name


def find_free_name(name: str, taken: set[str]) -> str:
    """Return `name-2`, `name-3`, ...: the first that is not taken, cut to NAME_BYTES."""
    number = 2
    while True:
        ending = f"-{number}"
        base = name.encode()[: NAME_BYTES - len(ending)].decode(errors="ignore")
        if (candidate := base + ending) not in taken:
            return candidate
        number += 1  # at most as often as there are members


def _removed() -> Refused:
    return _refused(
        "removed",
        "this device was removed from the network",
        "a removed key is never admitted again: join with a new home",
    )


def _refused(code: str, cause: str, next_step: str = "ask for a new ticket: `shoal invite`") -> Refused:
    return Refused("The device was not admitted", cause=cause, next_step=next_step, code=code)
