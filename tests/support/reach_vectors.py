"""Vectors of spec/reach.md, from fixed inputs.

`PYTHONPATH=src:. python -m tests.support.reach_vectors` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shoal.transport.reach.messages import (
    REACH_TABLE,
    DialBack,
    DialedBack,
    Observe,
    Observed,
    Punch,
    PunchReady,
    RelayAsk,
    RelayGrant,
    RelayOffer,
    RelayTaken,
    pack_preamble,
)
from shoal.wire.codec import Message

FILE = Path(__file__).parents[2] / "spec" / "vectors" / "reach.json"
PEER = bytes(range(32))
TOKEN = bytes(range(100, 116))
PROOF = bytes(range(200, 216))
ADDRESSES = ["198.51.100.7:7411", "[2001:db8::7]:7411"]

MESSAGES: list[Message] = [
    RelayAsk(PEER),
    RelayGrant(TOKEN),
    RelayOffer(PEER, TOKEN),
    RelayTaken(),
    Observe(True),
    Observed("198.51.100.7:40001", TOKEN),
    DialBack(ADDRESSES, TOKEN, PROOF),
    DialedBack(["ok", "other"]),
    Punch(ADDRESSES, TOKEN, 150),
    PunchReady(ADDRESSES),
]
REFUSED: list[tuple[str, Message]] = [
    ("a short peer id", RelayAsk(PEER[:31])),
    ("a long token", RelayGrant(TOKEN + b"x")),
    ("an offer of nobody", RelayOffer(b"", TOKEN)),
    ("an observation that is no address", Observed("nowhere", TOKEN)),
    ("no addresses", DialBack([], TOKEN, PROOF)),
    ("a short proof", DialBack(ADDRESSES, TOKEN, b"")),
    ("five addresses", Punch([f"192.0.2.{n}:1" for n in range(5)], TOKEN, 0)),
    ("a wait beyond the limit", Punch(ADDRESSES, TOKEN, 2001)),
    ("a negative wait", Punch(ADDRESSES, TOKEN, -1)),
    ("a way instead of an address", PunchReady(["via shp1"])),
    ("five results", DialedBack(["ok"] * 5)),
]


def make() -> dict[str, Any]:
    return {
        "spec": "reach.md",
        "preamble": {"token": TOKEN.hex(), "data": pack_preamble(TOKEN).hex()},
        "messages": [
            {
                "name": type(message).__name__,
                "type": number,
                "fields": {name: plain(getattr(message, name)) for name in message.__struct_fields__},
                "payload": payload.hex(),
            }
            for message in MESSAGES
            for number, payload in [REACH_TABLE.encode(message)]
        ],
        "refused": [
            {"why": why, "type": number, "payload": payload.hex()}
            for why, message in REFUSED
            for number, payload in [REACH_TABLE.encode(message)]
        ],
    }


def plain(value: object) -> object:
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), indent=1) + "\n")
