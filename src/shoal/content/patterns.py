"""Patterns: gitignore syntax for paths, as in `.shoalignore` files and behind `--only`.

The syntax is the library pathspec's. It translates a pattern into a regular expression; what is added here is
what a node needs: paths are bytes (UTF-8 or not), a name may hold a line break, a pattern decides about the
path itself and never about what lies below it, and matching takes bounded time. Not known: `[[:alpha:]]`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from shoal.content.paths import display_path
from shoal.core.errors import LocalMisuse

PATTERN_BYTES: Final = 1024
DOUBLE_STARS: Final = 2  # with the one of "at any depth": matching tries every folder for each, squared
SYNTAX_URL: Final = "https://git-scm.com/docs/gitignore"
_DIRECTORY_MARK: Final = "ps_d"
_ONLY_DIRECTORIES: Final = f"(?P<{_DIRECTORY_MARK}>/)"
_STAR: Final = "[^/]*"
_BORDERS: Final = ("/", "(?:", "(?P")  # what a component ends with
# an escaped character, a bracket expression with its repetition, a group, or a single character
_TOKEN: Final = re.compile(
    r"\\.|\[\^?\]?[^\]]*\][*+]?|\(\?:\.\+/\)\?|\(\?:/\.\+\)\?|\(\?:\(\?P<ps_d>/\)\|\$\)|\(\?P<ps_d>/\)|.",
    re.DOTALL,
)
_LINE_BREAK: Final = str.maketrans("\n", "\0")  # `.` and `$` treat it specially, and no name has a NUL


class Pattern(NamedTuple):
    """One pattern. `negated`: it began with `!`."""

    text: bytes
    negated: bool
    regex: re.Pattern[str]
    only_directories: bool
    any_directory: bool

    def matches(self, path: str, is_directory: bool) -> bool:
        """Whether it names this path (as `path_text` gives it), relative to where the pattern stands."""
        if not self.only_directories:
            found = self.regex.search(path)
            return found is not None and found.groupdict().get(_DIRECTORY_MARK) is None
        if not is_directory:
            return False
        if self.any_directory:
            return True
        found = self.regex.search(path + "/")
        return found is not None and found.start(_DIRECTORY_MARK) == len(path)


def path_text(path: bytes) -> str:
    """Return a path in the form that patterns match."""
    return path.decode("utf-8", "surrogateescape").translate(_LINE_BREAK)


def parse_pattern(text: bytes) -> Pattern | None:
    """Read one line in gitignore syntax; None for an empty one, a comment, or what can match nothing.

    Raises: LocalMisuse (code "bad_pattern") for one that cannot be understood or would take too long.
    """
    if len(text) > PATTERN_BYTES:
        raise _bad(text, f"it is longer than {PATTERN_BYTES} bytes")
    line = path_text(text)
    if line.rstrip(" ").endswith("/**/"):  # folders below that one, which pathspec takes for the one itself
        line = line.rstrip(" ") + "*/"
    try:
        found, include = GitIgnoreSpecPattern.pattern_to_regex(line)
    except ValueError as error:
        raise _bad(text, "it ends with a backslash, or names nothing") from error
    if found is None or include is None:
        return None
    if found.count(".+") > DOUBLE_STARS:
        raise _bad(text, f"it has more than {DOUBLE_STARS} `**`")
    try:
        regex = re.compile(_tidy(found))
    except re.error as error:
        raise _bad(text, f"a range in brackets is not one ({error})") from error
    only_directories = found.endswith(_ONLY_DIRECTORIES)
    return Pattern(text, not include, regex, only_directories, found == _ONLY_DIRECTORIES)


def _tidy(regex: str) -> str:
    """Rewrite pathspec's expression so that it means the same and takes bounded time.

    Between two `*` of one component the first place where the text between them fits is as good as any other:
    an atomic group takes it and never comes back. No bracket expression matches a `/`, or has sets in it.
    """
    tokens = [_tidy_class(token) if token[0] == "[" else token for token in _TOKEN.findall(regex)]
    out: list[str] = []
    position = 0
    while position < len(tokens):
        end = position + 1
        if tokens[position] == _STAR:
            while end < len(tokens) and tokens[end] != _STAR and not tokens[end].startswith(_BORDERS):
                end += 1
            between = "".join(tokens[position + 1 : end])
            is_last = end == len(tokens) or tokens[end] != _STAR
            out.append(f"{_STAR}{between}" if is_last else f"(?>{_STAR}?{between})")
        else:
            out.append(tokens[position])
        position = end
    return "".join(out)


def _tidy_class(token: str) -> str:
    if token in (_STAR, "[^/]+", "[^/]"):
        return token
    return "(?!/)[" + re.sub(r"[\[&~|]", lambda m: "\\" + m[0], token[1:-1]) + "]"


def _bad(text: bytes, cause: str) -> LocalMisuse:
    return LocalMisuse(
        f"The pattern {display_path(text[:80])} cannot be used",
        cause=cause,
        next_step=f"write it in another way; the syntax is that of {SYNTAX_URL}",
        code="bad_pattern",
    )
