"""Swarm messages, lane headers and the receipt journal, against spec/swarm.md and its vectors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.apps.files.journal import LOST, ReceiptJournal
from shoal.core.errors import LimitExceeded, MalformedMessage, StorageFault
from shoal.swarm import messages
from shoal.swarm.lane_header import (
    LANE_HEADER_BYTES,
    LaneKind,
    make_purpose,
    pack_header_into,
    parse_header,
    parse_purpose,
)
from shoal.swarm.messages import SWARM_TABLE
from shoal.swarm.offer import Offer, OfferedVersion, make_runs

SPEC = Path(__file__).parents[2] / "spec" / "vectors" / "swarm.json"
SHARE, PROOF, PEER = b"\x11" * 32, b"\x22" * 32, b"\x33" * 32

EXAMPLES: dict[str, messages.Message] = {
    "Join": messages.Join(SHARE, PROOF),
    "Joined": messages.Joined(PROOF, 3, 1, (PEER,)),
    "FeedRequest": messages.FeedRequest(SHARE, 2),
    "FeedPage": messages.FeedPage([b"entry"], True),
    "Follow": messages.Follow(SHARE, 1, 0),
    "Followed": messages.Followed(True, False, 9, b"\xff\x01"),
    "Want": messages.Want(SHARE, 1, [7, 8, 300]),
    "WantObjects": messages.WantObjects(SHARE, 5, [PEER]),
    "Unwant": messages.Unwant(SHARE, 1, [7]),
    "Have": messages.Have(SHARE, 1, [(0, 4), (9, 1)]),
    "Changed": messages.Changed(SHARE, 5, 2),
    "Gone": messages.Gone(SHARE),
    "Leave": messages.Leave(SHARE),
    "Taken": messages.Taken(SHARE, 1, [(2, 3), (8, 1)]),
}


def make_vectors() -> dict[str, Any]:
    found: dict[str, Any] = {"about": "Swarm messages and lane headers; spec/swarm.md. Hexadecimal."}
    found["messages"] = [
        {
            "name": name,
            "number": SWARM_TABLE.encode(message)[0],
            "payload": SWARM_TABLE.encode(message)[1].hex(),
        }
        for name, message in EXAMPLES.items()
    ]
    headers = []
    for kind in LaneKind:
        buffer = memoryview(bytearray(LANE_HEADER_BYTES))
        pack_header_into(buffer, kind, 0 if kind in (2, 4) else 258, 70_000)
        headers.append({"kind": kind.name, "header": buffer.hex()})
    found["headers"] = headers
    found["purpose"] = make_purpose(SHARE).hex()
    return found


def test_vectors() -> None:
    assert make_vectors() == json.loads(SPEC.read_text())


def test_every_message_comes_back() -> None:
    for message in EXAMPLES.values():
        number, payload = SWARM_TABLE.encode(message)
        decoded = SWARM_TABLE.decode(number, payload)
        assert decoded == message
        decoded.check()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (messages.Join(b"short", PROOF), MalformedMessage),
        (messages.Joined(PROOF, 1, -1), MalformedMessage),
        (messages.Joined(PROOF, 1, 1, (PEER,) * 65), LimitExceeded),
        (messages.Joined(PROOF, 1, 1, (b"short",)), MalformedMessage),
        (messages.FeedRequest(SHARE, 2**32), MalformedMessage),
        (messages.FeedPage([b""] * 4097, False), LimitExceeded),
        (messages.Follow(SHARE, 1, -1), MalformedMessage),
        (messages.Followed(True, False, 1, bytes(32 * 1024 + 1)), LimitExceeded),
        (messages.Want(SHARE, 1, [0] * 257), LimitExceeded),
        (messages.Want(SHARE, 1, [-1]), MalformedMessage),
        (messages.Unwant(SHARE, 2**63, [1]), MalformedMessage),
        (messages.WantObjects(SHARE, 0, [b"x"]), MalformedMessage),
        (messages.WantObjects(SHARE, 2**32 - 1, [PEER]), MalformedMessage),
        (messages.WantObjects(SHARE, 0, [PEER] * 65), LimitExceeded),
        (messages.Have(SHARE, 1, [(0, 2**40)]), MalformedMessage),
        (messages.Have(SHARE, 1, [(0, 1)] * 4097), LimitExceeded),
        (messages.Have(SHARE, 1, [(2**32 - 1, 1)]), MalformedMessage),
        (messages.Taken(SHARE, 1, [(0, 2**40)]), MalformedMessage),
        (messages.Taken(SHARE, 1, [(0, 1)] * 4097), LimitExceeded),
        (messages.Gone(b""), MalformedMessage),
    ],
)
def test_what_is_out_of_range_is_refused(message: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        message.check()


@given(st.binary(max_size=64))
def test_any_bytes_are_a_header_or_malformed(data: bytes) -> None:
    try:
        kind, version, ordinal = parse_header(memoryview(data))
    except MalformedMessage:
        return
    again = memoryview(bytearray(LANE_HEADER_BYTES))
    pack_header_into(again, kind, version, ordinal)
    assert data[:LANE_HEADER_BYTES] == again


def test_purposes() -> None:
    assert parse_purpose(make_purpose(SHARE)) == SHARE
    assert parse_purpose(b"") is None
    assert parse_purpose(b"\x02" + SHARE) is None
    assert parse_purpose(make_purpose(SHARE) + b"x") is None


def test_runs_and_pages() -> None:
    assert make_runs(0) == []
    assert make_runs(0b1110_0101) == [(0, 1), (2, 1), (5, 3)]
    total = messages.PAGE_CHUNKS + 9
    version = OfferedVersion(1, total, source=None, have=1 << messages.PAGE_CHUNKS | 1)  # type: ignore[arg-type]
    assert version.page(0).bits == b"\x01"
    assert version.page(1).bits == b"\x01"
    assert version.page(2).bits == b""
    version.have = (1 << total) - 1
    assert version.page(0) == messages.Followed(True, True, total, b"")


def test_journal(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "transfers" / "x.journal")
    journal = ReceiptJournal(path)
    assert journal.read(10) == (set(), set())
    journal.start()
    for ordinal in (3, 1, 3, 9):
        journal.note(ordinal)
    journal.close()
    assert ReceiptJournal(path).read(9) == ({1, 3}, set())
    journal = ReceiptJournal(path)
    journal.start(lost=[4])
    journal.note(5)
    with open(path, "ab") as file:
        file.write(b"\x00\x00")  # torn
    assert journal.read(100) == ({5}, {4})
    assert Path(os.fsdecode(path)).read_bytes()[:4] == (LOST | 4).to_bytes(4, "big")
    assert os.stat(path).st_mode & 0o777 == 0o600
    journal.remove()
    journal.remove()
    assert os.listdir(tmp_path / "transfers") == []
    with pytest.raises(StorageFault):
        ReceiptJournal(os.fsencode(tmp_path / "transfers")).read(1)


def test_what_was_not_announced_yet_is_not_forgotten_when_a_version_moves() -> None:
    """A getter that gets its final names within the quarter of a second between two notices."""

    async def read_feed(first: int) -> list[bytes]:
        return []

    offer = Offer(
        share_id=bytes(32),
        read_key=bytes(32),
        read_feed=read_feed,
        find_object=lambda object_id: None,
        on_fault=lambda version, ordinal, error: None,
    )
    offer.put_version(OfferedVersion(1, 8, source=None, have=0b1))  # type: ignore[arg-type]
    offer.add_chunks(1, list(range(1, 8)))
    offer.put_version(OfferedVersion(1, 8, source=None, have=0b1111_1111))  # type: ignore[arg-type]
    assert [have.runs for have in offer.take_news()] == [[(1, 7)]]
    assert offer.take_news() == []
