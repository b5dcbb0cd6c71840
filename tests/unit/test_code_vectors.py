"""The bytes in spec/vectors/code.json are the bytes of this release."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from tests.support.code_vectors import PATH, make_vectors

from shoal.core.errors import LimitExceeded, MalformedMessage
from shoal.membership.code_exchange import check_spake
from shoal.membership.code_messages import CODE_TABLE
from shoal.transport.knock import make_code_name, parse_code_name, parse_name

NUMBERS = sorted(CODE_TABLE._by_number)


def test_today_s_code_makes_the_same_bytes() -> None:
    assert make_vectors() == json.loads(PATH.read_text())


def test_every_message_is_among_the_vectors_and_is_read() -> None:
    vectors = json.loads(PATH.read_text())["messages"]
    assert sorted(vector["number"] for vector in vectors) == NUMBERS
    for vector in vectors:
        message = CODE_TABLE.decode(vector["number"], bytes.fromhex(vector["payload"]))
        assert type(message).__name__ == vector["name"]


@given(st.sampled_from(NUMBERS), st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_fault_of_the_sender(number: int, data: bytes) -> None:
    try:
        message = CODE_TABLE.decode(number, data)
        check = getattr(message, "check", None)
        if check is not None:
            check()
    except (MalformedMessage, LimitExceeded):
        pass


@given(st.binary(max_size=40), st.sampled_from([b"A", b"B"]))
def test_any_bytes_are_a_spake_message_or_a_fault_of_the_sender(data: bytes, side: bytes) -> None:
    try:
        check_spake(data, side)
    except MalformedMessage:
        return
    assert len(data) == 33
    assert data[:1] == side


@given(st.integers(-10, 2000))
def test_nameplates_have_one_form(nameplate: int) -> None:
    name = make_code_name(nameplate)
    assert parse_code_name(name) == (nameplate if 1 <= nameplate <= 999 else 0)
    assert parse_name(name) is None


def test_other_forms_are_no_nameplate() -> None:
    for name in (
        b"",
        b"shoal-join/1.",
        b"shoal-join/1.07",
        b"shoal-join/1.7 ",
        b"shoal/1.7",
        b"shoal-join/2.7",
    ):
        assert parse_code_name(name) == 0
