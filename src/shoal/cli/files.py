"""Files: commands about shares and transfers."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.api import operations as ops
from shoal.api import schema as s
from shoal.cli.face import Face, HomeOption, JsonOption, columns, make_face, printable, read_argument
from shoal.core.errors import LocalMisuse
from shoal.core.units import format_duration, format_size, parse_duration

BackgroundOption = Annotated[
    bool,
    typer.Option(
        "--background", help="Give way to whatever else the node does.", metavar="", show_default=False
    ),
]
ID_SHOWN = 12  # characters of an id: enough for people to tell it from others, and for the node to find it


def share(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files and folders; one link for all. - is a pipe.")
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when it is complete.", metavar="", show_default=False)
    ] = False,
    watch: Annotated[
        bool | None,
        typer.Option("--watch/--no-watch", help="Publish every change by itself, or stop that."),
    ] = None,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy", help="Keep a sealed copy too: the files may vanish.", metavar="", show_default=False
        ),
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="N", help="What the file is called that comes by a pipe.")
    ] = None,
    background: BackgroundOption = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Share files and folders with the network and print their link at once."""
    from shoal.cli.pipes import share_pipe

    face = make_face(home, json)
    with face.connect() as client:
        piped = share_pipe(face, client, paths, name, watch=watch, background=background)
        found = piped or client.share(*paths, watch=watch, background=background)
        if (wait or copy) and not found.complete:
            from shoal.cli.progress import share_progress

            with share_progress(face) as on_progress:
                found = client.wait_share(found, on_progress)
        if copy:
            from shoal.cli.pins import Watcher, describe

            kept = client.wait_pin(client.start_pin(found.link), Watcher(face).tell)
            face.tell(describe(kept))
        skipped: list[str] = []
        ignored = 0
        if found.complete and not json:
            detail = client.call(ops.SHARE_STATE, s.ShareWaitRequest(share_id=found.share_id))
            skipped, ignored = detail.skipped, detail.ignored
    if found.complete and found.files is not None and found.bytes is not None:
        left_out = f", {ignored} left out by .shoalignore" if ignored else ""
        face.tell(f"{_files(found.files)}, {format_size(found.bytes)}, complete{left_out}")
        for path in skipped:
            face.tell(f"skipped: {printable(path)}")
    else:
        face.tell("Reading the files; the link works already. Wait for the end with --wait.")
    face.show(found, [found.link])


