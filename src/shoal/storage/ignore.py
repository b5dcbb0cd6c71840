"""Ignore: what the `.shoalignore` files of a shared tree leave out, in gitignore syntax.

A file counts for the folder it lies in and all that is below. Deeper files go before it, later lines before
earlier ones; what is in a folder that is left out cannot be brought back. A file that cannot be understood is
never taken for none: somebody wrote it so that something stays private.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from shoal.content.paths import display_path
from shoal.content.patterns import Pattern, parse_pattern, path_text
from shoal.core.errors import LocalMisuse
from shoal.core.units import KIB, format_size
from shoal.storage.tree_handles import READ_FLAGS

IGNORE_NAME: Final = b".shoalignore"
IGNORE_BYTES: Final = 256 * KIB  # wild guess; large ones have some hundred lines
PATTERN_LIMIT: Final = 4096  # in one file
_MARK: Final = b"\xef\xbb\xbf"  # that some editors put before UTF-8


class IgnoreRules:
    """The patterns of one folder's file, and behind them those of the folders above it."""

    def __init__(self, folder: bytes, patterns: list[Pattern], above: IgnoreRules | None) -> None:
        """`folder` is its share path."""
        self._start = len(path_text(folder)) + 1
        self._patterns = patterns[::-1]
        self._above = above

    def ignores(self, path: bytes, is_directory: bool) -> bool:
        """Whether a share path below the folder is left out. What it lies in is known not to be."""
        text = path_text(path)
        rules: IgnoreRules | None = self
        while rules is not None:
            below = text[rules._start :]
            for pattern in rules._patterns:
                if pattern.matches(below, is_directory):
                    return not pattern.negated
            rules = rules._above
        return False


def read_rules(directory: int, folder: bytes, above: IgnoreRules | None) -> IgnoreRules | None:
    """Return the rules that hold in an open folder whose share path is `folder`.

    Raises: LocalMisuse (code "bad_ignore") for a file that cannot be used, OSError for one that is not
    readable.
    """
    try:
        fd = os.open(IGNORE_NAME, READ_FLAGS, dir_fd=directory)
    except FileNotFoundError:
        return above
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _bad(folder, "it is a symbolic link, and links are not followed") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _bad(folder, "it is not a file")
        data = _read(fd, folder)
    finally:
        os.close(fd)
    patterns: list[Pattern] = []
    for number, line in enumerate(data.removeprefix(_MARK).split(b"\n"), start=1):
        try:
            pattern = parse_pattern(line.removesuffix(b"\r"))
        except LocalMisuse as error:
            raise _bad(folder, f"line {number}, {display_path(line[:40])}: {error.cause}") from error
        if pattern is not None:
            patterns.append(pattern)
    if len(patterns) > PATTERN_LIMIT:
        raise _bad(folder, f"it has {len(patterns)} patterns, at most {PATTERN_LIMIT} can be used")
    return IgnoreRules(folder, patterns, above) if patterns else above


def _read(fd: int, folder: bytes) -> bytes:
    data = bytearray()
    while block := os.read(fd, IGNORE_BYTES + 1 - len(data)):
        data += block
        if len(data) > IGNORE_BYTES:
            raise _bad(folder, f"it is larger than {format_size(IGNORE_BYTES)}")
    return bytes(data)


def _bad(folder: bytes, cause: str) -> LocalMisuse:
    return LocalMisuse(
        "Nothing was shared",
        cause=f"{display_path(folder + b'/' + IGNORE_NAME)} cannot be used: {cause}",
        next_step="put it right, and share again",
        code="bad_ignore",
    )
