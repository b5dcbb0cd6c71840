"""Sync: the pure machine that brings every member's log to the same set of entries.

New entries travel by broadcast. What that misses is pulled: after a session opens, and whenever a heartbeat
shows another head, a node sends its vector in pages and gets the entries it lacks. What came by another way
than a broadcast is broadcast from here, by its tips alone: who lacks what they follow pulls it from here. So
nobody passes on what is not in his log, and who sends an entry has all that it follows.

Own entries are durable before they are told to anybody. Those of others may be passed on before they are
durable here: lost, they come back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.core.budget import BoundedMap
from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.identity.entry import Entry
from shoal.identity.log import MembershipLog
from shoal.identity.operations import parents_of
from shoal.membership.intake import Intake
from shoal.membership.messages import (
    FETCH_IDS,
    PAGE_BYTES,
    PAGE_ENTRIES,
    PAGE_TIPS,
    VECTOR_PAGE_ROWS,
    VECTOR_ROWS,
    Fetch,
    Page,
    VectorPage,
    VectorRow,
)
from shoal.membership.sync_events import (
    Answered,
    Ask,
    Asked,
    AskFailed,
    Fail,
    Heard,
    HeardOf,
    Offered,
    Peer,
    PeerHead,
    Reply,
    Save,
    SessionDown,
    SessionUp,
    Spread,
    Synced,
    SyncEffect,
    SyncInput,
)

PULLS = 4  # at once; the other peers wait for their turn; wild guess
FETCH_ROUNDS = 64  # parents of parents; a pull gives up then and the next one goes on
QUIET_FIRST_S = 5.0  # after a pull that brought nothing although the heads differ; doubles
QUIET_LAST_S = 60.0
QUIET_PEERS = 1024
MESSAGE_ENTRY_OVERHEAD = 5  # MessagePack's header of a byte string
SPREAD_TIPS = 16  # of what a pull brought; whoever lacks others finds them by our next heartbeat


@dataclass(slots=True)
class _Pull:
    pages: list[list[VectorRow]]
    page: int = 0
    gained: list[Entry] = field(default_factory=list)  # no more than the log may hold
    fetching: bool = False
    rounds: int = 0


@dataclass(slots=True)
class _Quiet:
    until: float
    pause_s: float


@dataclass(slots=True)
class _Collected:
    """A vector that arrives in pages."""

    rows: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    last_author: bytes = b""


class SyncMachine:
    """Keeps one log equal to everybody's. After a session ended it holds of
    that peer only strikes and orphans, both bounded.

    The driver gives every input in the order in which it happened and answers each Ask once.
    """

    def __init__(self, log: MembershipLog) -> None:
        self._log = log
        self._intake = Intake(log)
        self._sessions: set[Peer] = set()
        self._pulls: dict[Peer, _Pull] = {}
        self._waiting: OrderedDict[Peer, None] = OrderedDict()
        self._quiet: BoundedMap[Peer, _Quiet] = BoundedMap(QUIET_PEERS)
        self._collected: dict[Peer, _Collected] = {}
        self._promised: dict[Peer, bytes] = {}  # an entry that a peer said it has; within sessions

    @property
    def orphan_count(self) -> int:
        """How many entries wait for parents."""
        return self._intake.orphan_count

    def is_untold(self, entry_id: bytes) -> bool:
        """Whether an entry was pulled and its pull has not ended: it is not broadcast from here yet."""
        return any(entry.id == entry_id for pull in self._pulls.values() for entry in pull.gained)

    def has_head(self, head8: bytes) -> bool:
        """Whether these are the first bytes of our log's head: then both logs hold the same."""
        return bool(head8) and head8 == self._log.head[: len(head8)]

    def step(self, now: float, event: SyncInput) -> list[SyncEffect]:
        """Take one input, return what the driver must do, in order."""
        match event:
            case SessionUp(peer, head8):
                self._sessions.add(peer)
                return [Synced(peer)] if self.has_head(head8) else self._want(peer)
            case SessionDown(peer):
                return self._on_session_down(peer)
            case PeerHead(peer, head8):
                return self._on_peer_head(now, peer, head8)
            case Asked(peer, VectorPage() as message):
                return self._on_vector_page(now, peer, message)
            case Asked(peer, Fetch() as message):
                return self._on_fetch(now, peer, message)
            case Answered(peer, message):
                return self._on_page(now, peer, message)
            case AskFailed(peer):
                return self._end_pull(peer)
            case Heard(peer, entry):
                return self._on_heard(now, peer, entry)
            case HeardOf(peer, entry_id):
                return self._on_heard_of(peer, entry_id)
            case Offered(entries, source):
                added, effects = self._intake.accept(now, entries, source)
                return self._save(added, source) + _spread(added) + effects
        raise LocalMisuse(f"not an input of the synchronisation machine: {event!r}")

    # --- being told ---------------------------------------------------------------------------------------

    def _on_heard(self, now: float, peer: Peer, data: bytes) -> list[SyncEffect]:
        """Take a broadcast entry; what it follows and is not here, its sender has."""
        added, effects = self._intake.accept(now, [data], peer)
        effects = self._save(added, peer) + _spread(added) + effects
        if self._intake.orphans_from(peer):
            effects += self._want(peer)
        return effects

    def _on_heard_of(self, peer: Peer, entry_id: bytes) -> list[SyncEffect]:
        if entry_id in self._log or peer not in self._sessions:
            return []
        self._promised[peer] = entry_id  # the newest is enough: a pull brings all that the peer has
        return self._want(peer)

    def _save(self, added: list[Entry], source: Peer | None) -> list[SyncEffect]:
        return [Save(tuple(added), source)] if added else []

    # --- asking -------------------------------------------------------------------------------------------

    def _on_peer_head(self, now: float, peer: Peer, head8: bytes) -> list[SyncEffect]:
        if peer not in self._sessions:
            return []
        if self.has_head(head8):
            self._quiet.pop(peer)
            return [Synced(peer)]
        quiet = self._quiet.find(peer)
        if quiet is not None and now < quiet.until:
            return []
        return self._want(peer)

    def _want(self, peer: Peer) -> list[SyncEffect]:
        if peer not in self._sessions or peer in self._pulls:
            return []
        if len(self._pulls) >= PULLS:
            self._waiting[peer] = None
            return []
        self._waiting.pop(peer, None)
        return [self._begin_pull(peer)]

    def _begin_pull(self, peer: Peer) -> SyncEffect:
        self._pulls[peer] = pull = _Pull(self._vector_pages())
        return self._ask_page(peer, pull)

    def _vector_pages(self) -> list[list[VectorRow]]:
        rows = [(author, seq, entry_id) for author, (seq, entry_id) in sorted(self._log.vector.items())]
        return [rows[i : i + VECTOR_PAGE_ROWS] for i in range(0, len(rows), VECTOR_PAGE_ROWS)] or [[]]

    def _ask_page(self, peer: Peer, pull: _Pull) -> SyncEffect:
        last = pull.page == len(pull.pages) - 1
        return Ask(peer, VectorPage(pull.pages[pull.page], pull.page == 0, last))

    def _on_page(self, now: float, peer: Peer, message: Page) -> list[SyncEffect]:
        pull = self._pulls.get(peer)
        if pull is None:
            return []
        try:
            message.check()
        except (MalformedMessage, LimitExceeded) as error:
            return self._intake.strike(now, "membership_malformed", peer, str(error)) + self._end_pull(peer)
        added, effects = self._intake.accept(now, message.entries, peer)
        effects = self._save(added, peer) + effects
        pull.gained += added
        if pull.page < len(pull.pages) - 1:
            pull.page += 1
            return [*effects, self._ask_page(peer, pull)]
        if message.more and added:
            # the vector has grown by what came: ask again from there
            pull.pages, pull.page, pull.fetching = self._vector_pages(), 0, False
            return [*effects, self._ask_page(peer, pull)]
        missing = self._missing(peer, message)
        if missing and pull.rounds < FETCH_ROUNDS and (not pull.fetching or message.entries):
            pull.fetching = True
            pull.rounds += 1
            return [*effects, Ask(peer, Fetch(missing))]
        return effects + self._finish_pull(now, peer, pull, bool(missing) or message.more)

    def _missing(self, peer: Peer, message: Page) -> list[bytes]:
        """Ids that the peer must have and we lack: its tips, what it said it has, parents of what it sent."""
        orphans = self._intake.orphans_from(peer)
        promised = [self._promised[peer]] if peer in self._promised else []
        wanted = dict.fromkeys([i for orphan in orphans for i in orphan.missing] + promised + message.tips)
        waiting = {orphan.entry.id for orphan in orphans}
        lacking = [i for i in wanted if i not in waiting and i not in self._log]
        return lacking[:FETCH_IDS]

    def _finish_pull(self, now: float, peer: Peer, pull: _Pull, incomplete: bool) -> list[SyncEffect]:
        effects = self._intake.forget_orphans(now, peer)
        if peer in self._promised and self._promised[peer] not in self._log:
            effects += self._intake.strike(now, "membership_orphans", peer, "it has not what it said it has")
        if incomplete and not pull.gained:
            before = self._quiet.find(peer)
            pause = QUIET_FIRST_S if before is None else min(before.pause_s * 2, QUIET_LAST_S)
            self._quiet.put(peer, _Quiet(now + pause, pause))
        if not incomplete:
            self._quiet.pop(peer)
            effects.append(Synced(peer))
        return effects + self._end_pull(peer)

    def _end_pull(self, peer: Peer) -> list[SyncEffect]:
        pull = self._pulls.pop(peer, None)
        effects = [] if pull is None else _spread(pull.gained)
        self._promised.pop(peer, None)
        if self._waiting and len(self._pulls) < PULLS:
            following, _ = self._waiting.popitem(last=False)
            effects.append(self._begin_pull(following))
        return effects

    # --- being asked --------------------------------------------------------------------------------------

    def _on_vector_page(self, now: float, peer: Peer, message: VectorPage) -> list[SyncEffect]:
        try:
            message.check()
            collected = self._collect(peer, message)
        except (MalformedMessage, LimitExceeded) as error:
            self._collected.pop(peer, None)
            return [*self._intake.strike(now, "membership_malformed", peer, str(error)), Fail(error)]
        if not message.last:
            return [Reply(Page([], False, []))]
        del self._collected[peer]
        return [Reply(self._page(self._log.missing_for(collected.rows)))]

    def _collect(self, peer: Peer, message: VectorPage) -> _Collected:
        if message.first:
            self._collected[peer] = _Collected()
        collected = self._collected.get(peer)
        if collected is None:
            raise MalformedMessage("A vector page came without the first one", peer=peer)
        if message.rows and message.rows[0][0] <= collected.last_author:
            raise MalformedMessage("Vector pages are not in the order of their authors", peer=peer)
        if len(collected.rows) + len(message.rows) > VECTOR_ROWS:
            raise LimitExceeded("A vector has too many rows", peer=peer, cause=f"at most {VECTOR_ROWS}")
        collected.rows.update({author: (seq, entry_id) for author, seq, entry_id in message.rows})
        if message.rows:
            collected.last_author = message.rows[-1][0]
        return collected

    def _on_fetch(self, now: float, peer: Peer, message: Fetch) -> list[SyncEffect]:
        try:
            message.check()
        except (MalformedMessage, LimitExceeded) as error:
            return [*self._intake.strike(now, "membership_malformed", peer, str(error)), Fail(error)]
        found = [entry for i in message.ids if (entry := self._log.find_entry(i)) is not None]
        return [Reply(self._page(found))]

    def _page(self, entries: list[Entry]) -> Page:
        batch = next(iter(cut_batches(entries, PAGE_BYTES, PAGE_ENTRIES)), [])
        return Page(batch, len(batch) < len(entries), list(self._log.tips[:PAGE_TIPS]))

    def _on_session_down(self, peer: Peer) -> list[SyncEffect]:
        self._sessions.discard(peer)
        self._waiting.pop(peer, None)
        self._collected.pop(peer, None)
        self._promised.pop(peer, None)
        return self._end_pull(peer)


def _spread(added: Sequence[Entry]) -> list[SyncEffect]:
    """Broadcast the tips of what was added: those that no other one of it follows."""
    followed = {parent for entry in added for parent in (*parents_of(entry.payload), entry.prev)}
    tips = tuple(entry for entry in added if entry.id not in followed)
    return [Spread(tips[-SPREAD_TIPS:])] if tips else []


def cut_batches(entries: Sequence[Entry], limit_bytes: int, limit_count: int) -> list[list[bytes]]:
    """Cut entries into runs that fit a message; one that fits none is left out."""
    batches: list[list[bytes]] = []
    room = 0
    for entry in entries:
        size = len(entry.data) + MESSAGE_ENTRY_OVERHEAD
        if size > limit_bytes:
            continue
        if size > room or len(batches[-1]) >= limit_count:
            batches.append([])
            room = limit_bytes
        batches[-1].append(entry.data)
        room -= size
    return batches
