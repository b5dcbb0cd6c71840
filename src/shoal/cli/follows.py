"""Follows: commands about copies that follow their share."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import structs

from shoal.api import operations as ops
from shoal.api import schema as s
from shoal.api.faults import make_error
from shoal.cli import complete
from shoal.cli.face import (
    ID_SHOWN,
    Face,
    HomeOption,
    JsonOption,
    columns,
    make_face,
    printable,
    read_argument,
)
from shoal.core.errors import LocalMisuse
from shoal.core.units import format_duration, parse_duration

if TYPE_CHECKING:
    from shoal.api.client import Client

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
        if wait:
            try:
                found = _watch(face, client, found)
            except KeyboardInterrupt:
                face.tell("\nThe node goes on: shoal follows. End it with: shoal unfollow DEST")
                raise
            if found.error is not None:
                if found.state == "failed":
                    face.tell("The node goes on trying: shoal follows. End it with: shoal unfollow DEST")
                raise make_error(found.error, found.fault or "ShoalError")
        transfers = {} if json else _find_transfers(client)
    if found.state == "fetching":
        face.tell("Following from now on; see how far it is: shoal follows")
    face.show(found, _lines([found], transfers))


def follows(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the copies that follow their share."""
    face = make_face(home, json)
    with face.connect() as client:
        found = s.Follows(client.follows())
        transfers = {} if json else _find_transfers(client)
    face.show(found, _lines(found.follows, transfers) if found.follows else ["nothing is followed"])


def unfollow(
    follow: Annotated[
        str,
        typer.Argument(
            metavar="FOLLOW",
            help="A share id, a link, the folder, or a name.",
            autocompletion=complete.follows,
        ),
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """End a follow. The copy stays as it is, and is served."""
    face = make_face(home, json)
    is_text = follow.lower().startswith(("shs1", "shl1")) and "/" not in follow
    with face.connect() as client:
        try:
            done = client.unfollow(follow) if is_text else client.unfollow(path=follow)
        except LocalMisuse as error:
            if is_text or error.code != "unknown_follow" or os.sep in follow:
                raise
            done = client.unfollow(follow)  # no folder, but perhaps a name
    face.show(done, [f"no longer followed: {printable(done.name) or '?'} in {printable(done.dest)}"])


def _watch(face: Face, client: Client, found: s.Follow) -> s.Follow:
    """Show the first fetch until the copy is current, or its run failed."""
    from shoal.cli.progress import transfer_progress

    with transfer_progress(face) as on_progress:
        while found.state in ("fetching", "waiting"):
            moving = _find_transfers(client).get(found.share_id)
            if moving is not None and not face.json:
                detail = client.call(ops.TRANSFER, s.TransferRequest(id=moving.id))
                on_progress(structs.replace(detail, note=detail.note or found.why))
            time.sleep(POLL_S)
            found = next((x for x in client.follows() if x.share_id == found.share_id), found)
    return found


def _find_transfers(client: Client) -> dict[str, s.Transfer]:
    """Return the newest transfer of each share: of one that is followed no other runs."""
    return {x.share_id: x for x in client.transfers()}


def _lines(found: list[s.Follow], transfers: dict[str, s.Transfer]) -> list[str]:
    rows = [
        [
            x.share_id[:ID_SHOWN],
            x.state,
            _done(x, transfers.get(x.share_id)),
            str(x.version) if x.version else "-",
            format_duration(x.lag_s) if x.lag_s else "-",
            f"{x.name or '?'} in {x.dest}",
        ]
        for x in found
    ]
    lines = columns(rows, ["SHARE", "STATE", "DONE", "VERSION", "LAG", "WHAT"])
    return lines + [printable(f"{x.share_id[:ID_SHOWN]}: {x.why}") for x in found if x.why]


def _done(follow: s.Follow, transfer: s.Transfer | None) -> str:
    if follow.state == "current":
        return "100%"
    return f"{transfer.done_bytes / transfer.bytes:.0%}" if transfer is not None and transfer.bytes else "-"
