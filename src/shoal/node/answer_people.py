"""Answers about people: the operations on members and peers."""

from __future__ import annotations

from typing import get_args

from msgspec import UNSET, UnsetType

from shoal.api import schema as s
from shoal.core.errors import LocalMisuse, RemoteFault, Unavailable
from shoal.core.units import format_duration, format_time
from shoal.identity.ids import format_operation_id, format_peer_id, parse_peer_id, short_peer_id
from shoal.identity.operations import Role
from shoal.identity.state import Member
from shoal.node.answer_invites import ROLES
from shoal.node.parts import Parts
from shoal.overlay.steps import PeerStatus
from shoal.transport.address import Address

PEER_PREFIX_CHARACTERS = 6  # the least of a peer id that names a peer: 3 of them are its kind
PEER_ID_CHARACTERS = len(format_peer_id(bytes(32)))

_PEER_STATES: dict[str, s.PeerStateName] = {name: name for name in get_args(s.PeerStateName)}
_ROLE_NAMES: dict[Role, s.RoleName] = {role: name for name, role in ROLES.items()}


class PeopleAnswers:
    """The part of `NodeApi` that is about members and how they are reached."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def peers(self, request: s.Nothing) -> s.Peers:
        """List the other members in the order of their names."""
        members = self._parts.network.state.members
        found = [
            s.Peer(
                format_peer_id(peer.peer_id),
                members[peer.peer_id].name,
                self._find_state(peer),
                [str(address) for address in peer.addresses],
                _round(peer.rtt_ms),
                *self._find_path(peer.peer_id),
                peer.neighbour,
                self._find_reason(peer) or UNSET,
                *self._find_far_end(peer),
            )
            for peer in self._parts.overlay.peers_status()
            if peer.peer_id in members
        ]
        return s.Peers(sorted(found, key=lambda peer: (peer.name, peer.peer_id)))

    def _find_state(self, peer: PeerStatus) -> s.PeerStateName:
        session = self._parts.transport.find_session(peer.peer_id)
        is_relayed = peer.state == "connected" and session is not None and session.relay is not None
        return "relayed" if is_relayed else _PEER_STATES[peer.state]

    def _find_reason(self, peer: PeerStatus) -> str:
        """Say in a word why there is no session; nothing where that is this device's own removal."""
        if self._parts.network.is_out:
            return ""
        return "refused" if peer.denies_us else peer.ended

    def _find_path(self, peer_id: bytes) -> tuple[str | UnsetType, str | UnsetType]:
        """Return how a peer is reached if not plainly, and the name of the relay if it is over one."""
        session = self._parts.transport.find_session(peer_id)
        if session is None or session.path == "direct":
            return UNSET, UNSET
        return session.path, self._find_relay_name(session.relay) or UNSET

    def _find_far_end(self, peer: PeerStatus) -> tuple[str | UnsetType, bool]:
        """Return the other end of a direct session, as it was dialled, and whether the peer dialled."""
        session = self._parts.transport.find_session(peer.peer_id)
        if session is None or session.far_end is None:
            return UNSET, False
        dialled = session.dial_address
        return str(session.far_end if dialled is None or dialled.is_way else dialled), dialled is None

    def _find_relay_name(self, peer_id: bytes | None) -> str | None:
        member = self._parts.network.state.members.get(peer_id) if peer_id is not None else None
        return member.name if member is not None else None

    def _name_relays(self, why: str) -> str:
        """Say the name of a relay where a reason has its id."""
        way, colon, rest = why.partition(": ")
        name = self._find_relay_name(Address(way, 0).relay) if colon else None
        return why if name is None else f"over the relay {name}: {rest}"

    async def members(self, request: s.Nothing) -> s.Members:
        """List everybody whom the log names, active members first."""
        network = self._parts.network
        rows = sorted(
            network.state.members.values(), key=lambda m: (m.state != "active", m.role, m.name, m.peer_id)
        )
        return s.Members(
            [
                s.Member(
                    format_peer_id(m.peer_id),
                    m.name,
                    m.user,
                    _ROLE_NAMES[m.role],
                    m.state,
                    format_time(m.since),
                )
                for m in rows
            ],
            network.head().hex(),
        )

    async def remove(self, request: s.PeerRequest) -> s.Removal:
        """Expel a device and wait for the others to carry it out."""
        member = self._get_member(request.peer)
        status = await self._parts.network.remove(member.peer_id)
        return s.Removal(
            format_operation_id(status.operation),
            [format_peer_id(peer) for peer in status.confirmed],
            [format_peer_id(peer) for peer in status.pending],
        )

    async def leave(self, request: s.Nothing) -> s.Left:
        """Give up membership."""
        status = await self._parts.network.leave()
        return s.Left(format_operation_id(status.operation))

    async def ping(self, request: s.PeerRequest) -> s.Ping:
        """Measure one round trip over the session that there is."""
        parts = self._parts
        member = self._get_member(request.peer)
        if member.peer_id == parts.network.own_id:
            raise LocalMisuse(
                "Nobody was pinged", cause="this is that device", next_step="name another: shoal peers"
            )
        seen = next((p for p in parts.overlay.peers_status() if p.peer_id == member.peer_id), None)
        session = parts.transport.find_session(member.peer_id)
        rtt_ms: float | None = None
        why = ""
        if session is not None:
            try:
                rtt_ms = await session.ping()
            except (Unavailable, RemoteFault) as error:
                why = f"the session did not answer: {error}"
            else:
                age = format_duration(max(0.0, parts.clock.monotonic() - session.established_at))
                who = "this device" if session.is_dialler else "the peer"
                why = f"session of {age}, dialled by {who}"
        elif member.state != "active":
            why = "it is no member any more, so no session is opened"
        elif seen is not None:
            why = self._name_relays(seen.why) or "no address of it has answered yet"
        far_end = None if session is None else session.far_end
        return s.Ping(
            peer_id=format_peer_id(member.peer_id),
            name=member.name,
            state=self._find_state(seen) if seen is not None else "offline",
            path=session.path if session is not None and rtt_ms is not None else None,
            address=str(far_end) if far_end is not None else None,
            rtt_ms=_round(rtt_ms),
            why=why,
            relay=(self._find_relay_name(session.relay) if session is not None else None) or UNSET,
        )

    def _get_member(self, text: str) -> Member:
        """Find who is meant: by id, by name, by the beginning of an id. Raises: LocalMisuse."""
        members = self._parts.network.state.members
        cleaned = text.strip()
        named = [m for m in members.values() if m.name == cleaned]
        named = [m for m in named if m.state == "active"] or named
        if not named and len(cleaned) >= PEER_PREFIX_CHARACTERS:
            named = [m for m in members.values() if format_peer_id(m.peer_id).startswith(cleaned.lower())]
        if len(named) == 1:
            return named[0]
        if named:
            raise LocalMisuse(
                f"{cleaned[:80]!r} is not clear",
                cause="several are called so: " + ", ".join(short_peer_id(m.peer_id) for m in named[:8]),
                next_step="give the peer id instead, or more of it: shoal members",
                code="ambiguous_peer",
            )
        if cleaned.lower().startswith("shp1") and len(cleaned) >= PEER_ID_CHARACTERS:
            parse_peer_id(cleaned)  # says so if it is damaged
        raise LocalMisuse(
            f"There is no member {cleaned[:80]!r}",
            cause="neither a name nor a peer id of this network begins like that",
            next_step="see who there is: shoal members",
            code="unknown_peer",
        )


def _round(rtt_ms: float | None) -> float | None:
    return round(rtt_ms, 3) if rtt_ms is not None else None
