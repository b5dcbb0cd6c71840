"""Face: how a command speaks, to a person or to a script.

With --json, stdout holds one object and nothing else, errors too. Without it, results go to stdout as plain
lines, everything else to stderr. What other devices named is escaped before it reaches a terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TextIO

import msgspec
import typer

from shoal.api.paths import default_home
from shoal.core.errors import LocalMisuse, ShoalError
from shoal.core.units import count_of

if TYPE_CHECKING:
    from shoal.api.client import Client

SHORT = 8  # characters of a column that gives way are always shown
STDIN_LIMIT_BYTES = 64 * 1024  # a link or a ticket is read from there; wild guess
ID_SHOWN = 12  # characters of an id: enough for people to tell it from others, and for the node to find it
UNKNOWN_CODE_NEXT_STEP = "run the command again; shoal doctor looks for causes"

HomeOption = Annotated[
    str | None,
    typer.Option("--home", metavar="DIR", help="The home to use. [default: SHOAL_HOME]", show_default=False),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object.", metavar="", show_default=False)
]


@dataclass(frozen=True)
class Face:
    """One command's way to speak, and the home it is about."""

    home: str
    json: bool

    def connect(self) -> Client:
        """Return a client of the node in this home; nothing is asked yet."""
        from shoal.api.client import Client

        return Client(self.home)

    def show(self, value: object, lines: Iterable[str]) -> None:
        """Print a result: as an object, or as lines."""
        if self.json:
            print(msgspec.json.encode(value).decode(), flush=True)
        else:
            for line in lines:
                print(line)
            sys.stdout.flush()

    def tell(self, text: str) -> None:
        """Tell a person something on the way; scripts do not see it."""
        if not self.json:
            print(text, file=sys.stderr, flush=True)

    def show_error(self, error: ShoalError) -> None:
        """Print what did not happen, why, and what to do."""
        cause = error.cause or "no cause is known"
        next_step = error.next_step or UNKNOWN_CODE_NEXT_STEP
        if self.json:
            body = {"code": error.code, "message": error.message, "cause": cause, "next_step": next_step}
            print(msgspec.json.encode({"error": body}).decode(), flush=True)
            return
        for label, text in (("shoal:", error.message), ("  why:", cause), ("   do:", next_step)):
            print(_fold(label, printable(text)), file=sys.stderr)
        sys.stderr.flush()


def stop_writing(stream: TextIO) -> None:
    """Write no more to a reader that went away; python would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def make_face(home: str | None, json: bool) -> Face:
    """Return the face for a command's own --home and --json."""
    return Face(os.path.abspath(os.path.expanduser(home)) if home else default_home(), json)


def printable(text: str) -> str:
    """Escape what could move the cursor or hide text; bytes that are not UTF-8 become \\x.."""
    if text.isprintable():
        return text
    safe = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe)


def columns(
    rows: Sequence[Sequence[str]],
    headings: Sequence[str] = (),
    gives_way: int | None = None,
    *,
    keep_end: bool = False,
) -> list[str]:
    """Lay out rows in aligned columns. On a terminal the column that `gives_way` is cut to fit, as far as
    SHORT, and then the last one; with `keep_end` its end stays: of paths that says most.
    """
    table = [list(map(printable, row)) for row in ([headings, *rows] if headings else rows)]
    if not table:
        return []
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    if gives_way is not None and sys.stdout.isatty():
        excess = sum(widths) + 2 * (len(widths) - 1) - shutil.get_terminal_size().columns
        room = max(min(SHORT, widths[gives_way]), widths[gives_way] - max(0, excess))
        for row in table:
            row[gives_way] = _cut(row[gives_way], room)
        widths[gives_way] = room
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    if not sys.stdout.isatty():
        return lines
    width = shutil.get_terminal_size().columns
    start = sum(widths[:-1]) + 2 * (len(widths) - 1)
    if keep_end and start + 1 < width:
        return [x if len(x) <= width else f"{x[:start]}…{x[start - width + 1 :]}" for x in lines]
    return [_cut(line, width) for line in lines]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def wrapped_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows in aligned columns. On a terminal the last one is wrapped, not cut."""
    table = [list(map(printable, row)) for row in rows]
    if not table or not sys.stdout.isatty():
        return columns(rows)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    width = max(indent + 20, shutil.get_terminal_size().columns)
    lines: list[str] = []
    for row in table:
        head = "".join(cell.ljust(w) + "  " for cell, w in zip(row, widths, strict=False))
        lines += textwrap.wrap(
            row[-1],
            width,
            initial_indent=head,
            subsequent_indent=" " * indent,
            break_on_hyphens=False,
        ) or [head.rstrip()]
    return lines


def skipped_lines(paths: Sequence[str], reasons: object) -> list[str]:
    """Return a line for each path that was left out, with the reason where it is known."""
    why = reasons if isinstance(reasons, list) and len(reasons) == len(paths) else [""] * len(paths)
    return [
        printable(f"skipped: {path}" + (f" ({reason})" if reason else ""))
        for path, reason in zip(paths, why, strict=True)
    ]


def count_files(count: int) -> str:
    """Return `1 file`, `2 files`."""
    return count_of(count, "file")


def read_argument(given: str | None, name: str) -> str:
    """Return a ticket or a link: as given, else (or for `-`) asked for on the terminal or read from stdin.

    Raises: LocalMisuse if there is none.
    """
    if given is not None and given != "-":
        return given
    if sys.stdin is not None and sys.stdin.isatty():
        print(f"{name.capitalize()}: ", end="", file=sys.stderr, flush=True)
        text = sys.stdin.readline(STDIN_LIMIT_BYTES)
    else:
        text = sys.stdin.buffer.read(STDIN_LIMIT_BYTES).decode("utf-8", "replace") if sys.stdin else ""
    if not text.strip():
        raise LocalMisuse(
            f"No {name} was given",
            cause="there was none among the arguments or on the standard input",
            next_step=f"paste the {name} behind the command, or pipe it in",
            code=f"no_{name.split()[0]}",
        )
    return text.strip()


def _fold(label: str, text: str) -> str:
    if not sys.stderr.isatty():
        return f"{label} {text}"
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(
        text,
        width,
        initial_indent=f"{label} ",
        subsequent_indent=" " * (len(label) + 1),
        break_long_words=False,
        break_on_hyphens=False,
    )
