"""People: commands about who belongs to the network and how they are reached."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from shoal.api import operations as ops
from shoal.api import schema as s
from shoal.cli import complete
from shoal.cli.face import Face, HomeOption, JsonOption, columns, make_face, printable
from shoal.core.errors import LocalMisuse, Refused
from shoal.core.units import parse_duration

if TYPE_CHECKING:
    from shoal.api.client import Client

PeerArgument = Annotated[
    str,
    typer.Argument(
        metavar="PEER", help="A name, a peer id, or the beginning of one.", autocompletion=complete.peers
    ),
]
PENDING_SHOWN = 4  # of those that have not confirmed a removal; --json names all

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.", metavar="", show_default=False)]


def invite(
    role: Annotated[
        str, typer.Option("--role", metavar="R", help="owner, admin, member or storage.")
    ] = "member",
    expires: Annotated[str, typer.Option("--expires", metavar="D", help="Like 30m, 24h or 7d.")] = "24h",
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="Whose device it will be.", show_default=False),
    ] = None,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="Do not stay until it is used.", metavar="", show_default=False),
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Let one device join, once: makes a ticket, and a code that can be read out."""
    face = make_face(home, json)
    if role not in get_args(s.RoleName):
        raise LocalMisuse(
            "No ticket was made",
            cause=f"{role!r} is not a role",
            next_step="roles are: owner, admin, member, storage",
            code="bad_role",
        )
    request = s.InviteRequest(role=role, expires_s=parse_duration(expires), user=user)  # type: ignore[arg-type]
    with face.connect() as client:
        ticket = client.call(ops.INVITE, request)
        if json or not sys.stdout.isatty():
            face.show(ticket, [ticket.ticket])
            if ticket.code is not None:
                face.tell(f"in the same local network also: shoal join {ticket.code}")
            if isinstance(ticket.notice, str):
                face.tell(printable(ticket.notice))
            return
        face.show(ticket, _describe_invite(ticket, role))
        if not no_wait:
            _watch_invite(face, client, ticket)


def _describe_invite(ticket: s.Invite, role: str) -> list[str]:
    code = _draw_code(ticket.ticket)
    height = shutil.get_terminal_size().lines
    lines = list(code) if len(code) < height else []  # first: on a small terminal the rest stays in sight
    lines += [
        f"This admits one device as {role}, once, until {ticket.expires_at}.",
        "On the other device, type:",
        "",
        f"  shoal join {ticket.ticket}",
    ]
    if ticket.code is not None:
        lines += ["", "or, in the same local network (elsewhere with --at HOST:PORT):", ""]
        lines += [f"  shoal join {ticket.code}"]
    if ticket.relays:
        names = " or ".join(map(printable, ticket.relays))
        lines += ["", f"Where the other device cannot dial this one, the ticket works over {names}."]
    if isinstance(ticket.notice, str):
        lines += ["", f"Note: {printable(ticket.notice)}"]
    if len(code) >= height:  # a camera needs all of it at once
        lines += ["", f"Its QR code needs a terminal of {len(code) + 1} lines; this one has {height}."]
    return lines


def _watch_invite(face: Face, client: Client, ticket: s.Invite) -> None:
    """Stay until the invite is used or over; tell each try with wrong words. Ctrl-C only ends the watching.

    Raises: Refused when nobody can join with it any more.
    """
    face.tell("\nWaiting until it is used. Ctrl-C ends the waiting, not the invite.")
    failures = 0
    try:
        while True:
            found = client.invite_state(ticket.ticket, failures, s.WAIT_LIMIT_S)
            if found.failures > failures:
                failures = found.failures
                where = f" from {printable(found.last_from)}" if found.last_from is not None else ""
                end = f"tries left: {found.tries_left}" if found.tries_left else "the code is burnt"
                face.tell(f"Wrong words were tried{where}; {end}.")
            if found.state == "used":
                face.tell(f"{printable(found.name or 'A device')} has joined.")
                return
            if found.state != "open":
                cause = "its time is over" if found.state == "expired" else "it was taken back"
                step = "make a new one: shoal invite"
                raise Refused("Nobody has joined", cause=cause, next_step=step, code=found.state)
    except KeyboardInterrupt:
        face.tell("The invite stays open.")


