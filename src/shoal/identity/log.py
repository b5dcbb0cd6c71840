"""Log: the membership log of one network as a pure, deterministic merge.

It is responsible for which entries belong to the set, and for what the set means. It expects parsed entries
in any order and any number of times; it does no I/O, knows no clock, and keeps no entry whose past is not
complete. Two logs with the same entries have the same tips, head and state, whatever the order of delivery.

An entry is accepted if its author was permitted to write it in the state of the entry's own past. That is a
property of the entry, not of the moment. The only exception are the ceilings on the number of entries, which
bound memory and are never reached unless a device abuses its key.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import TypeAlias

from blake3 import blake3

from shoal.core.budget import BoundedMap
from shoal.core.errors import LimitExceeded, LocalMisuse, MalformedMessage, Refused
from shoal.core.units import KIB
from shoal.identity.draft import Draft
from shoal.identity.entry import ZERO_ID, Domain, Entry, EntryFlags, sign_entry
from shoal.identity.ids import EntryId, NetworkId, PeerId
from shoal.identity.keys import DeviceKeys, is_valid_peer_id
from shoal.identity.merge import Evaluation, Node, evaluate, permits
from shoal.identity.operations import (
    PARENTS_LIMIT,
    Admit,
    Genesis,
    Operation,
    Payload,
    Remove,
    Role,
    pack_operation,
    parse_operation,
    verify_joiner,
)
from shoal.identity.state import MembershipState
from shoal.wire.limits import ADMINS, OPERATIONS

ENTRY_LIMIT_BYTES = 60 * KIB  # an entry fits one control message with the header of its page
PLAIN_ENTRIES = 64  # a member or storage-only device has few reasons to write: it may leave
# Entries in the set by authors of this role or a weaker one: an owner can always still remove somebody.
CEILINGS = {
    Role.OWNER: OPERATIONS,
    Role.ADMIN: OPERATIONS - 512,
    Role.MEMBER: 1024,
    Role.STORAGE: 1024,
}
EVALUATIONS_KEPT = (
    16  # of pasts that are not the whole set: one a branch that grows; measured enough in tests
)
REFUSED_KEPT = 1024  # ids of refused entries, so that what follows them is refused and not asked for


@dataclass(frozen=True, slots=True)
class Added:
    """The entry is in the set now. Whether it counts may change: see `MembershipLog.is_effective`."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The entry was in the set already."""


