"""Vectors of spec/knock.md and spec/session.md, from fixed inputs.

`PYTHONPATH=src:. python -m tests.support.transport_vectors` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shoal.identity.keys import SEED_BYTES, DeviceKeys
from shoal.transport.hello import HelloRole, make_hello, make_signed_bytes
from shoal.transport.knock import make_knock
from shoal.transport.messages import ErrorReply, GoingAway, Ping, Pong, Settled
from shoal.wire.codec import encode
from shoal.wire.frames import Frame, FrameKind, pack_frame

FOLDER = Path(__file__).parents[2] / "spec" / "vectors"
NETWORK = bytes(range(32))
EXPORTER = bytes(range(32, 64))
HEAD = bytes(range(64, 96))
INITIATOR_SEED = b"\x01" * SEED_BYTES
RESPONDER_SEED = b"\x02" * SEED_BYTES


def make_knock_vectors() -> dict[str, Any]:
    responder = DeviceKeys.from_seed(RESPONDER_SEED).peer_id
    knocks = []
    for door_key, nonce in ((b"\x11" * 32, bytes(range(16))), (bytes(range(100, 132)), b"\xff" * 16)):
        knock = make_knock(door_key, nonce, responder)
        knocks.append(
            {
                "door_key": door_key.hex(),
                "nonce": nonce.hex(),
                "responder": responder.hex(),
                "mac": knock.mac.hex(),
                "alpn": knock.name.decode(),
            }
        )
    return {"spec": "knock.md", "knocks": knocks}


def make_session_vectors() -> dict[str, Any]:
    one, two = DeviceKeys.from_seed(INITIATOR_SEED), DeviceKeys.from_seed(RESPONDER_SEED)
    hellos = []
    for role, keys, peer in ((HelloRole.INITIATOR, one, two), (HelloRole.RESPONDER, two, one)):
        signed = make_signed_bytes(role, NETWORK, EXPORTER, one.peer_id, two.peer_id, HEAD, (1,))
        entries = [b"entry"] if role is HelloRole.INITIATOR else []
        hello = make_hello(keys, role, NETWORK, EXPORTER, peer.peer_id, HEAD, entries, b"\x33" * 16)
        kind = FrameKind.REQUEST if role is HelloRole.INITIATOR else FrameKind.RESPONSE
        hellos.append(
            {
                "role": int(role),
                "seed": keys.to_seed().hex(),
                "network": NETWORK.hex(),
                "exporter": EXPORTER.hex(),
                "initiator": one.peer_id.hex(),
                "responder": two.peer_id.hex(),
                "head": HEAD.hex(),
                "versions": [1],
                "instance": hello.instance.hex(),
                "entries": [entry.hex() for entry in entries],
                "signed": signed.hex(),
                "signature": hello.signature.hex(),
                "frame": pack_frame(Frame(kind, 1, 2, 1, encode(hello))).hex(),
            }
        )
    busy = ErrorReply("unavailable", "busy", "m", "c", "n", 1.5)
    messages = {
        "settled": Frame(FrameKind.NOTICE, 1, 4, 0, encode(Settled())),
        "going away": Frame(FrameKind.NOTICE, 1, 6, 0, encode(GoingAway("shutdown"))),
        "ping": Frame(FrameKind.REQUEST, 1, 8, 7, encode(Ping(HEAD[:8]))),
        "pong": Frame(FrameKind.RESPONSE, 1, 10, 7, encode(Pong(HEAD[:8], 1_795_000_000))),
        "error": Frame(FrameKind.ERROR, 4, 0, 9, encode(busy)),
        "cancel": Frame(FrameKind.CANCEL, 4, 0, 9, b""),
    }
    return {
        "spec": "session.md",
        "hellos": hellos,
        "frames": {name: pack_frame(frame).hex() for name, frame in messages.items()},
    }


MAKERS = {"knock": make_knock_vectors, "session": make_session_vectors}


def load(topic: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{topic}.json").read_text())
    return loaded


if __name__ == "__main__":
    for topic, make in MAKERS.items():
        (FOLDER / f"{topic}.json").write_text(json.dumps(make(), indent=1) + "\n")
