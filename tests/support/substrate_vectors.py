"""Vectors of spec/substrate.md, from fixed inputs.

`PYTHONPATH=src:. python -m tests.support.substrate_vectors` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.identity import admit, found, make_keys, write

from shoal.identity.record import sign_record
from shoal.overlay.messages import OVERLAY_TABLE, Digest, Provisions, Summary, Wanted
from shoal.overlay.provision import sign_provision
from shoal.overlay.substrate import messages as m
from shoal.overlay.substrate.service import make_identifier
from shoal.overlay.topics import OPERATION_TOPIC, OPERATION_WORD_TOPIC, PROVISION_TOPIC, RECORD_TOPIC
from shoal.wire.codec import Message, encode

FILE = Path(__file__).parents[2] / "spec" / "vectors" / "substrate.json"
ANN, BEN = bytes(range(32)), b"\x22" * 32
ONE, TWO = bytes(range(16)), b"\x33" * 16
LEADER = b"\x44" * 8
UPDATE = m.Update(ANN, 2, 7, BEN)

GOOD: list[Message] = [
    m.Join(),
    m.ForwardJoin(ANN, 6),
    m.Neighbour(True),
    m.NeighbourAnswer(False),
    m.Part(True),
    m.Shuffle(ANN, 5, [BEN]),
    m.ShuffleAnswer([ANN, BEN]),
    m.Gossip(ONE, 3, 1, b"payload"),
    m.IHave([ONE, TWO], [1, 64]),
    m.Cached([ONE], [2]),
    m.Graft(ONE, 4),
    m.Graft(b"", 0),
    m.Prune(),
    m.PartProbe([ONE]),
    m.PartAnswer([ONE, TWO]),
    m.Bridge(False),
    m.SizePush(9, [LEADER], [0.25]),
    m.SizePull(9, [LEADER], [-0.125]),
    m.Probe(1, [UPDATE]),
    m.ProbeAnswer(2**32 - 1, []),
    m.ProbeFor(3, ANN, [UPDATE]),
    m.ProbeSilence(4),
    Provisions([b"provision"], [3600]),
    Digest([bytes([n]) * 8 for n in range(64)]),
    Summary(63, bytes(32), b"\xff" * 32, [(ANN, 0, 5), (ANN, 64, 2**63 - 1)]),
    Wanted([(BEN, 1)]),
]
REFUSED: list[tuple[str, Message]] = [
    ("a newcomer that is no peer id", m.ForwardJoin(b"short", 6)),
    ("a walk of too many hops", m.ForwardJoin(ANN, 17)),
    ("a walk of negative hops", m.ForwardJoin(ANN, -1)),
    ("an origin that is no peer id", m.Shuffle(b"", 1, [])),
    ("a shuffled peer that is no peer id", m.Shuffle(ANN, 1, [b"short"])),
    ("17 shuffled peers", m.Shuffle(ANN, 1, [BEN] * 17)),
    ("17 answered peers", m.ShuffleAnswer([BEN] * 17)),
    ("a broadcast with a short identifier", m.Gossip(b"short", 1, 1, b"")),
    ("a broadcast over 65 hops", m.Gossip(ONE, 65, 1, b"")),
    ("a topic that is none", m.Gossip(ONE, 1, 256, b"")),
    ("a payload over the limit", m.Gossip(ONE, 1, 1, b"x" * (m.PAYLOAD_BYTES + 1))),
    ("word of nothing", m.IHave([], [])),
    ("word of 65 broadcasts", m.IHave([ONE] * 65, [1] * 65)),
    ("word with fewer hops than broadcasts", m.Cached([ONE, TWO], [1])),
    ("word over 65 hops", m.Cached([ONE], [65])),
    ("a graft with a short identifier", m.Graft(b"short", 0)),
    ("a probe of parts without broadcasts", m.PartProbe([])),
    ("17 broadcasts of a part", m.PartAnswer([ONE] * 17)),
    ("a leader that stands twice", m.SizePush(1, [LEADER, LEADER], [0.5, 0.5])),
    ("a leader of another length", m.SizePush(1, [b"x"], [0.5])),
    ("fewer values than leaders", m.SizePush(1, [LEADER], [])),
    ("a value above one", m.SizePush(1, [LEADER], [1.5])),
    ("a negative value", m.SizePush(1, [LEADER], [-0.5])),
    ("a value that is no number", m.SizePush(1, [LEADER], [float("nan")])),
    ("a change below minus one", m.SizePull(1, [LEADER], [-1.5])),
    ("an epoch out of range", m.SizePull(2**32, [], [])),
    ("a standing that is none", m.Probe(1, [m.Update(ANN, 4, 0, BEN)])),
    ("an update of nobody", m.Probe(1, [m.Update(b"", 1, 0, BEN)])),
    ("nine updates", m.ProbeAnswer(1, [UPDATE] * 9)),
    ("an incarnation out of range", m.ProbeAnswer(1, [m.Update(ANN, 1, 2**32, BEN)])),
    ("a target that is no peer id", m.ProbeFor(1, b"", [])),
    ("a number out of range", m.ProbeSilence(2**32)),
    ("17 provisions", Provisions([b"p"] * 17)),
    ("a provision over the limit", Provisions([b"p" * 5121])),
    ("fewer ages than provisions", Provisions([b"p", b"p"], [1])),
    ("an age out of range", Provisions([b"p"], [2**32])),
    ("a digest of 63 buckets", Digest([b"h" * 8] * 63)),
    ("a short hash", Digest([b"h" * 7] * 64)),
    ("a bucket out of range", Summary(64, ANN, ANN, [])),
    ("a summary of nobody", Summary(0, ANN, ANN, [(b"", 0, 1)])),
    ("a slot out of range", Summary(0, ANN, ANN, [(ANN, 65, 1)])),
    ("257 items", Summary(0, ANN, ANN, [(ANN, 0, 1)] * 257)),
    ("257 slots wanted", Wanted([(ANN, 0)] * 257)),
    ("a wanted slot out of range", Wanted([(ANN, 65)])),
]


def make_broadcasts() -> list[tuple[int, bytes]]:
    """Return a payload of each topic that has one."""
    owner = make_keys(1)
    log = found(owner)
    entry = write(log, owner, admit(log, make_keys(2)))
    return [
        (RECORD_TOPIC, sign_record(owner, log.network_id, 1, ["192.0.2.1:4711"], "laptop", 0).packed),
        (PROVISION_TOPIC, sign_provision(owner, log.network_id, 0, 7, (ANN, BEN), (0, 3)).packed),
        (PROVISION_TOPIC, sign_provision(owner, log.network_id, 1, 8, (BEN,)).packed),
        (OPERATION_TOPIC, entry.data),
        (OPERATION_WORD_TOPIC, entry.id),
    ]


def plain(value: object) -> Any:
    """Return a field as it stands in the file."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, m.Update):
        return [plain(getattr(value, name)) for name in value.__struct_fields__]
    return value.hex() if isinstance(value, bytes) else value


def make_vectors() -> dict[str, Any]:
    """Return what the file holds."""
    return {
        "about": "Messages of the substrate; spec/substrate.md. Byte strings are hexadecimal.",
        "messages": [
            {
                "type": OVERLAY_TABLE.number(message),
                "name": type(message).__name__,
                "fields": {name: plain(getattr(message, name)) for name in message.__struct_fields__},
                "payload": encode(message).hex(),
            }
            for message in GOOD
        ],
        "refused": [
            {"type": OVERLAY_TABLE.number(message), "why": why, "payload": encode(message).hex()}
            for why, message in REFUSED
        ],
        "broadcasts": [
            {"topic": topic, "payload": payload.hex(), "identifier": make_identifier(topic, payload).hex()}
            for topic, payload in make_broadcasts()
        ],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(make_vectors(), indent=1) + "\n")
