"""Limiter: puts the limits that are in force now on the swarm, and takes orders about them.

Looks at the local time once a second, so that a change of the schedule, of the clock or of daylight saving
counts within that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from shoal.core.clock import Clock
from shoal.core.decoders import get_msgpack_decoder
from shoal.core.supervisor import Supervisor
from shoal.core.units import NO_LIMIT, format_rate
from shoal.identity.ids import format_peer_id
from shoal.identity.state import Member
from shoal.node.limit_rules import DIRECTIONS, Direction, InForce, LimitRules, Order, Orders, describe_minute
from shoal.storage.values import Values
from shoal.swarm.service import SwarmService

log = logging.getLogger("shoal.node")

LOOK_S = 1.0
ORDERS_VALUE = "limits"  # its place among the named values
PREFIX_CHARACTERS = 6  # the least of a peer id that names a peer in the settings: 3 of them are its kind


@dataclass(frozen=True)
class LimitStatus:
    """What is in force. `peers` has the members that a limit of their own is on, or was named for."""

    total: Mapping[Direction, InForce]
    peers: Mapping[bytes, Mapping[Direction, InForce]]
    unknown: tuple[str, ...]  # named in the settings, but no member
    changes_at: str | None  # day and local time at which the schedule says something else


class Limiter:
    """Loop thread only. `start` before the first lane; `members` gives all members by id."""

    def __init__(
        self,
        rules: LimitRules,
        swarm: SwarmService,
        values: Values,
        members: Callable[[], Mapping[bytes, Member]],
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._rules = rules
        self._swarm = swarm
        self._values = values
        self._members = members
        self._clock = clock
        self._supervisor = supervisor
        self._orders = Orders()
        self._applied: tuple[object, ...] = ()

    async def start(self) -> None:
        """Read what was ordered before and apply it; keep looking at the time. Raises: StorageFault."""
        data = await self._values.find_value(ORDERS_VALUE)
        if data is not None:
            try:
                self._orders = get_msgpack_decoder(Orders).decode(data)
            except msgspec.DecodeError as error:
                log.warning("earlier limits cannot be read and are forgotten: %s", error)
        self.look()
        self._supervisor.start("limits", self._run)

    async def order(self, changes: Mapping[Direction, int | None], peer: bytes | None) -> None:
        """Set limits by hand, durably, in force on return. None gives one back to settings and schedule.

        Raises: StorageFault, LocalMisuse if there are too many.
        """
        known = self._orders
        before = known.total if peer is None else known.peers.get(peer, Order())
        after = msgspec.structs.replace(before, **{str(key): rate for key, rate in changes.items()})
        if peer is None:
            orders = msgspec.structs.replace(known, total=after)
        else:
            others = {p: order for p, order in known.peers.items() if p != peer}
            orders = msgspec.structs.replace(
                known, peers=others if after.is_empty else others | {peer: after}
            )
        await self._values.put_value(ORDERS_VALUE, msgspec.msgpack.encode(orders))
        self._orders = orders
        self.look()

    def status(self) -> LimitStatus:
        """Return what is in force now, and why."""
        minute = self._minute()
        total = {d: self._rules.find_total(d, self._orders.total, minute) for d in DIRECTIONS}
        named = self._find_named()
        peers = {
            peer: {
                d: self._rules.find_peer(d, self._orders.peers.get(peer, Order()), named.get(peer, ()))
                for d in DIRECTIONS
            }
            for peer in [*named, *(p for p in self._orders.peers if p not in named)]
        }
        used = {name for names in named.values() for name in names}
        ahead = self._rules.find_change(minute)
        return LimitStatus(
            total,
            peers,
            tuple(name for name in self._rules.settings.peers if name not in used),
            describe_minute(minute + ahead) if ahead is not None else None,
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Apply what is in force now, if it is something else than before."""
        status = self.status()
        wanted = []
        for direction in DIRECTIONS:
            limits = {p: found[direction].rate_bytes_s for p, found in status.peers.items()}
            wanted.append(
                (status.total[direction].rate_bytes_s, {p: r for p, r in limits.items() if r != NO_LIMIT})
            )
        if tuple(wanted) == self._applied:
            return
        self._applied = tuple(wanted)
        for throttle, (total, peers) in zip(
            (self._swarm.uploads, self._swarm.downloads), wanted, strict=True
        ):
            throttle.set_limits(None if total == NO_LIMIT else total, peers)
        for direction in DIRECTIONS:
            limit = status.total[direction]
            log.info("%s: %s (%s)", direction, format_rate(limit.rate_bytes_s), limit.source.value)

    def _minute(self) -> int:
        local = time.localtime(self._clock.wall())
        return local.tm_wday * 24 * 60 + local.tm_hour * 60 + local.tm_min

    def _find_named(self) -> dict[bytes, list[str]]:
        """Return the members that the settings name, each with its names there, in order."""
        found: dict[bytes, list[str]] = {}
        for name in self._rules.settings.peers:
            for peer, member in self._members().items():
                text = format_peer_id(peer)
                if member.name == name or (len(name) >= PREFIX_CHARACTERS and text.startswith(name.lower())):
                    found.setdefault(peer, []).append(name)
        return found
