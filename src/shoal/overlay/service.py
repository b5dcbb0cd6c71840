"""Service: drives the full mesh with asyncio: dials, timers, the peer book on disk, own addresses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random
from typing import Protocol

from shoal.core.chance import Chance
from shoal.core.clock import Clock
from shoal.core.errors import LocalMisuse, MalformedMessage, ShoalError, Unavailable
from shoal.core.observation import Observation, Observer
from shoal.core.supervisor import Supervisor
from shoal.core.timers import Timers
from shoal.identity.ids import short_peer_id
from shoal.identity.keys import DeviceKeys
from shoal.identity.record import ADDRESSES_LIMIT
from shoal.overlay.kept_relays import KeptRelays
from shoal.overlay.mesh import MeshMachine
from shoal.overlay.messages import KEY_BYTES, OVERLAY_TABLE, Records, check
from shoal.overlay.network_watch import NetworkWatch
from shoal.overlay.own_record import RecordSigner
from shoal.overlay.peer_book import find_address
from shoal.overlay.provision import sign_provision
from shoal.overlay.search import SEARCHES
from shoal.overlay.steps import (
    Cancel,
    Connect,
    ContactFound,
    DialEnded,
    Effect,
    Emit,
    Forget,
    HeadTold,
    Input,
    Locate,
    Located,
    Members,
    NetworkChanged,
    Observe,
    OwnProvision,
    OwnRecord,
    OwnRecordBehind,
    PageChanged,
    PeerStatus,
    Publish,
    Received,
    Result,
    Save,
    Send,
    SessionDown,
    SessionUp,
    SetTimer,
    Sparse,
    Spread,
    Started,
    Timer,
    Token,
    Unreached,
    Wanted,
    Withdraw,
)
from shoal.overlay.substrate.messages import NUMBERS
from shoal.overlay.substrate.service import MESH_MEMBERS, SubstrateService, SubstrateStatus, TopicHandler
from shoal.overlay.taker import Taker
from shoal.overlay.topics import PROVISION_TOPIC, RECORD_TOPIC
from shoal.storage.peers import PeerRow
from shoal.transport.address import Address
from shoal.transport.interfaces import POLL_S, choose_addresses, list_interface_addresses
from shoal.transport.ports import BaseService, ServiceBudget
from shoal.transport.reach.standing import is_inner
from shoal.transport.session import Session
from shoal.wire.codec import Message
from shoal.wire.limits import GOSSIP_BYTES, MEMBERS
from shoal.wire.registry import ServiceNumber

log = logging.getLogger("shoal.overlay")

DIAL_TIMEOUT_S = 5.0  # an address; the next one waits meanwhile. Two slow round trips and a handshake
INNER_TIMEOUT_S = 2.5  # an inner address where there are relays too: who is of this network answers at once
SAVE_S = 0.2  # rows of the peer book are collected this long
CLOSE_SAVE_S = 2.0
TIMERS = MEMBERS + SEARCHES + 16  # a dial a member, a budget a search, and the machine's own rounds
WAITING = 4096  # inputs kept until `start` has loaded the book
RELAYS_S = 0.2  # relays that come and go are collected this long before our record says so
SUBSTRATE = frozenset(NUMBERS.values())
NEVER_TRIED = frozenset(
    {"", "idle", "replaced"}
)  # ends after which a member can be reached as far as we know
LOCATE_GRACE_S = 1.0  # beyond its budget a search cannot last: the machine's timer ends it


class OverlayTransport(Protocol):
    """What the overlay needs of the transport."""

    @property
    def listen_addresses(self) -> list[Address]: ...

    async def dial(self, peer_id: bytes, address: Address, timeout_s: float = 8.0) -> Session: ...

    def find_session(self, peer_id: bytes) -> Session | None: ...

    def sessions(self) -> list[Session]: ...

    def probe_sessions(self) -> None: ...

    def close_stranded(self, own_hosts: Collection[str]) -> None: ...


class MemberSet(Protocol):
    """What the overlay needs to know of membership."""

    def active_members(self) -> set[bytes]: ...


class PeerStore(Protocol):
    """Where the peer book survives; storage.peers.Peers is one."""

    async def load(self) -> list[PeerRow]: ...

    async def save(self, rows: Iterable[PeerRow]) -> None: ...

    async def drop(self, peer_ids: Iterable[bytes]) -> None: ...


class OverlayService(BaseService):
    """The full mesh of a node; implements `port.OverlayPort`.

    Expects to be registered with the transport, and `start` after the transport has started (its ports go
    into our record). `close` saves the peer book, within CLOSE_SAVE_S.
    """

    number = ServiceNumber.OVERLAY
    table = OVERLAY_TABLE
    # a first exchange with 10,000 members is 130 pages; gossip 15/s burst 300 (security.md section 3)
    budget = ServiceBudget(requests_in_flight=1, messages_per_s=15.0, burst=300.0, message_bytes=GOSSIP_BYTES)

    def __init__(
        self,
        transport: OverlayTransport,
        members: MemberSet,
        store: PeerStore,
        *,
        keys: DeviceKeys,
        network_id: bytes,
        name: Callable[[], str],
        supervisor: Supervisor,
        clock: Clock,
        observe: Observer,
        rng: Random,
        poll_s: float = POLL_S,
        relays: bool = False,
        mesh_members: int = MESH_MEMBERS,
        is_busy: Callable[[bytes], bool] = lambda peer: False,
    ) -> None:
        """`relays`: this node splices streams for others, and its record says so.

        `mesh_members`: up to as many members keep a session with everybody. `is_busy`: whether bulk data
        runs beside the session with a peer.
        """
        self._transport = transport
        self._members = members
        self._store = store
        self._keys = keys
        self._network_id = network_id
        self._supervisor = supervisor
        self._clock = clock
        self._observe = observe
        self._mesh_members = mesh_members
        self._look_soon: asyncio.TimerHandle | None = None
        self.on_network_changed: Callable[[], None] = lambda: None
        self.outer_addresses: Callable[[], list[str]] = list  # of a router that leads them here
        self._machine = MeshMachine(keys.peer_id, network_id, rng)
        self._substrate = SubstrateService(
            keys.peer_id,
            transport,
            Chance(rng.getrandbits(64)),
            dial=lambda peer: self._step(Wanted(peer)),
            set_sparse=lambda on: self._step(Sparse(on)),
            is_busy=is_busy,
            find_reachable=self._machine.reachable,
            compare=lambda: self._step(Timer(("exchange",))),
            clock=clock,
            observe=observe,
            mesh_members=mesh_members,
            find_kept=lambda: self._kept_relays.find_kept(),
        )
        self._kept_relays = KeptRelays(
            keys.peer_id,
            transport,
            self._machine,
            clock,
            relays=relays,
            is_mesh=lambda: self._substrate.is_mesh,
            want=self._substrate.want,
        )
        for topic in (RECORD_TOPIC, PROVISION_TOPIC):
            self._substrate.handle(topic, Taker(self._machine, self._step, topic))
        self._timers = Timers[Token](clock.monotonic, lambda token: self._step(Timer(token)), TIMERS)
        self._dials: dict[bytes, asyncio.Task[None]] = {}  # bounded by the machine's DIALS
        self._deniers: set[bytes] = set()  # to whom this device is no member; only members are dialled
        self._searches: dict[int, asyncio.Future[Result]] = {}  # bounded by the machine's SEARCHES
        self._next_search = 0
        self._listeners: dict[tuple[bytes, str], Callable[[bytes, int], None]] = {}  # bounded by own follows
        self._unsaved: dict[bytes, PeerRow | None] = {}  # None: to be dropped. Bounded by MEMBERS
        self._saving = asyncio.Event()
        self._signer = RecordSigner(
            keys,
            network_id,
            clock,
            relays=relays,
            addresses=lambda: self.own_addresses(),
            name=name,
            find_relays=self._kept_relays.find_relays,
        )
        self._watch = NetworkWatch(clock, self._on_polled, self._on_network_changed, poll_s)
        self._waiting: list[Input] = []  # what came before `start` had loaded the book
        self._started = False
        self._closed = False

    # -- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the peer book and begin to dial. Raises: StorageFault."""
        rows = await self._store.load()
        own = next((row for row in rows if row.peer_id == self._keys.peer_id), None)
        if own is not None and own.record is not None:
            self._signer.load(own.record)
        members = frozenset(self._members.active_members())
        self._started = True
        if len(members) > self._mesh_members:
            self._step(Sparse(True))  # before the members are there to be dialled
        self._step(Started(self._signer.sign(), members, tuple(rows)))
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            self._step(event)
        self._substrate.start(members)
        self._supervisor.start("overlay book", self._keep_saved)
        self._supervisor.start("overlay addresses", self._watch.run)

    async def close(self) -> None:
        """Stop dialling, save the book; idempotent, at most CLOSE_SAVE_S."""
        if self._closed:
            return
        self._substrate.close()
        self._closed = True
        self._timers.close()
        if self._look_soon is not None:
            self._look_soon.cancel()
        for task in list(self._dials.values()):
            task.cancel()
        for future in self._searches.values():
            future.cancel()
        try:
            async with asyncio.timeout(CLOSE_SAVE_S):
                await self._save()
        except (TimeoutError, ShoalError) as error:
            log.warning("the peer book was not saved: %s", error or "no time left")

    # -- port ------------------------------------------------------------------------------------------

    async def publish(self, key: bytes) -> None:
        """See `OverlayPort.publish`."""
        self._step(Publish(_checked(key)))

    async def withdraw(self, key: bytes) -> None:
        """See `OverlayPort.withdraw`."""
        self._step(Withdraw(_checked(key)))

    def tell_head(self, key: bytes, entries: int) -> None:
        """See `OverlayPort.tell_head`."""
        self._step(Publish(_checked(key), entries))

    def listen(self, key: bytes, on_head: Callable[[bytes, int], None] | None, who: str = "") -> None:
        """See `OverlayPort.listen`."""
        if on_head is None:
            self._listeners.pop((key, who), None)
        else:
            self._listeners[key, who] = on_head

    async def locate(self, key: bytes, budget_s: float) -> Result:
        """See `OverlayPort.locate`. Raises: Unavailable when the node is closing."""
        if self._closed or not self._started:
            raise Unavailable("Nobody was asked", cause="the node is not running")
        self._next_search = (self._next_search + 1) % 2**32
        search = self._next_search
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._searches[search] = future
        try:
            self._step(Locate(search, _checked(key), budget_s))
            async with asyncio.timeout(budget_s + LOCATE_GRACE_S):
                return await future
        except TimeoutError:
            raise Unavailable("The search did not end in time", cause="the node is overloaded") from None
        finally:
            self._searches.pop(search, None)

    def neighbours(self) -> list[bytes]:
        """See `OverlayPort.neighbours`."""
        return [p for p in self._machine.others() if self._transport.find_session(p) is not None]

    def peers_status(self) -> list[PeerStatus]:
        """See `OverlayPort.peers_status`."""
        found = []
        for peer in self._machine.others():
            session = self._transport.find_session(peer)
            state, why = self._machine.state_of(peer)
            addresses = self._machine.direct_addresses(peer)
            if session is not None and session.dial_address is not None and not session.dial_address.is_way:
                used = str(session.dial_address)
                addresses = [used, *(text for text in addresses if text != used)]
            rtt_ms = None if session is None else session.rtt_ms
            neighbour = self._substrate.is_neighbour(peer)
            ended = "" if session is not None else self._substrate.find_end(peer)
            if state == "offline" and not self._substrate.is_mesh and ended in NEVER_TRIED:
                state = "known"
            denies_us = session is None and peer in self._deniers
            found.append(PeerStatus(peer, state, addresses, rtt_ms, why, neighbour, ended, denies_us))
        return found

    def find_session(self, peer_id: bytes) -> Session | None:
        """See `OverlayPort.find_session`."""
        session = self._transport.find_session(peer_id)
        if session is None and self._started and not self._substrate.is_mesh:
            self._substrate.want(peer_id)
        return session

    def broadcast(self, topic: int, payload: bytes) -> None:
        """See `OverlayPort.broadcast`."""
        self._substrate.broadcast(topic, payload)

    def handle(self, topic: int, handler: TopicHandler) -> None:
        """See `OverlayPort.handle`."""
        self._substrate.handle(topic, handler)

    def substrate_status(self) -> SubstrateStatus:
        """See `OverlayPort.substrate_status`."""
        return self._substrate.status()

    def own_addresses(self) -> list[str]:
        """See `OverlayPort.own_addresses`."""
        chosen = choose_addresses(self._transport.listen_addresses, list_interface_addresses())
        inner = [str(address) for address in chosen]
        # second: on our own network a router's outer address often leads nowhere
        found = dict.fromkeys([*inner[:1], *self.outer_addresses(), *inner[1:]])
        return list(found)[:ADDRESSES_LIMIT]

    def direct_addresses(self, peer_id: bytes) -> list[Address]:
        """Return what of a peer may be dialled without a relay, most promising first."""
        found = map(find_address, self._machine.direct_addresses(peer_id))
        return [address for address in found if address is not None]

    def find_relays(self) -> list[bytes]:
        """Return the relays over which this node can be reached now."""
        return self._kept_relays.find_relays()

    def set_needs_relay(
        self, needs_relay: Callable[[], bool], check: Callable[[bytes, Callable[[bytes, bool], None]], None]
    ) -> None:
        """Give whether nobody outside can dial this node: in a large network it keeps relays then.

        `check`: calls this node over a relay, and tells the relay's id and whether that came back.
        """
        self._kept_relays.needs_relay = needs_relay
        self._kept_relays.check = check

    def outer_changed(self) -> None:
        """What `outer_addresses` returns is something else."""
        self._look_at_relays()

    def relays_of(self, peer_id: bytes) -> list[bytes]:
        """Return the relays, with a session here, over which a peer can be reached."""
        return self._machine.relays_of(peer_id)

    def add_contact(self, peer_id: bytes, addresses: Sequence[str]) -> None:
        """See `OverlayPort.add_contact`."""
        self._step(ContactFound(peer_id, tuple(addresses)))
        self._substrate.on_contact(peer_id)

    def network_changed(self) -> None:
        """See `OverlayPort.network_changed`."""
        self._refresh_record()
        hosts = {address.ip for address in list_interface_addresses()}
        if hosts:  # otherwise the kernel could not be asked
            self._transport.close_stranded(hosts)
        self._transport.probe_sessions()
        self._step(NetworkChanged())
        self.on_network_changed()

    # -- told by membership ----------------------------------------------------------------------------

    def members_changed(self) -> None:
        """The set of active members is another one, or our own name is."""
        members = frozenset(self._members.active_members())
        self._step(Members(members))
        self._substrate.on_members(members)
        self._refresh_record()

    def drop(self, peer_id: bytes) -> None:
        """A device is no member any more: forget its contact and what it provides, end dials to it."""
        task = self._dials.pop(peer_id, None)
        if task is not None:
            task.cancel()
        members = frozenset(self._members.active_members() - {peer_id})
        self._step(Members(members))
        self._substrate.on_members(members)

    # -- told by transport -----------------------------------------------------------------------------

    def on_session_up(self, session: Session) -> None:
        """A session is settled."""
        self._deniers.discard(session.peer_id)
        self._step(SessionUp(session.peer_id, session.over_loopback, session.relay))
        self._substrate.on_session_up(session.peer_id)
        self._look_at_relays()

    def on_session_down(self, session: Session, reason: str) -> None:
        """A session ended."""
        self._step(SessionDown(session.peer_id, reason))
        if not self._goes_on(session):
            self._substrate.on_session_down(session.peer_id, reason)
        self._kept_relays.on_session_down(session, reason)
        self._look_at_relays()

    def _goes_on(self, session: Session) -> bool:
        """Whether the peer, not started again, has another session by now: then a neighbour stays one."""
        other = self._transport.find_session(session.peer_id)
        return other is not None and other is not session and other.instance == session.instance

    def on_notice(self, session: Session, message: Message) -> None:
        """Check a message and give it to the machine. Raises: MalformedMessage, LimitExceeded."""
        check(message)
        if type(message) in SUBSTRATE:
            self._substrate.on_message(session.peer_id, message)
            return
        self._step(Received(session.peer_id, message))
        if isinstance(message, Records):
            self._look_at_relays()

    async def on_request(self, session: Session, message: Message) -> Message:
        """No message of the overlay is a request. Raises: MalformedMessage."""
        raise MalformedMessage("not a request", cause=type(message).__name__)

    # -- the machine -----------------------------------------------------------------------------------

    def _step(self, event: Input) -> None:
        if self._closed:
            return
        if not self._started:
            # what a session brings once, when it comes up, would be missing for an hour if it was dropped
            if len(self._waiting) < WAITING and not isinstance(event, Members):
                self._waiting.append(event)
            return
        for effect in self._machine.step(self._clock.monotonic(), event):
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send(peer, message):
                session = self._transport.find_session(peer)
                if session is not None and not session.notify(ServiceNumber.OVERLAY, message):
                    self._observe(Observation("overlay_not_sent", short_peer_id(peer), "its buffer is full"))
            case Connect(peer, address):
                self._connect(peer, address)
            case SetTimer(at, token):
                self._timers.set(at, token)
            case Cancel(token):
                self._timers.cancel(token)
            case Save(row):
                self._unsaved[row.peer_id] = row
                self._saving.set()
            case Forget(peer):
                self._unsaved[peer] = None
                self._saving.set()
            case Emit(Located(search, result)):
                future = self._searches.get(search)
                if future is not None and not future.done():
                    future.set_result(result)
            case Emit(OwnRecordBehind(seq)):
                self._signer.count_from(seq)
                self._step(OwnRecord(self._signer.sign()))
            case Spread(topic, payload):
                self._substrate.broadcast(topic, payload)
            case Emit(PageChanged(page, least_seq, keys, entries)):
                seq = max(least_seq, int(self._clock.wall() * 1000))
                provision = sign_provision(self._keys, self._network_id, page, seq, keys, entries)
                self._step(OwnProvision(provision))
            case Emit(HeadTold(peer, key, entries)):
                for (listened, _), listener in list(self._listeners.items()):
                    if listened == key:
                        listener(peer, entries)
            case Emit(Unreached(peer, _)):
                self._kept_relays.on_unreached(peer)
                self._substrate.on_unreached(peer)
            case Observe(rule, peer, detail):
                self._observe(Observation(rule, short_peer_id(peer), detail))

    # -- dials -----------------------------------------------------------------------------------------

    def _connect(self, peer: bytes, address: str) -> None:
        try:
            task = self._supervisor.spawn(f"dial {short_peer_id(peer)}", self._dial(peer, address))
        except Unavailable as error:
            asyncio.get_running_loop().call_soon(
                self._step, DialEnded(peer, address, error.message, code="internal")
            )
            return
        self._dials[peer] = task
        task.add_done_callback(lambda done: self._on_dial_done(peer, address, done))

    async def _dial(self, peer: bytes, text: str) -> None:
        error = code = ""
        address = find_address(text)
        try:
            if address is None:
                raise Unavailable("not an address")
            await self._transport.dial(peer, address, self._find_timeout_s(peer, address))
        except ShoalError as failed:
            error, code = failed.cause or failed.message, failed.code
            if code == "stranger" and isinstance(failed, Unavailable) and peer not in self._deniers:
                self._deniers.add(peer)
                log.warning("%s does not know this device as a member", short_peer_id(peer))
        finally:
            if self._dials.get(peer) is asyncio.current_task():
                del self._dials[peer]
        session = self._transport.find_session(peer)
        if not error and session is not None and session.dial_address != address:
            return  # the peer's own dial was faster: this address proved nothing
        self._step(DialEnded(peer, text, error, self._clock.wall(), code))

    def _find_timeout_s(self, peer: bytes, address: Address) -> float:
        is_doubtful = is_inner(address.host) and bool(self._machine.relays_of(peer))
        return INNER_TIMEOUT_S if is_doubtful else DIAL_TIMEOUT_S

    def _on_dial_done(self, peer: bytes, address: str, dial: asyncio.Task[None]) -> None:
        """Free the place of a dial that failed as nothing should: the supervisor has logged it."""
        if not dial.cancelled() and dial.exception() is not None:
            cause = f"an unexpected {type(dial.exception()).__name__} in this node"
            self._step(DialEnded(peer, address, cause, self._clock.wall(), "internal"))

    # -- own record ------------------------------------------------------------------------------------

    def _look_at_relays(self) -> None:
        """Say in our record over whom we can be reached, once for many changes."""
        if self._look_soon is None and not self._closed:
            self._look_soon = asyncio.get_running_loop().call_later(RELAYS_S, self._look_now)

    def _look_now(self) -> None:
        self._look_soon = None
        if not self._closed and self._started:
            self._kept_relays.look()
        self._refresh_record()

    def _refresh_record(self) -> bool:
        """Sign and send our record anew if it says something else now; return whether addresses changed."""
        record = self._machine.own_record
        if record is None or self._closed:
            return False
        if not self._signer.is_true(record):
            self._step(OwnRecord(self._signer.sign()))
        return record.addresses != tuple(self.own_addresses())

    def _on_polled(self) -> bool:
        self._kept_relays.look()
        return self._refresh_record()

    def _on_network_changed(self, what: str) -> None:
        log.info("%s; it has %s", what, ", ".join(self.own_addresses()) or "none")
        self.network_changed()

    # -- the book on disk ------------------------------------------------------------------------------

    async def _keep_saved(self) -> None:
        while not self._closed:
            await self._saving.wait()
            await asyncio.sleep(SAVE_S)
            await self._save()

    async def _save(self) -> None:
        self._saving.clear()
        unsaved, self._unsaved = self._unsaved, {}
        dropped = [peer for peer, row in unsaved.items() if row is None]
        rows = [row for row in unsaved.values() if row is not None]
        try:
            if dropped:
                await self._store.drop(dropped)
            if rows:
                await self._store.save(rows)
        except ShoalError:
            self._unsaved = {**unsaved, **self._unsaved}
            self._saving.set()
            raise


def _checked(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise LocalMisuse(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    return key
