"""Limits: the command about what bulk data may take."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.api import schema as s
from shoal.cli import complete
from shoal.cli.face import HomeOption, JsonOption, columns, make_face, printable
from shoal.core.units import NO_LIMIT, format_rate


def limits(
    upload: Annotated[
        str | None,
        typer.Option(
            "--upload",
            metavar="RATE",
            help="Limit what is sent: 10 MB/s, 1 MiB/s, unlimited, or default: as the settings say.",
        ),
    ] = None,
    download: Annotated[
        str | None, typer.Option("--download", metavar="RATE", help="Limit what is received; likewise.")
    ] = None,
    peer: Annotated[
        str | None,
        typer.Option(
            "--peer", metavar="NAME", help="Only to and from this device.", autocompletion=complete.peers
        ),
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show what transfers may take now, and why; or change it, at once and for later starts."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.limits(upload=upload, download=download, peer=peer)
    lines = columns(
        [_row("upload", found.upload), _row("download", found.download)]
        + [
            _row(f"{printable(one.name)} {direction}", limit)
            for one in found.peers
            for direction, limit in (("upload", one.upload), ("download", one.download))
            if peer is not None or limit.rate_bytes_s is not None
        ]
    )
    lines += [
        f"no member is named {printable(one.name)}, as config.toml says"
        for one in found.peers
        if one.peer_id is None
    ]
    if found.changes_at is not None:
        lines.append(f"the schedule changes it: {found.changes_at}")
    face.show(found, lines)


def _row(name: str, limit: s.Limit) -> list[str]:
    rate = NO_LIMIT if limit.rate_bytes_s is None else limit.rate_bytes_s
    return [name, format_rate(rate), f"{limit.source}: {limit.why}"]
