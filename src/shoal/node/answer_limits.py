"""Answers about limits: what bulk data may take, now and why."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.api import schema as s
from shoal.core.errors import LocalMisuse
from shoal.core.units import NO_LIMIT, parse_rate
from shoal.identity.ids import format_peer_id
from shoal.node.answer_people import PeopleAnswers
from shoal.node.limit_rules import Direction, InForce, Source
from shoal.node.limit_settings import check_rate

GIVE_BACK = "default"  # what ends an order


class LimitAnswers(PeopleAnswers):
    """The part of `NodeApi` that is about limits."""

    async def limits(self, request: s.LimitsRequest) -> s.Limits:
        """Change limits if the request says so, and tell what is in force."""
        limiter, swarm = self._parts.limiter, self._parts.swarm
        peer = self._get_member(request.peer).peer_id if request.peer is not None else None
        if peer == self._parts.network.own_id:
            raise LocalMisuse(
                "No limit was set",
                cause="this is that device",
                next_step="name another one, or leave --peer away to limit all together",
                code="own_peer",
            )
        changes = _read_changes(request)
        if changes:
            await limiter.order(changes, peer)
        status = limiter.status()
        members = self._parts.network.state.members
        nothing = s.Limit(None, Source.DEFAULT.value, "nothing is set")
        peers = [
            s.PeerLimits(
                format_peer_id(one),
                members[one].name if one in members else "",
                _answer(found["upload"]),
                _answer(found["download"]),
            )
            for one, found in status.peers.items()
            if peer in (None, one)
        ]
        if peer is not None and not peers:
            peers.append(s.PeerLimits(format_peer_id(peer), members[peer].name, nothing, nothing))
        if peer is None:
            peers += [s.PeerLimits(None, name, nothing, nothing) for name in status.unknown]
        return s.Limits(
            upload=_answer(status.total["upload"]),
            download=_answer(status.total["download"]),
            peers=peers,
            changes_at=status.changes_at,
            sent_bytes=swarm.uploads.moved_bytes,
            received_bytes=swarm.downloads.moved_bytes,
        )


def _read_changes(request: s.LimitsRequest) -> Mapping[Direction, int | None]:
    """Return what is to be changed; None gives it back. Raises: LocalMisuse."""
    changes: dict[Direction, int | None] = {}
    if request.upload is not None:
        changes["upload"] = _read_rate(request.upload)
    if request.download is not None:
        changes["download"] = _read_rate(request.download)
    return changes


def _read_rate(text: str) -> int | None:
    return None if text.strip().lower() == GIVE_BACK else check_rate(parse_rate(text))


def _answer(found: InForce) -> s.Limit:
    rate = found.rate_bytes_s
    return s.Limit(None if rate == NO_LIMIT else rate, found.source.value, found.why)
