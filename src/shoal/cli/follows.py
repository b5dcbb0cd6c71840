"""Follows: commands about copies that follow their share."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from shoal.api import schema as s
from shoal.cli.face import HomeOption, JsonOption, columns, make_face, printable, read_argument
from shoal.core.units import format_duration, parse_duration

ID_SHOWN = 12
POLL_S = 0.1


def follow(
    link: Annotated[str | None, typer.Argument(metavar="LINK", help="Asked for if it is not given.")] = None,
    dest: Annotated[str, typer.Argument(metavar="DEST", help="The folder to keep the copy in.")] = ".",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Move away what differs there.", metavar="", show_default=False),
    ] = False,
    keep: Annotated[
        str, typer.Option("--keep", metavar="D", help="How long replaced files are kept.")
    ] = "30d",
    keep_count: Annotated[int, typer.Option("--keep-count", metavar="N", help="And how many times.")] = 100,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when it is current.", metavar="", show_default=False)
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Keep a read-only copy of a share at its newest version, from now on.

    What it replaces or removes, and what you change in it, moves to DEST/.shoal-versions.
    """
    face = make_face(home, json)
    text = read_argument(link, "link")
    with face.connect() as client:
        found = client.follow(
            text, dest, overwrite=overwrite, keep_s=parse_duration(keep), keep_count=keep_count
        )
        while wait and found.state in ("fetching", "waiting"):
            time.sleep(POLL_S)
            found = next((x for x in client.follows() if x.share_id == found.share_id), found)
    face.show(found, _lines([found]))


def follows(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the copies that follow their share."""
    face = make_face(home, json)
    with face.connect() as client:
        found = s.Follows(client.follows())
    face.show(found, _lines(found.follows) if found.follows else ["nothing is followed"])


def unfollow(
    follow: Annotated[str, typer.Argument(metavar="FOLLOW", help="A share id, a link, or the folder.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """End a follow. The copy stays as it is, and is served."""
    face = make_face(home, json)
    is_text = follow.lower().startswith(("shs1", "shl1")) and "/" not in follow
    with face.connect() as client:
        done = client.unfollow(follow) if is_text else client.unfollow(path=follow)
    face.show(done, [f"no longer followed: {printable(done.name)} in {printable(done.dest)}"])


def _lines(found: list[s.Follow]) -> list[str]:
    rows = [
        [
            x.share_id[:ID_SHOWN],
            x.state,
            str(x.version),
            format_duration(x.lag_s) if x.lag_s else "-",
            f"{x.name} in {x.dest}",
        ]
        for x in found
    ]
    lines = columns(rows, ["SHARE", "STATE", "VERSION", "LAG", "WHAT"])
    return lines + [printable(f"{x.share_id[:ID_SHOWN]}: {x.why}") for x in found if x.why]