def peers(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the other members and how they are reached."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.call(ops.PEERS, s.Nothing())
    # in a small network everybody is
    tells_neighbours = any(peer.state == "connected" and not peer.neighbour for peer in found.peers)
    rows = [
        [
            peer.name,
            _describe_state(peer, tells_neighbours),
            f"{peer.rtt_ms:.1f} ms" if peer.rtt_ms is not None else "-",
            short_id(peer.peer_id),
            _describe_way(peer),
        ]
        for peer in found.peers
    ]
    lines = columns(rows, ["NAME", "STATE", "RTT", "PEER", "ADDRESS"], gives_way=0)
    face.show(found, lines if rows else ["no other members yet; let one in with: shoal invite"])


def _describe_state(peer: s.Peer, tells_neighbours: bool) -> str:
    """Say how it is with a peer, whether broadcasts go to it, and why its session ended."""
    if tells_neighbours and peer.neighbour:
        return "neighbour"
    if isinstance(peer.reason, str):
        return f"{peer.state} ({printable(_REASONS.get(peer.reason, peer.reason))})"
    return peer.state


_REASONS = {  # words of transport that say little to people
    "dead": "fell silent",
    "reset": "cut off",
    "shutdown": "stopped",
}


def _describe_way(peer: s.Peer) -> str:
    """Say where a peer is, and how it is reached unless that is plain."""
    if peer.path == "relay":
        return f"via relay {printable(peer.relay) if isinstance(peer.relay, str) else '?'}"
    if not isinstance(peer.address, str):
        return peer.addresses[0] if peer.addresses else "-"
    if peer.path == "punched":
        return f"{peer.address}, through NAT"
    return f"from {peer.address}" if peer.incoming else peer.address


def members(home: HomeOption = None, json: JsonOption = False) -> None:
    """List everybody who is or was a member."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.members()
    rows = [[m.name, m.user, m.role, m.state, m.since, short_id(m.peer_id)] for m in found.members]
    face.show(
        found,
        [*columns(rows, ["NAME", "USER", "ROLE", "STATE", "SINCE", "PEER"]), f"head {found.head[:16]}"],
    )


def ping(peer: PeerArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Say how a peer is reached, how fast, and why."""
    face = make_face(home, json)
    with face.connect() as client:
        found = client.ping(peer)
    name = printable(found.name)
    if found.rtt_ms is not None:
        where = found.address or (printable(found.relay) if isinstance(found.relay, str) else "?")
        lines = [f"{name}: {found.rtt_ms:.2f} ms, {found.path}, {where}", f"  {printable(found.why)}"]
    else:
        lines = [f"{name}: {found.state}", f"  {printable(found.why)}"]
    face.show(found, lines)


def remove(
    peer: PeerArgument, yes: YesOption = False, home: HomeOption = None, json: JsonOption = False
) -> None:
    """Expel a device from the network. It cannot come back with its key."""
    face = make_face(home, json)
    with face.connect() as client:
        asks = not yes and not json and sys.stdin is not None and sys.stdin.isatty()
        _confirm(face, yes, f"Remove {_find_whom(client, peer) if asks else ''} for good?")
        done = client.remove(peer)
    face.show(done, describe_removal(done))


def _find_whom(client: Client, peer: str) -> str:
    """Return who is meant, to be asked about: an id says nothing to a person.

    Raises: LocalMisuse if it is nobody, before somebody says yes to it.
    """
    members = [m for m in client.members().members if m.state == "active"]
    named = [m for m in members if m.name == peer.strip()]
    found = named or [m for m in members if m.peer_id.startswith(peer.strip().lower())]
    if not found:
        raise LocalMisuse(
            f"There is no member {peer[:80]!r}",
            cause="neither a name nor a peer id of this network begins like that",
            next_step="see who there is: shoal members",
            code="unknown_peer",
        )
    if len(found) > 1:
        return printable(peer)  # the node says that it is not clear
    return f"{printable(found[0].name)}, {found[0].role}, {short_id(found[0].peer_id)},"


def describe_removal(done: s.Removal) -> list[str]:
    """Say who has carried a removal out. In a large network only who has a session here confirms it."""
    lines = [
        f"removed; confirmed by {len(done.confirmed)} of {len(done.confirmed) + len(done.pending)} peers"
    ]
    if done.pending:
        shown = ", ".join(map(short_id, done.pending[:PENDING_SHOWN]))
        more = len(done.pending) - PENDING_SHOWN
        lines.append("the others carry it out as soon as they hear of it, or are back:")
        lines.append(f"  {shown} and {more} more" if more > 0 else f"  {shown}")
    return lines


def leave(yes: YesOption = False, home: HomeOption = None, json: JsonOption = False) -> None:
    """Give up this device's membership. Its files stay where they are."""
    face = make_face(home, json)
    _confirm(face, yes, "Leave the network for good?")
    with face.connect() as client:
        done = client.leave()
    face.show(done, ["left the network; this home can be deleted"])


def short_id(peer_id: str) -> str:
    """Return enough of an id for a person to tell it from others, and for the node to find it."""
    return peer_id[:12]


def _confirm(face: Face, yes: bool, question: str) -> None:
    if yes or face.json:
        return  # --json is for programs, which have decided already
    if sys.stdin is None or not sys.stdin.isatty():
        raise Refused(
            "Nothing was changed",
            cause="this is for good, and there is no terminal to ask on",
            next_step="say it with --yes",
            code="not_confirmed",
        )
    if not typer.confirm(question, err=True):
        raise Refused(
            "Nothing was changed",
            cause="you did not confirm",
            next_step="answer y, or use --yes",
            code="declined",
        )


def _draw_code(text: str) -> list[str]:
    """Draw a QR code with half blocks: dark on light, as cameras expect. Capitals make it a size smaller."""
    import segno

    matrix = [list(row) for row in segno.make(text.upper(), error="l", micro=False).matrix_iter(border=2)]
    if len(matrix) % 2:
        matrix.append([0] * len(matrix[0]))
    # fixed colours, because a light theme would turn it into a negative that not every camera reads
    before, after = ("", "") if os.environ.get("NO_COLOR") else ("\x1b[97;40m", "\x1b[0m")
    glyphs = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    return [
        before
        + "".join(glyphs[(bool(top), bool(low))] for top, low in zip(upper, lower, strict=True))
        + after
        for upper, lower in zip(matrix[::2], matrix[1::2], strict=True)
    ]
