"""Text forms: what is forgiven, what is refused, and what a person is told."""

from __future__ import annotations

import pytest

from shoal.core.errors import LocalMisuse
from shoal.wire.text import TEXT_LIMIT, Kind, format_text, parse_text

PAYLOAD = bytes(range(32))


@pytest.mark.parametrize("kind", Kind)
def test_what_was_written_is_read(kind: Kind) -> None:
    text = format_text(kind, PAYLOAD)
    assert text.startswith(kind.value + "1")
    assert text == text.lower()
    assert parse_text(kind, text) == PAYLOAD


def test_blanks_line_breaks_and_capitals_are_forgiven() -> None:
    text = format_text(Kind.TICKET, bytes(100))
    messy = "  " + text[:30].upper() + "\n   " + text[30:60] + "\t" + text[60:] + "\r\n"
    assert parse_text(Kind.TICKET, messy) == bytes(100)


def test_every_single_typing_error_is_found() -> None:
    text = format_text(Kind.PEER, PAYLOAD)
    for at in range(len(text)):
        wrong = text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :]
        with pytest.raises(LocalMisuse):
            parse_text(Kind.PEER, wrong)


def test_every_truncation_and_addition_is_found() -> None:
    text = format_text(Kind.PEER, PAYLOAD)
    for end in range(len(text)):
        with pytest.raises(LocalMisuse):
            parse_text(Kind.PEER, text[:end])
    for more in ("a", "7", "aaaaaaaa", "=", "é", "!"):
        with pytest.raises(LocalMisuse):
            parse_text(Kind.PEER, text + more)


def test_a_swap_of_two_characters_is_found() -> None:
    text = format_text(Kind.SHARE, PAYLOAD)
    for at in range(4, len(text) - 1):
        swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        if swapped != text:
            with pytest.raises(LocalMisuse):
                parse_text(Kind.SHARE, swapped)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("other", Kind)
def test_one_kind_is_never_taken_for_another(kind: Kind, other: Kind) -> None:
    if kind is other:
        return
    text = format_text(kind, PAYLOAD)
    with pytest.raises(LocalMisuse) as caught:
        parse_text(other, text)
    assert "it is a " in caught.value.cause
    with pytest.raises(LocalMisuse):  # nor with the prefix exchanged: the checksum knows the kind
        parse_text(other, other.value + text[3:])


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", ""),
        ("   ", ""),
        ("hello", "begins with sht"),
        ("sht", "ends too early"),
        ("sht2abcdef", "format version 2"),
        ("sht1", "checksum"),
        ("sht1!!!!", "checksum"),
        ("sht1" + "a" * TEXT_LIMIT, "longer than"),
        ("https://example.org/", "begins with sht"),
        ("\0\0\0", "begins with sht"),
    ],
)
def test_garbage_is_named(text: str, cause: str) -> None:
    with pytest.raises(LocalMisuse) as caught:
        parse_text(Kind.TICKET, text)
    assert cause in caught.value.cause
    assert "ticket" in caught.value.message


def test_a_future_version_says_upgrade() -> None:
    with pytest.raises(LocalMisuse) as caught:
        parse_text(Kind.LINK, format_text(Kind.LINK, PAYLOAD, version="2"))
    assert "upgrade" in caught.value.next_step


def test_spare_bits_have_one_spelling() -> None:
    text = format_text(Kind.PEER, PAYLOAD)  # 36 bytes: 58 characters with 2 spare bits
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    last = alphabet.index(text[-1])
    with pytest.raises(LocalMisuse) as caught:
        parse_text(Kind.PEER, text[:-1] + alphabet[last ^ 1])
    assert "stray characters" in caught.value.cause
