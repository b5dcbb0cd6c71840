"""Files: commands about shares and transfers."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from shoal.api import operations as ops
from shoal.api import schema as s
from shoal.cli import complete
from shoal.cli.face import (
    ID_SHOWN,
    HomeOption,
    JsonOption,
    count_files,
    make_face,
    printable,
    read_argument,
    skipped_lines,
)
from shoal.core.errors import LocalMisuse
from shoal.core.units import count_of, format_duration, format_size, parse_duration

BackgroundOption = Annotated[
    bool,
    typer.Option(
        "--background", help="Give way to whatever else the node does.", metavar="", show_default=False
    ),
]


def share(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files and folders; one link for all. - is a pipe.")
    ],
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when it is complete.", metavar="", show_default=False)
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Publish every change by itself.", metavar="", show_default=False)
    ] = False,
    no_watch: Annotated[
        bool, typer.Option("--no-watch", help="Stop that, nothing else.", metavar="", show_default=False)
    ] = False,
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
    accept_removals: Annotated[
        bool,
        typer.Option(
            "--accept-removals",
            help="Publish it although nearly all files are gone.",
            metavar="",
            show_default=False,
        ),
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Share files and folders with the network and print their link at once."""
    from shoal.cli.pipes import share_pipe

    if watch and no_watch:
        raise LocalMisuse(
            "Nothing was shared",
            cause="--watch and --no-watch were given together",
            next_step="use one of them",
            code="usage",
        )
    face = make_face(home, json)
    watching = True if watch else False if no_watch else None
    with face.connect() as client:
        piped = share_pipe(face, client, paths, name, watch=watching, background=background)
        found = piped or client.share(
            *paths, watch=watching, background=background, accept_removals=accept_removals
        )
        if no_watch and found.complete:
            face.tell("No longer watched; what was published last stays, and so does the link.")
        if (wait or copy) and not found.complete:
            from shoal.cli.progress import share_progress

            with share_progress(face) as on_progress:
                found = client.wait_share(found, on_progress)
        if copy:
            from shoal.cli.pins import describe
            from shoal.cli.progress import pin_progress

            with pin_progress(face) as on_pin:
                kept = client.wait_pin(client.start_pin(found.link), on_pin)
            face.tell(describe(kept))
        skipped: list[str] = []
        ignored = 0
        if found.complete and not json:
            detail = client.call(ops.SHARE_STATE, s.ShareWaitRequest(share_id=found.share_id))
            skipped, ignored = skipped_lines(detail.skipped, detail.skipped_why), detail.ignored
    if found.complete and found.files is not None and found.bytes is not None:
        left_out = f", {ignored} left out by .shoalignore" if ignored else ""
        face.tell(f"{count_files(found.files)}, {format_size(found.bytes)}, complete{left_out}")
        for line in skipped:
            face.tell(line)
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
        last = started = client.start_get(
            text, dest, overwrite=overwrite, wait_s=wait_s, only=only or (), background=background
        )

        def watch(state: s.TransferDetail) -> None:
            nonlocal last
            last = state
            on_progress(state)

        try:
            with transfer_progress(face) as on_progress:
                result = client.wait_transfer(started, watch)
        except KeyboardInterrupt:
            face.tell(
                "\nThe node goes on fetching. Watch it again with the same command, or stop it:\n"
                f"  shoal transfers --cancel {started.id[:ID_SHOWN]}"
            )
            raise
    face.show(result, _describe(result, last))


def shares(
    share: Annotated[
        str | None,
        typer.Argument(
            metavar="SHARE",
            help="Show one in full: a name, a path, a share id or its beginning.",
            autocompletion=complete.shares,
        ),
    ] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="WORD", help="Those in a state or of a kind: changed, watched..."),
    ] = None,
    links: Annotated[
        bool, typer.Option("--links", help="Their links, one a line.", metavar="", show_default=False)
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """List what this node serves, or show one share with its link and all that it leaves out."""
    from shoal.cli import share_view

    face = make_face(home, json)
    with face.connect() as client:
        found = client.call(ops.SHARES, s.Nothing())
    chosen = share_view.choose(found.shares, share) if share is not None else found.shares
    chosen = share_view.pick(chosen, state)
    if links:
        lines = share_view.links(chosen)
    elif share is not None:
        lines = share_view.in_full(face, chosen)
    else:
        lines = share_view.table(face, chosen)
    face.show(s.Shares(chosen), lines)
    if state is not None:
        face.tell(f"{len(chosen)} of {count_of(len(found.shares), 'share')}")


def unshare(
    share: Annotated[
        str,
        typer.Argument(
            metavar="SHARE",
            help="A share id, a link, the path that was shared, or a name.",
            autocompletion=complete.shares,
        ),
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Stop serving a share, for good: shared again it has a new link.

    Files are left alone, and copies that others have stay theirs.
    """
    face = make_face(home, json)
    is_text = share.lower().startswith(("shs1", "shl1")) and "/" not in share
    with face.connect() as client:
        try:
            done = client.unshare(share) if is_text else client.unshare(path=share)
        except LocalMisuse as error:
            if error.code != "not_shared" or os.sep in share:
                raise
            done = client.unshare(share)  # no path, but perhaps a name: of what came through a pipe
    face.show(done, [f"no longer shared: {printable(done.name)}"])
    if done.own:
        face.tell("Its link ends with it: what is shared again gets a new one.")


def _describe(result: s.GetResult, transfer: s.TransferDetail) -> list[str]:
    rate = (
        f", {format_size(result.fetched_bytes / result.seconds)}/s"
        if result.seconds > 0.1 and result.fetched_bytes
        else ""
    )
    lines = [
        f"{count_files(result.files)}, {format_size(result.bytes)} in {printable(_find_result(transfer))}",
        f"fetched {format_size(result.fetched_bytes)} in {format_duration(result.seconds)}{rate}"
        + (f", {format_size(result.reused_bytes)} were here already" if result.reused_bytes else "")
        + (", resumed" if result.resumed else ""),
        *skipped_lines(result.skipped, result.skipped_why),
    ]
    if isinstance(result.unmatched, list):
        lines += [f"nothing matches: {printable(pattern)}" for pattern in result.unmatched]
    return lines


def _find_result(transfer: s.TransferDetail) -> str:
    """Return where what was fetched lies: the share's folder or file; for several, the folder with them."""
    path = os.path.join(transfer.dest, transfer.name)
    return path if transfer.name and os.path.lexists(path) else transfer.dest
