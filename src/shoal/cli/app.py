"""App: every command, in the order in which a person meets them. Bodies import what they need then."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.cli import care, files, follows, limits, listing, people, pins, run, store, transfers
from shoal.version import __version__

app = typer.Typer(
    name="shoal",
    help="One private peer-to-peer network out of your group's machines.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"shoal {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, metavar="", help="Print the version."
        ),
    ] = False,
) -> None:
    pass


NODE = "The node"
PEOPLE = "The group"
FILES = "Files"
CARE = "Care"

app.command("up", rich_help_panel=NODE)(run.up)
app.command("join", rich_help_panel=NODE)(run.join)
app.command("status", rich_help_panel=NODE)(run.status)
app.command("down", rich_help_panel=NODE)(run.down)
app.command("invite", rich_help_panel=PEOPLE)(people.invite)
app.command("peers", rich_help_panel=PEOPLE)(people.peers)
app.command("members", rich_help_panel=PEOPLE)(people.members)
app.command("ping", rich_help_panel=PEOPLE)(people.ping)
app.command("remove", rich_help_panel=PEOPLE)(people.remove)
app.command("leave", rich_help_panel=PEOPLE)(people.leave)
app.command("share", rich_help_panel=FILES)(files.share)
app.command("get", rich_help_panel=FILES)(files.get)
app.command("ls", rich_help_panel=FILES)(listing.ls)
app.command("shares", rich_help_panel=FILES)(files.shares)
app.command("unshare", rich_help_panel=FILES)(files.unshare)
app.command("transfers", rich_help_panel=FILES)(transfers.transfers)
app.command("pin", rich_help_panel=FILES)(pins.pin)
app.command("unpin", rich_help_panel=FILES)(pins.unpin)
app.command("pins", rich_help_panel=FILES)(pins.pins)
app.add_typer(store.store_app, name="store", rich_help_panel=CARE)
app.command("limits", rich_help_panel=CARE)(limits.limits)
app.command("follow", rich_help_panel=FILES)(follows.follow)
app.command("follows", rich_help_panel=FILES)(follows.follows)
app.command("unfollow", rich_help_panel=FILES)(follows.unfollow)
app.command("doctor", rich_help_panel=CARE)(care.doctor)
app.add_typer(care.config_app, name="config", rich_help_panel=CARE)