def get(
    link: Annotated[str | None, typer.Argument(metavar="LINK", help="Asked for if it is not given.")] = None,
    dest: Annotated[
        str, typer.Argument(metavar="DEST", help="The folder to put it into; - is standard output.")
    ] = ".",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that differ.", metavar="", show_default=False)
    ] = False,
    wait: Annotated[
        str | None,
        typer.Option("--wait", metavar="[D]", help="Wait for absent providers, for ever or as long as 10m."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATTERN", help="Just these files and folders. Repeatable."),
    ] = None,
    background: BackgroundOption = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch what a link names, from every peer that has parts of it.

    Interrupting only stops watching: the node goes on. The same command again attaches.
    """
    face = make_face(home, json)
    wait_s = 0.0 if wait is None else None if wait == "forever" else parse_duration(wait)
    text = read_argument(link, "link")
    with face.connect() as client:
        from shoal.cli.pipes import PIPE, write_pipe
        from shoal.cli.progress import transfer_progress

        if dest == PIPE:
            write_pipe(
                face,
                client,
                text,
                only=only or (),
                wait_s=wait_s,
                background=background,
                overwrite=overwrite,
            )
            return
        started = client.start_get(
            text, dest, overwrite=overwrite, wait_s=wait_s, only=only or (), background=background
        )
        try:
            with transfer_progress(face, lambda: _names(face)) as on_progress:
                result = client.wait_transfer(started, on_progress)
        except KeyboardInterrupt:
            face.tell(
                "\nThe node goes on fetching. Watch it again with the same command, or stop it:\n"
                f"  shoal transfers --cancel {started.id[:ID_SHOWN]}"
            )
            raise
    face.show(result, _describe(result, started))


def shares(home: HomeOption = None, json: JsonOption = False) -> None:
    """List what this node serves."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.call(ops.SHARES, s.Nothing())
    rows = [
        [
            x.share_id[:ID_SHOWN],
            "watched" if x.watching else "own" if x.own else "a part" if x.only else "fetched",
            x.state,
            str(x.files) if x.files is not None else "-",
            format_size(x.bytes) if x.bytes is not None else "-",
            x.paths[0] + (f" and {len(x.paths) - 1} more" if len(x.paths) > 1 else "") if x.paths else x.name,
        ]
        for x in found.shares
    ]
    lines = (
        columns(rows, ["SHARE", "KIND", "STATE", "FILES", "SIZE", "PATH"]) if rows else ["nothing is shared"]
    )
    lines += [_failure(x.share_id, x.error) for x in found.shares if x.error is not None]
    lines += [f"{x.share_id[:ID_SHOWN]} changes are noticed late: {x.note}" for x in found.shares if x.note]
    face.show(found, lines)


def unshare(
    share: Annotated[
        str, typer.Argument(metavar="SHARE", help="A share id, a link, or the path that was shared.")
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Stop serving a share. Files are left alone, and copies that others have stay theirs."""
    face = make_face(home, json)
    is_text = share.lower().startswith(("shs1", "shl1")) and "/" not in share
    with face.connect() as client:
        done = client.unshare(share) if is_text else client.unshare(path=share)
    face.show(done, [f"no longer shared: {printable(done.name)}"])


def transfers(
    pause: Annotated[
        str | None, typer.Option("--pause", metavar="ID", help="Stop one, keep what it has.")
    ] = None,
    resume: Annotated[str | None, typer.Option("--resume", metavar="ID", help="Go on with one.")] = None,
    cancel: Annotated[
        str | None, typer.Option("--cancel", metavar="ID", help="Stop one and forget it.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """List transfers, or pause, resume or cancel one."""
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
    with face.connect() as client:
        if wanted:
            verb, transfer_id = wanted[0]
            detail = client.control_transfer(transfer_id, verb)
            face.show(detail, [f"{detail.id}  {'forgotten' if verb == 'cancel' else detail.state}"])
            return
        found = client.call(ops.TRANSFERS, s.Nothing())
        details = (
            [] if json else [client.call(ops.TRANSFER, s.TransferRequest(id=x.id)) for x in found.transfers]
        )
    rows = [
        [
            x.id[:ID_SHOWN],
            x.state,
            f"{x.done_bytes / x.bytes:.0%}" if x.bytes else "-",
            format_size(x.bytes) if x.bytes is not None else "-",
            f"{format_size(x.rate_bytes_s)}/s" if x.rate_bytes_s else "-",
            f"{'a part of ' if x.only else ''}{x.name or '?'} in {x.dest}",
        ]
        for x in details
    ]
    lines = columns(rows, ["ID", "STATE", "DONE", "SIZE", "RATE", "WHAT"]) if rows else ["no transfers"]
    running = [x for x in details if x.state == "fetching" and x.providers]
    names = _names(face) if running else {}
    for x in running:
        providers = sorted(x.providers.items(), key=lambda item: -item[1])
        parts = [f"{names.get(peer, peer[:ID_SHOWN])} {format_size(count)}" for peer, count in providers]
        lines.append(f"{x.id[:ID_SHOWN]} from {', '.join(parts)}")
    lines += [_failure(x.id, x.error) for x in details if x.error is not None]
    face.show(found, lines)


def _failure(identifier: str, error: s.ErrorBody) -> str:
    return printable(f"{identifier[:ID_SHOWN]}: {error.message}: {error.cause}")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _names(face: Face) -> dict[str, str]:
    """Return the members' names by peer id, for people."""
    with face.connect() as client:
        return {m.peer_id: printable(m.name) for m in client.members().members}


def _describe(result: s.GetResult, transfer: s.TransferDetail) -> list[str]:
    where = printable(transfer.dest)
    rate = (
        f", {format_size(result.fetched_bytes / result.seconds)}/s"
        if result.seconds > 0.1 and result.fetched_bytes
        else ""
    )
    lines = [
        f"{_files(result.files)}, {format_size(result.bytes)} in {where}",
        f"fetched {format_size(result.fetched_bytes)} in {format_duration(result.seconds)}{rate}"
        + (f", {format_size(result.reused_bytes)} were here already" if result.reused_bytes else "")
        + (", resumed" if result.resumed else ""),
    ]
    lines += [f"skipped: {printable(path)}" for path in result.skipped]
    if isinstance(result.unmatched, list):
        lines += [f"nothing matches: {printable(pattern)}" for pattern in result.unmatched]
    return lines
