"""Transfers: the command about what is being fetched."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from shoal.api import operations as ops
from shoal.api import schema as s
from shoal.cli import complete
from shoal.cli.face import ID_SHOWN, Face, HomeOption, JsonOption, columns, make_face, printable
from shoal.core.errors import LocalMisuse
from shoal.core.units import format_size

_ENDS = ("done", "failed", "cancelled")
_MOVING = ("finding", "fetching", "verifying", "finishing")
RECENT = 5  # of those that are done or failed, without --all


def _verb(name: str, text: str) -> object:
    return typer.Option(name, metavar="ID", help=text, autocompletion=complete.transfers)


def transfers(
    all_: Annotated[
        bool,
        typer.Option("--all", "-a", help="All that have ended, too.", metavar="", show_default=False),
    ] = False,
    running: Annotated[
        bool,
        typer.Option("--running", help="Just those that have not ended.", metavar="", show_default=False),
    ] = False,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Just those that failed, all of them.", metavar="", show_default=False),
    ] = False,
    pause: Annotated[str | None, _verb("--pause", "Stop one, keep what it has.")] = None,
    resume: Annotated[str | None, _verb("--resume", "Go on with one.")] = None,
    cancel: Annotated[str | None, _verb("--cancel", "Stop one and forget it.")] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """List transfers that run and that ended lately, or pause, resume or cancel one."""
    face = make_face(home, json)
    verbs: tuple[tuple[s.TransferVerb, str | None], ...] = (
        ("pause", pause),
        ("resume", resume),
        ("cancel", cancel),
    )
    wanted = [(verb, given) for verb, given in verbs if given is not None]
    if len(wanted) > 1:
        raise LocalMisuse(
            "Nothing was changed",
            cause="--pause, --resume and --cancel exclude each other",
            next_step="use one of them",
            code="usage",
        )
    if wanted and (running or failed or all_):
        raise LocalMisuse(
            "Nothing was changed",
            cause=f"--{wanted[0][0]} is about one transfer, the other options are about which are listed",
            next_step="use them one after the other",
            code="usage",
        )
    with face.connect() as client:
        if wanted:
            verb, transfer_id = wanted[0]
            detail = client.control_transfer(transfer_id, verb)
            what = f"{detail.name or '?'} in {detail.dest}"
            face.show(detail, [printable(f"{'forgotten' if verb == 'cancel' else detail.state}: {what}")])
            return
        found = client.call(ops.TRANSFERS, s.Nothing())
        chosen = select(found.transfers, running=running, failed=failed)
        shown = chosen if all_ or failed else select_recent(chosen)
        details = [] if json else [client.call(ops.TRANSFER, s.TransferRequest(id=x.id)) for x in shown]
    lines = describe(face, details)
    if len(found.transfers) > 1:
        lines.append(count_states(found.transfers))
    if len(shown) < len(chosen):
        hidden = len(chosen) - len(shown)
        older = "1 older one has" if hidden == 1 else f"{hidden} older ones have"
        lines.append(f"{older} ended: shoal transfers --all")
    face.show(s.Transfers(chosen), lines)


def select(found: list[s.Transfer], *, running: bool, failed: bool) -> list[s.Transfer]:
    """Return those that have not ended, or that failed, or both; all of them if neither is asked for."""
    if not running and not failed:
        return found
    return [x for x in found if (failed and x.state == "failed") or (running and x.state not in _ENDS)]


def count_states(found: list[s.Transfer]) -> str:
    """Return how many run, wait and have ended: `2 running, 1 queued, 40 done`."""
    counts = Counter("running" if x.state in _MOVING else x.state for x in found)
    order = ("running", "queued", "paused", "failed", "done")
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state])


def select_recent(found: list[s.Transfer]) -> list[s.Transfer]:
    """Return those that have not ended, and the newest of the others, in their order."""
    ended = [x.id for x in found if x.state in _ENDS]
    old = set(ended[:-RECENT])
    return [x for x in found if x.id not in old]


def describe(face: Face, details: list[s.TransferDetail]) -> list[str]:
    """Return a table of transfers, from whom the running ones come, and why others failed."""
    from shoal.api.client import ENDED
    from shoal.cli.progress import member_names

    rows = [
        [
            x.id[:ID_SHOWN],
            f"{x.state}, background" if x.background and x.state not in ENDED else x.state,
            f"{x.done_bytes / x.bytes:.0%}" if x.bytes else "100%" if x.state == "done" else "-",
            format_size(x.bytes) if x.bytes is not None else "-",
            f"{format_size(x.rate_bytes_s)}/s" if x.rate_bytes_s >= 1 else "-",
            f"{'a part of ' if x.only else ''}{x.name or '?'} in {x.dest}",
        ]
        for x in details
    ]
    lines = columns(rows, ["ID", "STATE", "DONE", "SIZE", "RATE", "WHAT"]) if rows else ["no transfers"]
    running = [x for x in details if x.state not in ENDED]
    names = member_names(face) if any(x.providers for x in running) else {}
    for x in running:
        givers = sorted(x.providers.items(), key=lambda item: -item[1])
        parts = [
            f"{names.get(peer, peer[:ID_SHOWN])} {format_size(count)}" for peer, count in givers if count
        ]
        if parts:
            lines.append(f"{x.id[:ID_SHOWN]} from {', '.join(parts)}")
        if x.note:
            lines.append(printable(f"{x.id[:ID_SHOWN]} {x.state}: {x.note}"))
    return lines + [failure(x.id, x.error) for x in details if x.error is not None]


def failure(identifier: str, error: s.ErrorBody) -> str:
    """Return why something failed, in a line below a table."""
    return printable(f"{identifier[:ID_SHOWN]}: {error.message}: {error.cause}")
