"""Mesh: the locator machine in which every member knows who provides what.

Pure (core.machine). It decides whom to dial (in a small network all members, in a large one who is wanted),
and keeps the peer book and the provided keys up to date by broadcasts of signed records and provisions, and
by exchanges with one session at a time, which bring what those missed. Other locators take its place behind
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
    PROVIDERS,
    Answer,
    Digest,
    Provisions,
    Query,
    Records,
    Summary,
    make_record_pages,
)
from shoal.overlay.peer_book import PeerBook, find_address
from shoal.overlay.provider_index import KEYS_OF_A_PROVIDER, TTL_S, ProviderIndex
from shoal.overlay.provision import Provision, parse_provision
from shoal.overlay.provision_store import OwnPages
from shoal.overlay.relay_failures import RelayFailures
from shoal.overlay.search import Searches
from shoal.overlay.signed_items import SignedItems
from shoal.overlay.steps import (
    ContactFound,
    Delivered,
    DialEnded,
    Effect,
    Emit,
    Forget,
    HeadTold,
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
from shoal.overlay.ways import is_elsewhere, order_ways
from shoal.storage.peers import PeerRow
from shoal.transport.address import Address

EXCHANGE_S = 60.0  # between two rounds of anti-entropy; a missed broadcast is at most this late
REFRESH_S = TTL_S / 3  # own keys are announced again this often; overlay.md, "refresh / expiry"
ANNOUNCE_S = 0.05  # own keys that come and go are collected this long: a start publishes many at once
ANNOUNCE_AGAIN_S = 2.0  # and so long after the last time: others take so many broadcasts of one device
RECORDS_S = 20.0  # changed records taken from one peer, and verified for it; wild guess
RECORDS_BURST = 12_000.0  # a first exchange may bring everybody (wire.limits.MEMBERS)
SPREADS_S = 1.0  # of its own that one peer has us broadcast; more than its record and pages it has no need of
SPREADS_BURST = 80.0  # else one peer could use up what our neighbours take of us, other things too
# rounds of anti-entropy that one peer begins here (a lonely one does so every 2 s), and their pages, 64 a
# round each way: with 10,000 members a round costs 0.1 s; without a bound one peer could stop a node
ROUNDS_S = 1.0
ROUNDS_BURST = 4.0
PAGES_S = 8.0
PAGES_BURST = 192.0
WAKE_SPREAD_S = 1.0  # after a changed network: not all members in one tick
RELAYS_WANTED = 2  # of those that a wanted member names; who has one needs no other
UNKNOWN_ROUNDS = 3  # some 3 s for the record of a wanted member to come; who is new is named before it has
# codes of errors that say nothing against a relay: it has no session there, or it was ourselves
BLAMELESS = frozenset(
    {"closed", "dials_full", "duplicate", "internal", "no_relay", "relay_no_session", "shutdown", "stranger"}
)
BROKEN = frozenset({"dead", "fault", "reset"})  # words of transport: nothing, or something else, got through
NO_REDIAL = frozenset({"removed", "left"})  # words of transport; the members' set says so too, a moment later


class _Peer:
    """A peer with a session."""

    __slots__ = ("began", "bucket", "over_loopback", "pages", "relay", "rounds", "spreads")

    def __init__(self, over_loopback: bool, relay: bytes | None, now: float) -> None:
        self.over_loopback = over_loopback
        self.relay = relay
        self.began = now
        self.bucket = TokenBucket(RECORDS_S, RECORDS_BURST, now)
        self.spreads = TokenBucket(SPREADS_S, SPREADS_BURST, now)
        self.rounds = TokenBucket(ROUNDS_S, ROUNDS_BURST, now)
        self.pages = TokenBucket(PAGES_S, PAGES_BURST, now)


class MeshMachine:
    """One member's part. `rng` is for jitter only; `own_id` is never dialled, asked or located."""

    def __init__(self, own_id: bytes, network_id: bytes, rng: Random) -> None:
        self._own_id = own_id
        self._network_id = network_id
        self._random = rng
        self._now = float("-inf")  # of the last step
        self._relay_failures = RelayFailures()
        self._own_record: PeerRecord | None = None
        self._members: frozenset[bytes] = frozenset()
        self._book = PeerBook(network_id)
        self._index = ProviderIndex()
        self._published: set[bytes] = set()  # at most KEYS_OF_A_PROVIDER
        self._announcing = False  # soon
        self._announced_at = float("-inf")
        self._peers: dict[bytes, _Peer] = {}  # as many as sessions
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
        """Return the members with a session here over which a peer says that it can be reached.

        Those that failed lately come last.
        """
        named = self._book.relays_of(peer)
        here = [x for x in named if x in self._peers and x in self._members and x not in (peer, self._own_id)]
        return self._relay_failures.order(self._now, here)

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
        self._now = now
        match event:
            case Received(peer, message):
                return self._on_message(now, peer, message) if peer in self._peers else []
            case Timer(token):
                return self._on_timer(now, token)
            case SessionUp():
                return self._on_session_up(now, event)
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
            case Delivered(topic, payload, sender):
                return self._on_delivered(now, topic, payload, sender)
            case OwnProvision(provision):
                self._own_pages.note(provision.page, provision.seq)
                self._signed.put(now, provision)
                return [Spread(PROVISION_TOPIC, provision.packed)]
            case Publish(key, entries):
                return self._on_publish(now, key, entries)
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
        return effects + self._exchange_later(now)

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
                return self._announce(now)
            case ("exchange",):
                self._signed.sweep(now)
                peers = sorted(self._peers)
                begun = self._exchange.begin(self._random.choice(peers)) if peers else []
                return [*self._exchange_later(now), *begun]
            case ("refresh",):
                self._index.sweep(now)
                self._own_pages.renew()
                return [
                    SetTimer(now + self._jittered(REFRESH_S), ("refresh",)),
                    *self._announce_soon(now),
                ]
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
                effects += [*self._save(peer), Spread(RECORD_TOPIC, early.packed)]
            if peer != self._own_id and peer not in self._peers and not self._is_sparse:
                effects += self._plan.add(now, peer)
        return effects + self._searches.look_again(now, self._plan.is_settling())

    def _forget(self, peer: bytes) -> list[Effect]:
        self._index.drop_provider(peer)
        self._signed.drop(peer)
        return [Forget(peer)] if self._book.drop(peer) else []

    def _on_session_up(self, now: float, event: SessionUp) -> list[Effect]:
        peer = event.peer
        self._peers[peer] = _Peer(event.over_loopback, event.relay, now)
        effects = self._plan.drop(peer)
        for absent in self._plan.peers():
            if peer in self._book.relays_of(absent):
                effects += self._plan.offer_way(now, absent, str(Address.via(peer)))
        # the peer's own record too: after a crash it may not know how far it had counted
        mine = [self._book.find(self._own_id), self._book.find(peer)]
        pages = make_record_pages(c.record.packed for c in mine if c is not None and c.record is not None)
        effects += [Send(peer, page) for page in pages]
        if self._own_id < peer:
            effects += self._exchange.begin(peer)
        return effects + self._searches.on_session_up(peer)

    def _on_session_down(self, now: float, peer: bytes, reason: str) -> list[Effect]:
        ended = self._peers.pop(peer, None)
        if ended is None:
            return []
        if ended.relay is not None:
            self._relay_failures.on_ended(now, ended.relay, ended.began, reason in BROKEN)
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
            return effects
        for peer in self.others():
            if peer not in self._peers:
                effects += self._plan.add(now, peer)
        return effects

    def _exchange_later(self, now: float) -> list[Effect]:
        return [SetTimer(now + EXCHANGE_S * self._random.uniform(0.75, 1.25), ("exchange",))]

    def _on_wanted(self, now: float, peer: bytes) -> list[Effect]:
        if peer in self._peers or not self._is_other_member(peer):
            return []
        if not self._is_sparse:
            return self._plan.hurry(now, peer, 0.0)
        named = self._relay_failures.order(now, self._book.relays_of(peer))[:RELAYS_WANTED]
        absent = [relay for relay in named if relay not in self._peers and self._is_other_member(relay)]
        addresses = self.addresses(peer)
        own = self._own_record.addresses if self._own_record is not None else ()
        awaits = bool(absent) and (not addresses or is_elsewhere(addresses[0], own))
        effects = self._plan.add(now, peer, at_once=True, awaits_way=awaits)
        for relay in absent:
            effects += self._plan.add(now, relay, at_once=True)
        return effects

    def _on_dial_ended(self, now: float, event: DialEnded) -> list[Effect]:
        if not event.error:
            self._book.mark_good(event.peer, event.address, event.wall)
            return self._save(event.peer)
        way = find_address(event.address)
        if way is not None and way.relay is not None and event.code not in BLAMELESS:
            self._relay_failures.note(now, way.relay)
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
        if not self._is_sparse or any(self._is_begun(relay) for relay in self._book.relays_of(peer)):
            return []  # a relay to it may come yet
        why = self._plan.why(peer)
        return [*self._plan.drop(peer), Emit(Unreached(peer, why))]

    def _is_begun(self, peer: bytes) -> bool:
        """Whether the first round of dials to a peer lasts: two may name each other as relays."""
        return peer in self._plan and self._plan.rounds_of(peer) == 0

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
        return [Spread(RECORD_TOPIC, record.packed), *self._save(self._own_id)]

    def _on_message(self, now: float, peer: bytes, message: object) -> list[Effect]:
        match message:
            case Records(records):
                return self._on_records(now, peer, records)
            case Provisions(provisions, ages):
                return self._on_provisions(now, peer, provisions, ages or [0] * len(provisions))
            case Digest() | Summary() | m.Wanted():
                return self._on_exchange(now, peer, message)
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

    def _on_exchange(self, now: float, peer: bytes, message: Digest | Summary | m.Wanted) -> list[Effect]:
        session = self._peers[peer]
        bucket = session.rounds if isinstance(message, Digest) else session.pages
        if not bucket.try_take(now):
            return [Observe("too_many_exchanges", peer)]
        match message:
            case Digest():
                return self._exchange.on_digest(peer, message)
            case Summary():
                return self._exchange.on_summary(now, peer, message)
            case m.Wanted():
                return self._exchange.on_wanted(now, peer, message)

    def _on_records(self, now: float, peer: bytes, records: list[bytes]) -> list[Effect]:
        effects: list[Effect] = []
        session = self._peers[peer]
        for packed in records:
            known = self._book.find_subject(packed)
            if known is not None:  # no signature has to be checked for it
                continue
            if not session.bucket.try_take(now):
                effects.append(Observe("too_many_records", peer))
                break
            try:
                record = parse_record(packed, self._network_id)
            except RemoteFault as error:
                effects.append(Observe("bad_record", peer, str(error)))
                break
            is_new, more = self._on_record(now, record, session.over_loopback)
            effects += more
            if is_new and record.peer_id == peer and session.spreads.try_take(now):
                effects.append(Spread(RECORD_TOPIC, packed))  # it may have no other neighbour yet
        return effects

    def _on_record(self, now: float, record: PeerRecord, over_loopback: bool) -> tuple[bool, list[Effect]]:
        """Take a verified record; return whether it was new, and effects."""
        subject = record.peer_id
        if subject == self._own_id:
            mine = self._own_record
            if mine is not None and (record.seq, record.packed) > (mine.seq, mine.packed):
                return False, [Emit(OwnRecordBehind(record.seq))]
            return False, []
        if subject not in self._members:
            self._book.keep_early(record)
            return False, []
        before, ways = self.direct_addresses(subject), self._ways(subject)
        if not self._book.put_record(record, over_loopback):
            return False, []
        new = [text for text in self.direct_addresses(subject) if text not in before]
        effects = self._save(subject)
        if new:
            effects += self._plan.offer(now, subject, new)
        for way in self._ways(subject):
            if way not in ways:
                effects += self._plan.offer_way(now, subject, way)
        return True, effects

    def _save(self, peer: bytes) -> list[Effect]:
        contact = self._book.find(peer)
        return [] if contact is None else [Save(contact.row())]

    # -- broadcasts and exchanges ----------------------------------------------------------------------

    def judge(self, topic: int, payload: bytes) -> Verdict:
        """Say whether a broadcast record or provision is to be passed on; changes nothing."""
        return self._signed.judge(topic, payload)

    def find_author(self, topic: int, payload: bytes) -> bytes | None:
        """Return who signed a broadcast that was found good."""
        return self._signed.find_author(topic, payload)

    def _on_delivered(self, now: float, topic: int, payload: bytes, sender: bytes) -> list[Effect]:
        item = self._signed.parse(topic, payload)
        if isinstance(item, Provision):
            return self._on_provision(now, item)[1]
        session = self._peers.get(sender)
        return self._on_record(now, item, session is not None and session.over_loopback)[1]

    def _on_provisions(
        self, now: float, peer: bytes, provisions: list[bytes], ages: list[int]
    ) -> list[Effect]:
        effects: list[Effect] = []
        for packed, age in zip(provisions, ages, strict=True):
            if not self._peers[peer].bucket.try_take(now):
                return [*effects, Observe("too_many_records", peer)]
            try:
                provision = parse_provision(packed, self._network_id)
            except RemoteFault as error:
                return [*effects, Observe("bad_provision", peer, str(error))]
            is_new, more = self._on_provision(now, provision, age)
            effects += more
            if is_new and provision.peer_id == peer and self._peers[peer].spreads.try_take(now):
                effects.append(Spread(PROVISION_TOPIC, packed))  # it may have no other neighbour yet
        return effects

    def _on_provision(
        self, now: float, provision: Provision, age_s: float = 0.0
    ) -> tuple[bool, list[Effect]]:
        """Take a verified provision; return whether it was new, and effects."""
        peer = provision.peer_id
        if peer == self._own_id:
            return False, self._announce_soon(now) if self._signed.claim(provision) else []
        told = self._signed.find_heads(peer, provision.page)
        withdrawn = self._signed.put(now, provision, age_s)
        if withdrawn is None:
            if self._signed.renew(now, provision, age_s):
                self._index.announce(peer, provision.keys, now - age_s)
            return False, []
        self._index.retract(peer, withdrawn)
        ignored = self._index.announce(peer, provision.keys, now - age_s)
        effects = self._searches.look_again(now, self._plan.is_settling())
        heads = [(key, entries) for key, entries in provision.heads.items() if told.get(key) != entries]
        effects += [Emit(HeadTold(peer, key, entries)) for key, entries in heads]
        if ignored:
            effects.append(Observe("too_many_keys", peer, f"{ignored} ignored"))
        return True, effects

    # -- keys ------------------------------------------------------------------------------------------

    def _on_publish(self, now: float, key: bytes, entries: int) -> list[Effect]:
        if key not in self._published and len(self._published) >= KEYS_OF_A_PROVIDER:
            raise LocalMisuse(f"a node announces at most {KEYS_OF_A_PROVIDER} keys")
        self._published.add(key)
        return self._announce_soon(now) if self._own_pages.put(key, entries) else []

    def _on_withdraw(self, now: float, key: bytes) -> list[Effect]:
        if key not in self._published:
            return []
        self._published.remove(key)
        self._own_pages.drop(key)
        return self._announce_soon(now)

    def _announce_soon(self, now: float) -> list[Effect]:
        if self._announcing:
            return []
        self._announcing = True
        return [SetTimer(max(now + ANNOUNCE_S, self._announced_at + ANNOUNCE_AGAIN_S), ("announce",))]

    def _announce(self, now: float) -> list[Effect]:
        """Have the pages signed on which keys came and went since the last time."""
        self._announcing = False
        self._announced_at = now
        return [Emit(PageChanged(*page)) for page in self._own_pages.take_dirty()]

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
