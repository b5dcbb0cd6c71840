"""Run: commands that start and stop the node of a home."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated

import typer

from shoal.api.schema import Overlay, Reach, RelayUse, Status
from shoal.cli.face import Face, HomeOption, JsonOption, make_face, printable, read_argument, wrapped_columns
from shoal.core.errors import LocalMisuse
from shoal.core.units import count_of, format_size
from shoal.identity.code import TypedCode, complete_word, is_code
from shoal.node.order import Flags, LaunchOrder, refuse_second_network
from shoal.storage.home import has_network
from shoal.transport.address import Address

ListenOption = Annotated[
    list[str] | None,
    typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 picks one. Repeatable."),
]
NameOption = Annotated[str | None, typer.Option("--name", metavar="N", help="This device's name.")]
NoLanOption = Annotated[
    bool, typer.Option("--no-lan", help="Do not look for peers on the LAN.", metavar="", show_default=False)
]
RelayOption = Annotated[
    bool,
    typer.Option("--relay", help="Relay for members whom no dial reaches.", metavar="", show_default=False),
]
UpnpOption = Annotated[
    bool, typer.Option("--upnp", help="Ask the router to open the port.", metavar="", show_default=False)
]
DetachOption = Annotated[
    bool, typer.Option("--detach", "-d", help="Run in the background.", metavar="", show_default=False)
]


def up(
    listen: ListenOption = None,
    name: NameOption = None,
    no_lan: NoLanOption = False,
    relay: RelayOption = False,
    upnp: UpnpOption = False,
    detach: DetachOption = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Run the node. The first time it makes this device's identity and a network of its own."""
    face = make_face(home, json)
    _start(
        face, LaunchOrder(home=face.home, mode="up", flags=_flags(listen, name, no_lan, relay, upnp)), detach
    )


def join(
    ticket: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TICKET|CODE",
            help="Asked for if not given. A code may have spaces.",
            autocompletion=_complete_code,
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="HOST:PORT", help="Where the inviter of a code is, if not on the LAN."),
    ] = None,
    listen: ListenOption = None,
    name: NameOption = None,
    no_lan: NoLanOption = False,
    relay: RelayOption = False,
    upnp: UpnpOption = False,
    detach: DetachOption = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Become a member of a network with a ticket or a code, and run the node."""
    face = make_face(home, json)
    if has_network(face.home):  # said before the ticket is asked for; the node looks again
        raise refuse_second_network(face.home)
    text = read_argument(" ".join(ticket) if ticket else None, "ticket or code")
    secrets = _read_secret(face, text, at)
    order = LaunchOrder(
        home=face.home, mode="join", **secrets, flags=_flags(listen, name, no_lan, relay, upnp)
    )
    _start(face, order, detach)


def _read_secret(face: Face, text: str, at: str | None) -> dict[str, str | None]:
    """Return what the order gets: a ticket, or a code and where. Raises: LocalMisuse; no try is used up."""
    if not is_code(text):
        if at is not None:
            raise LocalMisuse(
                "This device has not joined",
                cause="--at is for codes: a ticket knows its addresses",
                next_step="leave --at out, or give the code",
                code="usage",
            )
        return {"ticket": text}
    code = TypedCode.parse(text)
    address = str(_parse_place(at)) if at is not None else None
    where = f"at {address}" if address is not None else "on the local network (up to 90 s)"
    face.tell(f"Looking for the inviter of code {code.nameplate} {where}.")
    return {"code": code.text, "at": address}


def _parse_place(text: str) -> Address:
    """Read where an inviter is; a host alone means the port on which nodes listen if they are not told."""
    from shoal.node.config import DEFAULT_PORT

    host = text.strip()
    bare = host.strip("[]")
    if ":" not in host or (bare.count(":") > 1 and not re.search(r"\]:\d+$", host)):
        host = f"[{bare}]:{DEFAULT_PORT}" if ":" in bare else f"{host}:{DEFAULT_PORT}"
    return Address.parse(host)


def _complete_code(incomplete: str) -> list[str]:
    """Offer the rest of a code's last word to the shell."""
    head, hyphen, last = incomplete.rpartition("-")
    if not last or (not hyphen and not last.isalpha()):
        return []
    return [f"{head}{hyphen}{word}" for word in complete_word(last.lower())]


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

    def on_notice(notice: str) -> None:
        face.tell("\n" + "\n".join(wrapped_columns([[notice]])))

    code = run_in_foreground(order, on_up, on_stopping, on_notice)
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


def _describe_reach(reach: Reach) -> str:
    words = {
        "public": "others can dial this device",
        "local": "others in this network can dial this device",
        "nat": "behind a NAT; see: shoal doctor",
        "symmetric": "behind a symmetric NAT; see: shoal doctor",
        "blocked": "a firewall keeps others out; see: shoal doctor",
        "unknown": "not known yet",
    }
    return words[reach.state] + (f" ({reach.mapped})" if reach.mapped else "")


def _describe_overlay(overlay: Overlay) -> str:
    if overlay.mode == "mesh":
        return f"mesh, {count_of(overlay.neighbours, 'neighbour')}"
    size = f", about {overlay.size:.0f} nodes" if overlay.size is not None else ""
    return f"views, {count_of(overlay.active, 'neighbour')}, {overlay.passive} in reserve{size}"


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
    if isinstance(found.reach, Reach):
        lines.insert(4, f"reachable  {_describe_reach(found.reach)}")
    if isinstance(found.overlay, Overlay):
        lines.insert(-1, f"overlay    {_describe_overlay(found.overlay)}")
    if isinstance(found.relay, RelayUse):
        streams = count_of(found.relay.streams, "stream")
        lines.append(f"relaying   {streams}, {format_size(found.relay.day_bytes)} today")
    if isinstance(found.notice, str):
        lines += wrapped_columns([["notice   ", found.notice]])
    return lines


def _flags(listen: list[str] | None, name: str | None, no_lan: bool, relay: bool, upnp: bool) -> Flags:
    return Flags(
        listen=tuple(listen) if listen else None,
        name=name,
        lan=False if no_lan else None,
        relay=relay or None,
        upnp=upnp or None,
    )
