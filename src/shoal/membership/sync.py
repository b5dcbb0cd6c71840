"""Sync: the pure machine that brings every member's log to the same set of entries.

New entries are announced at once to all sessions except the one they came from. What that misses is pulled:
after a session opens, and whenever a heartbeat shows another head, a node sends its vector in pages and gets
the entries it lacks. Both ends pull, so no entry is ever pushed that was not asked for or just added.
Entries are announced only after the driver made them durable (`Saved`); own ones are, before they are in the
log. The answer to a pull may hold entries of others that are not durable yet: lost, they come back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.core.budget import BoundedMap
from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage
from shoal.identity.entry import Entry
from shoal.identity.log import MembershipLog
from shoal.membership.intake import Intake
from shoal.membership.messages import (
    ANNOUNCE_BYTES,
    ANNOUNCE_ENTRIES,
    FETCH_IDS,
    PAGE_BYTES,
    PAGE_ENTRIES,
    PAGE_TIPS,
    VECTOR_PAGE_ROWS,
    VECTOR_ROWS,
    Announce,
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
    Noticed,
    Notify,
    Offered,
    Peer,
    PeerHead,
    Reply,
    Save,
    Saved,
    SessionDown,
    SessionUp,
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


@dataclass(slots=True)
class _Pull:
    pages: list[list[VectorRow]]
    page: int = 0
    gained: int = 0
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

    The driver gives every input in the order in which it happened, answers each Ask once, and each Save with
    Saved once it is durable.
    """

    def __init__(self, log: MembershipLog) -> None:
        self._log = log
        self._intake = Intake(log)
        self._sessions: set[Peer] = set()
        self._pulls: dict[Peer, _Pull] = {}
        self._waiting: OrderedDict[Peer, None] = OrderedDict()
        self._quiet: BoundedMap[Peer, _Quiet] = BoundedMap(QUIET_PEERS)
        self._collected: dict[Peer, _Collected] = {}

    @property
    def orphan_count(self) -> int:
        """How many entries wait for parents."""
        return self._intake.orphan_count

    def step(self, now: float, event: SyncInput) -> list[SyncEffect]:
        """Take one input, return what the driver must do, in order."""
        match event:
            case SessionUp(peer):
                self._sessions.add(peer)
                return self._want(peer)
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
            case Noticed(peer, message):
                return self._on_announce(now, peer, message)
            case Offered(entries, source):
                added, effects = self._intake.accept(now, entries, source)
                return self._save(added, source) + effects
            case Saved(entries, source):
                return self._announce(entries, source)
        raise LocalMisuse(f"not an input of the synchronisation machine: {event!r}")

    # --- being told ---------------------------------------------------------------------------------------

    def _on_announce(self, now: float, peer: Peer, message: Announce) -> list[SyncEffect]:
        try:
            message.check()
        except (MalformedMessage, LimitExceeded) as error:
            return self._intake.strike(now, "membership_malformed", peer, str(error))
        added, effects = self._intake.accept(now, message.entries, peer)
        effects = self._save(added, peer) + effects
        if self._intake.orphans_from(peer):
            effects += self._want(peer)
        return effects

    def _announce(self, entries: tuple[Entry, ...], source: Peer | None) -> list[SyncEffect]:
        """Tell all other sessions. What is too long to be passed on, they find by our next heartbeat."""
        effects: list[SyncEffect] = []
        messages = [Announce(batch) for batch in cut_batches(entries, ANNOUNCE_BYTES, ANNOUNCE_ENTRIES)]
        for peer in sorted(self._sessions):
            if peer != source:
                effects += [Notify(peer, message) for message in messages]
        return effects

    def _save(self, added: list[Entry], source: Peer | None) -> list[SyncEffect]:
        return [Save(tuple(added), source)] if added else []

    # --- asking -------------------------------------------------------------------------------------------

    def _on_peer_head(self, now: float, peer: Peer, head8: bytes) -> list[SyncEffect]:
        if peer not in self._sessions:
            return []
        if head8 == self._log.head[: len(head8)] and head8:
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
        self._pulls[peer] = pull = _Pull(self._vector_pages())
        return [self._ask_page(peer, pull)]

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
        pull.gained += len(added)
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
        """Ids that the peer must have and we lack: its tips, and parents of what it sent."""
        orphans = self._intake.orphans_from(peer)
        wanted = dict.fromkeys([i for orphan in orphans for i in orphan.missing] + message.tips)
        waiting = {orphan.entry.id for orphan in orphans}
        lacking = [i for i in wanted if i not in waiting and i not in self._log]
        return lacking[:FETCH_IDS]

    def _finish_pull(self, now: float, peer: Peer, pull: _Pull, incomplete: bool) -> list[SyncEffect]:
        effects = self._intake.forget_orphans(now, peer)
        if incomplete and not pull.gained:
            before = self._quiet.find(peer)
            pause = QUIET_FIRST_S if before is None else min(before.pause_s * 2, QUIET_LAST_S)
            self._quiet.put(peer, _Quiet(now + pause, pause))
        if not incomplete:
            self._quiet.pop(peer)
            effects.append(Synced(peer))
        return effects + self._end_pull(peer)

    def _end_pull(self, peer: Peer) -> list[SyncEffect]:
        self._pulls.pop(peer, None)
        if self._waiting and len(self._pulls) < PULLS:
            following, _ = self._waiting.popitem(last=False)
            self._pulls[following] = pull = _Pull(self._vector_pages())
            return [self._ask_page(following, pull)]
        return []

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
        return self._end_pull(peer)


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
