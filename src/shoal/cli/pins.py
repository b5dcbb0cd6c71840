"""Pins: commands about copies that this node keeps and serves."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.api import operations as ops
from shoal.api import pin_schema as p
from shoal.api import schema as s
from shoal.cli import complete
from shoal.cli.face import (
    ID_SHOWN,
    HomeOption,
    JsonOption,
    columns,
    make_face,
    printable,
    read_argument,
)
from shoal.core.units import count_of, format_size, parse_duration


def pin(
    link: Annotated[str | None, typer.Argument(metavar="LINK", help="Asked for if it is not given.")] = None,
    lease: Annotated[
        str | None, typer.Option("--for", metavar="D", help="Keep it so long, e.g. 30d; else until unpin.")
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option("--wait", metavar="[D]", help="Wait for absent providers, for ever or as long as 10m."),
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Keep a sealed copy of what a link names in this node's store, and serve it from there.

    Interrupting only stops watching: the node goes on. The same command again attaches.
    """
    face = make_face(home, json)
    wait_s = 0.0 if wait is None else None if wait == "forever" else parse_duration(wait)
    lease_s = parse_duration(lease) if lease is not None else None
    text = read_argument(link, "link")
    with face.connect() as client:
        started = client.start_pin(text, lease_s=lease_s, wait_s=wait_s)
        from shoal.cli.progress import pin_progress

        try:
            with pin_progress(face) as on_progress:
                done = client.wait_pin(started, on_progress)
        except KeyboardInterrupt:
            face.tell(
                "\nThe node goes on fetching. Watch it again with the same command, or end it:\n"
                f"  shoal unpin {started.share_id[:ID_SHOWN]}"
            )
            raise
    face.show(done, [describe(done)])


def pins(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the copies that this node keeps."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.call(ops.PINS, s.Nothing())
    rows = [
        [
            x.share_id[:ID_SHOWN],
            x.state,
            f"{x.done_bytes / x.bytes:.0%}" if x.bytes else "-",
            format_size(x.bytes) if x.chunks else "-",
            x.lease or "-",
            printable(x.name) or "?",
        ]
        for x in found.pins
    ]
    lines = (
        columns(rows, ["SHARE", "STATE", "DONE", "SIZE", "UNTIL", "NAME"]) if rows else ["nothing is pinned"]
    )
    lines += [
        printable(f"{x.share_id[:ID_SHOWN]}: {x.error.message}: {x.error.cause}")
        for x in found.pins
        if x.error is not None
    ]
    face.show(found, lines)


def unpin(
    wanted: Annotated[
        str,
        typer.Argument(
            metavar="PIN", help="A share id, its beginning, a link, or a name.", autocompletion=complete.pins
        ),
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Keep a copy no longer. Its space comes back by itself, or with `shoal store gc`."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.call(ops.UNPIN, p.UnpinRequest(pin=wanted))
    face.show(
        found, [f"no longer kept: {printable(x.name) or x.share_id[:ID_SHOWN]}" for x in found.pins[:1]]
    )


def describe(done: p.Pin) -> str:
    """Return a complete pin in a line."""
    until = f", until {done.lease}" if done.lease else ""
    chunks = count_of(done.chunks, "chunk")
    return f"kept: {printable(done.name)}, {format_size(done.bytes)} in {chunks}{until}"