@dataclass(frozen=True, slots=True)
class MissingParents:
    """The entry may be fine, but follows entries that are not in the set. It was not kept."""

    ids: tuple[EntryId, ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """The entry will never be in the set (`code` "full" excepted). `reason` is for people, `code` for rules:
    foreign | oversize | bad_signature | malformed | not_permitted | follows_refused | full.
    """

    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class _Fit:
    """An entry that belongs to the set: what it says, what it follows, the role of its author then."""

    payload: Payload
    followed: list[Node]
    role: Role


AddResult: TypeAlias = Added | Duplicate | MissingParents | Rejected
Vector: TypeAlias = dict[PeerId, tuple[int, EntryId]]


class MembershipLog:
    """The entries of one network and what they mean. Not thread-safe: one thread uses it."""

    def __init__(self, network_id: NetworkId) -> None:
        self.network_id = network_id
        self._nodes: list[Node] = []
        self._by_id: dict[EntryId, Node] = {}
        self._ordered: list[Node] = []
        self._written: dict[Role, int] = dict.fromkeys(Role, 0)  # by the role of the author when it wrote
        self._slots: dict[tuple[PeerId, int], list[Node]] = {}
        self._by_author: dict[PeerId, list[Node]] = {}
        self._last: dict[PeerId, Node] = {}
        self._tips: set[EntryId] = set()
        self._whole: Evaluation | None = Evaluation()  # None: to be evaluated when it is asked for
        self._state = MembershipState()  # before `_unapplied`
        self._unapplied: list[Node] = []
        self._pasts: BoundedMap[int, Evaluation] = BoundedMap(EVALUATIONS_KEPT)
        self._refused: BoundedMap[EntryId, None] = BoundedMap(REFUSED_KEPT)

    # what the set is

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, entry_id: object) -> bool:
        return entry_id in self._by_id

    @property
    def tips(self) -> tuple[EntryId, ...]:
        """Ids of the entries that no other follows, sorted."""
        return tuple(sorted(self._tips))

    @property
    def head(self) -> bytes:
        """32 bytes that are equal exactly if the sets are."""
        return blake3(b"".join(self.tips)).digest()

    @property
    def vector(self) -> Vector:
        """Each author's last entry: what is exchanged to find out who lacks what."""
        return {author: (node.entry.seq, node.entry.id) for author, node in self._last.items()}

    @property
    def equivocations(self) -> dict[tuple[PeerId, int], tuple[EntryId, ...]]:
        """Proofs of a key used twice: several entries of one author with one seq. They stay in the set."""
        return {
            slot: tuple(sorted(node.entry.id for node in nodes))
            for slot, nodes in self._slots.items()
            if len(nodes) > 1
        }

    def find_entry(self, entry_id: EntryId) -> Entry | None:
        """Return an entry of the set, or None."""
        node = self._by_id.get(entry_id)
        return node.entry if node is not None else None

    def entry(self, entry_id: EntryId) -> Entry:
        """Return an entry of the set. Raises: LocalMisuse if it is not there."""
        found = self.find_entry(entry_id)
        if found is None:
            raise LocalMisuse("the membership log has no such entry", cause=entry_id.hex())
        return found

    def entries(self) -> list[Entry]:
        """Return all entries in an order in which they can be added one by one."""
        return [node.entry for node in self._ordered]

    def past_of(self, entry_id: EntryId) -> list[Entry]:
        """Return an entry and all that it follows, in an order in which they can be added one by one."""
        node = self._by_id.get(entry_id)
        if node is None:
            return []
        closure = node.past | node.bit
        return [other.entry for other in self._ordered if closure >> other.index & 1]

    def missing_for(self, vector: Vector) -> list[Entry]:
        """Return what a peer with this vector lacks, in an order in which it can be added one by one.

        A peer that has an entry has all that it follows. An author whose last entry there is unknown here and
        has a higher seq is taken to be only further there; with a seq that is taken here, the author
        equivocated and all its entries are sent. So of equivocating authors an exchange may leave out what
        another entry follows, or send something again: ask for missing parents by id, exchange only while
        heads differ.
        """
        covered = 0
        for author, (seq, entry_id) in vector.items():
            node = self._by_id.get(entry_id)
            if node is not None:
                covered |= node.past | node.bit
                continue
            last = self._last.get(author)
            if last is not None and last.entry.seq < seq:
                for ours in self._by_author[author]:
                    covered |= ours.bit
        return [node.entry for node in self._ordered if not covered >> node.index & 1]

    @property
    def state(self) -> MembershipState:
        """What the set means; kept until the set changes."""
        if self._unapplied:
            draft = Draft(self._state)
            for node in self._unapplied:
                draft.apply(node, self._evaluation())
            self._state = draft.freeze()
            self._unapplied = []
        return self._state

    def is_effective(self, entry_id: EntryId) -> bool:
        """Tell whether an entry of the set counts, or was undone by a removal."""
        node = self._by_id.get(entry_id)
        return node is not None and bool(self._evaluation().effective & node.bit)

    # how it grows

    def add(self, entry: Entry) -> AddResult:
        """Take an entry into the set if it belongs there. Everything is checked here, the signature too."""
        if entry.id in self._by_id:
            return Duplicate()
        result = self._add(entry)
        if isinstance(result, Rejected) and result.code not in {"full", "bad_signature"}:
            self._refused.put(entry.id, None)  # a bad signature says nothing about the id: it is not covered
        return result

    def check(self, entry: Entry) -> AddResult:
        """Return what `add` would, and change nothing."""
        if entry.id in self._by_id:
            return Duplicate()
        result = self._examine(entry)
        return Added() if isinstance(result, _Fit) else result

    def make_entry(self, keys: DeviceKeys, operation: Operation, time: int) -> Entry:
        """Sign an operation that follows the whole set. It is not added: persist it first, then `add` it.

        Make the next one only after this one was added, or two entries have one seq. Raises: Refused if the
        log would not accept it, LocalMisuse if its fields are wrong.
        """
        last = self._last.get(keys.peer_id)
        seq, prev = (last.entry.seq + 1, last.entry.id) if last is not None else (0, ZERO_ID)
        newest = sorted((self._by_id[tip] for tip in self._tips), key=lambda node: node.order, reverse=True)
        parents = tuple(node.entry.id for node in newest[:PARENTS_LIMIT])
        packed = pack_operation(parents, operation)
        followed = newest[:PARENTS_LIMIT] + ([last] if last is not None else [])
        judged = self._judge(keys.peer_id, seq, parse_operation(packed), self._past_of(followed))
        if isinstance(judged, Rejected):
            raise Refused(
                "The network would not accept this",
                cause=judged.reason,
                next_step="see the roles with `shoal members`; an owner may do everything",
                code=judged.code,
            )
        return sign_entry(
            keys,
            Domain.MEMBERSHIP,
            self.network_id,
            self.network_id,
            seq,
            prev,
            time,
            EntryFlags.CRITICAL,
            packed,
        )

    def _add(self, entry: Entry) -> AddResult:
        result = self._examine(entry)
        if not isinstance(result, _Fit):
            return result
        self._written[result.role] += 1
        past = self._past_of(result.followed)
        height = 1 + max((node.height for node in result.followed), default=-1)
        node = Node(entry, result.payload, len(self._nodes), height, past)
        return self._insert(node, {other.entry.id for other in result.followed})

    def _examine(self, entry: Entry) -> _Fit | MissingParents | Rejected:
        if len(entry.data) > ENTRY_LIMIT_BYTES:
            return Rejected(f"the entry has {len(entry.data)} bytes", "oversize")
        if entry.domain is not Domain.MEMBERSHIP:
            return Rejected("the entry is not of a membership log", "foreign")
        is_genesis = entry.id == self.network_id
        home = ZERO_ID if is_genesis else self.network_id
        if entry.network != home or entry.log != home:
            return Rejected("the entry is of another network", "foreign")
        if not entry.verify():
            return Rejected("the signature is not the author's", "bad_signature")
        try:
            payload = parse_operation(entry.payload)
        except (MalformedMessage, LimitExceeded) as error:
            return Rejected(str(error), "malformed")
        if is_genesis or isinstance(payload.operation, Genesis):
            return self._examine_genesis(entry, payload, is_genesis=is_genesis)
        follows = set(payload.parents) | ({entry.prev} if entry.seq else set())
        if any(parent in self._refused for parent in follows):
            return Rejected("it follows an entry that was refused", "follows_refused")
        missing = tuple(sorted(parent for parent in follows if parent not in self._by_id))
        if missing:
            return MissingParents(missing)
        if entry.seq:
            before = self._by_id[entry.prev].entry
            if before.author != entry.author or before.seq + 1 != entry.seq:
                return Rejected("its predecessor is not the author's entry before", "malformed")
        followed = [self._by_id[parent] for parent in follows]
        judged = self._judge(entry.author, entry.seq, payload, self._past_of(followed))
        return judged if isinstance(judged, Rejected) else _Fit(payload, followed, judged)

    @staticmethod
    def _examine_genesis(entry: Entry, payload: Payload, *, is_genesis: bool) -> _Fit | Rejected:
        if not is_genesis or not isinstance(payload.operation, Genesis) or entry.seq != 0:
            return Rejected("only the first entry is a genesis", "malformed")
        if not is_valid_peer_id(entry.author):
            return Rejected("the founder's key is no Ed25519 key of prime order", "malformed")
        return _Fit(payload, [], Role.OWNER)

    def _judge(self, author: PeerId, seq: int, payload: Payload, past: int) -> Rejected | Role:
        """Return why an entry is refused, or the role by which it is accepted.

        Depends on nothing but the entry and its past, ceilings excepted.
        """
        evaluation = self._evaluation_of(past)
        role = evaluation.role_of(author)
        if role is None:
            return Rejected("its author was not a member when it was written", "not_permitted")
        if not permits(role, payload):
            return Rejected(f"{_article(role)} may not do this", "not_permitted")
        if role >= Role.MEMBER and seq >= PLAIN_ENTRIES:
            return Rejected(f"{_article(role)} writes at most {PLAIN_ENTRIES} entries", "not_permitted")
        match payload.operation:
            case Admit() as admit:
                refusal = self._judge_admit(admit, evaluation)
            case Remove() as remove:
                refusal = _judge_remove(author, role, remove, evaluation)
            case _:
                refusal = None
        if refusal is not None:
            return Rejected(refusal, "not_permitted")
        written = sum(count for other, count in self._written.items() if other >= role)
        if written >= CEILINGS[role] or len(self._nodes) >= OPERATIONS:
            return Rejected(f"the log is full: {written} entries by {_article(role)} and below", "full")
        return role

    def _judge_admit(self, admit: Admit, evaluation: Evaluation) -> str | None:
        if admit.peer_id in evaluation.kept:
            return "the device was removed, and a removed key is never admitted again"
        role = evaluation.role_of(admit.peer_id)
        if role is not None and role <= admit.role:
            return "the device is a member already"
        if admit.role <= Role.ADMIN:
            strong = sum(
                (found := evaluation.role_of(peer)) is not None and found <= Role.ADMIN
                for peer in evaluation.admissions
            )
            if strong >= ADMINS:
                return f"the network has {ADMINS} owners and admins, the limit"
        if not verify_joiner(self.network_id, admit):
            return "the device did not sign that it wants to join"
        return None

    def _insert(self, node: Node, follows: set[EntryId]) -> Added:
        entry = node.entry
        whole = self._whole
        is_last = whole is not None and node.past == whole.mask
        if not is_last:
            self._remember_branch(node)
        if whole is not None and whole.can_extend(node):
            whole.extend(node)
        else:
            self._whole = None
        self._nodes.append(node)
        self._by_id[entry.id] = node
        insort(self._ordered, node, key=lambda other: other.order)
        if not is_last:  # it may come before others in the order, or undo them: all are applied anew
            self._state = MembershipState()
            self._unapplied = list(self._ordered)
        else:
            self._unapplied.append(node)
        self._by_author.setdefault(entry.author, []).append(node)
        self._slots.setdefault((entry.author, entry.seq), []).append(node)
        last = self._last.get(entry.author)
        if last is None or (-entry.seq, entry.id) < (-last.entry.seq, last.entry.id):
            self._last[entry.author] = node
        self._tips -= follows
        self._tips.add(entry.id)
        return Added()

    def _remember_branch(self, node: Node) -> None:
        """Keep the evaluation of a branch's new end: its next entry will ask for it."""
        before = self._pasts.find(node.past)
        if before is not None:
            after = before.copy()
            after.extend(node)
            self._pasts.put(after.mask, after)

    def _evaluation(self) -> Evaluation:
        if self._whole is None:
            self._whole = evaluate(self._ordered)
        return self._whole

    def _evaluation_of(self, past: int) -> Evaluation:
        if past == (1 << len(self._nodes)) - 1:
            return self._evaluation()
        found = self._pasts.find(past)
        if found is None:
            found = evaluate([node for node in self._ordered if past >> node.index & 1])
            self._pasts.put(past, found)
        return found

    @staticmethod
    def _past_of(followed: list[Node]) -> int:
        past = 0
        for node in followed:
            past |= node.past | node.bit
        return past


def make_genesis(keys: DeviceKeys, genesis: Genesis, time: int) -> Entry:
    """Sign the first entry of a new network; its id is the network id. Raises: LocalMisuse."""
    payload = pack_operation((), genesis)
    return sign_entry(
        keys, Domain.MEMBERSHIP, ZERO_ID, ZERO_ID, 0, ZERO_ID, time, EntryFlags.CRITICAL, payload
    )


def _judge_remove(author: PeerId, role: Role, remove: Remove, evaluation: Evaluation) -> str | None:
    if remove.peer_id == author:
        return "a device does not remove itself: it leaves"
    if remove.peer_id not in evaluation.admissions:
        return "the device was never admitted"
    if role is not Role.OWNER and evaluation.role_of(remove.peer_id) is Role.OWNER:
        return "only an owner may remove an owner"
    return None


def _article(role: Role) -> str:
    return {
        Role.OWNER: "an owner",
        Role.ADMIN: "an admin",
        Role.MEMBER: "a member",
        Role.STORAGE: "a storage-only device",
    }[role]
