"""Share view: how shares are shown to people: as a table, one in full, as links."""

from __future__ import annotations

import os
from collections.abc import Sequence

from shoal.api import schema as s
from shoal.cli.face import ID_SHOWN, Face, columns, count_files, printable, skipped_lines, wrapped_columns
from shoal.core.errors import LocalMisuse
from shoal.core.units import format_size

ID_CHARACTERS = 8  # the least of a share id that names a share
SKIPPED_SHOWN = 100
WORDS = ("hashing", "complete", "changed", "failed", "own", "watched", "fetched", "part")


def choose(found: Sequence[s.ShareDetail], text: str) -> list[s.ShareDetail]:
    """Return the shares that a name, path, link, share id or the beginning of one means.

    Raises: LocalMisuse if there is none.
    """
    path = os.path.abspath(os.path.expanduser(text))
    chosen = [x for x in found if text in (x.name, x.link) or path in x.paths]
    if not chosen and len(text) >= ID_CHARACTERS:
        chosen = [x for x in found if x.share_id.startswith(text.lower())]
    if not chosen:
        raise LocalMisuse(
            "Nothing is shown",
            cause=f"no share of this node has the name, path or id {text[:80]!r}",
            next_step="see them all: shoal shares",
            code="not_shared",
        )
    return chosen


def table(face: Face, shares: Sequence[s.ShareDetail]) -> list[str]:
    """Return one line a share, then what is wrong with some."""
    rows = [
        [
            x.share_id[:ID_SHOWN],
            _kind(x),
            x.state,
            str(x.files) if x.files is not None else "-",
            format_size(x.bytes) if x.bytes is not None else "-",
            _where(face, x),
        ]
        for x in shares
    ]
    if not rows:
        return ["nothing is shared"]
    lines = columns(rows, ["SHARE", "KIND", "STATE", "FILES", "SIZE", "PATH"], keep_end=True)
    for x in shares:
        if x.error is not None:
            lines += wrapped_columns([[x.share_id[:ID_SHOWN], _fault(x.error)]])
        if x.note:
            lines += wrapped_columns([[x.share_id[:ID_SHOWN], f"changes are noticed late: {x.note}"]])
    return lines


def pick(found: Sequence[s.ShareDetail], word: str | None) -> list[s.ShareDetail]:
    """Return the shares in a state, or of a kind as the table says. Raises: LocalMisuse for another word."""
    if word is None:
        return list(found)
    if word not in WORDS:
        raise LocalMisuse(
            "Nothing is shown",
            cause=f"{word[:80]!r} is no state and no kind of a share",
            next_step=f"there are: {', '.join(WORDS)}",
            code="usage",
        )
    return [x for x in found if word in (x.state, _kind(x)) or (word == "own" and x.own)]


def links(shares: Sequence[s.ShareDetail]) -> list[str]:
    """Return one line a share, never cut: its link, then its name."""
    return [f"{x.link}  {printable(x.name)}" for x in shares] or ["nothing is shared"]


def in_full(face: Face, shares: Sequence[s.ShareDetail]) -> list[str]:
    """Return everything that is known about some shares."""
    lines: list[str] = []
    for x in shares:
        lines += ["", printable(x.name)] if lines else [printable(x.name)]
        lines += [
            f"  link     {x.link}",
            f"  share    {x.share_id}",
            f"  kind     {_kind(x)}{', in the background' if x.background else ''}",
            f"  state    {x.state}, version {x.version}",
        ]
        if x.files is not None and x.bytes is not None:
            lines.append(f"  holds    {count_files(x.files)}, {format_size(x.bytes)}")
        lines += [f"  path     {_piped(face, path) or printable(path)}" for path in x.paths]
        if x.only:
            lines.append(f"  part     {printable(', '.join(x.only))}")
        if x.ignored:
            lines.append(f"  ignored  {x.ignored} left out by .shoalignore")
        lines += [f"  {line}" for line in skipped_lines(x.skipped, x.skipped_why)[:SKIPPED_SHOWN]]
        if len(x.skipped) > SKIPPED_SHOWN:
            lines.append(f"  and {len(x.skipped) - SKIPPED_SHOWN} more: --json lists them")
        if x.note:
            lines += wrapped_columns([["  late   ", f"changes are noticed late: {x.note}"]])
        if x.error is not None:
            lines += wrapped_columns([["  fault  ", _fault(x.error)]])
            if x.error.next_step:
                lines += wrapped_columns([["  do     ", x.error.next_step]])
    return lines


def _fault(error: s.ErrorBody) -> str:
    return f"{error.message}: {error.cause}" if error.cause else error.message


def _kind(x: s.ShareDetail) -> str:
    return "watched" if x.watching else "own" if x.own else "part" if x.only else "fetched"


def _where(face: Face, x: s.ShareDetail) -> str:
    if not x.paths:
        return x.name
    more = f" and {len(x.paths) - 1} more" if len(x.paths) > 1 else ""
    return (_piped(face, x.paths[0]) or x.paths[0]) + more


def _piped(face: Face, path: str) -> str:
    """Return what to call a file that came through a pipe and is kept in the home; else nothing."""
    spool = os.path.join(os.path.realpath(face.home), "spool") + os.sep
    return f"{printable(os.path.basename(path))}, from a pipe" if path.startswith(spool) else ""
