"""Cost: what a message and a handshake weigh on the line. A test holds the sizes against the codec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.overlay.substrate.messages import (
    Bridge,
    Cached,
    ForwardJoin,
    Gossip,
    Graft,
    IHave,
    Join,
    Neighbour,
    NeighbourAnswer,
    Part,
    PartAnswer,
    PartProbe,
    Probe,
    ProbeAnswer,
    ProbeFor,
    ProbeSilence,
    Prune,
    Shuffle,
    ShuffleAnswer,
    SizePull,
    SizePush,
)
from shoal.wire.codec import Message

OVERHEAD_BYTES = 66  # a message's frame, TLS record, TCP and IP headers (issue text: 66 bytes a message)
HANDSHAKE_BYTES = 3800  # architecture.md section 3
HANDSHAKE_ROUND_TRIPS = 2
_ID = 34  # 32 bytes and their header
_UPDATE = 3 + 2 * _ID

_SIZES: dict[type[Message], Callable[[Any], int]] = {
    Join: lambda m: 1,
    ForwardJoin: lambda m: 2 + _ID,
    Neighbour: lambda m: 2,
    NeighbourAnswer: lambda m: 2,
    Part: lambda m: 2,
    Shuffle: lambda m: 3 + _ID + _ID * len(m.peers),
    ShuffleAnswer: lambda m: 2 + _ID * len(m.peers),
    Gossip: lambda m: 24 + len(m.payload),
    IHave: lambda m: 3 + 19 * len(m.identifiers),
    PartProbe: lambda m: 3 + 18 * len(m.identifiers),
    PartAnswer: lambda m: 3 + 18 * len(m.identifiers),
    Bridge: lambda m: 2,
    SizePush: lambda m: 7 + 18 * len(m.leaders),
    SizePull: lambda m: 7 + 18 * len(m.leaders),
    Cached: lambda m: 3 + 19 * len(m.identifiers),
    Graft: lambda m: 4 + len(m.identifier),
    Prune: lambda m: 1,
    Probe: lambda m: 7 + _UPDATE * len(m.updates),
    ProbeAnswer: lambda m: 7 + _UPDATE * len(m.updates),
    ProbeFor: lambda m: 7 + _ID + _UPDATE * len(m.updates),
    ProbeSilence: lambda m: 6,
}


def size_bytes(message: Message) -> int:
    """Return what a message weighs, overhead included."""
    return OVERHEAD_BYTES + _SIZES[type(message)](message)
