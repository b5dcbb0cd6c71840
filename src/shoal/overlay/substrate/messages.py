"""Messages: what the substrates of two peers say to each other (service OVERLAY). All are notices.

See spec/substrate.md.
"""

from __future__ import annotations

from shoal.wire.codec import Message

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


class Graft(Message, frozen=True, array_like=True):
    """Send broadcasts at once from now on; with an identifier that one too."""

    identifier: bytes  # 16, or empty
    hops: int


class Prune(Message, frozen=True, array_like=True):
    """Only tell of broadcasts from now on: they come faster on another way."""


# -- healing -----------------------------------------------------------------------------------------------


class PartProbe(Message, frozen=True, array_like=True):
    """Are we in one part of the network? The newest broadcasts that the sender has had, settled ones."""

    identifiers: list[bytes]  # 1-16 of 16 bytes


class PartAnswer(Message, frozen=True, array_like=True):
    """The receiver of a PartProbe knows none of its broadcasts: these are its own."""

    identifiers: list[bytes]  # 1-16 of 16 bytes


class Bridge(Message, frozen=True, array_like=True):
    """Both know nothing of each other's broadcasts: make the sender a neighbour, in a place kept for that."""

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
