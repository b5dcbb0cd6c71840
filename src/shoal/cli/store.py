"""Store: commands about the node's own copies: what they take, whether they are whole, giving space back."""

from __future__ import annotations

from collections.abc import Callable

import typer

from shoal.api import operations as ops
from shoal.api import schema as s
from shoal.api import store_schema as st
from shoal.cli.face import HomeOption, JsonOption, columns, count_files, make_face
from shoal.core.errors import ExitCode
from shoal.core.units import count_of, format_size

store_app = typer.Typer(help="The copies that this node keeps: state, check, space.", no_args_is_help=True)


@store_app.command("status")
def status(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show what the store holds and takes."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.call(ops.STORE, s.Nothing())
    quota = format_size(found.quota_bytes) if found.quota_bytes is not None else "none"
    rows = [
        ["chunks", f"{found.chunks}" + (f", {found.lost} more damaged" if found.lost else "")],
        ["kept", format_size(found.live_bytes)],
        ["on disk", f"{format_size(found.file_bytes)} in {count_files(found.segments)}"],
        ["quota", quota],
        ["free", format_size(found.free_bytes)],
        ["path", found.path],
    ]
    face.show(found, columns(rows))


@store_app.command("verify")
def verify(home: HomeOption = None, json: JsonOption = False) -> None:
    """Read and check every chunk now. What is damaged is fetched again where somebody has it."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.wait_store_work("verify", lambda x: _tell(face.tell, x))
    damaged = found.lost + found.missing
    lines = [f"checked {count_of(found.chunks, 'chunk')}, {format_size(found.bytes)}"]
    if found.repaired:
        lines.append(f"repaired {count_of(found.repaired, 'row')} of the index")
    lost = f"damaged: {count_of(damaged, 'chunk')}, not served"
    lines.append(lost if damaged else "nothing is damaged")
    face.show(found, lines)
    if damaged:
        raise typer.Exit(ExitCode.STORAGE)


@store_app.command("gc")
def gc(home: HomeOption = None, json: JsonOption = False) -> None:
    """Give the space of what nobody keeps any more back, now. The node does so by itself, later."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.wait_store_work("gc")
    if found.segments == 0:
        lines = ["there was nothing to give back"]
    else:
        moved = f"; {format_size(found.moved_bytes)} that is kept was moved" if found.moved_bytes else ""
        freed = format_size(max(0, found.freed_bytes))
        lines = [f"freed {freed} in {count_files(found.segments)}{moved}"]
    face.show(found, lines)


def _tell(tell: Callable[[str], None], work: st.StoreWork) -> None:
    if work.running and work.total_bytes:
        tell(f"checked {format_size(work.bytes)} of {format_size(work.total_bytes)}")
