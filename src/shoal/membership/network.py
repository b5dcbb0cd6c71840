"""Network: what this device knows of its network (log, secrets, members) and what it may write.

It is the `MembershipView` that transport asks. Entries enter the log by the synchronisation machine or by
`author`. What came from others takes effect at once and is acknowledged when it is durable; what this device
writes itself is durable before it takes effect anywhere, so that no crash makes it sign one number twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

from shoal.core.budget import BoundedMap
from shoal.core.clock import Clock
from shoal.core.errors import LocalMisuse, Refused, RemoteFault, ShoalError, Unavailable
from shoal.core.events import EventBus
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.identity.entry import Entry, parse_entry
from shoal.identity.ids import short_peer_id
from shoal.identity.keys import DeviceKeys
from shoal.identity.log import Added, Duplicate, MembershipLog
from shoal.identity.operations import Leave, Operation, Remove, Role, parents_of
from shoal.identity.state import MembershipState
from shoal.membership.events import Blocked, MembershipChanged, NoLongerMember
from shoal.membership.invites import Invites
from shoal.membership.journal import Journal
from shoal.membership.messages import LAST_WORD_BYTES, LastWord
from shoal.membership.removal import Confirmations, Enforcer, RemovalStatus, leave_network, remove_device
from shoal.membership.spaces import Secrets
from shoal.membership.sync import SyncMachine
from shoal.membership.sync_events import (
    Notify,
    Observe,
    Offered,
    PeerHead,
    Save,
    SessionUp,
    Spread,
    Synced,
    SyncEffect,
    SyncInput,
)
from shoal.storage.entries import Entries
from shoal.storage.invites import Invites as InviteTable
from shoal.storage.secrets_store import SecretsStore

log = logging.getLogger("shoal.membership")

CURRENT_TIMEOUT_S = 10.0  # to learn from one connected peer what this device wrote before
HELLO_ENTRIES = 16  # formats.md, Session
HELLO_ENTRIES_BYTES = 63 * 1024  # the hello itself is one message
ACQUAINTED = 1024  # peers of which is remembered that they have this device's admission
# from the start of a node on which every peer is shown it: after a join not everybody has heard of it yet
NEWCOMER_S = 30.0


class Stores(NamedTuple):
    """The tables that membership keeps."""

    entries: Entries
    secrets: SecretsStore
    invites: InviteTable


class Network:
    """One network, seen from one of its devices. Loop thread only.

    `load` reads what is kept; `start` begins to save. Until a log was founded or joined nobody is a member.
    The service sets `outbox`, `connected`, `on_durable` and the enforcer.
    """

    def __init__(
        self,
        network_id: bytes,
        keys: DeviceKeys,
        stores: Stores,
        *,
        clock: Clock,
        supervisor: Supervisor,
        observe: Observer,
        events: EventBus,
    ) -> None:
        self.network_id = network_id
        self.keys = keys
        self.clock = clock
        self.observe = observe
        self.events = events
        self.log = MembershipLog(network_id)
        self.journal = Journal(stores.entries, network_id, observe)
        self.secrets = Secrets(stores.secrets, keys, network_id)
        self.invites = Invites(stores.invites, keys.peer_id, clock, self.check_may_admit)
        self.confirmations = Confirmations()
        self.enforcer: Enforcer | None = None
        self.outbox: Callable[[SyncEffect], None] = lambda effect: None
        self.connected: Callable[[], set[bytes]] = set
        self.on_durable: Callable[[tuple[Entry, ...]], None] = lambda entries: None
        self._supervisor = supervisor
        self._machine = SyncMachine(self.log)
        self._state = self.log.state  # what the rest of the node was told last
        self._author_lock = asyncio.Lock()
        self._is_current = asyncio.Event()
        self._acquainted: BoundedMap[bytes, bool] = BoundedMap(ACQUAINTED)
        self._assumed: BoundedMap[bytes, bool] = BoundedMap(ACQUAINTED)  # who is assumed to have it
        self._is_newcomer_until = float("inf")
        self._hello_entries: tuple[bytes, list[bytes]] = (b"", [])  # of which admission, and what shows it

    # --- lifecycle ----------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read log, secrets and invites. Raises: StorageFault.

        A kept entry that is damaged is left out and observed; peers give it again.
        """
        damaged = 0
        for data in await self.journal.load():
            try:
                damaged += not isinstance(self.log.add(parse_entry(data)), Added | Duplicate)
            except RemoteFault:
                damaged += 1
        if damaged:
            self.observe(Observation("storage_entry_damaged", "membership", f"{damaged} entries left out"))
        await self.secrets.load()
        await self.invites.load()
        if self._state.members:  # read again, after a join that was begun before: somebody may be out by it
            self.on_state()
        else:
            self._state = self.log.state

    def start(self) -> None:
        """Begin to save what arrives. Expects a running supervisor."""
        self._is_newcomer_until = self.clock.monotonic() + NEWCOMER_S
        self._supervisor.start("membership journal", lambda: self.journal.run(self._on_saved))

    # --- what everybody asks ------------------------------------------------------------------------------

    @property
    def own_id(self) -> bytes:
        """This device's key."""
        return self.keys.peer_id

    @property
    def state(self) -> MembershipState:
        """The members and all else that the log says; empty before there is a log."""
        return self.log.state

    @property
    def is_out(self) -> bool:
        """Whether this device was a member and is none any more."""
        return self.own_id in self.state.members and not self.state.is_active(self.own_id)

    @property
    def is_blocked(self) -> bool:
        """Whether the log holds a critical operation that this release does not understand."""
        return self.state.blocked is not None

    @property
    def may_meet(self) -> bool:
        """Whether this device opens and accepts sessions at all."""
        return self.state.is_active(self.own_id) and not self.is_blocked

    def is_active(self, peer_id: bytes) -> bool:
        """Whether this key is a member now; False for everybody while this device is blocked or out."""
        return self.may_meet and self.state.is_active(peer_id)

    def role_of(self, peer_id: bytes) -> Role | None:
        """The role of an active member, else None."""
        return self.state.role_of(peer_id) if self.may_meet else None

    def active_members(self) -> set[bytes]:
        """Return the keys of all active members."""
        return {member.peer_id for member in self.state.active_members()}

    def head(self) -> bytes:
        """BLAKE3 of the sorted tips."""
        return self.log.head

    def door_keys(self) -> list[bytes]:
        """Door keys, newest first, at most 16."""
        return self.secrets.door_keys()

    def content_secret(self, generation: int) -> bytes:
        """Return the default space's content secret. Raises: Unavailable when this device has none."""
        return self.secrets.get_content(generation)

    def content_generation(self) -> int:
        """Return the newest generation of it. Raises: Unavailable."""
        return self.secrets.content_generation()

    def open_invites(self) -> bool:
        """Whether a joiner would be answered."""
        return self.may_meet and self.invites.any_answered()

    def match_join_knock(self, nonce: bytes, mac: bytes) -> bytes | None:
        """The id of the invite whose ticket secret made `mac`, or None."""
        return self.invites.match_knock(nonce, mac) if self.may_meet else None

    def match_nameplate(self, nameplate: int) -> bytes | None:
        """The id of the invite whose typed code has this nameplate, or None."""
        return self.invites.match_nameplate(nameplate) if self.may_meet else None

    def show_admission(self, peer_id: bytes, head: bytes) -> list[bytes]:
        """This device's admission with the entries before it, parents first: at most 16 in 63 KiB.

        None for a peer whose log is ours, by `head` or when it was last heard, nor for one that has said
        nothing yet when this node has been here for a while: broadcasts bring an admission to all. Both count
        once: a peer that has not got it refuses us, and is shown all of it at the next try.
        """
        acquainted = self._acquainted.pop(peer_id) is not None
        refused = self._assumed.pop(peer_id) is not None
        is_newcomer = refused or self.clock.monotonic() < self._is_newcomer_until
        if acquainted or head == self.log.head or (not head and not is_newcomer):
            self._assumed.put(peer_id, True)
            return []
        member = self.state.members.get(self.own_id)
        if member is not None and self._hello_entries[0] != member.admitted_by_op:
            chosen = [entry.data for entry in self.log.past_of(member.admitted_by_op)[-HELLO_ENTRIES:]]
            while sum(map(len, chosen)) > HELLO_ENTRIES_BYTES:
                del chosen[0]
            self._hello_entries = (member.admitted_by_op, chosen)
        return self._hello_entries[1]

    def reason_of(self, peer_id: bytes) -> str:
        """Why a device is out: `removed` or `left`."""
        member = self.state.members.get(peer_id)
        if member is not None and member.removed_by_op is not None:
            return "left" if self.log.entry(member.removed_by_op).author == peer_id else "removed"
        return "removed"

    # --- entries of others --------------------------------------------------------------------------------

    def step(self, event: SyncInput) -> list[SyncEffect]:
        """Give the machine an input and do what it says; returns its effects, for who waits for a reply."""
        effects = self._machine.step(self.clock.monotonic(), event)
        if isinstance(event, SessionUp):
            self._assumed.pop(event.peer)
        if isinstance(event, SessionUp | PeerHead) and self._machine.has_head(event.head8):
            self._acquainted.put(event.peer, True)
        for effect in effects:
            match effect:
                case Save():
                    self._on_added(effect)
                case Observe(rule, peer, detail):
                    self.observe(Observation(rule, short_peer_id(peer) if peer else "-", detail))
                case Synced():
                    self._is_current.set()
                    self.outbox(effect)
                case _:
                    self.outbox(effect)
        return effects

    def is_untold(self, entry_id: bytes) -> bool:
        """Whether an entry is in the log and was not broadcast from here yet."""
        return self._machine.is_untold(entry_id)

    async def learn(self, entries: list[bytes]) -> None:
        """Take entries out of a hello, durable on return. Cancelling is safe: they are kept all the same.

        Raises: Unavailable (code `synchronise`) when parents are missing, RemoteFault for bad entries.
        """
        if len(entries) > HELLO_ENTRIES or sum(map(len, entries)) > HELLO_ENTRIES_BYTES:
            raise RemoteFault("A hello has too many entries", code="limit_exceeded")
        parsed = [parse_entry(data) for data in entries]
        fresh = [entry for entry in parsed if entry.id not in self.log]
        if not fresh:
            return
        known = {entry.id for entry in parsed}
        for entry in fresh:
            if any(p not in known and p not in self.log for p in parents_of(entry.payload)):
                raise Unavailable(
                    "The peer's admission cannot be checked",
                    cause="entries before it are not known here",
                    next_step="synchronise elsewhere",
                    code="synchronise",
                )
        self.step(Offered(tuple(entry.data for entry in fresh), None))
        if any(entry.id not in self.log for entry in fresh):
            raise RemoteFault("A hello has an entry that is not valid", code="bad_entry")
        await self.flush()

    async def flush(self) -> None:
        """Wait until everything in the log is durable. Raises: StorageFault."""
        await self.journal.flush()

    # --- entries of our own -------------------------------------------------------------------------------

    async def wait_current(self, timeout_s: float = CURRENT_TIMEOUT_S) -> None:
        """Wait until one connected peer was asked what this device wrote before; not if none is connected.

        A home restored from an old backup would otherwise sign a number again. Raises: Unavailable.
        """
        if self._is_current.is_set() or not self.connected():
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_current.wait()
        except TimeoutError:
            raise Unavailable(
                "Nothing was written to the membership log",
                cause="no connected peer said in time what this device wrote before",
                next_step="try again",
                retry_after_s=5.0,
                code="not_current",
            ) from None

    async def author(self, operation: Operation) -> Entry:
        """Sign an operation over what is known now, make it durable, apply it, tell everybody.

        Cancelling is safe: it is written whole or not at all. Raises: Refused, Unavailable, StorageFault.
        """
        await self.wait_current()
        job = self._supervisor.spawn("membership author", self._try_author(operation))
        result: Entry | ShoalError = await asyncio.shield(job)
        if isinstance(result, ShoalError):
            raise result
        return result

    async def remove(self, peer_id: bytes, reason: str = "") -> RemovalStatus:
        """Remove a device for ever; wait at most 10 s for the others to say that it is out there too.

        Raises: Refused, LocalMisuse (not a member; oneself), Unavailable, StorageFault.
        """
        return await remove_device(self, peer_id, reason)

    async def leave(self, reason: str = "") -> RemovalStatus:
        """End this device's own membership for ever. Raises: Refused, Unavailable, StorageFault."""
        return await leave_network(self, reason)

    async def _try_author(self, operation: Operation) -> Entry | ShoalError:
        """Return what `_author` returns or raises: a refusal is for who asked, no failure of a task."""
        try:
            return await self._author(operation)
        except ShoalError as error:
            return error

    async def _author(self, operation: Operation) -> Entry:
        async with self._author_lock:
            await self.flush()
            self._check_may_write()
            entry = self.log.make_entry(self.keys, operation, int(self.clock.wall()))
            await self.journal.append_own(entry)
            if not isinstance(self.log.add(entry), Added):
                raise LocalMisuse("The membership log refused what this device wrote")
            if isinstance(operation, Remove | Leave):
                self.confirmations.expect(entry.id)
            self.outbox(Spread((entry,)))
            self.on_state()
            return entry

    def check_may_admit(self, role: Role) -> None:
        """Raises: Refused unless this device may admit a device with this role now."""
        own = self.role_of(self.own_id)
        if own is Role.OWNER or (own is Role.ADMIN and role >= Role.MEMBER):
            return
        raise Refused(
            "The device was not admitted",
            cause=f"the inviting device may not admit anybody as {role.name.lower()}",
            next_step="let an owner invite (admins admit members and storage only)",
            code="not_allowed",
        )

    def _check_may_write(self) -> None:
        if self.is_blocked:
            raise Refused(
                "Nothing was written to the membership log",
                cause=self.state.blocked or "",
                next_step="upgrade shoal",
                code="blocked",
            )
        if not self.may_meet:
            raise Refused(
                "Nothing was written to the membership log",
                cause="this device is not a member of the network",
                code="not_member",
            )

    # --- after the log has changed ------------------------------------------------------------------------

    def on_state(self) -> None:
        """Compare with what was known before; end, block and tell what follows. Called after every change."""
        before, after = self._state, self.state
        if before is after:
            return
        self._state = after
        was = {member.peer_id for member in before.active_members()}
        now = {member.peer_id for member in after.active_members()}
        added, gone = now - was, was - now
        for peer in sorted(gone - {self.own_id}):
            self._tell_last(peer)
            if self.enforcer is not None:
                self.enforcer.end(peer, self.reason_of(peer))
        if self.own_id in gone:
            self._on_out()
        if after.blocked is not None and before.blocked is None:
            log.error("blocked: %s", after.blocked)
            self._end_all("blocked")
            self.events.publish(Blocked(after.blocked))
        self.confirmations.wake()
        if added or gone:
            self.events.publish(MembershipChanged(frozenset(added), frozenset(gone)))

    def _tell_last(self, peer_id: bytes) -> None:
        """Give a device that is out the entry that says so, as the last thing it gets."""
        member = self.state.members.get(peer_id)
        entry = self.log.find_entry(member.removed_by_op) if member and member.removed_by_op else None
        if entry is not None and len(entry.data) <= LAST_WORD_BYTES:
            self.outbox(Notify(peer_id, LastWord(entry.data)))

    def _on_out(self) -> None:
        reason = self.reason_of(self.own_id)
        log.warning("this device is no member of the network any more: %s", reason)
        self._end_all(reason)
        self.events.publish(NoLongerMember(reason))
        try:
            self._supervisor.spawn("membership revoke invites", self.invites.revoke_all())
        except Unavailable as error:  # none is answered any more anyway
            log.warning("the invites stay open in the database: %s", error)

    def _end_all(self, reason: str) -> None:
        if self.enforcer is not None:
            self.enforcer.end_all(reason)

    def _on_added(self, effect: Save) -> None:
        self.journal.put(effect)
        if any(entry.author == self.own_id for entry in effect.entries):
            detail = "peers had operations of this device that were not here: was a backup restored?"
            self.observe(Observation("own_chain_behind", short_peer_id(self.own_id), detail))
        twice = self.log.equivocations
        for entry in effect.entries:
            if (entry.author, entry.seq) in twice:
                detail = f"two operations with number {entry.seq}: a restored backup or a copied key"
                self.observe(Observation("equivocation", short_peer_id(entry.author), detail))
        self.on_state()

    def _on_saved(self, save: Save) -> None:
        self.on_durable(save.entries)
