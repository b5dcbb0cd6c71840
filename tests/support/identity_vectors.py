"""Vectors: makes spec/vectors/{text,entry,membership,secrets,ticket,record}.json.

`python -m tests.support.identity_vectors` writes them. That is done once, when a format is added: what
they hold is on disks and wires, and a test fails if today's code makes other bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.identity import (
    TIME,
    admit,
    copy,
    deliver,
    epoch,
    found,
    leave,
    make_keys,
    make_secret,
    remove,
    write,
)

from shoal.identity.entry import ZERO_ID, Domain, Entry, EntryFlags, sign_entry
from shoal.identity.ids import format_peer_id
from shoal.identity.keys import wrap, wrap_info
from shoal.identity.log import MembershipLog
from shoal.identity.operations import Role
from shoal.identity.record import sign_record
from shoal.identity.recovery import RecoveryKey
from shoal.identity.secrets import DEFAULT_SPACE, Context, derive
from shoal.identity.ticket import Ticket, TicketRelay, make_guest_pass
from shoal.wire.text import Kind, format_text

DIRECTORY = Path(__file__).parents[2] / "spec" / "vectors"
PAYLOAD = bytes(range(32))


def make_text() -> dict[str, Any]:
    return {
        "texts": [
            {"kind": kind.name, "payload": payload.hex(), "text": format_text(kind, payload)}
            for kind in Kind
            for payload in (PAYLOAD, b"\0", bytes(range(77)))
        ]
    }


def make_entries() -> list[dict[str, Any]]:
    keys = make_keys(1)
    network, log = b"\x11" * 32, b"\x22" * 32
    first = sign_entry(keys, Domain.FEED, network, log, 0, ZERO_ID, TIME, EntryFlags.NONE, b"first")
    second = sign_entry(keys, Domain.FEED, network, log, 1, first.id, TIME + 1, EntryFlags.CRITICAL, b"")
    other = sign_entry(keys, Domain.MEMBERSHIP, network, network, 0, ZERO_ID, 0, EntryFlags.NONE, b"x" * 300)
    return [describe_entry(entry) for entry in (first, second, other)]


def describe_entry(entry: Entry) -> dict[str, Any]:
    return {
        "data": entry.data.hex(),
        "id": entry.id.hex(),
        "domain": int(entry.domain),
        "network": entry.network.hex(),
        "log": entry.log.hex(),
        "author": entry.author.hex(),
        "seq": entry.seq,
        "prev": entry.prev.hex(),
        "time": entry.time,
        "flags": entry.flags,
        "payload": entry.payload.hex(),
        "signature": entry.signature.hex(),
    }


def make_membership() -> dict[str, Any]:
    """A network with two admins who remove each other, an owner's removal, a fallen admission, an epoch."""
    owner, admin_1, admin_2, admin_3 = (make_keys(n) for n in range(1, 5))
    log = found(owner)
    for keys in (admin_1, admin_2, admin_3):
        write(log, owner, admit(log, keys, Role.ADMIN, "admin"))
    write(log, admin_3, admit(log, make_keys(5), Role.MEMBER, "member"))
    left, right, third = copy(log), copy(log), copy(log)
    write(left, admin_1, remove(admin_2))
    write(left, admin_1, admit(left, make_keys(6), Role.STORAGE, "attic"))
    write(right, admin_2, remove(admin_1))
    write(right, admin_2, admit(right, make_keys(7), Role.MEMBER, "seven"))
    write(third, admin_3, admit(third, make_keys(8), Role.MEMBER, "eight"))
    write(third, make_keys(8), leave())
    write(log, owner, remove(admin_3))
    write(log, owner, epoch(1, make_secret(9, generation=1)))
    for branch in (left, right, third):
        assert deliver(log, branch.entries()) == []
    write(log, owner, admit(log, make_keys(9), Role.MEMBER, "nine"))
    return describe_log(log)


def describe_log(log: MembershipLog) -> dict[str, Any]:
    state = log.state
    return {
        "network_id": log.network_id.hex(),
        "entries": [entry.data.hex() for entry in log.entries()],
        "ineffective": sorted(e.id.hex() for e in log.entries() if not log.is_effective(e.id)),
        "tips": [tip.hex() for tip in log.tips],
        "head": log.head.hex(),
        "network_name": state.network_name,
        "members": [
            {
                "peer_id": member.peer_id.hex(),
                "name": member.name,
                "role": int(member.role),
                "state": member.state,
                "admitted_by": member.admitted_by.hex(),
                "removed_by_op": member.removed_by_op.hex() if member.removed_by_op else None,
            }
            for _, member in sorted(state.members.items())
        ],
        "removals": {op.hex(): peer.hex() for op, peer in sorted(state.removals.items())},
        "commitments": [
            {"kind": kind, "space": space.hex(), "generation": generation, "commitment": value.hex()}
            for (kind, space, generation), value in sorted(state.commitments.items())
        ],
    }


