"""Run: commands that start and stop the node of a home."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from shoal.api.schema import Status
from shoal.cli.face import Face, HomeOption, JsonOption, make_face, printable, read_argument
from shoal.node.order import Flags, LaunchOrder, refuse_second_network
from shoal.storage.home import has_network

ListenOption = Annotated[
    list[str] | None,
    typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 picks one. Repeatable."),
]
NameOption = Annotated[str | None, typer.Option("--name", metavar="N", help="This device's name.")]
NoLanOption = Annotated[
    bool, typer.Option("--no-lan", help="Do not look for peers on the LAN.", metavar="", show_default=False)
]
DetachOption = Annotated[
    bool, typer.Option("--detach", "-d", help="Run in the background.", metavar="", show_default=False)
]


def up(
    listen: ListenOption = None,
    name: NameOption = None,
    no_lan: NoLanOption = False,
    detach: DetachOption = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Run the node. The first time it makes this device's identity and a network of its own."""
    face = make_face(home, json)
    _start(face, LaunchOrder(home=face.home, mode="up", flags=_flags(listen, name, no_lan)), detach)


def join(
    ticket: Annotated[
        str | None, typer.Argument(metavar="TICKET", help="Asked for if it is not given.")
    ] = None,
    listen: ListenOption = None,
    name: NameOption = None,
    no_lan: NoLanOption = False,
    detach: DetachOption = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Become a member of a network with a ticket, and run the node."""
    face = make_face(home, json)
    if has_network(face.home):  # said before the ticket is asked for; the node looks again
        raise refuse_second_network(face.home)
    text = read_argument(ticket, "ticket")
    order = LaunchOrder(home=face.home, mode="join", ticket=text, flags=_flags(listen, name, no_lan))
    _start(face, order, detach)


def status(home: HomeOption = None, json: JsonOption = False) -> None:
    """Say who this node is and how it does."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.status()
        others = len(client.peers()) if not json else None
    face.show(found, _describe(found, others))


def down(home: HomeOption = None, json: JsonOption = False) -> None:
    """Stop the node."""
    face = make_face(home, json)
    with face.connect() as client:
        stopped = client.down()
    face.show(stopped, ["the node has stopped"])


def _start(face: Face, order: LaunchOrder, detach: bool) -> None:
    if detach:
        from shoal.cli.launch import launch

        found = launch(order)
        _welcome(face, order, found)
        return
    from shoal.node.main import run_in_foreground

    def on_up(found: Status) -> None:
        _welcome(face, order, found)
        face.tell("\nThe node runs until you press Ctrl-C.")

    def on_stopping() -> None:
        face.tell("\nStopping; at most five seconds. What was begun goes on with the next `shoal up`.")

    code = run_in_foreground(order, on_up, on_stopping)
    if code:
        raise typer.Exit(code)
    with suppress(OSError):  # the terminal may be gone, which is why it stopped
        face.tell("The node has stopped.")


def _welcome(face: Face, order: LaunchOrder, found: Status) -> None:
    if order.mode == "join":
        face.tell(f"Joined as {printable(found.name)}.\n")
    if isinstance(found.recovery_key, str):
        face.tell(
            "This is a new network. Its recovery key is shown once: keep it off this machine.\n"
            f"\n  {found.recovery_key}\n"
            "\nLet another device in with: shoal invite\n"
        )
    face.show(found, _describe(found))


def _describe(found: Status, others: int | None = None) -> list[str]:
    """Return a status in lines. `others`: how many other members there are, where that is known."""
    connected = f"{found.peers} of {others}" if others is not None else f"{found.peers}"
    lines = [
        f"name       {printable(found.name)}",
        f"peer id    {found.peer_id}",
        f"network    {found.network_id}",
        f"listening  {', '.join(found.listen) or '-'}",
        f"peers      {connected} connected",
        f"process    {found.pid}, shoal {found.version}",
    ]
    if isinstance(found.notice, str):
        lines.append(f"notice     {printable(found.notice)}")
    return lines


def _flags(listen: list[str] | None, name: str | None, no_lan: bool) -> Flags:
    return Flags(listen=tuple(listen) if listen else None, name=name, lan=False if no_lan else None)
