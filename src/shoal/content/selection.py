"""Selection: the part of a share that somebody wants, chosen by patterns; which files, which chunks.

A pattern that is the path of an entry means just that. Else it is read as a line of a gitignore file that
would lie beside the share's top names, or inside of a shared folder: both `photos/2024` and `2024` select
that folder of `photos`. What is selected comes with all that is below it and with the folders above it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from shoal.content.manifest import EntryKind, Manifest
from shoal.content.paths import display_path
from shoal.content.patterns import Pattern, parse_pattern, path_text
from shoal.core.errors import LocalMisuse, Unavailable

PATTERN_LIMIT: Final = 64  # in one selection; wild guess
SHOWN_LIMIT: Final = 5  # names that an error shows
_CHECK_ENTRIES: Final = 1024  # between two looks whether to stop


class Selection:
    """Which entries and chunks of one manifest are wanted. Only read once it is made; for several threads.

    `chunk_marks` has one byte a chunk: 0 not wanted, 1 wanted but only partly of selected files (small files
    share chunks), 2 wanted as a whole. `files` and `total_bytes` are those of the selected files.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.flags = bytearray(len(manifest))
        self.chunk_marks = bytearray(manifest.chunk_count)
        self.files = 0
        self.total_bytes = 0
        self.unmatched: list[bytes] = []  # patterns that selected nothing

    def has(self, index: int) -> bool:
        """Whether an entry is selected, or is a folder above one that is."""
        return bool(self.flags[index])

    def wants(self, ordinal: int) -> bool:
        """Whether a chunk holds data of a selected file."""
        return bool(self.chunk_marks[ordinal])

    def is_whole(self, ordinal: int) -> bool:
        """Whether all of a chunk is data of selected files."""
        return self.chunk_marks[ordinal] == 2

    def wanted(self) -> list[int]:
        """Return the ordinals of all wanted chunks, ascending."""
        return [ordinal for ordinal, mark in enumerate(self.chunk_marks) if mark]

    def whole(self) -> list[int]:
        """Return the ordinals of the chunks that are of selected files alone, ascending."""
        return [ordinal for ordinal, mark in enumerate(self.chunk_marks) if mark == 2]

    def find_single_file(self) -> int | None:
        """Return the index of the only selected file, or None if there is none or more than one."""
        if self.files != 1:
            return None
        kinds = self.manifest.kind
        return next(i for i, flag in enumerate(self.flags) if flag and kinds(i) is EntryKind.FILE)

    def add(self, index: int) -> None:
        """Select an entry; folders above it are the caller's to add."""
        if self.flags[index]:
            return
        self.flags[index] = 1
        if self.manifest.kind(index) is EntryKind.FILE:
            self.files += 1
            self.total_bytes += self.manifest.size(index)

    def mark_chunks(self) -> None:
        """Find the chunks of all selected files. Call it once, after the last `add`."""
        manifest = self.manifest
        covered: dict[int, int] = {}  # bytes of selected files, in chunks that are not filled yet
        for index, flag in enumerate(self.flags):
            chunks = manifest.chunks_of(index) if flag else range(0)
            if not chunks:
                continue
            start, end = manifest.stream_range(index)
            for ordinal in chunks:
                if self.chunk_marks[ordinal] == 2:
                    continue
                first, length, _ = manifest.chunk(ordinal)
                filled = covered.pop(ordinal, 0) + min(end, first + length) - max(start, first)
                if filled == length:
                    self.chunk_marks[ordinal] = 2
                else:
                    self.chunk_marks[ordinal] = 1
                    covered[ordinal] = filled


def check_patterns(patterns: Sequence[bytes]) -> list[bytes]:
    """Return the patterns of one selection sorted, each once: the same ones always look the same.

    Raises: LocalMisuse (code "bad_pattern") for one without text, one that begins with `!`, or too many of
    them. Whether a pattern can be understood is seen by `select`: it may be a name.
    """
    if len(patterns) > PATTERN_LIMIT:
        raise LocalMisuse(
            "The selection cannot be used",
            cause=f"it has {len(patterns)} patterns, at most {PATTERN_LIMIT} are possible",
            next_step="name folders instead of files",
            code="bad_pattern",
        )
    for pattern in patterns:
        if not pattern.strip(b"/"):
            raise _bad(pattern, "it can match nothing", "name a file or a folder")
        if pattern.startswith(b"!"):
            raise _bad(
                pattern,
                "it would leave something out; patterns say what is wanted",
                rf"write \{display_path(pattern[:80])} if it is a name",
            )
    return sorted(set(patterns))


