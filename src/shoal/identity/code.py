"""Code: nameplate and three words, which a person reads out to another to let a device join.

    7-olive-tango-magnet        nameplate 1 .. 999, three of 256 words: 24 bits

The nameplate says which invite is meant and is shown to everybody; the words are the secret. 24 bits are
worth nothing offline, so nothing derived from them is ever sent but by SPAKE2 (membership/code_exchange.py).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from shoal.core.errors import LocalMisuse
from shoal.identity.code_words import CODE_WORDS

NAMEPLATE_LIMIT = 999
WORDS = 3
PREFIX_CHARACTERS = 3  # the least of a word that may stand for it, where no other begins so
TEXT_LIMIT = 256  # characters of a code as typed
NEAR = 3  # words proposed for one that is none
_SEPARATORS = re.compile(r"[\s\-_.,;:/+]+")
_EXAMPLE = "7-olive-tango-magnet"


@dataclass(frozen=True, slots=True)
class TypedCode:
    """One code. Equal texts are equal codes."""

    nameplate: int
    words: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.nameplate <= NAMEPLATE_LIMIT:
            raise LocalMisuse("a nameplate is a number from 1 to 999")
        if len(self.words) != WORDS or not all(word in CODE_WORDS for word in self.words):
            raise LocalMisuse("a code has three words of the list")

    @classmethod
    def make(cls, nameplate: int) -> TypedCode:
        """Make a code with words from the operating system's randomness."""
        return cls(nameplate, tuple(secrets.choice(CODE_WORDS) for _ in range(WORDS)))

    @property
    def text(self) -> str:
        """The code as it is shown and as both ends give it to SPAKE2."""
        return "-".join([str(self.nameplate), *self.words])

    @property
    def word_text(self) -> str:
        """The words alone, as they are kept."""
        return "-".join(self.words)

    @classmethod
    def parse(cls, text: str) -> TypedCode:
        """Read a code as people type it: capitals, spaces for hyphens, beginnings of words.

        Raises: LocalMisuse that says which word is none and which ones are like it; no try is used up.
        """
        parts = [part for part in _SEPARATORS.split(text[: TEXT_LIMIT + 1].strip().lower()) if part]
        if len(text) > TEXT_LIMIT or len(parts) != WORDS + 1:
            words = max(0, len(parts) - 1)
            raise _bad(f"a number and three words are expected, not {words if words != 1 else 'one'}")
        if not re.fullmatch(r"0{0,3}[1-9][0-9]{0,2}", parts[0]):
            raise _bad(f"it begins with a number from 1 to {NAMEPLATE_LIMIT}, not with {parts[0][:20]!r}")
        return cls(int(parts[0]), tuple(find_word(part) for part in parts[1:]))


def is_code(text: str) -> bool:
    """Whether what was typed is meant as a code: tickets begin with a letter."""
    return text.strip()[:1].isdigit()


def find_word(typed: str) -> str:
    """Return the word meant by a word or its beginning, in lower case. Raises: LocalMisuse."""
    if typed in CODE_WORDS:
        return typed
    beginning = complete_word(typed)
    if len(beginning) == 1 and len(typed) >= PREFIX_CHARACTERS:
        return beginning[0]
    shown = typed[:20]
    if beginning:
        cause = f"{shown!r} may be {_join(beginning[:8])}"
    else:
        likely = find_near_words(typed)
        cause = f"{shown!r} is no word of codes" + (f"; like it: {_join(likely)}" if likely else "")
    raise _bad(cause)


def complete_word(typed: str) -> list[str]:
    """Return the words that begin like this, in the order of the list."""
    return [word for word in CODE_WORDS if word.startswith(typed)]


def find_near_words(typed: str) -> list[str]:
    """Return up to three words that are at most three typing mistakes away, nearest first."""
    typed = typed[:20]
    distances = [(_distance(typed, word), word) for word in CODE_WORDS]
    return [word for distance, word in sorted(distances) if distance <= 3][:NEAR]


def _distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        next_row = [i]
        for j, y in enumerate(b, 1):
            next_row.append(min(row[j] + 1, next_row[-1] + 1, row[j - 1] + (x != y)))
        row = next_row
    return row[-1]


def _join(words: list[str]) -> str:
    return " or ".join(words)


def _bad(cause: str) -> LocalMisuse:
    return LocalMisuse(
        "This code cannot be used",
        cause=cause,
        next_step=f"type it as the other device shows it, like {_EXAMPLE}; no try was used up",
        code="bad_code",
    )
