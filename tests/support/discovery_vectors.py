"""Vectors of spec/vectors/discovery.json: `python -m tests.support.discovery_vectors` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path

from shoal.transport.announcement import VERSION, make_announcement

PATH = Path(__file__).parents[2] / "spec" / "vectors" / "discovery.json"
NONCE = bytes(range(16))
GOOD = make_announcement(b"\x11" * 32, NONCE, 4711, b"\x22" * 32)


def make_text(*fields: bytes) -> bytes:
    """Return TXT data of any fields."""
    return b"".join(bytes([len(field)]) + field for field in fields)


def make_vectors() -> dict[str, object]:
    """Return what the file holds."""
    nonce, mac = b"n=" + NONCE.hex().encode(), b"m=" + GOOD.mac.hex().encode()
    version = b"v=" + VERSION
    rows = [
        (door_key, port, peer)
        for door_key in (b"\x11" * 32, b"\x12" * 32)
        for port in (1, 4711, 65535)
        for peer in (b"\x22" * 32, b"\x23" * 32)
    ]
    invalid = {
        "empty": b"",
        "no version": make_text(nonce, mac),
        "version 2": make_text(b"v=2", nonce, mac),
        "no nonce": make_text(version, mac),
        "no mac": make_text(version, nonce),
        "short nonce": make_text(version, nonce[:-1], mac),
        "upper case": make_text(version, nonce, b"m=" + mac[2:].upper()),
        "not hex": make_text(version, b"n=" + b"g" * 32, mac),
        "second version counts not": make_text(b"v=2", version, nonce, mac),
        "cut off": GOOD.text[:-1],
        "too long": GOOD.text + make_text(b"x" * 200, b"y" * 210),
    }
    return {
        "service_type": "_shoal._tcp.local.",
        "announcements": [
            {
                "door_key": door_key.hex(),
                "nonce": NONCE.hex(),
                "port": port,
                "peer_id": peer.hex(),
                "mac": make_announcement(door_key, NONCE, port, peer).mac.hex(),
                "text": make_announcement(door_key, NONCE, port, peer).text.hex(),
            }
            for door_key, port, peer in rows
        ],
        "same_as_first_of_4711": {
            "unknown keys": (GOOD.text + make_text(b"x=1", b"flag")).hex(),
            "other order": make_text(mac, nonce, version).hex(),
            "a key again": (GOOD.text + make_text(b"v=2", b"n=")).hex(),
        },
        "invalid": {why: text.hex() for why, text in invalid.items()},
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(make_vectors(), indent=1) + "\n", encoding="utf-8")
