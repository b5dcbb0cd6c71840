"""Closings: versions come back as they were, by number and by content id."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from shoal.content.closings import Closings
from shoal.content.feed import Closing


def make_closing(version: int, content_id: bytes) -> Closing:
    rng = random.Random(version)
    return Closing(
        version, content_id, rng.randbytes(32), 2**20, version, 2**63 - version, 2**50, version * 2
    )


def test_versions_come_back_as_they_were() -> None:
    rng = random.Random(1)
    closings, made = Closings(), [make_closing(number, rng.randbytes(32)) for number in range(1, 50)]
    for closing in made:
        closings.append(closing)
    assert len(closings) == len(made)
    assert [closings.get(number) for number in range(1, 50)] == made
    assert [closings.find(closing.content_id) for closing in made] == made
    for number in (-1, 0, 50):
        with pytest.raises(IndexError):
            closings.get(number)


def test_an_id_is_found_where_one_stands_and_the_last_time() -> None:
    closings = Closings()
    ids = [bytes(32), bytes(31) + b"\x01", b"\x01" + bytes(31), bytes(32), b"\x02" * 32]
    for number, content_id in enumerate(ids, 1):
        closings.append(make_closing(number, content_id))
    assert [c and c.version for c in map(closings.find, ids)] == [4, 2, 3, 4, 5]
    assert closings.find(bytes(30) + b"\x01\x01") is None  # lies across two of them
    assert closings.find(b"") is None
    assert closings.find(b"\x02") is None
    assert Closings().find(bytes(32)) is None


def test_a_version_takes_104_bytes() -> None:
    closings, count = Closings(), 10_000
    tracemalloc.start()
    try:
        for number in range(1, count + 1):
            closings.append(make_closing(number, number.to_bytes(32, "big")))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.3 * 104 * count  # what columns have in reserve
