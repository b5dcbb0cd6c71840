"""Listing: the command that looks into a share."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.api import content_schema as c
from shoal.cli.face import HomeOption, JsonOption, columns, make_face, printable, read_argument
from shoal.core.units import format_size


def ls(
    link: Annotated[str | None, typer.Argument(metavar="LINK", help="Asked for if it is not given.")] = None,
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A folder in it, or how the paths begin that are wanted.")
    ] = "",
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Modes, sizes and times too.", metavar="", show_default=False)
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=c.LIST_MOST, help="Entries to show at most.")
    ] = c.LIST_LIMIT,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a link names, without fetching it."""
    face = make_face(home, json)
    text = read_argument(link, "link")
    with face.connect() as client:
        page = client.ls(text, path, limit=limit)
    if long:
        lines = columns([_describe(entry) for entry in page.entries])
    else:
        lines = [_name(entry) for entry in page.entries]
    face.show(page, lines or ["it is empty"])
    if page.more:
        face.tell(
            f"{page.more} more {'entry is' if page.more == 1 else 'entries are'} not shown: name a folder, "
            f"or the beginning of a path, or use --limit"
        )


def _name(entry: c.ListedEntry) -> str:
    return printable(entry.path) + ("/" if entry.kind == "folder" else "")


def _describe(entry: c.ListedEntry) -> list[str]:
    size = format_size(entry.bytes) if entry.bytes is not None else "-"
    target = f" -> {printable(entry.target)}" if isinstance(entry.target, str) else ""
    return [entry.mode, size.rjust(10), entry.mtime[:16].replace("T", " "), _name(entry) + target]
