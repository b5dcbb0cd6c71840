"""Pipes: `share -` reads standard input, `get LINK -` writes standard output and nothing else there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

from shoal.api import content_schema as c
from shoal.api import schema as s
from shoal.api.client import Client
from shoal.cli.face import Face, printable, stop_writing
from shoal.core.errors import LocalMisuse
from shoal.core.units import MIB, format_duration, format_size

PIPE = "-"
READ_BYTES = MIB
DEFAULT_NAME = "stdin"


def share_pipe(
    face: Face,
    client: Client,
    paths: Sequence[str],
    name: str | None,
    *,
    watch: bool | None,
    background: bool,
) -> s.Share | None:
    """Share what comes on standard input, if that is what was asked for; else None.

    Raises: LocalMisuse if the other arguments do not fit.
    """
    if PIPE not in paths:
        if name is not None:
            raise _usage("--name is for what comes through a pipe: share -", "leave --name away")
        return None
    if len(paths) > 1 or watch is not None:
        raise _usage(
            "what comes through a pipe is a share of its own, and does not change", "use share - alone"
        )
    count = _Counter()
    if sys.stdin is None:
        raise _usage("there is no standard input", "pipe something in")
    if sys.stdin.isatty():
        face.tell("Reading from the terminal; end with Ctrl-D.")
    called = DEFAULT_NAME if name is None else name
    found = client.share_stream(_read_input(count), called, background=background)
    face.tell(f"{format_size(count.bytes)} kept in the home as {printable(called)} until it is unshared")
    return found


def write_pipe(
    face: Face,
    client: Client,
    link: str,
    *,
    only: Sequence[str],
    wait_s: float | None,
    background: bool,
    overwrite: bool,
) -> None:
    """Write the one file of a link to standard output, to its end or as long as somebody reads.

    Raises: LocalMisuse if the other arguments do not fit, what the node raises.
    """
    if face.json or overwrite:
        raise _usage(
            "standard output is for the file", f"leave {'--json' if face.json else '--overwrite'} away"
        )
    pieces = client.get_stream(
        link, only=only, wait_s=wait_s, background=background, on_note=_make_teller(face)
    )
    try:
        with closing(pieces):
            result = _write(pieces)
    except BrokenPipeError:  # who reads has enough, e.g. `| head`
        stop_writing(sys.stdout)
        return
    rate = f", {format_size(result.bytes / result.seconds)}/s" if result.seconds > 0.1 else ""
    sources = (
        f"fetched {format_size(result.fetched_bytes)}" if result.fetched_bytes else "it is on this device"
    )
    took = f"{format_size(result.bytes)} in {format_duration(result.seconds)}{rate}"
    face.tell(f"{printable(result.name)}, {took}: {sources}")


def _write(pieces: Generator[bytes, None, c.StreamResult]) -> c.StreamResult:
    out = sys.stdout.buffer
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            out.flush()
            result: c.StreamResult = end.value
            return result
        out.write(piece)


class _Counter:
    bytes = 0


def _read_input(count: _Counter) -> Iterator[bytes]:
    while piece := os.read(sys.stdin.fileno(), READ_BYTES):
        count.bytes += len(piece)
        yield piece


def _make_teller(face: Face) -> Callable[[str], None]:
    """Return what tells a note once."""
    last = [""]

    def tell(note: str) -> None:
        if note and note != last[0]:
            face.tell(printable(note))
        last[0] = note

    return tell


def _usage(cause: str, next_step: str) -> LocalMisuse:
    return LocalMisuse("Nothing was done", cause=cause, next_step=next_step, code="usage")
