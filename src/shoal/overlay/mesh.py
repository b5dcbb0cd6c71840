"""Mesh: the locator machine of a small network, in which everybody keeps a session with everybody.

Pure (core.machine). It decides whom to dial, keeps the peer book up to date by exchanging signed records,
and knows who provides what, because everybody announces to everybody. Other locators take its place behind
the same inputs and effects (overlay.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from shoal.core.budget import TokenBucket
from shoal.core.errors import LocalMisuse, RemoteFault
from shoal.identity.record import PeerRecord, parse_record
from shoal.overlay import messages as m
from shoal.overlay.dial_plan import DialPlan
from shoal.overlay.exchange import Exchange
from shoal.overlay.messages import (
    KEYS,
    PROVIDERS,
    Announce,
    Answer,
    Digest,
    Provisions,
    Query,
    Records,
    Retract,
    Summary,
    make_announcements,
    make_record_pages,
)
from shoal.overlay.peer_book import PeerBook
from shoal.overlay.provider_index import KEYS_OF_A_PROVIDER, TTL_S, ProviderIndex
from shoal.overlay.provision import Provision, parse_provision
from shoal.overlay.provision_store import OwnPages
from shoal.overlay.search import Searches
from shoal.overlay.signed_items import SignedItems
from shoal.overlay.steps import (
    Cancel,
    ContactFound,
    Delivered,
    DialEnded,
    Effect,
    Emit,
    Forget,
    Input,
    Locate,
    Members,
    NetworkChanged,
    Observe,
    OwnProvision,
    OwnRecord,
    OwnRecordBehind,
    PageChanged,
    Publish,
    Received,
    Save,
    Send,
    SessionDown,
    SessionUp,
    SetTimer,
    Sparse,
    Spread,
    Started,
    Timer,
    Unreached,
    Wanted,
    Withdraw,
)
from shoal.overlay.substrate.plumtree import Verdict
from shoal.overlay.topics import PROVISION_TOPIC, RECORD_TOPIC
from shoal.overlay.ways import order_ways
from shoal.storage.peers import PeerRow
from shoal.transport.address import Address
from shoal.wire.codec import Message

EXCHANGE_S = 60.0  # between two rounds of anti-entropy; a missed broadcast is at most this late
REFRESH_S = TTL_S / 3  # own keys are announced again this often; overlay.md, "refresh / expiry"
ANNOUNCE_S = 0.05  # own keys that come and go are collected this long: a start publishes many at once
PASS_ON_S = 0.5  # changed records are collected this long before they are passed on; wild guess
RECORDS_S = 20.0  # changed records taken from one peer, and verified for it; wild guess
RECORDS_BURST = 12_000.0  # a first exchange may bring everybody (wire.limits.MEMBERS)
WAKE_SPREAD_S = 1.0  # after a changed network: not all members in one tick
RELAYS_WANTED = 2  # of those that a wanted member names; who has one needs no other
UNKNOWN_ROUNDS = 3  # some 3 s for the record of a wanted member to come; who is new is named before it has
NO_REDIAL = frozenset({"removed", "left"})  # words of transport; the members' set says so too, a moment later


class _Peer:
    """A peer with a session."""

    __slots__ = ("bucket", "over_loopback", "sent")

    def __init__(self, over_loopback: bool, now: float) -> None:
        self.over_loopback = over_loopback
        self.bucket = TokenBucket(RECORDS_S, RECORDS_BURST, now)
        self.sent: dict[bytes, int] = {}  # subject -> seq that this peer sent us: no need to send it back


class MeshMachine:
    """The full mesh. `rng` is for jitter only; `own_id` is never dialled, asked or located."""

    def __init__(self, own_id: bytes, network_id: bytes, rng: Random) -> None:
        self._own_id = own_id
        self._network_id = network_id
        self._random = rng
        self._own_record: PeerRecord | None = None
        self._members: frozenset[bytes] = frozenset()
        self._book = PeerBook(network_id)
        self._index = ProviderIndex()
        self._published: dict[bytes, None] = {}  # at most KEYS_OF_A_PROVIDER
        self._untold: dict[bytes, None] = {}  # keys that came or went; bounded by our own shares
        self._peers: dict[bytes, _Peer] = {}  # as many as sessions
        self._changed: dict[bytes, bytes] = {}  # subject -> who told us; to be passed on
        self._is_sparse = False  # a large network: members are dialled when they are wanted
        self._plan = DialPlan(own_id, self.addresses, rng)
        self._own_pages = OwnPages()
        self._signed = SignedItems(own_id, network_id, self._book, self._own_pages, self._is_member)
        self._exchange = Exchange(self._signed.list_seqs, self._signed.find_packed)
        self._searches = Searches(self._find_providers, self._is_other_member)

    # -- facts for status ------------------------------------------------------------------------------

    def addresses(self, peer: bytes) -> list[str]:
        """Return what may be dialled of a peer, most promising first."""
        own = self._own_record.addresses if self._own_record is not None else ()
        return order_ways(self.direct_addresses(peer), self._ways(peer), own)

    def direct_addresses(self, peer: bytes) -> list[str]:
        """Return what may be dialled of a peer without a relay, most promising first."""
        own = frozenset(self._own_record.addresses) if self._own_record is not None else frozenset()
        return self._book.addresses(peer, own)

    def relays_of(self, peer: bytes) -> list[bytes]:
        """Return the members with a session here over which a peer says that it can be reached."""
        named = self._book.relays_of(peer)
        return [x for x in named if x in self._peers and x in self._members and x not in (peer, self._own_id)]

    def relays_near(self) -> list[bytes]:
        """Return the members with a session here that relay, in the order of their ids."""
        return [peer for peer in self.relays_known() if peer in self._peers]

    def relays_known(self) -> list[bytes]:
        """Return the other members that relay, in the order of their ids."""
        return [r.peer_id for r in self._book.records() if r.relays and self._is_other_member(r.peer_id)]

    def names_as_relay(self, peer: bytes, relay: bytes) -> bool:
        """Whether a peer says that it can be reached over this relay."""
        return relay in self._book.relays_of(peer)

    def _ways(self, peer: bytes) -> list[str]:
        return [str(Address.via(relay)) for relay in self.relays_of(peer)]

    def others(self) -> list[bytes]:
        """Return all active members but ourselves, in the order of their ids."""
        return sorted(self._members - {self._own_id})

    def reachable(self) -> list[bytes]:
        """Return the other members of whom an address is known, those that were reached lately first."""
        known = [peer for peer in self.others() if self.addresses(peer)]
        contacts = {peer: self._book.find(peer) for peer in known}
        lately = {peer: contact.last_good_at for peer, contact in contacts.items() if contact is not None}
        return sorted(known, key=lambda peer: -lately.get(peer, 0.0))

    def state_of(self, peer: bytes) -> tuple[str, str]:
        """Return `connected`, `connecting` or `offline`, and why the last dial failed."""
        if peer in self._peers:
            return "connected", ""
        return ("connecting" if self._plan.is_connecting(peer) else "offline"), self._plan.why(peer)

    @property
    def own_record(self) -> PeerRecord | None:
        """The record that peers are given."""
        return self._own_record

    # -- steps -----------------------------------------------------------------------------------------

    def step(self, now: float, event: Input) -> list[Effect]:
        """Take one input, return what the driver must do, in order."""
        match event:
            case Received(peer, message):
                return self._on_message(now, peer, message) if peer in self._peers else []
            case Timer(token):
                return self._on_timer(now, token)
            case SessionUp(peer, over_loopback):
                return self._on_session_up(now, peer, over_loopback)
            case SessionDown(peer, reason):
                return self._on_session_down(now, peer, reason)
            case DialEnded():
                return self._on_dial_ended(now, event)
            case ContactFound(peer, addresses):
                return self._on_contact(now, peer, addresses)
            case Members(members):
                return self._on_members(now, members)
            case OwnRecord(record):
                return self._on_own_record(record)
            case NetworkChanged():
                return [e for p in self._plan.peers() for e in self._plan.hurry(now, p, WAKE_SPREAD_S)]
            case Sparse(on):
                return self._on_sparse(now, on)
            case Wanted(peer):
                return self._on_wanted(now, peer)
            case Delivered(topic, payload):
                return self._on_delivered(now, topic, payload)
            case OwnProvision(provision):
                self._own_pages.note(provision.page, provision.seq)
                self._signed.put(provision)
                return [Spread(PROVISION_TOPIC, provision.packed)]
            case Publish(key):
                return self._on_publish(now, key)
            case Withdraw(key):
                return self._on_withdraw(now, key)
            case Locate(search, key, budget_s):
                settling = self._plan.is_settling()
                return self._searches.start(now, search, key, budget_s, set(self._peers), settling)
            case Started(record, members, rows):
                return self._on_started(now, record, members, rows)

    def _on_started(
        self, now: float, record: PeerRecord, members: frozenset[bytes], rows: Iterable[PeerRow]
    ) -> list[Effect]:
        self._book.load(rows)
        effects: list[Effect] = []
        for peer in sorted(self._book.peers() - members):  # removed while this node was off
            effects += self._forget(peer)
        effects += self._on_own_record(record)
        effects += self._on_members(now, members)
        effects.append(SetTimer(now + self._jittered(REFRESH_S), ("refresh",)))
        return effects

    def _on_timer(self, now: float, token: tuple[object, ...]) -> list[Effect]:
        match token:
            case ("dial", bytes(peer)):
                effects = self._plan.on_timer(now, peer)
                if self.addresses(peer) or self._plan.rounds_of(peer) < UNKNOWN_ROUNDS:
                    return effects
                return effects + self._give_up(peer)
            case ("search", int(search)):
                return self._searches.on_timer(now, search)
            case ("announce",):
                return self._announce()
            case ("pass on",):
                return self._pass_on()
            case ("exchange",):
                peers = sorted(self._peers)
                begun = self._exchange.begin(self._random.choice(peers)) if peers else []
                return [*self._exchange_later(now), *begun]
            case ("refresh",):
                self._index.sweep(now)
                effects = [SetTimer(now + self._jittered(REFRESH_S), ("refresh",))]
                if self._is_sparse:
                    self._own_pages.renew()
                    return effects + self._announce()
                for peer in sorted(self._peers):
                    effects += [Send(peer, page) for page in make_announcements(list(self._published))]
                return effects
            case _:
                raise LocalMisuse(f"no timer has the token {token!r}")

    # -- members and sessions --------------------------------------------------------------------------

    def _on_members(self, now: float, members: frozenset[bytes]) -> list[Effect]:
        effects: list[Effect] = []
        for peer in sorted(self._members - members):
            effects += self._plan.drop(peer)
            effects += self._forget(peer)
        added = sorted(members - self._members)
        self._members = members
        for peer in added:
            early = self._book.take_early(peer)
            if early is not None and self._book.put_record(early, over_loopback=False):
                effects += self._save(peer)
            if peer != self._own_id and peer not in self._peers and not self._is_sparse:
                effects += self._plan.add(now, peer)
        return effects + self._searches.look_again(now, self._plan.is_settling())

    def _forget(self, peer: bytes) -> list[Effect]:
        self._index.drop_provider(peer)
        self._signed.drop(peer)
        self._changed.pop(peer, None)
        return [Forget(peer)] if self._book.drop(peer) else []

    def _on_session_up(self, now: float, peer: bytes, over_loopback: bool) -> list[Effect]:
        self._peers[peer] = _Peer(over_loopback, now)
        effects = self._plan.drop(peer)
        for absent in self._plan.peers():
            if peer in self._book.relays_of(absent):
                effects += self._plan.offer_way(now, absent, str(Address.via(peer)))
        if self._is_sparse:
            mine = [self._book.find(self._own_id), self._book.find(peer)]
            pages = make_record_pages(c.record.packed for c in mine if c is not None and c.record is not None)
            effects += [Send(peer, page) for page in pages]
            if self._own_id < peer:
                effects += self._exchange.begin(peer)
            return effects + self._searches.on_session_up(peer)
        # the peer's own record too: after a crash it may not know how far it had counted
        known = [record for record in self._book.records() if record.peer_id in self._members]
        known.sort(key=lambda record: record.peer_id != self._own_id)
        pages = make_record_pages(record.packed for record in known)
        effects += [Send(peer, page) for page in pages]
        effects += [Send(peer, page) for page in make_announcements(list(self._published))]
        return effects + self._searches.on_session_up(peer)

    def _on_session_down(self, now: float, peer: bytes, reason: str) -> list[Effect]:
        if self._peers.pop(peer, None) is None:
            return []
        effects: list[Effect] = []
        if reason not in NO_REDIAL and self._is_other_member(peer) and not self._is_sparse:
            effects += self._plan.add(now, peer)
            if reason == "dead" and self._own_id < peer:  # nothing gets through: not to wait for it again
                ways = self._ways(peer)
                effects += self._plan.offer(now, peer, ways) if ways else []
        return effects + self._searches.on_session_down(now, peer, self._plan.is_settling())

    # -- dials -----------------------------------------------------------------------------------------

    def _on_sparse(self, now: float, on: bool) -> list[Effect]:
        self._is_sparse = on
        effects: list[Effect] = []
        if on:
            for peer in self._plan.peers():
                effects += self._plan.drop(peer)
            self._own_pages.renew()
            return [*effects, *self._announce(), *self._exchange_later(now)]
        effects.append(Cancel(("exchange",)))
        for peer in self.others():
            if peer not in self._peers:
                effects += self._plan.add(now, peer)
            else:
                effects += [Send(peer, page) for page in make_announcements(list(self._published))]
        return effects

    def _exchange_later(self, now: float) -> list[Effect]:
        return [SetTimer(now + EXCHANGE_S * self._random.uniform(0.75, 1.25), ("exchange",))]

    def _on_wanted(self, now: float, peer: bytes) -> list[Effect]:
        if peer in self._peers or not self._is_other_member(peer):
            return []
        if not self._is_sparse:
            return self._plan.hurry(now, peer, 0.0)
        effects = self._plan.add(now, peer, at_once=True)
        for relay in self._book.relays_of(peer)[:RELAYS_WANTED]:
            if relay not in self._peers and self._is_other_member(relay):
                effects += self._plan.add(now, relay, at_once=True)
        return effects

    def _on_dial_ended(self, now: float, event: DialEnded) -> list[Effect]:
        if not event.error:
            self._book.mark_good(event.peer, event.address, event.wall)
            return self._save(event.peer)
        effects, round_ended = self._plan.on_failed(now, event.peer, event.address, event.error)
        if round_ended:
            effects += self._give_up(event.peer)
            contact = self._book.find(event.peer)
            if contact is not None:
                contact.failures += 1
                effects += self._save(event.peer)
            effects += self._searches.look_again(now, self._plan.is_settling())
        return effects

    def _give_up(self, peer: bytes) -> list[Effect]:
        """A round is over: whoever wanted the peer in a large network may want another one."""
        if not self._is_sparse or any(relay in self._plan for relay in self._book.relays_of(peer)):
            return []  # a relay to it may come yet
        why = self._plan.why(peer)
        return [*self._plan.drop(peer), Emit(Unreached(peer, why))]

    def _on_contact(self, now: float, peer: bytes, addresses: tuple[str, ...]) -> list[Effect]:
        if peer == self._own_id:
            return []
        is_new = self._book.put_trusted(peer, addresses)
        effects = self._save(peer) if is_new else []
        offered = [text for text in self.addresses(peer) if text in addresses]
        if is_new and offered:
            return effects + self._plan.offer(now, peer, offered)
        return effects + self._plan.hurry(now, peer)

    # -- records ---------------------------------------------------------------------------------------

    def _on_own_record(self, record: PeerRecord) -> list[Effect]:
        self._own_record = record
        self._book.put_record(record, over_loopback=False)
        if self._is_sparse:
            return [Spread(RECORD_TOPIC, record.packed), *self._save(self._own_id)]
        pages = make_record_pages([record.packed])
        effects: list[Effect] = [Send(peer, page) for peer in sorted(self._peers) for page in pages]
        return effects + self._save(self._own_id)

    def _on_message(self, now: float, peer: bytes, message: object) -> list[Effect]:
        match message:
            case Records(records):
                return self._on_records(now, peer, records)
            case Provisions(provisions):
                return self._on_provisions(now, peer, provisions)
            case Digest():
                return self._exchange.on_digest(peer, message)
            case Summary():
                return self._exchange.on_summary(peer, message)
            case m.Wanted():
                return self._exchange.on_wanted(peer, message)
            case Announce(keys, first):
                if first:
                    self._index.drop_provider(peer)
                ignored = self._index.announce(peer, keys, now)
                effects = self._searches.look_again(now, self._plan.is_settling())
                return (
                    [*effects, Observe("too_many_keys", peer, f"{ignored} ignored")] if ignored else effects
                )
            case Retract(keys):
                self._index.retract(peer, keys)
                return []
            case Query(query, key):
                providers = self._find_providers(now, key)
                if key in self._published:
                    providers.insert(0, self._own_id)
                named = [p for p in providers if p != peer]
                return [Send(peer, Answer(query, named[:PROVIDERS]))]
            case Answer(query, providers):
                if not self._searches.expects(peer, query):
                    return []
                effects = self._searches.on_answer(now, peer, query, providers, self._plan.is_settling())
                for provider in providers:  # only those we plan are dialled
                    if provider not in self._peers and provider in self._plan:
                        effects += self._plan.hurry(now, provider)
                return effects
            case _:
                raise LocalMisuse(f"{type(message).__name__} is not for the mesh")

    def _on_records(self, now: float, peer: bytes, records: list[bytes]) -> list[Effect]:
        effects: list[Effect] = []
        session = self._peers[peer]
        for packed in records:
            known = self._book.find_subject(packed)
            if known is not None:  # most of what arrives; no signature has to be checked for it
                session.sent[known.peer_id] = known.seq
                continue
            if not session.bucket.try_take(now):
                effects.append(Observe("too_many_records", peer))
                break
            try:
                record = parse_record(packed, self._network_id)
            except RemoteFault as error:
                effects.append(Observe("bad_record", peer, str(error)))
                break
            effects += self._on_record(now, peer, session, record)
        if self._changed:
            effects.append(SetTimer(now + self._jittered(PASS_ON_S), ("pass on",)))
        return effects

    def _on_record(
        self, now: float, source: bytes | None, session: _Peer | None, record: PeerRecord
    ) -> list[Effect]:
        """Take a verified record out of a session, or without one out of a broadcast."""
        subject = record.peer_id
        if subject == self._own_id:
            mine = self._own_record
            if mine is not None and (record.seq, record.packed) > (mine.seq, mine.packed):
                return [Emit(OwnRecordBehind(record.seq))]
            return []
        if subject not in self._members:
            self._book.keep_early(record)
            return []
        if session is not None:
            session.sent[subject] = record.seq
        before, ways = self.direct_addresses(subject), self._ways(subject)
        if not self._book.put_record(record, session is not None and session.over_loopback):
            return []
        if source is not None and (not self._is_sparse or source == subject):
            self._changed[subject] = source
        new = [text for text in self.direct_addresses(subject) if text not in before]
        effects = self._save(subject)
        if new:
            effects += self._plan.offer(now, subject, new)
        for way in self._ways(subject):
            if way not in ways:
                effects += self._plan.offer_way(now, subject, way)
        return effects

    def _pass_on(self) -> list[Effect]:
        """Send what changed to every session that did not send it to us."""
        changed, self._changed = self._changed, {}
        effects: list[Effect] = []
        if self._is_sparse:  # its subject told us, who may have no other neighbour yet
            known = [self._book.find(subject) for subject in changed]
            return [Spread(RECORD_TOPIC, c.record.packed) for c in known if c is not None and c.record]
        for peer in sorted(self._peers):
            sent = self._peers[peer].sent
            packed = []
            for subject in changed:
                contact = self._book.find(subject)
                if subject == peer or contact is None or contact.record is None:
                    continue
                if sent.get(subject, -1) < contact.record.seq:
                    packed.append(contact.record.packed)
            effects += [Send(peer, page) for page in make_record_pages(packed)]
        return effects

    def _save(self, peer: bytes) -> list[Effect]:
        contact = self._book.find(peer)
        return [] if contact is None else [Save(contact.row())]

    # -- what is passed on in a large network ----------------------------------------------------------

    def judge(self, topic: int, payload: bytes) -> Verdict:
        """Say whether a broadcast record or provision is to be passed on; changes nothing."""
        return self._signed.judge(topic, payload)

    def _on_delivered(self, now: float, topic: int, payload: bytes) -> list[Effect]:
        item = self._signed.parse(topic, payload)
        if isinstance(item, Provision):
            return self._on_provision(now, item)[1]
        return self._on_record(now, None, None, item)

    def _on_provisions(self, now: float, peer: bytes, provisions: list[bytes]) -> list[Effect]:
        effects: list[Effect] = []
        for packed in provisions:
            if not self._peers[peer].bucket.try_take(now):
                return [*effects, Observe("too_many_records", peer)]
            try:
                provision = parse_provision(packed, self._network_id)
            except RemoteFault as error:
                return [*effects, Observe("bad_provision", peer, str(error))]
            is_new, more = self._on_provision(now, provision)
            effects += more
            if is_new and provision.peer_id == peer:  # it may have no other neighbour yet
                effects.append(Spread(PROVISION_TOPIC, packed))
        return effects

    def _on_provision(self, now: float, provision: Provision) -> tuple[bool, list[Effect]]:
        """Take a verified provision; return whether it was new, and effects."""
        peer = provision.peer_id
        if peer == self._own_id:
            return False, self._announce() if self._signed.claim(provision) else []
        withdrawn = self._signed.put(provision)
        if withdrawn is None:
            return False, []
        self._index.retract(peer, withdrawn)
        ignored = self._index.announce(peer, provision.keys, now)
        effects = self._searches.look_again(now, self._plan.is_settling())
        if ignored:
            effects.append(Observe("too_many_keys", peer, f"{ignored} ignored"))
        return True, effects

    # -- keys ------------------------------------------------------------------------------------------

    def _on_publish(self, now: float, key: bytes) -> list[Effect]:
        if key in self._published:
            return []
        if len(self._published) >= KEYS_OF_A_PROVIDER:
            raise LocalMisuse(f"a node announces at most {KEYS_OF_A_PROVIDER} keys")
        self._published[key] = None
        self._own_pages.put(key)
        return self._tell_soon(now, key)

    def _on_withdraw(self, now: float, key: bytes) -> list[Effect]:
        if key not in self._published:
            return []
        del self._published[key]
        self._own_pages.drop(key)
        return self._tell_soon(now, key)

    def _tell_soon(self, now: float, key: bytes) -> list[Effect]:
        is_first = not self._untold
        self._untold[key] = None
        return [SetTimer(now + ANNOUNCE_S, ("announce",))] if is_first else []

    def _announce(self) -> list[Effect]:
        """Tell every session which keys came and went since the last time, in few messages."""
        untold, self._untold = list(self._untold), {}
        if self._is_sparse:
            return [Emit(PageChanged(*page)) for page in self._own_pages.take_dirty()]
        messages: list[Message] = []
        for kind, keys in (
            (Announce, [key for key in untold if key in self._published]),
            (Retract, [key for key in untold if key not in self._published]),
        ):
            messages += [kind(keys[at : at + KEYS]) for at in range(0, len(keys), KEYS)]
        return [Send(peer, message) for peer in sorted(self._peers) for message in messages]

    def _find_providers(self, now: float, key: bytes) -> list[bytes]:
        """Return the members that announced a key, connected ones first."""
        found = [peer for peer in self._index.find(key, now) if self._is_other_member(peer)]
        return sorted(found, key=lambda peer: peer not in self._peers)

    def _is_member(self, peer: bytes) -> bool:
        return peer in self._members

    def _is_other_member(self, peer: bytes) -> bool:
        return peer in self._members and peer != self._own_id

    def _jittered(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.75, 1.0)
