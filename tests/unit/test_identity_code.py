"""Typed codes: the word list, what people type, and what they are told about mistakes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.errors import LocalMisuse
from shoal.identity.code import TypedCode, complete_word, find_near_words, find_word, is_code
from shoal.identity.code_words import CODE_WORDS

# pairs of English that sound alike, of which no word may be on the list
HOMOPHONES = """
aisle bawl bazaar beach beech beetle berry boulder bolder bridal bridle canvas canvass capital
cellar cereal choral coral council counsel currant current cymbal symbol desert dessert flour flower
gorilla guerrilla hangar hanger hostel hostile hurdle kernel colonel ladder latter lentil lintel
lesson lessen lightning marshal martial medal metal meddle mettle mussel muscle naval navel paddle
pedal petal peddle palate pallet pigeon pidgin principal principle profit prophet quartz quarts
raisin reindeer sailer seller sweet suite weather whether yolk plum plumb pear pair sole soul thyme
time
"""


def distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row_before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(row_before[j] + 1, row[-1] + 1, row_before[j - 1] + (x != y)))
    return row[-1]


def test_the_list_is_what_it_promises() -> None:
    assert len(CODE_WORDS) == 256
    assert list(CODE_WORDS) == sorted(set(CODE_WORDS))
    assert all(4 <= len(word) <= 8 and word.isascii() and word.isalpha() for word in CODE_WORDS)
    assert all(word == word.lower() for word in CODE_WORDS)
    assert len({word[:4] for word in CODE_WORDS}) == 256
    close = [(a, b) for a in CODE_WORDS for b in CODE_WORDS if a < b and distance(a, b) < 2]
    assert close == []
    assert not set(HOMOPHONES.split()) & set(CODE_WORDS)


def test_the_list_is_a_format() -> None:
    """Both ends hash what they type: another word at some place, and codes of before no longer fit."""
    digest = hashlib.sha256(" ".join(CODE_WORDS).encode()).hexdigest()
    assert digest == "b792d4291e77c375bfacb2d25f8837ed33d4f456a37d7ea6d303b12091fb0bdb"


def test_codes_are_made_of_the_list_and_of_all_of_it() -> None:
    made = [TypedCode.make(7) for _ in range(2000)]
    assert {word for code in made for word in code.words} == set(CODE_WORDS)
    assert len({code.text for code in made}) > 1990


@pytest.mark.parametrize(
    "typed",
    [
        "7-olive-tango-magnet",
        "7 olive tango magnet",
        "  7-OLIVE-Tango-magnet \n",
        "7-oliv-tang-magn",
        "007, olive. tango, magnet",
        "7_olive_tan_magnet",
        "7 -- olive -- tango -- magnet",
    ],
)
def test_what_people_type_is_understood(typed: str) -> None:
    assert is_code(typed)
    assert TypedCode.parse(typed) == TypedCode(7, ("olive", "tango", "magnet"))
    assert TypedCode.parse(typed).text == "7-olive-tango-magnet"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("7-olvie-tango-magnet", "olive"),
        ("7-olive-tngo-magnet", "tango"),
        ("7-olive-tango-magnent", "magnet"),
        ("7-olive-tango", "not 2"),
        ("7-olive-tango-magnet-maple", "not 4"),
        ("7", "not 0"),
        ("0-olive-tango-magnet", "from 1 to 999"),
        ("1000-olive-tango-magnet", "from 1 to 999"),
        ("7-ma-tango-olive", "may be"),
        ("7-qqqqqqqq-tango-olive", "is no word of codes"),
        ("7-" + "a" * 10_000, "not one"),
        ("7-" + "olive " * 10_000, "expected"),
        ("٧-olive-tango-magnet", "from 1 to 999"),
        ("7-olive-tango-\x1b[2Jm", "is no word"),
    ],
)
def test_mistakes_are_named_before_anybody_is_asked(typed: str, said: str) -> None:
    with pytest.raises(LocalMisuse) as caught:
        TypedCode.parse(typed)
    assert said in caught.value.cause
    assert "no try was used up" in caught.value.next_step
    assert len(caught.value.cause) < 200


def test_a_ticket_is_no_code() -> None:
    assert not is_code("sht1abc")
    assert not is_code("")


def test_codes_with_impossible_parts_cannot_be_made() -> None:
    for nameplate, words in [
        (0, ("olive",) * 3),
        (1000, ("olive",) * 3),
        (1, ("olive",) * 2),
        (1, ("x",) * 3),
    ]:
        with pytest.raises(LocalMisuse):
            TypedCode(nameplate, words)


def test_words_do_not_stand_in_what_is_printed() -> None:
    assert "olive" not in repr(TypedCode(7, ("olive", "tango", "magnet")))


@given(st.integers(1, 999), st.lists(st.sampled_from(CODE_WORDS), min_size=3, max_size=3))
def test_text_and_code_are_one(nameplate: int, words: list[str]) -> None:
    code = TypedCode(nameplate, tuple(words))
    assert TypedCode.parse(code.text) == code
    assert TypedCode.parse(" ".join([str(nameplate), *(word[:4].upper() for word in words)])) == code


@given(st.text(max_size=300))
def test_any_text_is_a_code_or_a_misuse(text: str) -> None:
    try:
        code = TypedCode.parse(text)
    except LocalMisuse:
        return
    assert TypedCode.parse(code.text) == code


@given(st.sampled_from(CODE_WORDS), st.integers(0, 7), st.sampled_from("abcdefghijklmnopqrstuvwxyz"))
def test_one_wrong_letter_never_makes_another_word(word: str, place: int, letter: str) -> None:
    """A typing mistake is seen here, or is harmless; it never becomes a try with wrong words."""
    place %= len(word)
    typed = word[:place] + letter + word[place + 1 :]
    try:
        assert find_word(typed) == word
    except LocalMisuse:
        assert word in find_near_words(typed) or complete_word(typed)
