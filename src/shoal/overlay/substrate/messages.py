"""Messages: what the substrates of two peers say to each other (service OVERLAY). All are notices.

See spec/substrate.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.wire.codec import Message
from shoal.wire.limits import GOSSIP_BYTES

PEER_BYTES = 32
IDENTIFIER_BYTES = 16
LEADER_BYTES = 8
WALK_HOPS = 16  # of a walk over the views; the paper's have 6
GOSSIP_HOPS = 64  # a broadcast over more is a loop
TOPICS = 256
PAYLOAD_BYTES = (
    GOSSIP_BYTES - 64
)  # of a broadcast, so that with its header it is one message that is passed on
SHUFFLED = 16
IDENTIFIERS = 64  # in one IHave, Cached
PROBED = 16  # broadcasts in one PartProbe
LEADERS = 16
UPDATES = 8

# -- views (HyParView) -------------------------------------------------------------------------------------


class Join(Message, frozen=True, array_like=True):
    """The sender is new and takes the receiver for its contact: take it in, and send it on walks."""


class ForwardJoin(Message, frozen=True, array_like=True):
    """A newcomer walks: the receiver passes it on, or takes it in where the walk ends."""

    newcomer: bytes  # 32
    hops: int  # to go, at most 16


class Neighbour(Message, frozen=True, array_like=True):
    """Make the sender a neighbour. An urgent wish is granted always, another one if there is a free place."""

    urgent: bool


class NeighbourAnswer(Message, frozen=True, array_like=True):
    """Whether the sender has made the receiver a neighbour as it wished."""

    granted: bool


class Part(Message, frozen=True, array_like=True):
    """The receiver is no neighbour of the sender any more; `leaving`: the sender ends."""

    leaving: bool


class Shuffle(Message, frozen=True, array_like=True):
    """Some of the origin's views, on a walk; where it ends, as many are answered to the origin."""

    origin: bytes  # 32
    hops: int  # to go, at most 16
    peers: list[bytes]  # at most 16


class ShuffleAnswer(Message, frozen=True, array_like=True):
    """Some of the sender's passive view, in return for a Shuffle."""

    peers: list[bytes]  # at most 16


# -- broadcast (Plumtree) ----------------------------------------------------------------------------------


class Gossip(Message, frozen=True, array_like=True):
    """A broadcast: deliver and pass it on if it is new, otherwise answer with Prune."""

    identifier: bytes  # 16
    hops: int  # sessions it will have come over
    topic: int
    payload: bytes


class IHave(Message, frozen=True, array_like=True):
    """The sender has these broadcasts, `hops` from their source."""

    identifiers: list[bytes]  # 1-64 of 16 bytes
    hops: list[int]  # as many


class Cached(Message, frozen=True, array_like=True):
    """What the sender still has, newest first: said to one neighbour from time to time, and to a new one."""

    identifiers: list[bytes]  # 1-64 of 16 bytes
    hops: list[int]  # as many


class Graft(Message, frozen=True, array_like=True):
    """Send broadcasts at once from now on; with an identifier that one too."""

    identifier: bytes  # 16, or empty
    hops: int


class Prune(Message, frozen=True, array_like=True):
    """Only tell of broadcasts from now on: they come faster on another way."""


# -- healing -----------------------------------------------------------------------------------------------


class PartProbe(Message, frozen=True, array_like=True):
    """Are we in one part of the network? The newest beacon that the sender has had for a while."""

    identifiers: list[bytes]  # 1-16 of 16 bytes


class PartAnswer(Message, frozen=True, array_like=True):
    """The receiver of a PartProbe knows no such beacon: this is its own newest."""

    identifiers: list[bytes]  # 1-16 of 16 bytes


class Bridge(Message, frozen=True, array_like=True):
    """Both know nothing of each other's beacons: make the sender a neighbour, in a place kept for that."""

    granted: bool  # False: the wish, True: the answer to it


# -- size --------------------------------------------------------------------------------------------------


class SizePush(Message, frozen=True, array_like=True):
    """The sender's values of an epoch, to be averaged with the receiver's; answer with SizePull."""

    epoch: int  # u32
    leaders: list[bytes]  # at most 16 of 8 bytes
    values: list[float]  # as many, 0 to 1


class SizePull(Message, frozen=True, array_like=True):
    """What the receiver has to add to its values, so that both have the mean."""

    epoch: int
    leaders: list[bytes]  # at most 16 of 8 bytes
    changes: list[float]  # as many, -1 to 1


# -- failure detection (SWIM) ------------------------------------------------------------------------------


class Update(Message, frozen=True, array_like=True):
    """What somebody holds of a member; rides on probes."""

    peer: bytes  # 32
    standing: int  # Standing
    incarnation: int  # the member's own counting
    source: bytes  # 32: who suspects it, or found it gone


class Probe(Message, frozen=True, array_like=True):
    """Are you there? Answer with ProbeAnswer."""

    number: int  # u32, the prober's own counting
    updates: list[Update]  # at most 8


class ProbeAnswer(Message, frozen=True, array_like=True):
    """The sender is there; or, of a ProbeFor, its target is."""

    number: int
    updates: list[Update]  # at most 8


class ProbeFor(Message, frozen=True, array_like=True):
    """The sender gets no answer of `target`: probe it, and tell what came of it."""

    number: int
    target: bytes  # 32
    updates: list[Update]  # at most 8


class ProbeSilence(Message, frozen=True, array_like=True):
    """The target of a ProbeFor has not answered yet, but the sender is there (Lifeguard's nack)."""

    number: int