def make_secrets() -> dict[str, Any]:
    keys = make_keys(1)
    info = wrap_info(b"\x11" * 32, DEFAULT_SPACE, keys.peer_id)
    return {
        "derived": [
            {"context": context.value, "secret": PAYLOAD.hex(), "key": derive(context, PAYLOAD).hex()}
            for context in Context
        ],
        "device": {
            "seed": keys.to_seed().hex(),
            "peer_id": keys.peer_id.hex(),
            "hpke_suite": int(keys.hpke_suite),
            "hpke_public": keys.hpke_public.hex(),
        },
        "wrapped": {"info": info.hex(), "plaintext": PAYLOAD.hex(), "sealed": find_wrapped(info)},
        "recovery": {
            "seed": PAYLOAD.hex(),
            "public_key": RecoveryKey(PAYLOAD).public_key.hex(),
            "commitment": RecoveryKey(PAYLOAD).commitment.hex(),
            "text": RecoveryKey(PAYLOAD).to_text(),
        },
    }


def find_wrapped(info: bytes) -> str:
    """Return the sealed value on disk: wrapping is random, so it is made only once."""
    try:
        stored: dict[str, Any] = json.loads((DIRECTORY / "secrets.json").read_text())
    except FileNotFoundError:
        return wrap(make_keys(1).hpke_public, PAYLOAD, info).hex()
    return str(stored["wrapped"]["sealed"])


def make_tickets() -> dict[str, Any]:
    inviter = make_keys(1).peer_id
    addresses = ("192.0.2.7:7400", "[2001:db8::7]:7400", "nas.example:65535")
    relays = (
        TicketRelay(make_keys(2).peer_id, ("198.51.100.7:7400", "[2001:db8::9]:7400")),
        TicketRelay(make_keys(3).peer_id, ("relay.example:7400",)),
    )
    tickets = [
        Ticket(b"\x11" * 32, inviter, bytes(range(16)), TIME, addresses),
        Ticket(b"\x11" * 32, inviter, bytes(range(32)), 2**40, ()),
        Ticket(b"\x11" * 32, inviter, bytes(range(16)), TIME, addresses[:1], relays),
    ]
    return {
        "tickets": [
            {
                "network_id": ticket.network_id.hex(),
                "inviter": ticket.inviter.hex(),
                "secret": ticket.secret.hex(),
                "invite_id": ticket.invite_id.hex(),
                "expires_at": ticket.expires_at,
                "addresses": list(ticket.addresses),
                "relays": [
                    {
                        "peer_id": relay.peer_id.hex(),
                        "addresses": list(relay.addresses),
                        "guest_pass": make_guest_pass(
                            ticket.secret, ticket.network_id, inviter, relay.peer_id
                        ).hex(),
                    }
                    for relay in ticket.relays
                ],
                "text": ticket.to_text(),
            }
            for ticket in tickets
        ],
        "peer_text": format_peer_id(inviter),
    }


def make_records() -> dict[str, Any]:
    network = b"\x11" * 32
    record = sign_record(make_keys(1), network, 7, ["192.0.2.7:7400", "[2001:db8::7]:7400"], "nas", TIME)
    via = (make_keys(2).peer_id, make_keys(3).peer_id)
    relayed = sign_record(make_keys(1), network, 8, ["192.0.2.7:7400"], "nas", TIME, True, via)
    return {
        "network_id": network.hex(),
        "records": [
            {
                "data": record.pack().hex(),
                "peer_id": record.peer_id.hex(),
                "seq": record.seq,
                "addresses": list(record.addresses),
                "name": record.name,
                "time": record.time,
                "relays": record.relays,
                "via": [relay.hex() for relay in record.via],
            }
            for record in (record, relayed)
        ],
    }


MAKERS = {
    "text": make_text,
    "entry": lambda: {"entries": make_entries()},
    "membership": make_membership,
    "secrets": make_secrets,
    "ticket": make_tickets,
    "record": make_records,
}


def load(topic: str) -> dict[str, Any]:
    """Return a vectors file."""
    vectors: dict[str, Any] = json.loads((DIRECTORY / f"{topic}.json").read_text())
    return vectors


def main() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for topic, make in MAKERS.items():
        (DIRECTORY / f"{topic}.json").write_text(json.dumps(make(), indent=1) + "\n")


if __name__ == "__main__":
    main()
