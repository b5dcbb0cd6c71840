"""Vectors of spec/vectors/join.json: `python -m tests.support.membership_vectors` writes them anew."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.identity import make_keys

from shoal.identity.operations import sign_joiner
from shoal.identity.ticket import make_invite_id
from shoal.membership.invites import join_knock
from shoal.membership.join_messages import (
    JOIN_TABLE,
    JoinAccepted,
    JoinEntries,
    JoinReceived,
    JoinRefused,
    JoinRequest,
)
from shoal.membership.join_proof import make_join_proof
from shoal.membership.messages import (
    MEMBERSHIP_TABLE,
    Fetch,
    LastWord,
    Page,
    RemovalAck,
    SecretRef,
    SecretsGiven,
    SecretsWanted,
    VectorPage,
    WrappedSecret,
)
from shoal.wire.codec import Message
from shoal.wire.registry import MessageTable

PATH = Path(__file__).parents[2] / "spec" / "vectors" / "join.json"


def make_messages() -> list[tuple[str, MessageTable, Message]]:
    """Return one of each message."""
    joiner = make_keys(2)
    one, two, space = b"\1" * 32, b"\2" * 32, bytes(32)
    wrapped = WrappedSecret(1, space, 0, b"sealed")
    request = JoinRequest(
        one, b"\3" * 16, joiner.peer_id, "laptop", "ann", 1, b"\4" * 8, b"\5" * 32, b"\6" * 64
    )
    return [
        ("join", JOIN_TABLE, request),
        ("join", JOIN_TABLE, JoinRefused("invite_used", "no", "used", "ask again")),
        ("join", JOIN_TABLE, JoinAccepted(1, [wrapped], [b"record"])),
        ("join", JOIN_TABLE, JoinEntries([b"entry"])),
        ("join", JOIN_TABLE, JoinReceived()),
        ("session", MEMBERSHIP_TABLE, LastWord(b"entry")),
        ("session", MEMBERSHIP_TABLE, RemovalAck(one)),
        ("session", MEMBERSHIP_TABLE, VectorPage([(one, 7, two)], True, True)),
        ("session", MEMBERSHIP_TABLE, Page([b"entry"], False, [two])),
        ("session", MEMBERSHIP_TABLE, Fetch([one])),
        ("session", MEMBERSHIP_TABLE, SecretsWanted([SecretRef(2, space, 3)])),
        ("session", MEMBERSHIP_TABLE, SecretsGiven([wrapped])),
    ]


def make_vectors() -> dict[str, object]:
    """Compute all vectors."""
    inviter, joiner = make_keys(1), make_keys(2)
    secret, nonce, exporter, network = b"\x11" * 16, b"\x22" * 16, b"\x33" * 32, b"\x44" * 32
    invite_id = make_invite_id(secret)
    messages: list[dict[str, object]] = []
    for table_name, table, message in make_messages():
        number, payload = table.encode(message)
        messages.append(
            {
                "table": table_name,
                "number": number,
                "name": type(message).__name__,
                "payload": payload.hex(),
            }
        )
    return {
        "join": {
            "ticket_secret": secret.hex(),
            "invite_id": invite_id.hex(),
            "network": network.hex(),
            "inviter": inviter.peer_id.hex(),
            "joiner": joiner.peer_id.hex(),
            "nonce": nonce.hex(),
            "knock_mac": join_knock(secret, nonce, inviter.peer_id).hex(),
            "exporter": exporter.hex(),
            "proof": make_join_proof(secret, exporter, joiner.peer_id, inviter.peer_id, invite_id).hex(),
            "name": "laptop",
            "signature": sign_joiner(joiner, network, invite_id, "laptop").hex(),
        },
        "messages": messages,
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(make_vectors(), indent=1) + "\n")
