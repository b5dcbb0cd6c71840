"""Vectors of spec/reach.md, from fixed inputs.

`PYTHONPATH=src:. python -m tests.support.reach_vectors` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shoal.transport.knock import make_guest_knock
from shoal.transport.reach.guest_messages import GUEST_TABLE, GuestAsk, GuestGrant, GuestRefused
from shoal.transport.reach.messages import (
    REACH_TABLE,
    DialBack,
    DialedBack,
    GuestOffer,
    GuestPass,
    GuestPasses,
    GuestsKnown,
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
from shoal.wire.registry import MessageTable

FILE = Path(__file__).parents[2] / "spec" / "vectors" / "reach.json"
PEER = bytes(range(32))
TOKEN = bytes(range(100, 116))
PROOF = bytes(range(200, 216))
INVITE = bytes(range(50, 66))
PASS = bytes(range(120, 152))
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
    GuestPasses([GuestPass(INVITE, PASS, 3600)]),
    GuestPasses([]),
    GuestsKnown(),
    GuestOffer(INVITE, TOKEN),
]
GUEST_MESSAGES: list[Message] = [
    GuestAsk(PASS),
    GuestGrant(TOKEN),
    GuestRefused("relay_full", "this relay leads as many newcomers as it allows at once", True),
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
    ("seventeen passes", GuestPasses([GuestPass(INVITE, PASS, 1)] * 17)),
    ("a pass of another length", GuestPasses([GuestPass(INVITE, PASS[:31], 1)])),
    ("a pass for no time", GuestPasses([GuestPass(INVITE, PASS, 0)])),
    ("a pass for more than thirty days", GuestPasses([GuestPass(INVITE, PASS, 30 * 86400 + 1)])),
    ("an offer for no invite", GuestOffer(b"", TOKEN)),
]


def make() -> dict[str, Any]:
    return {
        "spec": "reach.md",
        "preamble": {"token": TOKEN.hex(), "data": pack_preamble(TOKEN).hex()},
        "messages": [describe(REACH_TABLE, message) for message in MESSAGES],
        "guest": {
            "pass": PASS.hex(),
            "nonce": TOKEN.hex(),
            "relay": PEER.hex(),
            "alpn": make_guest_knock(PASS, TOKEN, PEER).name.decode(),
            "messages": [describe(GUEST_TABLE, message) for message in GUEST_MESSAGES],
        },
        "refused": [
            {"why": why, "type": number, "payload": payload.hex()}
            for why, message in REFUSED
            for number, payload in [REACH_TABLE.encode(message)]
        ],
    }


def describe(table: MessageTable, message: Message) -> dict[str, Any]:
    number, payload = table.encode(message)
    fields = {name: plain(getattr(message, name)) for name in message.__struct_fields__}
    return {"name": type(message).__name__, "type": number, "fields": fields, "payload": payload.hex()}


def plain(value: object) -> object:
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Message):
        return [plain(getattr(value, name)) for name in value.__struct_fields__]
    return value.hex() if isinstance(value, bytes) else value


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), indent=1) + "\n")