def select(
    manifest: Manifest, patterns: Sequence[bytes], cancelled: threading.Event | None = None
) -> Selection:
    """Return what the patterns select of a complete manifest. Takes time for large ones: use a thread.

    Raises: LocalMisuse as `check_patterns`, Unavailable (code "cancelled").
    """
    selection = Selection(manifest)
    rest = check_patterns(patterns)
    named = {text: index for text in rest if (index := _find_named(manifest, text)) is not None}
    globs = [(text, _parse(text)) for text in rest if text not in named]
    matched = set(named)
    chosen = set(named.values())
    folders: list[tuple[bytes, int]] = []  # that the current entry lies in
    inside = b""  # everything below this path is selected
    for index in range(len(manifest)):
        if cancelled is not None and not index % _CHECK_ENTRIES and cancelled.is_set():
            raise Unavailable("Selecting files was stopped", code="cancelled")
        path = manifest.path(index)
        is_folder = manifest.kind(index) is EntryKind.DIR
        while folders and not path.startswith(folders[-1][0]):
            folders.pop()
        is_inside = bool(inside) and path.startswith(inside)
        hits = [] if is_inside and len(matched) == len(rest) else _find_matches(path, is_folder, globs)
        matched.update(hits)
        if is_inside or hits or index in chosen:
            for _, folder in folders:
                selection.add(folder)
            selection.add(index)
            if is_folder and not is_inside:
                inside = path + b"/"
        if is_folder:
            folders.append((path + b"/", index))
    selection.mark_chunks()
    selection.unmatched = [text for text in rest if text not in matched]
    return selection


def refuse_empty(selection: Selection, patterns: Sequence[bytes]) -> None:
    """Raises: LocalMisuse (code "nothing_selected") that shows what there is, if nothing was selected."""
    if any(selection.flags):
        return
    manifest = selection.manifest
    wanted = " or ".join(display_path(pattern) for pattern in patterns[:3])
    shown = [display_path(manifest.path(i)) for i in range(min(SHOWN_LIMIT, len(manifest)))]
    more = f", and {len(manifest) - len(shown)} more" if len(manifest) > len(shown) else ""
    raise LocalMisuse(
        "Nothing was selected",
        cause=f"no file or folder of this share matches {wanted}; it holds {', '.join(shown)}{more}",
        next_step="see what it holds with: shoal ls LINK",
        code="nothing_selected",
    )


def _find_named(manifest: Manifest, text: bytes) -> int | None:
    """Return the entry whose path a pattern is."""
    index = manifest.find_file(text.rstrip(b"/"))
    if index is None or (text.endswith(b"/") and manifest.kind(index) is not EntryKind.DIR):
        return None
    return index


def _find_matches(path: bytes, is_folder: bool, globs: list[tuple[bytes, Pattern]]) -> list[bytes]:
    if not globs:
        return []
    _, _, below = path.partition(b"/")
    texts = [path_text(path), path_text(below)] if below else [path_text(path)]
    return [text for text, pattern in globs if any(pattern.matches(t, is_folder) for t in texts)]


def _parse(text: bytes) -> Pattern:
    """Read a pattern that is not a line of a file: `#` begins no comment, spaces at the end count."""
    escaped = b"\\" + text if text.startswith(b"#") else text
    stripped = escaped.rstrip(b" ")
    pattern = parse_pattern(stripped + b"\\ " * (len(escaped) - len(stripped)))
    if pattern is None:
        raise _bad(
            text, "it is no path of this share, and as a pattern it can match nothing", "look: shoal ls LINK"
        )
    return pattern


def _bad(text: bytes, cause: str, next_step: str) -> LocalMisuse:
    return LocalMisuse(
        f"The pattern {display_path(text[:80]) or 'without any text'} cannot be used",
        cause=cause,
        next_step=next_step,
        code="bad_pattern",
    )
