"""Vectors of spec/code.md, from fixed inputs: `python -m tests.support.code_vectors` writes them anew."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from spake2 import SPAKE2_A, SPAKE2_B
from tests.support.identity import make_keys

from shoal.identity.code import TypedCode
from shoal.identity.code_words import CODE_WORDS
from shoal.identity.ticket import Ticket
from shoal.membership.code_exchange import (
    INVITER,
    JOINER,
    Transcript,
    commit_network,
    make_confirmation,
    seal_ticket,
)
from shoal.membership.code_messages import (
    CODE_TABLE,
    CodeConfirm,
    CodeGrant,
    CodeReady,
    CodeReply,
    CodeStart,
)
from shoal.membership.join_messages import JoinRefused
from shoal.transport.knock import make_code_name
from shoal.wire.codec import Message

PATH = Path(__file__).parents[2] / "spec" / "vectors" / "code.json"

Json = dict[str, object]


def make_vectors() -> Json:
    """Return all vectors."""
    joiner, inviter = make_keys(2).peer_id, make_keys(1).peer_id
    network, exporter, blind = b"\x11" * 32, b"\x22" * 32, b"\x33" * 32
    code = TypedCode(7, ("olive", "tango", "magnet"))
    a = SPAKE2_A(code.text.encode(), idA=joiner, idB=inviter, entropy_f=lambda n: b"\x44" * n)
    b = SPAKE2_B(code.text.encode(), idA=joiner, idB=inviter, entropy_f=lambda n: b"\x55" * n)
    start, reply = a.start(), b.start()
    key = a.finish(reply)
    assert key == b.finish(start)
    commitment = commit_network(blind, network)
    transcript = Transcript(exporter, joiner, inviter, code.nameplate, commitment, start, reply)
    ticket = Ticket(network, inviter, b"\x66" * 16, 2_000_000_000, ())
    confirmations = [make_confirmation(key, role, transcript) for role in (JOINER, INVITER)]
    sealed = seal_ticket(key, transcript, ticket)
    messages: list[Message] = [
        JoinRefused("wrong_words", "no", "they do not fit", "compare"),
        CodeStart(start),
        CodeReply(reply, commitment),
        CodeConfirm(confirmations[0]),
        CodeReady(),
        CodeGrant(blind, sealed),
    ]
    rows = []
    for message in messages:
        number, payload = CODE_TABLE.encode(message)
        rows.append({"number": number, "name": type(message).__name__, "payload": payload.hex()})
    return {
        "words": list(CODE_WORDS),
        "words_sha256": hashlib.sha256(" ".join(CODE_WORDS).encode()).hexdigest(),
        "exchange": {
            "code": code.text,
            "alpn": make_code_name(code.nameplate).decode(),
            "joiner": joiner.hex(),
            "inviter": inviter.hex(),
            "network": network.hex(),
            "exporter": exporter.hex(),
            "blind": blind.hex(),
            "commitment": commitment.hex(),
            "joiner_entropy": "44" * 64,
            "inviter_entropy": "55" * 64,
            "joiner_spake": start.hex(),
            "inviter_spake": reply.hex(),
            "spake_key": key.hex(),
            "transcript": transcript.pack().hex(),
            "joiner_confirmation": confirmations[0].hex(),
            "inviter_confirmation": confirmations[1].hex(),
            "ticket": ticket.to_text(),
            "sealed": sealed.hex(),
        },
        "messages": rows,
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(make_vectors(), indent=1) + "\n")