NUMBERS: dict[int, type[Message]] = {
    12: Join,
    14: ForwardJoin,
    16: Neighbour,
    18: NeighbourAnswer,
    20: Part,
    22: Shuffle,
    24: ShuffleAnswer,
    26: Gossip,
    28: IHave,
    30: Cached,
    32: Graft,
    34: Prune,
    36: PartProbe,
    38: PartAnswer,
    40: Bridge,
    42: SizePush,
    44: SizePull,
    46: Probe,
    48: ProbeAnswer,
    50: ProbeFor,
    52: ProbeSilence,
}


def check(message: Message) -> None:
    """Check what the codec cannot. Raises: MalformedMessage, LimitExceeded."""
    checks = _CHECKS.get(type(message))
    if checks is None:
        raise MalformedMessage("not a message of the overlay", cause=type(message).__name__)
    checks(message)


def _count(name: str, items: Sequence[object], limit: int, least: int = 0) -> None:
    if len(items) > limit:
        raise LimitExceeded(f"{len(items)} {name} in one message", cause=f"at most {limit} are allowed")
    if len(items) < least:
        raise MalformedMessage(f"a message without {name}")


def _lengths(name: str, items: Sequence[bytes], length: int) -> None:
    if any(len(item) != length for item in items):
        raise MalformedMessage(f"a {name} of another length than {length} bytes")


def _range(name: str, value: int, limit: int) -> None:
    if not 0 <= value < limit:
        raise MalformedMessage(f"a {name} out of range")


def _distinct(name: str, items: Sequence[bytes]) -> None:
    if len(set(items)) != len(items):
        raise MalformedMessage(f"a {name} that stands twice in one message")


def _check_forward_join(message: ForwardJoin) -> None:
    _lengths("peer id", [message.newcomer], PEER_BYTES)
    _range("number of hops", message.hops, WALK_HOPS + 1)


def _check_shuffle(message: Shuffle) -> None:
    _lengths("peer id", [message.origin, *message.peers], PEER_BYTES)
    _count("peers", message.peers, SHUFFLED)
    _range("number of hops", message.hops, WALK_HOPS + 1)


def _check_shuffle_answer(message: ShuffleAnswer) -> None:
    _count("peers", message.peers, SHUFFLED)
    _lengths("peer id", message.peers, PEER_BYTES)


def _check_gossip(message: Gossip) -> None:
    _lengths("broadcast's identifier", [message.identifier], IDENTIFIER_BYTES)
    _range("number of hops", message.hops, GOSSIP_HOPS + 1)
    _range("topic", message.topic, TOPICS)
    if len(message.payload) > PAYLOAD_BYTES:
        raise LimitExceeded("a broadcast over the limit", cause=f"at most {PAYLOAD_BYTES} bytes are allowed")


def _check_words(message: IHave | Cached) -> None:
    _count("broadcasts", message.identifiers, IDENTIFIERS, 1)
    _lengths("broadcast's identifier", message.identifiers, IDENTIFIER_BYTES)
    if len(message.hops) != len(message.identifiers):
        raise MalformedMessage("not as many numbers of hops as broadcasts")
    for hops in message.hops:
        _range("number of hops", hops, GOSSIP_HOPS + 1)


def _check_graft(message: Graft) -> None:
    if message.identifier:
        _lengths("broadcast's identifier", [message.identifier], IDENTIFIER_BYTES)
    _range("number of hops", message.hops, GOSSIP_HOPS + 1)


def _check_part(message: PartProbe | PartAnswer) -> None:
    _count("broadcasts", message.identifiers, PROBED, 1)
    _lengths("broadcast's identifier", message.identifiers, IDENTIFIER_BYTES)


def _check_values(epoch: int, leaders: list[bytes], values: list[float], least: float) -> None:
    _range("epoch", epoch, 2**32)
    _count("leaders", leaders, LEADERS)
    _lengths("leader", leaders, LEADER_BYTES)
    _distinct("leader", leaders)
    if len(values) != len(leaders):
        raise MalformedMessage("not as many values as leaders")
    if not all(math.isfinite(value) and least <= value <= 1.0 for value in values):
        raise MalformedMessage("a value out of range")


def _check_updates(number: int, updates: list[Update]) -> None:
    _range("number", number, 2**32)
    _count("updates", updates, UPDATES)
    for update in updates:
        _lengths("peer id", [update.peer, update.source], PEER_BYTES)
        _range("incarnation", update.incarnation, 2**32)
        if not 1 <= update.standing <= 3:
            raise MalformedMessage("a standing that is none")


def _check_probe_for(message: ProbeFor) -> None:
    _lengths("peer id", [message.target], PEER_BYTES)
    _check_updates(message.number, message.updates)


def _check_nothing(message: Message) -> None:
    return


_CHECKS: dict[type[Message], Callable[[Any], None]] = {
    Join: _check_nothing,
    ForwardJoin: _check_forward_join,
    Neighbour: _check_nothing,
    NeighbourAnswer: _check_nothing,
    Part: _check_nothing,
    Shuffle: _check_shuffle,
    ShuffleAnswer: _check_shuffle_answer,
    Gossip: _check_gossip,
    IHave: _check_words,
    Cached: _check_words,
    Graft: _check_graft,
    Prune: _check_nothing,
    PartProbe: _check_part,
    PartAnswer: _check_part,
    Bridge: _check_nothing,
    SizePush: lambda m: _check_values(m.epoch, m.leaders, m.values, 0.0),
    SizePull: lambda m: _check_values(m.epoch, m.leaders, m.changes, -1.0),
    Probe: lambda m: _check_updates(m.number, m.updates),
    ProbeAnswer: lambda m: _check_updates(m.number, m.updates),
    ProbeFor: _check_probe_for,
    ProbeSilence: lambda m: _range("number", m.number, 2**32),
}
